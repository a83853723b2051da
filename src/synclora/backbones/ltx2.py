"""LTX-2.0, 2.3 and 2.5, video only, through diffusers' and transformers' own classes.

The three are one architecture; what differs between them is in their configurations, and the text encoder (Gemma 3, or
Gemma 4 of LTX-2.5) is whatever class `model_index.json` names. Sound is never computed and its weights are not even
read (see `ltx2_transformer.drop_audio`): edits keep the source's own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from diffusers.models.autoencoders.autoencoder_kl_ltx2 import AutoencoderKLLTX2Video
from diffusers.models.transformers.transformer_ltx2 import LTX2VideoTransformer3DModel
from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors
from torch import nn

from synclora.backbones import checkpoint, ltx2_transformer
from synclora.backbones.base import Geometry, Rescale, Text
from synclora.backbones.checkpoint import Settings
from synclora.backbones.ltx import LTXBackbone, geometry_of
from synclora.errors import SyncloraError

# The length every prompt is padded to. The connectors put learnt registers in place of the padding, so it is part of
# what the network reads: 1024 is that of diffusers' pipelines.
PROMPT_TOKENS = 1024


class LTX2Backbone(LTXBackbone):
    """A `Backbone` over the video stream of an LTX-2 transformer, its VAE, text connectors, Gemma and tokenizer.

    `load` reads a folder or a hub id; `from_modules` takes modules already in memory.
    """

    rescale_on: Rescale = "x0"
    noised_latents_are_normalised: bool = True
    upsampled_keep_statistics: bool = False
    settings = Settings(prompt_tokens=PROMPT_TOKENS)
    trim = staticmethod(ltx2_transformer.drop_audio)
    _forward = staticmethod(ltx2_transformer.forward)

    def __init__(
        self,
        transformer: LTX2VideoTransformer3DModel,
        vae: AutoencoderKLLTX2Video,
        connectors: LTX2TextConnectors | None,
        text_encoder: nn.Module | None,
        tokenizer: Any,
        *,
        geometry: Geometry,
        prompt_tokens: int,
        name: str,
    ) -> None:
        super().__init__(transformer, vae, geometry=geometry, prompt_tokens=prompt_tokens, name=name)
        self.connectors, self.text_encoder, self.tokenizer = connectors, text_encoder, tokenizer
        if text_encoder is not None:
            text_encoder.eval()
        if tokenizer is not None:
            tokenizer.padding_side = "left"
            tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token

    @classmethod
    def from_modules(
        cls,
        transformer: LTX2VideoTransformer3DModel,
        vae: AutoencoderKLLTX2Video,
        connectors: LTX2TextConnectors | None = None,
        text_encoder: nn.Module | None = None,
        tokenizer: Any = None,
        *,
        width: int = 512,
        height: int = 512,
        frames: int = 81,
        fps: float = 25.0,
        prompt_tokens: int = PROMPT_TOKENS,
        name: str = "ltx-2",
    ) -> LTX2Backbone:
        """A backbone over modules in memory, left where they are (device, dtype, gradients; sound, if it is there).

        Without text encoder and connectors the backbone does everything but `embed`.

        Raises:
            SyncloraError: the modules do not fit each other or the geometry.
        """
        geometry = geometry_of(transformer, vae, width=width, height=height, frames=frames, fps=fps, name=name)
        _require_supported(transformer.config, geometry, name)
        if connectors is not None:
            _require_registers(connectors.config["video_connector_num_learnable_registers"], prompt_tokens, name)
        parts = (transformer, vae, connectors, text_encoder, tokenizer)
        return cls(*parts, geometry=geometry, prompt_tokens=prompt_tokens, name=name)

    @classmethod
    def kinds(cls, where: str | Path) -> dict[str, Any]:
        """See `LTXBackbone.kinds`."""
        return {
            "transformer": LTX2VideoTransformer3DModel,
            "vae": AutoencoderKLLTX2Video,
            "connectors": LTX2TextConnectors,
            "text_encoder": _text_encoder_class(where),
        }

    @torch.no_grad()
    def embed(self, prompts: list[str]) -> Text:
        """Every hidden layer of Gemma through the connectors; `prompt_tokens` long, registers where a prompt ends."""
        text_encoder, device = self._text_encoder()
        if self.connectors is None:
            raise SyncloraError(f"{self.name} was loaded without text connectors; prompts cannot be embedded.")
        tokens = self.tokenizer(
            [prompt.strip() for prompt in prompts],
            max_length=self.prompt_tokens,
            truncation=True,
            padding="max_length",
            return_tensors="pt",
        )
        ids, mask = tokens.input_ids.to(device), tokens.attention_mask.to(device)
        answer = text_encoder(ids, attention_mask=mask, output_hidden_states=True, logits_to_keep=1)
        self.bring(self.connectors)
        layers_BTDL, mask = torch.stack(answer.hidden_states, dim=-1).to(self.device), mask.to(self.device)
        del answer, text_encoder
        self._text_is_done()
        hidden_BTD, _, mask = self.connectors(layers_BTDL.flatten(2), mask, padding_side="left")
        return Text(hidden_BTD.float(), mask.bool())


def _text_encoder_class(where: str | Path) -> Any:
    _, kind = checkpoint.read_index(where).get("text_encoder", ("", ""))
    found = getattr(transformers, kind, None) if kind else None
    if found is None:
        raise SyncloraError(
            f"{where}: its text encoder is of the class {kind or 'none'!r}, which transformers"
            f" {transformers.__version__} does not have. Update transformers."
        )
    return found


def _require_supported(config: Any, geometry: Geometry, name: str) -> None:
    """Refuse a transformer whose tokens are not one latent each, at the positions `Sequence` gives them."""
    scale = (geometry.temporal, geometry.spatial, geometry.spatial)
    needed = {"patch_size": 1, "patch_size_t": 1, "causal_offset": 1, "vae_scale_factors": scale}
    for key, value in needed.items():
        found = tuple(config[key]) if isinstance(config[key], (list, tuple)) else config[key]
        if found != value:
            raise SyncloraError(f"{name}: its transformer has {key} {found}; only {value} is supported.")


def _require_registers(registers: int | None, prompt_tokens: int, name: str) -> None:
    if registers and prompt_tokens % registers:
        raise SyncloraError(
            f"{name}: prompts of {prompt_tokens} tokens; a multiple of the connectors' {registers} registers is"
            " needed. Correct prompt_tokens in synclora.json."
        )
