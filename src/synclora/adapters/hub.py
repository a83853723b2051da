"""Where an adapter's file is: a file, a folder that holds one, or a repository of the Hugging Face hub.

    locate("sync_lora.safetensors")                          a file
    locate("adapters/mine")                                  a folder with one .safetensors file (PEFT's, for one)
    locate("SagiPolaczek/LTX-2.3-Sync-LoRA")                 a hub id
    locate("someone/loras/portraits/sync.safetensors")       a file of a hub repository

What is fetched from the hub is kept in its cache and found there without a network from then on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from synclora.adapters.rules import KNOWN
from synclora.diffusion.lora_file import LoraError


@dataclass(frozen=True)
class Located:
    """A LoRA file here on disk, and the hub repository it came from, if it did."""

    path: Path
    repo: str | None = None


def locate(lora: Path | str) -> Located:
    """The file that is meant, fetched from the hub if need be.

    Raises:
        LoraError: no such file or repository, several to choose from, or the hub cannot be reached; the message then
            holds the command that fetches it.
    """
    path = Path(lora)
    if path.is_file():
        return Located(path)
    if path.is_dir():
        return Located(_only(lora, sorted(p for p in path.iterdir() if p.suffix == ".safetensors"), "folder"))
    parts = str(lora).split("/")
    named_file = parts[-1].endswith(".safetensors")
    if not _hub_like(parts, named_file):
        raise LoraError(
            f"{lora}: no such LoRA file. Give a .safetensors file, a folder that holds one, or a hub id such as"
            f" {KNOWN[0].repo}."
        )
    repo = "/".join(parts[:2])
    known = next((known for known in KNOWN if known.repo == repo), None)
    name = "/".join(parts[2:]) if named_file else known.file if known else None
    return Located(_fetch(repo, name) if name else _fetch_only(repo), repo)


def _hub_like(parts: list[str], named_file: bool) -> bool:
    """Whether a path that is not here can be ORGANISATION/NAME[/FILE.safetensors]."""
    if not all(parts) or parts[0] in (".", "..", "~") or Path(parts[0]).is_dir():
        return False
    return len(parts) >= 3 if named_file else len(parts) == 2


def _fetch(repo: str, name: str) -> Path:
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    cached = try_to_load_from_cache(repo, name)
    if isinstance(cached, str):  # without asking the hub, so that it works, and means the same file, offline too
        return Path(cached)
    try:
        return Path(hf_hub_download(repo, name))
    except Exception as error:  # no network, no such repository or file, gated, disk full: dozens of classes
        raise _not_fetched(repo, f"{repo} {name}", error) from error


def _fetch_only(repo: str) -> Path:
    """The only safetensors file of a repository."""
    from huggingface_hub import list_repo_files, snapshot_download

    try:
        names = list_repo_files(repo)
    except Exception as error:
        try:  # perhaps it was fetched before
            folder = Path(snapshot_download(repo, local_files_only=True))
        except Exception:
            raise _not_fetched(repo, f'{repo} --include "*.safetensors"', error) from error
        return _only(repo, sorted(folder.rglob("*.safetensors")), "repository")
    return _fetch(repo, str(_only(repo, [Path(n) for n in names if n.endswith(".safetensors")], "repository")))


def _only(where: Path | str, files: list[Path], kind: str) -> Path:
    if len(files) == 1:
        return files[0]
    names = ", ".join(file.name for file in files[:4]) + (", ..." if len(files) > 4 else "")
    found = f"holds {len(files)} ({names})" if files else "holds none"
    raise LoraError(f"{where}: one .safetensors file is needed, and the {kind} {found}. Name the file that is meant.")


def _not_fetched(repo: str, arguments: str, error: Exception) -> LoraError:
    known = next((known for known in KNOWN if known.repo == repo), None)
    licence = f" Its licence: {known.licence}." if known else ""
    return LoraError(
        f"{repo}: no such file here, and not to be had from the Hugging Face hub ({type(error).__name__}). Check the"
        " name and the network (for gated repositories, `hf auth login`), or fetch it elsewhere with"
        f" `hf download {arguments} --local-dir adapters` and give the file.{licence}"
    )
