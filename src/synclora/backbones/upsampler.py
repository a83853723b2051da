"""Latent upsamplers: twice the rows and columns, between the two stages of an edit (see `synclora.editing.sampler`).

    synclora edit ... --upscale default                      the latent_upsampler folder of the model
                      --upscale upscaler.safetensors         a file, as Lightricks publishes them
                      --upscale FOLDER or a hub id           in the diffusers layout

LTX-Video's and LTX-2's are one architecture. Its sizes are read from the weights themselves: published configurations
name the same setting differently (`rational_resampler`, `use_rational_resampler`), and one that is missed builds
another network.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers.pipelines.ltx2.latent_upsampler import LTX2LatentUpsamplerModel
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from synclora.backbones import checkpoint
from synclora.backbones.ltx import LTXBackbone
from synclora.errors import SyncloraError

FOLDERS = ("latent_upsampler", "spatial_upsampler")  # of a model's own folder, by how it was published
# Where the published ones are, as documented by diffusers (LTX-Video, LTX-2.0) and by Lightricks (LTX-2.3).
DOWNLOADS = (
    'LTX-Video 0.9.7 and later: hf download Lightricks/ltxv-spatial-upscaler-0.9.7 --include "latent_upsampler/*"',
    'LTX-2.0: hf download Lightricks/LTX-2 --include "latent_upsampler/*"',
    "LTX-2.3: hf download Lightricks/LTX-2.3 ltx-2.3-spatial-upscaler-x2-1.1.safetensors",
)
_OF_FAMILY = {"LTXLatentUpsampler": "LTXVideo", "LTX2LatentUpsampler": "LTX2"}  # class names' beginnings

Shapes = Mapping[str, tuple[int, ...]]


class Upsampler:
    """An upsampler over the latents of one backbone."""

    def __init__(self, network: nn.Module, backbone: LTXBackbone, path: str) -> None:
        self.network, self.backbone, self.path = network, backbone, path

    @torch.no_grad()
    def __call__(self, latents_BCfhw: Tensor) -> Tensor:
        """Normalised latents `[B, C, f, h, w]` as normalised latents `[B, C, f, 2h, 2w]`.

        The network works in the VAE's own units. Of LTX-Video, each channel's mean and spread are then brought back to
        those before (AdaIN), as Lightricks' multi-scale pipeline does.
        """
        mean, std = self.backbone.latent_statistics()
        latents = latents_BCfhw.to(mean.device).float()
        self.backbone.bring(self.network)
        large = self.network((latents * std + mean).to(self.backbone.dtype)).float()
        large = (large - mean) / std
        return matched(large, latents) if self.backbone.upsampled_keep_statistics else large


def matched(latents_BCfhw: Tensor, to: Tensor) -> Tensor:
    """The latents with the mean and standard deviation of `to`, item by item and channel by channel."""
    axes = (2, 3, 4)
    scaled = (latents_BCfhw - latents_BCfhw.mean(axes, keepdim=True)) / latents_BCfhw.std(axes, keepdim=True)
    return scaled * to.std(axes, keepdim=True) + to.mean(axes, keepdim=True)


def load_upsampler(where: str | Path, backbone: Any, model: str | Path) -> Upsampler:
    """The upsampler meant by `where`, on the backbone's device in its dtype.

    Args:
        where: a folder, a .safetensors file, a hub id, or "default" for the one in the model's own folder.
        backbone: the model it is for.
        model: folder or hub id of that model.

    Raises:
        SyncloraError: none there, damaged, of another family or factor, or a backbone without upsamplers.
    """
    if not isinstance(backbone, LTXBackbone):
        raise SyncloraError(f"{backbone.name}: there are no upsamplers for this model. Leave --upscale out.")
    files = _files(where, model)
    shapes, told = _shapes(files), _told(files[0])
    settings = settings_of(shapes, str(files[0]))
    _require_family(told, backbone, str(files[0]))
    if settings["in_channels"] != backbone.geometry.channels:
        raise SyncloraError(
            f"{files[0]}: upsamples {settings['in_channels']} latent channels, and {backbone.name} has"
            f" {backbone.geometry.channels}. Give the upsampler of this model."
        )
    with init_empty_weights(include_buffers=False):
        network = LTX2LatentUpsamplerModel(**settings)
    device = "cpu" if backbone.turns else backbone.device
    network = checkpoint.fill(network, [(path, None) for path in files], str(files[0]), backbone.dtype, device)
    return Upsampler(network, backbone, str(where))


def settings_of(shapes: Shapes, where: str) -> dict[str, Any]:
    """What `LTX2LatentUpsamplerModel` is built with, from the shapes of its weights.

    Raises:
        SyncloraError: not an upsampler, or one of another factor than 2 each way and 1 in time.
    """
    first = shapes.get("initial_conv.weight")
    rational, plain = shapes.get("upsampler.conv.weight"), shapes.get("upsampler.0.weight")
    grown = rational or plain
    if first is None or grown is None:
        raise SyncloraError(f"{where}: not a latent upsampler (no initial_conv or upsampler in it).")
    mid, channels = first[:2]
    # Of 4 times the channels, one goes to each of 2 x 2 places; a fraction's blur has the stride 1 only for 2 / 1.
    if grown[0] != 4 * grown[1] or len(grown) != 4:
        raise SyncloraError(
            f"{where}: does not make twice the rows and columns at the same frames. Only the x2 spatial upsamplers are"
            " supported."
        )
    blocks = {name.split(".")[1] for name in shapes if name.startswith("res_blocks.")}
    return {
        "in_channels": channels,
        "mid_channels": mid,
        "num_blocks_per_stage": len(blocks),
        "dims": len(first) - 2,
        "spatial_upsample": True,
        "temporal_upsample": False,
        "rational_spatial_scale": 2.0,
        "use_rational_resampler": rational is not None,
    }


def _files(where: str | Path, model: str | Path) -> list[Path]:
    """The safetensors files meant."""
    if str(where) == "default":
        found = [name for name in FOLDERS if (Path(model) / name).is_dir()]
        if not found:
            lines = "\n  ".join(DOWNLOADS)
            raise SyncloraError(
                f"{model}: comes without an upsampler (no {FOLDERS[0]} in it). Download the one of your model and name"
                f" its folder or file with --upscale:\n  {lines}"
            )
        return checkpoint.weight_files(model, found[0])
    path = Path(where)
    if path.suffix == ".safetensors":
        if not path.is_file():
            raise SyncloraError(f"{path}: no such file. Give the path of the upsampler.")
        return [path]
    if not checkpoint.is_folder(where):
        return checkpoint.weight_files(where, FOLDERS[0])
    if any(path.glob("*.safetensors")):
        return checkpoint.weight_files(path.parent, path.name)
    found = [name for name in FOLDERS if (path / name).is_dir()]
    if not found:
        raise SyncloraError(f"{path}: holds no upsampler (no .safetensors file, and no {FOLDERS[0]} folder).")
    return checkpoint.weight_files(path, found[0])


def _shapes(files: list[Path]) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                shapes |= {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise SyncloraError(f"{path}: not a whole safetensors file ({error}). Fetch it again.") from error
    return shapes


def _told(file: Path) -> str:
    """The class that a config.json beside the weights names; "" where there is none."""
    path = file.parent / "config.json"
    return str(checkpoint.read_json(path, "Fetch it again.").get("_class_name", "")) if path.is_file() else ""


def _require_family(told: str, backbone: LTXBackbone, where: str) -> None:
    """The latents of LTX-Video and LTX-2 have as many channels: the wrong one would run, and give noise."""
    for start, family in _OF_FAMILY.items():
        if told.startswith(start) and not type(backbone).__name__.startswith(family):
            raise SyncloraError(
                f"{where}: {told}, an upsampler of another family than {backbone.name}. Give the one of this model."
            )
