"""Encoded clips and prompts on disk, so that training never runs the VAE or the text encoder.

    CACHE/train.json                  what the latents were made from, and each shard's sha256
    CACHE/train-00000.safetensors     latents bf16 [n, C, f, h, w]; the clips' captions in the header
    CACHE/train-text.safetensors      which caption each clip has, the empty prompt last [clips + 1]; the tokens of each
    CACHE/train-text-00000.safetensors    embedded captions, 64 a file: text bf16 [all their tokens, D]

A shard is written atomically and listed after it is whole, so encoding resumes shard by shard. When the VAE, the data
or the size of the clips change, the latents are stale and made again, with a notice; a damaged shard likewise. Captions
are embedded anew, without touching a clip, when the text encoder, its connectors or the prompts' length change; where
nothing did, the text encoder is asked for its fingerprint alone.

Several processes share the work: of n, each encodes every n-th shard, and the first keeps the list. Of several runs
that share a cache one fills it at a time.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from synclora.atomic import sha256, write_json
from synclora.backbones.base import Backbone, Text
from synclora.clip import to_model
from synclora.diffusion.lora import fingerprint
from synclora.errors import SyncloraError
from synclora.tensors import make_folder, read_tensors, write_tensors
from synclora.training.clips import ClipSet
from synclora.training.world import World

FORMAT = 2
CAPTIONS_A_FILE = 64
TOKENS_AT_ONCE = 8192  # of captions embedded in one batch; bounds memory (LTX-2 keeps every layer of its encoder)
PIXELS_AT_ONCE = 4_000_000  # frames * height * width encoded in one batch; bounds memory, not results
TEXT_MULTIPLE = 16  # prompts of a batch are padded to a multiple of this many tokens


class LatentCache:
    """The latents and prompts of a `ClipSet`, by clip number; `steps` and `embed` are called in all processes alike."""

    def __init__(self, folder: Path | str, clips: ClipSet, backbone: Backbone, world: World | None = None) -> None:
        self.folder, self.clips, self.backbone, self.world = Path(folder), clips, backbone, world or World()
        self.made_from = {
            "format": str(FORMAT),
            "data": clips.content,
            "vae": module_fingerprint(backbone, "vae"),
            "geometry": repr(backbone.geometry),
        }
        self._place = {clip: (shard, at) for shard, part in enumerate(clips.shards) for at, clip in enumerate(part)}
        self._open: dict[int, Any] = {}
        self._open_texts: dict[int, Any] = {}
        self._captions: dict[int, list[str]] = {}
        self._text: _Captions | None = None
        self._notice: Callable[[str], None] = lambda _: None

    def fill(
        self, notice: Callable[[str], None] = lambda _: None, progress: Callable[[int, int], None] = lambda *_: None
    ) -> int:
        """Encode what is not on disk whole and fresh; returns the number of shards encoded. See `steps`.

        `progress` is told `(shards ready, shards in all)`.
        """
        made = 0
        for done, encoded in enumerate(self.steps(notice), start=1):
            made += encoded
            progress(done, len(self.clips.shards))
        return made

    def steps(self, notice: Callable[[str], None] = lambda _: None) -> Generator[bool, None, None]:
        """Fill the cache one shard at a time, yielding for each whether it had to be encoded.

        Args:
            notice: told, in a sentence, when a stale cache or a damaged shard is made again.

        Raises:
            SyncloraError: the folder cannot be written, the disk is full, a clip cannot be read, or the encoder makes
                values that are not numbers.
        """
        self._notice = notice
        make_folder(self.folder)
        with self._alone():
            yield from self._fill()

    def _fill(self) -> Generator[bool, None, None]:
        listed = self.world.on_main(self._begin)
        if not listed:
            self._open.clear()
            self._captions.clear()
            self._text = None
        shards = len(self.clips.shards)
        for first in range(0, shards, self.world.size):
            shard = first + self.world.rank
            done = self.world.gather(self._fill_shard(shard, listed) if shard < shards else None)
            for name, digest, made in filter(None, done):
                listed[name] = digest
                if made and self.world.main:
                    write_json(self._list_path, {"made_from": self.made_from, "shards": listed})
                yield made

    def embed(self, placed: Callable[[], AbstractContextManager[None]] = nullcontext) -> None:
        """Embed the captions and the empty prompt, where that is not done; the cache must be filled.

        Args:
            placed: held while the text encoder runs; not entered where all is embedded already.
        """
        with self._alone():
            self._text = self._embedded_captions(placed)

    def empty(self) -> Tensor:
        """The embedded empty prompt, float32 [T, D]."""
        return self.text([-1])[0]

    def latents(self, clips: list[int]) -> Tensor:
        """Normalised latents, float32 [n, C, f, h, w] (stored as bf16)."""
        rows = []
        for clip in clips:
            shard, at = self._place[clip]
            rows.append(self._file(shard).get_slice("latents")[at])
        return torch.stack(rows).float()

    def text(self, clips: list[int]) -> list[Tensor]:
        """Each clip's embedded prompt, float32 [T, D], without padding; see `pad_texts`."""
        if self._text is None:
            self.embed()
        assert self._text is not None
        texts = []
        for clip in clips:
            index, rows = self._text.place(clip)
            if index not in self._open_texts:
                self._open_texts[index] = _open(self._text_path(index))
            texts.append(self._open_texts[index].get_slice("text")[rows].float())
        return texts

    def captions(self, clips: list[int]) -> list[str]:
        """Each clip's caption, in words."""
        rows = []
        for clip in clips:
            shard, at = self._place[clip]
            if shard not in self._captions:
                self._captions[shard] = json.loads(self._file(shard).metadata()["captions"])
            rows.append(self._captions[shard][at])
        return rows

    def _file(self, shard: int) -> Any:
        if shard not in self._open:
            self._open[shard] = _open(self._path(shard))
        return self._open[shard]

    def _fill_shard(self, shard: int, listed: dict[str, str]) -> tuple[str, str, bool]:
        """A shard's file name and sha256, and whether it had to be encoded."""
        path = self._path(shard)
        recorded, found = listed.get(path.name), _sha256(path)
        if recorded is not None and found == recorded:
            return path.name, recorded, False
        if recorded is not None:
            self._notice(f"{path}: {'missing' if found is None else 'damaged'}; it is encoded again.")
        latents, captions = self._encode(shard)
        write_tensors(path, {"latents": latents}, {"captions": json.dumps(captions)})
        return path.name, sha256(path), True

    def _encode(self, shard: int) -> tuple[Tensor, list[str]]:
        frames_nFHW3, captions = self.clips.load(shard)
        count, pixels = len(frames_nFHW3), frames_nFHW3[0].numel() // 3
        at_once = max(1, PIXELS_AT_ONCE // pixels)
        latents = []
        for first in range(0, count, at_once):
            video = torch.cat([to_model(frames) for frames in frames_nFHW3[first : first + at_once]])
            latents.append(self.backbone.encode(video.to(self.backbone.device)).cpu())
        joined = torch.cat(latents)
        for clip, caption, latent in zip(self.clips.shards[shard], captions, joined, strict=True):
            self._check(latent, f"clip {clip} of the {self.clips.name} data ({caption!r})")
        return joined.to(torch.bfloat16), captions

    def _embedded_captions(self, placed: Callable[[], AbstractContextManager[None]]) -> _Captions:
        """The captions, each once, as embedded on disk; embedded first where they are not there whole."""
        captions = [*self.captions([clip for part in self.clips.shards for clip in part]), ""]
        distinct = list(dict.fromkeys(captions))
        made_from = {
            "format": str(FORMAT),
            "text_encoder": text_fingerprint(self.backbone),
            "prompt_tokens": str(getattr(self.backbone, "prompt_tokens", "")),
            "captions": hashlib.sha256(json.dumps(captions).encode()).hexdigest(),
        }
        files = [self._text_path(index) for index in range(-(-len(distinct) // CAPTIONS_A_FILE))]
        stored = self.world.on_main(lambda: self._stored_captions(made_from, files))
        if stored is not None:
            return stored
        self._open_texts.clear()
        with placed():
            mine = [(index, self._embed(index, distinct)) for index in self.world.mine([*range(len(files))])]
        parts = self.world.gather(mine)
        lengths = [length for _, part in sorted(pair for share in parts for pair in share) for length in part]
        number = {caption: index for index, caption in enumerate(distinct)}
        made = _Captions(torch.tensor([number[caption] for caption in captions]), torch.tensor(lengths))
        if self.world.main:
            made_from["files"] = json.dumps([sha256(file) for file in files])
            write_tensors(self._text_list_path, {"caption": made.caption, "lengths": made.lengths}, made_from)
        return made

    def _stored_captions(self, made_from: dict[str, str], files: list[Path]) -> _Captions | None:
        if not self._text_list_path.exists():
            return None
        try:
            stored, found = read_tensors(self._text_list_path)
            if found == made_from | {"files": json.dumps([_sha256(file) for file in files])}:
                return _Captions(stored["caption"], stored["lengths"])
            self._notice(
                f"{self._text_list_path}: text encoder or captions changed, or a file is damaged; the captions are "
                "embedded again."
            )
        except (SyncloraError, KeyError):
            self._notice(f"{self._text_list_path}: damaged; the captions are embedded again.")
        return None

    def _embed(self, index: int, distinct: list[str]) -> list[int]:
        """Embed and write one file of captions; the tokens of each."""
        captions = distinct[index * CAPTIONS_A_FILE : (index + 1) * CAPTIONS_A_FILE]
        at_once = max(1, TOKENS_AT_ONCE // getattr(self.backbone, "prompt_tokens", 256))
        prompts: list[Tensor] = []
        for first in range(0, len(captions), at_once):
            text = self.backbone.embed(captions[first : first + at_once])
            prompts += [hidden[mask].cpu() for hidden, mask in zip(text.hidden, text.mask, strict=True)]
        for caption, prompt in zip(captions, prompts, strict=True):
            self._check(prompt, f"the caption {caption!r}")
        write_tensors(self._text_path(index), {"text": torch.cat(prompts).to(torch.bfloat16)})
        return [len(prompt) for prompt in prompts]

    def _check(self, encoded: Tensor, what: str) -> None:
        if not encoded.isfinite().all():
            raise SyncloraError(
                f"{what} encodes to values that are not numbers. "
                f"Check the weights of the backbone {self.backbone.name}, or set precision: fp32."
            )

    def _begin(self) -> dict[str, str]:
        """sha256 of each shard that was made from what we have now; empties a stale cache."""
        self._sweep()
        try:
            stored = json.loads(self._list_path.read_text(encoding="utf-8"))
            made_from, shards = dict(stored["made_from"]), dict(stored["shards"])
        except FileNotFoundError:
            made_from, shards = self.made_from, {}
        except (OSError, ValueError, KeyError, TypeError):
            self._notice(f"{self._list_path}: not readable; its latents are encoded again.")
            made_from, shards = self.made_from, {}
        if made_from != self.made_from:
            changed = [name for name, value in self.made_from.items() if made_from.get(name) != value]
            self._notice(f"{self._list_path}: stale latents ({', '.join(changed)} changed); they are encoded again.")
            shards = {}
        if not shards:
            for path in self.folder.glob(f"{self.clips.name}-*.safetensors"):
                path.unlink()
        return shards

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the folder's lock: runs that share a cache would sweep away each other's half-written files."""
        with ExitStack() as held:
            waited = False
            while not self.world.on_main(lambda: _lock(self.folder, held)):
                if not waited:
                    self._notice(f"{self.folder}: another run is filling this cache; waiting until it has.")
                waited = True
                time.sleep(1)
            yield

    def _sweep(self) -> None:
        """Remove what a kill in the middle of a write left behind."""
        for path in [*self.folder.glob(f".{self.clips.name}*.part*"), *self.folder.glob(".tmp*")]:
            path.unlink(missing_ok=True)

    def _path(self, shard: int) -> Path:
        return self.folder / f"{self.clips.name}-{shard:05d}.safetensors"

    def _text_path(self, index: int) -> Path:
        return self.folder / f"{self.clips.name}-text-{index:05d}.safetensors"

    @property
    def _text_list_path(self) -> Path:
        return self.folder / f"{self.clips.name}-text.safetensors"

    @property
    def _list_path(self) -> Path:
        return self.folder / f"{self.clips.name}.json"


class _Captions:
    """Which of the distinct captions each clip has, and where each lies in the files."""

    def __init__(self, caption: Tensor, lengths: Tensor) -> None:
        self.caption, self.lengths = caption, lengths
        self._ends = [part.cumsum(0) for part in lengths.split(CAPTIONS_A_FILE)]

    def place(self, clip: int) -> tuple[int, slice]:
        """The file of a clip's caption and its rows there; of the empty prompt for -1."""
        index, at = divmod(int(self.caption[clip]), CAPTIONS_A_FILE)
        ends = self._ends[index]
        return index, slice(int(ends[at - 1]) if at else 0, int(ends[at]))


def pad_texts(texts: list[Tensor]) -> Text:
    """Prompts [T_i, D] as one batch, padded with zeros to the longest, rounded up to a multiple of 16 tokens."""
    longest = max(len(text) for text in texts)
    hidden = pad_sequence(texts, batch_first=True)
    hidden = nn.functional.pad(hidden, (0, 0, 0, -longest % TEXT_MULTIPLE))
    lengths = torch.tensor([len(text) for text in texts])
    return Text(hidden, torch.arange(hidden.shape[1])[None] < lengths[:, None])


def module_fingerprint(backbone: Backbone, name: str) -> str:
    """An identity of the weights of one part of a backbone; "none" where it has no such part."""
    module = getattr(backbone, name, None)
    return fingerprint(module) if isinstance(module, nn.Module) else "none"


def _lock(folder: Path, held: ExitStack) -> bool:
    """Take a folder's lock until `held` ends; False where another process has it. The system frees it after a kill."""
    try:
        file = open(folder / ".lock", "w")  # noqa: SIM115
    except OSError:  # a cache to be read only
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return False
    except OSError:  # a file system without locks
        pass
    held.callback(file.close)
    return True


def text_fingerprint(backbone: Backbone) -> str:
    """An identity of all weights that embed prompts: the text encoder's and, of LTX-2, the connectors'."""
    connectors = module_fingerprint(backbone, "connectors")
    return module_fingerprint(backbone, "text_encoder") + ("" if connectors == "none" else f" {connectors}")


def _open(path: Path) -> Any:
    try:
        return safe_open(str(path), framework="pt").__enter__()
    except (FileNotFoundError, SafetensorError) as error:
        raise SyncloraError(
            f"{path}: cannot be read ({error}). Start again: what is missing is encoded anew."
        ) from error


def _sha256(path: Path) -> str | None:
    """Hex digest of a file; None where it is missing."""
    return sha256(path) if path.is_file() else None
