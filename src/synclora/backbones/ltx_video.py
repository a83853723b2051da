"""LTX-Video and everything of its architecture, nano included, through diffusers' and transformers' own classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTXVideo
from diffusers.models.transformers.transformer_ltx import LTXVideoTransformer3DModel
from transformers import T5EncoderModel

from synclora.backbones import ltx_transformer
from synclora.backbones.base import Geometry, Rescale, Text
from synclora.backbones.checkpoint import Settings
from synclora.backbones.ltx import LTXBackbone, geometry_of
from synclora.errors import SyncloraError

TEXT_PADDING = 16  # prompts are padded to a multiple of this many tokens


class LTXVideoBackbone(LTXBackbone):
    """A `Backbone` over an LTX-Video transformer, VAE, T5 text encoder and tokenizer.

    `load` reads a folder or a hub id; `from_modules` takes modules already in memory.
    """

    rescale_on: Rescale = "velocity"
    noised_latents_are_normalised: bool = False
    upsampled_keep_statistics: bool = True
    settings = Settings()
    _forward = staticmethod(ltx_transformer.forward)

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
        super().__init__(transformer, vae, geometry=geometry, prompt_tokens=prompt_tokens, name=name)
        self.text_encoder, self.tokenizer = text_encoder, tokenizer
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
        geometry = geometry_of(transformer, vae, width=width, height=height, frames=frames, fps=fps, name=name)
        if prompt_tokens % TEXT_PADDING:
            raise SyncloraError(
                f"{name}: prompts of {prompt_tokens} tokens; a multiple of {TEXT_PADDING} is needed. Correct"
                " prompt_tokens in synclora.json."
            )
        return cls(transformer, vae, text_encoder, tokenizer, geometry=geometry, prompt_tokens=prompt_tokens, name=name)

    @classmethod
    def kinds(cls, where: str | Path) -> dict[str, Any]:
        """See `LTXBackbone.kinds`."""
        return {"transformer": LTXVideoTransformer3DModel, "vae": AutoencoderKLLTXVideo, "text_encoder": T5EncoderModel}

    @torch.no_grad()
    def embed(self, prompts: list[str]) -> Text:
        """Prompts through the T5 encoder, cut at `prompt_tokens` and padded to a multiple of 16 tokens."""
        text_encoder, device = self._text_encoder()
        tokens = self.tokenizer(
            prompts,
            max_length=self.prompt_tokens,
            truncation=True,
            padding=True,
            pad_to_multiple_of=TEXT_PADDING,
            return_tensors="pt",
        )
        ids, mask = tokens.input_ids.to(device), tokens.attention_mask.to(device)
        hidden_BTD = text_encoder(ids, attention_mask=mask).last_hidden_state
        del text_encoder
        self._text_is_done()
        return Text(hidden_BTD.float(), mask.bool()).to(self.device)
