"""LTX-Video and everything of its architecture, nano included, through diffusers' and transformers' own classes."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTXVideo
from diffusers.models.transformers.transformer_ltx import LTXVideoTransformer3DModel
from torch import Tensor
from transformers import AutoTokenizer, T5EncoderModel

from synclora.backbones import checkpoint, ltx_transformer
from synclora.backbones.base import Attention, Geometry, Text
from synclora.diffusion.attention import KeyValueCache
from synclora.diffusion.lora import fingerprint
from synclora.diffusion.sequence import Sequence
from synclora.errors import SyncloraError

# A decoder that takes a timestep (LTX-Video 0.9.1 and later) finishes the last bit of denoising itself: it is handed
# slightly noised latents and told so. The values are those of the diffusers documentation.
DECODE_TIMESTEP = 0.05
DECODE_NOISE_SCALE = 0.025

TEXT_PADDING = 16  # prompts are padded to a multiple of this many tokens


class LTXVideoBackbone:
    """A `Backbone` over an LTX-Video transformer, VAE, T5 text encoder and tokenizer.

    `load` reads a folder or a hub id; `from_modules` takes modules already in memory. Encoding, decoding and embedding
    never keep gradients; `velocity` does when they are enabled.
    """

    def __init__(
        self,
        transformer: LTXVideoTransformer3DModel,
        vae: AutoencoderKLLTXVideo,
        text_encoder: T5EncoderModel | None,
        tokenizer: Any,
        *,
        geometry: Geometry,
        prompt_tokens: int,
        name: str,
    ) -> None:
        self.transformer, self.vae, self.text_encoder, self.tokenizer = transformer, vae, text_encoder, tokenizer
        self.geometry, self.prompt_tokens, self.name = geometry, prompt_tokens, name
        if text_encoder is not None:
            text_encoder.eval()

    @classmethod
    def from_modules(
        cls,
        transformer: LTXVideoTransformer3DModel,
        vae: AutoencoderKLLTXVideo,
        text_encoder: T5EncoderModel | None = None,
        tokenizer: Any = None,
        *,
        width: int = 512,
        height: int = 512,
        frames: int = 81,
        fps: float = 25.0,
        prompt_tokens: int = 256,
        name: str = "ltx-video",
    ) -> LTXVideoBackbone:
        """A backbone over modules in memory, left where they are (device, dtype, gradients).

        Only the text encoder is set to `eval`, as its dropout would change the prompt. Without one the backbone does
        everything but `embed`.

        Raises:
            SyncloraError: the modules do not fit each other or the geometry.
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
        return cls(transformer, vae, text_encoder, tokenizer, geometry=geometry, prompt_tokens=prompt_tokens, name=name)

    @classmethod
    def load(
        cls,
        where: str | Path,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        *,
        name: str | None = None,
    ) -> LTXVideoBackbone:
        """A backbone from an ordinary diffusers folder or hub id, frozen; size and window from `synclora.json`.

        Raises:
            SyncloraError: see `synclora.backbones.checkpoint`.
        """
        settings = checkpoint.read_settings(where)
        transformer = checkpoint.load_module(LTXVideoTransformer3DModel, where, "transformer", dtype=dtype)
        vae = checkpoint.load_module(AutoencoderKLLTXVideo, where, "vae", dtype=dtype)
        text_encoder = checkpoint.load_module(T5EncoderModel, where, "text_encoder", dtype=dtype)
        tokenizer = checkpoint.load_part(where, "tokenizer", partial(AutoTokenizer.from_pretrained, where))
        for module in (transformer, vae, text_encoder):
            torch.nn.Module.to(module, device, dtype)
        return cls.from_modules(
            transformer, vae, text_encoder, tokenizer, name=name or Path(where).name, **asdict(settings)
        )

    @property
    def device(self) -> torch.device:
        return self.transformer.scale_shift_table.device

    @property
    def dtype(self) -> torch.dtype:
        return self.transformer.scale_shift_table.dtype

    @torch.no_grad()
    def encode(self, video_B3FHW: Tensor) -> Tensor:
        """Video in [-1, 1] as latents of unit scale: the posterior's mode, normalised by the VAE's mean and std."""
        latents = self.vae.encode(video_B3FHW.to(self.device, self.vae.dtype), return_dict=False)[0].mode()
        mean, std = self._latent_statistics()
        return (latents.float() - mean) / std

    @torch.no_grad()
    def decode(self, latents_BCfhw: Tensor) -> Tensor:
        """The inverse of `encode`, clamped to [-1, 1]."""
        mean, std = self._latent_statistics()
        latents, timestep = latents_BCfhw.to(self.device).float() * std + mean, None
        if self.vae.config["timestep_conditioning"]:
            noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0)).to(self.device)
            latents = (1 - DECODE_NOISE_SCALE) * latents + DECODE_NOISE_SCALE * noise
            timestep = torch.full((len(latents),), DECODE_TIMESTEP, device=self.device, dtype=self.vae.dtype)
        return self.vae.decode(latents.to(self.vae.dtype), timestep, return_dict=False)[0].float().clamp(-1, 1)

    @torch.no_grad()
    def embed(self, prompts: list[str]) -> Text:
        """Prompts through the T5 encoder, cut at `prompt_tokens` and padded to a multiple of 16 tokens."""
        if self.text_encoder is None:
            raise SyncloraError(f"{self.name} was loaded without a text encoder; prompts cannot be embedded.")
        tokens = self.tokenizer(
            prompts,
            max_length=self.prompt_tokens,
            truncation=True,
            padding=True,
            pad_to_multiple_of=TEXT_PADDING,
            return_tensors="pt",
        )
        ids, mask = tokens.input_ids.to(self.device), tokens.attention_mask.to(self.device)
        hidden_BTD = self.text_encoder(ids, attention_mask=mask).last_hidden_state
        return Text(hidden_BTD.float(), mask.bool())

    def velocity(
        self,
        sequence: Sequence,
        sigma: Tensor | float,
        text: Text,
        *,
        attention: Attention = "self",
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """The predicted velocity of all non-reference tokens, `[B, n, C]` float32; see `Backbone.velocity`."""
        rest = sequence.without_reference()
        if attention == "joint":
            output_BNC, _ = self._network(sequence, sigma, text)
            return output_BNC[:, : rest.tokens.shape[1]].float()
        if cache is None and sequence.num_reference:
            cache = self.reference_cache(sequence, text)
        output_BnC, _ = self._network(rest, sigma, text, cache)
        return output_BnC.float()

    def reference_cache(self, sequence: Sequence, text: Text) -> KeyValueCache:
        """The reference alone through the network, at timestep 0; see `Backbone.reference_cache`."""
        _, cache = self._network(sequence.reference_only(), 0.0, text)
        return cache

    def fingerprint(self) -> str:
        """An identity of the transformer's weights, LoRA excluded; what a LoRA file names as its base."""
        return fingerprint(self.transformer)

    def _network(
        self, sequence: Sequence, sigma: Tensor | float, text: Text, cache: KeyValueCache | None = None
    ) -> tuple[Tensor, KeyValueCache]:
        return ltx_transformer.forward(self.transformer, sequence, sigma, text.hidden, text.mask, cache)

    def _latent_statistics(self) -> tuple[Tensor, Tensor]:
        """The VAE's mean and standard deviation of each channel, `[1, C, 1, 1, 1]`."""
        mean, std = (
            x.to(self.device, torch.float32).view(1, -1, 1, 1, 1) for x in (self.vae.latents_mean, self.vae.latents_std)
        )
        return mean, std / self.vae.config["scaling_factor"]
