"""A checkpoint of one file, as Lightricks publishes them: the transformer, often with the VAE, never the text encoder.

Only the file's header is read here; the weights are read where they are used (`checkpoint.fill_from`), in place of
those of a folder in the diffusers layout that has everything else. The names of the tensors are told by diffusers' own
conversions, run on names alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open

from synclora.errors import SyncloraError

INDEX_NAME = "model_index.json"  # of the folder for everything else
Family = Literal["ltx-video", "ltx-2"]
_TRANSFORMER, _VAE = "model.diffusion_model.", "vae."
_SOUND = ("audio_patchify_proj.weight", "audio_proj_in.weight")
_FIRST_LAYER = ("patchify_proj.weight", "proj_in.weight")


@dataclass(frozen=True)
class SingleFile:
    """The file, the architecture of its transformer, its tensors' shapes by name, and its header's strings."""

    path: Path
    family: Family
    shapes: dict[str, tuple[int, ...]]
    header: dict[str, str] = field(default_factory=dict)

    @property
    def published(self) -> str:
        """The preset whose transformer has the same layers."""
        names = self._keys("transformer")
        if self.family == "ltx-video":
            return "ltxv-13b" if any("transformer_blocks.47." in name for name in names) else "ltxv-2b"
        if not any("to_gate_logits" in name for name in names):
            return "ltx-2.0"
        return "ltx-2.3" if any("prompt_adaln" in name for name in names) else "ltx-2.5"

    def holds(self, part: str) -> bool:
        """Whether a part of a model ("transformer", "vae") is in the file."""
        return bool(self._keys(part))

    def names(self, part: str) -> dict[str, str]:
        """The part's tensors: their names in diffusers' modules -> their names in the file.

        Raises:
            SyncloraError: tensors that are not of the published layout.
        """
        from diffusers.loaders import single_file_utils  # seconds to import, and rarely needed

        convert = getattr(single_file_utils, _CONVERSIONS[self.family, part])
        # Tensors without content stand in for the weights: the conversions look at a shape, and only rename.
        stand_ins: dict[str, Any] = {key: torch.empty(self.shapes[key], device="meta") for key in self._keys(part)}
        key_of = {id(tensor): key for key, tensor in stand_ins.items()}
        try:
            return {name: key_of[id(tensor)] for name, tensor in convert(dict(stand_ins)).items()}
        except KeyError as error:
            raise SyncloraError(
                f"{self.path}: its {part} is not of a layout that diffusers knows ({error} is missing). Fetch the model"
                " as a folder in the diffusers layout and give that."
            ) from error

    def _keys(self, part: str) -> list[str]:
        if part == "vae":
            return [key for key in self.shapes if key.startswith(_VAE)]
        if part != "transformer":
            return []
        prefixed = [key for key in self.shapes if key.startswith(_TRANSFORMER)]
        return prefixed or [key for key in self.shapes if not key.startswith(_OTHER_PARTS)]


_OTHER_PARTS = (_VAE, "audio_vae.", "vocoder.", "text_embedding_projection.")
_CONVERSIONS = {
    ("ltx-video", "transformer"): "convert_ltx_transformer_checkpoint_to_diffusers",
    ("ltx-video", "vae"): "convert_ltx_vae_checkpoint_to_diffusers",
    ("ltx-2", "transformer"): "convert_ltx2_transformer_to_diffusers",
    ("ltx-2", "vae"): "convert_ltx2_vae_to_diffusers",
}


def open_single_file(path: Path) -> SingleFile:
    """What a checkpoint of one file is, by its header.

    Raises:
        SyncloraError: damaged, or no transformer of LTX-Video or LTX-2.
    """
    try:
        with safe_open(path, framework="pt") as file:
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
            header = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise SyncloraError(f"{path}: not a whole safetensors file ({error}). Fetch it again.") from error
    bare = {key.removeprefix(_TRANSFORMER) for key in shapes}
    if any("lora" in key for key in bare):
        raise SyncloraError(f"{path}: a LoRA, not a model. Give it with --lora, and its base model with --backbone.")
    if bare.isdisjoint(_FIRST_LAYER):
        raise SyncloraError(f"{path}: holds no transformer of LTX-Video or LTX-2 (no {_FIRST_LAYER[0]}).")
    return SingleFile(path, "ltx-video" if bare.isdisjoint(_SOUND) else "ltx-2", shapes, header)
