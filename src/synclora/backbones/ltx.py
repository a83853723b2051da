"""What the LTX backbones share: loading, the VAE's calls, and the two ways of running the network over a sequence."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer

from synclora.backbones import checkpoint
from synclora.backbones.base import Attention, Geometry, Rescale, Text
from synclora.backbones.checkpoint import Settings, SingleFile
from synclora.backbones.memory import Turns, host_is_short, turns_for
from synclora.diffusion.attention import KeyValueCache
from synclora.diffusion.lora import fingerprint
from synclora.diffusion.sequence import Sequence
from synclora.errors import SyncloraError

if TYPE_CHECKING:
    from typing_extensions import Self

# A decoder that takes a timestep (LTX-Video 0.9.1 and later) finishes the last bit of denoising itself: it is handed
# slightly noised latents and told so. The values are those of the diffusers documentation.
DECODE_TIMESTEP = 0.05
DECODE_NOISE_SCALE = 0.025

# Autoencoders of fewer weights run in float32 whatever the rest does: in bfloat16 nano's loses 0.6 dB of its round trip
# (tests/backbones/measure_vae.py) and saves a few tenths of a second. LTX-Video's has 1.25 billion weights.
SMALL_VAE = 20_000_000

# Videos of more pixels in all are encoded and decoded in tiles that overlap and are blended: 81 frames of 1024 x 768
# are still taken whole. Tiles as large as that, and three times diffusers' overlap: what a decoder sees beyond a tile's
# edge differs, and 192 pixels leave a third of the error that 64 do (tests/backbones/test_memory.py).
TILED_ABOVE = 64_000_000
TILE, TILE_STRIDE = 768, 576


class LTXBackbone:
    """A `Backbone` over diffusers' modules, but for text and the network's own forward.

    Encoding, decoding and embedding never keep gradients; `velocity` does when they are enabled.
    """

    rescale_on: Rescale
    noised_latents_are_normalised: bool  # those a timestep-conditioned decoder is handed
    upsampled_keep_statistics: bool  # whether an upsampler's latents are brought back to the spread of those before
    settings: ClassVar[Settings]  # where there is no synclora.json
    trim: ClassVar[Callable[[nn.Module], None] | None] = None  # takes out of a transformer what is not used
    _forward: ClassVar[Callable[..., tuple[Tensor, KeyValueCache]]]

    def __init__(self, transformer: Any, vae: Any, *, geometry: Geometry, prompt_tokens: int, name: str) -> None:
        self.transformer, self.vae = transformer, vae
        self.geometry, self.prompt_tokens, self.name = geometry, prompt_tokens, name
        self.text_encoder: Any = None
        self.turns: Turns | None = None  # where the device is too small for all parts
        self.load_text_encoder: Callable[[], nn.Module] | None = None  # anew, where it may be let go
        self.distilled: bool | None = None  # None: nothing tells

    @classmethod
    def load(
        cls,
        where: str | Path,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        *,
        name: str | None = None,
        single_file: SingleFile | None = None,
        share: bool = False,
    ) -> Self:
        """A backbone from an ordinary diffusers folder or hub id, frozen; size and window from `synclora.json`.

        Everything is of `dtype`, but for a small VAE, which is float32. The networks that `single_file` holds are taken
        from there, in the configuration of the folder. With `share`,
        the parts of a model that is too large for a GPU take turns on it (see `synclora.backbones.memory`).

        Raises:
            SyncloraError: see `synclora.backbones.checkpoint`; or a text encoder that transformers does not know.
        """
        device, settings, kinds = torch.device(device), checkpoint.read_settings(where, cls.settings), cls.kinds(where)
        transformer = checkpoint.skeleton(kinds.pop("transformer"), where, "transformer", cls.trim)
        loaders = {
            part: partial(checkpoint.load_module, kind, where, part, single_file=single_file, dtype=dtype)
            for part, kind in kinds.items()
        }
        parts = {part: load() for part, load in loaders.items()}
        tokenizer = checkpoint.load_part(where, "tokenizer", partial(AutoTokenizer.from_pretrained, where))
        turns = None
        if share:
            empty = nn.Module.to(transformer, dtype=dtype)
            turns = turns_for(device, {"transformer": empty, **{p.replace("_", " "): m for p, m in parts.items()}})
        if turns is None:
            for module in parts.values():
                nn.Module.to(module, device, dtype)
        if sum(parameter.numel() for parameter in parts["vae"].parameters()) < SMALL_VAE:
            nn.Module.to(parts["vae"], dtype=torch.float32)
        place = "cpu" if turns else device
        parts["transformer"] = checkpoint.fill_from(
            transformer, where, "transformer", dtype, place, single_file=single_file
        )
        given = {**parts, "tokenizer": tokenizer, **asdict(settings)}
        backbone = cls.from_modules(**given, name=name or Path(where).name)
        backbone.turns = turns
        backbone.load_text_encoder = loaders["text_encoder"] if share else None
        return backbone

    @classmethod
    def kinds(cls, where: str | Path) -> dict[str, Any]:
        """The class of each network, by the name of its subfolder."""
        raise NotImplementedError

    @classmethod
    def from_modules(cls, *args: Any, **options: Any) -> Self:
        """A backbone over modules in memory."""
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        return self.turns.device if self.turns else self.transformer.scale_shift_table.device

    @property
    def dtype(self) -> torch.dtype:
        return self.transformer.scale_shift_table.dtype

    @torch.no_grad()
    def encode(self, video_B3FHW: Tensor) -> Tensor:
        """Video in [-1, 1] as latents of unit scale: the posterior's mode, normalised by the VAE's mean and std."""
        self._tile(video_B3FHW.shape[2:].numel())
        self.bring(self.vae)
        latents = self.vae.encode(video_B3FHW.to(self.device, self.vae.dtype), return_dict=False)[0].mode()
        mean, std = self.latent_statistics()
        return (latents.float() - mean) / std

    @torch.no_grad()
    def decode(self, latents_BCfhw: Tensor) -> Tensor:
        """The inverse of `encode`, clamped to [-1, 1]."""
        frames, rows, columns = latents_BCfhw.shape[2:]
        self._tile(((frames - 1) * self.geometry.temporal + 1) * rows * columns * self.geometry.spatial**2)
        self.bring(self.vae)
        mean, std = self.latent_statistics()
        latents, timestep = latents_BCfhw.to(self.device).float(), None
        if not self.vae.config["timestep_conditioning"]:
            latents = latents * std + mean
        else:
            if self.noised_latents_are_normalised:
                latents = _decode_noised(latents) * std + mean
            else:
                latents = _decode_noised(latents * std + mean)
            timestep = torch.full((len(latents),), DECODE_TIMESTEP, device=self.device, dtype=self.vae.dtype)
        return self.vae.decode(latents.to(self.vae.dtype), timestep, return_dict=False)[0].float().clamp(-1, 1)

    def velocity(
        self,
        sequence: Sequence,
        sigma: Tensor | float,
        text: Text,
        *,
        attention: Attention = "self",
        cache: KeyValueCache | None = None,
        skip_blocks: Container[int] = (),
        whole: bool = False,
    ) -> Tensor:
        """The predicted velocity, `[B, n, C]` float32; see `Backbone.velocity`."""
        self.bring(self.transformer)
        rest = sequence.without_reference()
        if attention == "joint":
            output_BNC, _ = self._network(sequence, sigma, text, None, skip_blocks, False)
            return output_BNC.float() if whole else output_BNC[:, : rest.tokens.shape[1]].float()
        if cache is None and sequence.num_reference:
            cache = self.reference_cache(sequence, text, skip_blocks=skip_blocks)
        output_BnC, _ = self._network(rest, sigma, text, cache, skip_blocks, False)
        return output_BnC.float()

    def reference_cache(self, sequence: Sequence, text: Text, *, skip_blocks: Container[int] = ()) -> KeyValueCache:
        """The reference alone through the network, at timestep 0; see `Backbone.reference_cache`."""
        self.bring(self.transformer)
        _, cache = self._network(sequence.reference_only(), 0.0, text, None, skip_blocks, True)
        return cache

    def fingerprint(self) -> str:
        """An identity of the transformer's weights, LoRA excluded; what a LoRA file names as its base."""
        return fingerprint(self.transformer)

    def _network(
        self,
        sequence: Sequence,
        sigma: Tensor | float,
        text: Text,
        cache: KeyValueCache | None,
        skip_blocks: Container[int],
        keep: bool,
    ) -> tuple[Tensor, KeyValueCache]:
        """Every token's velocity and, to `keep`, every layer's keys and values."""
        return self._forward(self.transformer, sequence, sigma, text.hidden, text.mask, cache, skip_blocks, keep)

    def latent_statistics(self) -> tuple[Tensor, Tensor]:
        """The VAE's mean and standard deviation of each channel, `[1, C, 1, 1, 1]` float32."""
        mean, std = (
            x.to(self.device, torch.float32).view(1, -1, 1, 1, 1) for x in (self.vae.latents_mean, self.vae.latents_std)
        )
        return mean, std / self.vae.config["scaling_factor"]

    def bring(self, module: nn.Module) -> torch.device:
        """See that one of the parts is where it runs: the device, or the CPU if it is too large; returns which."""
        return self.turns.use(module) if self.turns else self.device

    def _text_encoder(self) -> tuple[Any, torch.device]:
        """The text encoder, loaded anew if it was let go, and the device it is on."""
        if self.text_encoder is None and self.load_text_encoder is not None:
            self.text_encoder = self.load_text_encoder()
        if self.text_encoder is None:
            raise SyncloraError(f"{self.name} was loaded without a text encoder; prompts cannot be embedded.")
        return self.text_encoder, self.bring(self.text_encoder)

    def _text_is_done(self) -> None:
        """Let the text encoder go, by far the largest part beside the transformer, where it is in a host that is short.

        On a GPU that holds all parts it stays: the host would gain nothing.
        """
        in_host = self.turns is not None or self.device.type == "cpu"
        if in_host and self.load_text_encoder is not None and host_is_short():
            if self.turns is not None:
                self.turns.forget(self.text_encoder)
            self.text_encoder = None

    def _tile(self, pixels: int) -> None:
        if pixels > TILED_ABOVE:
            tile = {"tile_sample_min_height": TILE, "tile_sample_min_width": TILE}
            stride = {"tile_sample_stride_height": TILE_STRIDE, "tile_sample_stride_width": TILE_STRIDE}
            self.vae.enable_tiling(**tile, **stride)
        else:
            self.vae.disable_tiling()


def geometry_of(transformer: Any, vae: Any, *, width: int, height: int, frames: int, fps: float, name: str) -> Geometry:
    """The geometry of a transformer and a VAE.

    Raises:
        SyncloraError: they do not fit each other or the size.
    """
    spatial, temporal = vae.spatial_compression_ratio, vae.temporal_compression_ratio
    channels, made = transformer.config["in_channels"], vae.config["latent_channels"]
    geometry = Geometry(width, height, frames, fps, spatial, temporal, channels)
    if made != channels:
        raise SyncloraError(
            f"{name}: the VAE makes {made} latent channels and the transformer takes"
            f" {channels}. They are not of one model; take both from the same folder."
        )
    if width % spatial or height % spatial or not geometry.valid_frames(frames):
        raise SyncloraError(
            f"{name}: {width} x {height} pixels, {frames} frames; needed are multiples of {spatial} pixels and"
            f" {temporal}k+1 frames, such as {geometry.fit_down(frames)}. Correct synclora.json."
        )
    return geometry


def _decode_noised(latents: Tensor) -> Tensor:
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0)).to(latents.device)
    return (1 - DECODE_NOISE_SCALE) * latents + DECODE_NOISE_SCALE * noise
