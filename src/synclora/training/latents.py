"""Encoded clips and prompts on disk, so that training never runs the VAE or the text encoder.

    CACHE/train.json                  what the latents were made from, and each shard's sha256
    CACHE/train-00000.safetensors     latents bf16 [n, C, f, h, w]; prompts: text bf16 [all tokens, D], lengths [n]

A shard is written atomically and listed after it is whole, so encoding resumes shard by shard. When the encoders, the
data or the size of the clips change, the cache is stale and made again, with a notice; a damaged shard likewise.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from synclora.atomic import write_json
from synclora.backbones.base import Backbone, Text
from synclora.clip import to_model
from synclora.diffusion.lora import fingerprint
from synclora.errors import SyncloraError
from synclora.training.clips import ClipSet
from synclora.training.tensors import make_folder, write_tensors

FORMAT = 1
PIXELS_AT_ONCE = 4_000_000  # frames * height * width encoded in one batch; bounds memory, not results
TEXT_MULTIPLE = 16  # prompts of a batch are padded to a multiple of this many tokens


class LatentCache:
    """The latents and prompts of a `ClipSet`, by clip number."""

    def __init__(self, folder: Path | str, clips: ClipSet, backbone: Backbone) -> None:
        self.folder, self.clips, self.backbone = Path(folder), clips, backbone
        self.made_from = {
            "format": str(FORMAT),
            "data": clips.content,
            "encoders": encoders_fingerprint(backbone),
            "geometry": repr(backbone.geometry),
        }
        self._place = {clip: (shard, at) for shard, part in enumerate(clips.shards) for at, clip in enumerate(part)}
        self._open: dict[int, Any] = {}
        self._texts: dict[int, tuple[Tensor, Tensor]] = {}

    def fill(self, notice: Callable[[str], None] = lambda _: None) -> int:
        """Encode what is not on disk whole and fresh; returns the number of shards encoded. See `steps`."""
        return sum(self.steps(notice))

    def steps(self, notice: Callable[[str], None] = lambda _: None) -> Generator[bool, None, None]:
        """Fill the cache one shard at a time, yielding for each whether it had to be encoded.

        Args:
            notice: told, in a sentence, when a stale cache or a damaged shard is made again.

        Raises:
            SyncloraError: the folder cannot be written, the disk is full, a clip cannot be read, or the encoder makes
                values that are not numbers.
        """
        make_folder(self.folder)
        self._sweep()
        listed = self._fresh_list(notice)
        for shard in range(len(self.clips.shards)):
            path = self._path(shard)
            recorded, found = listed.get(path.name), _sha256(path)
            if recorded is not None and found != recorded:
                notice(f"{path}: {'missing' if found is None else 'damaged'}; it is encoded again.")
            if recorded is None or found != recorded:
                write_tensors(path, self._encode(shard))
                listed[path.name] = _sha256(path) or ""
                write_json(self._list_path, {"made_from": self.made_from, "shards": listed})
                yield True
            else:
                yield False

    def latents(self, clips: list[int]) -> Tensor:
        """Normalised latents, float32 [n, C, f, h, w] (stored as bf16)."""
        rows = []
        for clip in clips:
            shard, at = self._place[clip]
            rows.append(self._file(shard).get_slice("latents")[at])
        return torch.stack(rows).float()

    def text(self, clips: list[int]) -> list[Tensor]:
        """Each clip's embedded prompt, float32 [T, D], without padding; see `pad_texts`."""
        result = []
        for clip in clips:
            shard, at = self._place[clip]
            ends, text = self._text_of(shard)
            start = int(ends[at - 1]) if at else 0
            result.append(text[start : int(ends[at])].float())
        return result

    def _text_of(self, shard: int) -> tuple[Tensor, Tensor]:
        if shard not in self._texts:
            file = self._file(shard)
            self._texts[shard] = (file.get_tensor("lengths").cumsum(0), file.get_tensor("text"))
        return self._texts[shard]

    def _file(self, shard: int) -> Any:
        if shard not in self._open:
            try:
                self._open[shard] = safe_open(str(self._path(shard)), framework="pt").__enter__()
            except (FileNotFoundError, SafetensorError) as error:
                raise SyncloraError(
                    f"{self._path(shard)}: cannot be read ({error}). Start again: what is missing is encoded anew."
                ) from error
        return self._open[shard]

    def _encode(self, shard: int) -> dict[str, Tensor]:
        frames_nFHW3, captions = self.clips.load(shard)
        count, pixels = len(frames_nFHW3), frames_nFHW3[0].numel() // 3
        at_once = max(1, PIXELS_AT_ONCE // pixels)
        latents = []
        for first in range(0, count, at_once):
            video = torch.cat([to_model(frames) for frames in frames_nFHW3[first : first + at_once]])
            latents.append(self.backbone.encode(video.to(self.backbone.device)).cpu())
        joined = torch.cat(latents)
        text = self.backbone.embed(captions)
        prompts = [hidden[mask].cpu() for hidden, mask in zip(text.hidden, text.mask, strict=True)]
        for clip, caption, latent, prompt in zip(self.clips.shards[shard], captions, joined, prompts, strict=True):
            if not (latent.isfinite().all() and prompt.isfinite().all()):
                raise SyncloraError(
                    f"clip {clip} of the {self.clips.name} data ({caption!r}) encodes to values that are not numbers. "
                    f"Check the weights of the backbone {self.backbone.name}, or set precision: fp32."
                )
        return {
            "latents": joined.to(torch.bfloat16),
            "text": torch.cat(prompts).to(torch.bfloat16),
            "lengths": torch.tensor([len(prompt) for prompt in prompts]),
        }

    def _fresh_list(self, notice: Callable[[str], None]) -> dict[str, str]:
        """sha256 of each shard that was made from what we have now; empties a stale cache."""
        try:
            stored = json.loads(self._list_path.read_text(encoding="utf-8"))
            made_from, shards = dict(stored["made_from"]), dict(stored["shards"])
        except FileNotFoundError:
            made_from, shards = self.made_from, {}
        except (OSError, ValueError, KeyError, TypeError):
            notice(f"{self._list_path}: not readable; its latents are encoded again.")
            made_from, shards = self.made_from, {}
        if made_from != self.made_from:
            changed = [name for name, value in self.made_from.items() if made_from.get(name) != value]
            notice(f"{self._list_path}: stale latents ({', '.join(changed)} changed); they are encoded again.")
            shards = {}
        if not shards:
            for path in self.folder.glob(f"{self.clips.name}-*.safetensors"):
                path.unlink()
        return shards

    def _sweep(self) -> None:
        """Remove what a kill in the middle of a write left behind."""
        for path in [*self.folder.glob(f".{self.clips.name}*.part*"), *self.folder.glob(".tmp*")]:
            path.unlink(missing_ok=True)

    def _path(self, shard: int) -> Path:
        return self.folder / f"{self.clips.name}-{shard:05d}.safetensors"

    @property
    def _list_path(self) -> Path:
        return self.folder / f"{self.clips.name}.json"


def pad_texts(texts: list[Tensor]) -> Text:
    """Prompts [T_i, D] as one batch, padded with zeros to the longest, rounded up to a multiple of 16 tokens."""
    longest = max(len(text) for text in texts)
    hidden = pad_sequence(texts, batch_first=True)
    hidden = nn.functional.pad(hidden, (0, 0, 0, -longest % TEXT_MULTIPLE))
    lengths = torch.tensor([len(text) for text in texts])
    return Text(hidden, torch.arange(hidden.shape[1])[None] < lengths[:, None])


def encoders_fingerprint(backbone: Backbone) -> str:
    """An identity of what turns clips and prompts into latents and text: the VAE's and the text encoder's weights."""
    digest = hashlib.sha256()
    for name in ("vae", "text_encoder"):
        module = getattr(backbone, name, None)
        if isinstance(module, nn.Module):
            digest.update(f"{name} {fingerprint(module)}".encode())
    return digest.hexdigest()


def _sha256(path: Path) -> str | None:
    """Hex digest of a file; None where it is missing."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except FileNotFoundError:
        return None
    return digest.hexdigest()
