"""Published models by their configurations, so that a training can be planned before tens of gigabytes are fetched."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn

from synclora.backbones import checkpoint
from synclora.backbones.base import Geometry
from synclora.backbones.checkpoint import Settings
from synclora.backbones.ltx2 import PROMPT_TOKENS
from synclora.backbones.ltx2_transformer import drop_audio
from synclora.backbones.presets import PUBLISHED, locate
from synclora.backbones.single_file import open_single_file
from synclora.errors import SyncloraError
from synclora.training.placement import TEXT, VAE

# Transformers. LTX-Video 2B: the defaults of diffusers' class, as its scripts/convert_ltx_to_diffusers.py builds it.
# 13B: Lightricks' xora_v1.2-13B-balanced-128.json. LTX-2.0 and 2.3: diffusers' scripts/convert_ltx2_to_diffusers.py.
# 2.5: what diffusers' class says of it (`ff_bias`, `use_prompt_adaln_single`); its published config.json was not seen.
_LTX2: dict[str, Any] = {"rope_type": "split"}
_LATER: dict[str, Any] = _LTX2 | {
    "gated_attn": True,
    "audio_gated_attn": True,
    "cross_attn_mod": True,
    "audio_cross_attn_mod": True,
    "use_prompt_embeddings": False,
    "perturbed_attn": True,
}
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "ltxv-2b": {},
    "ltxv-13b": {"num_attention_heads": 32, "attention_head_dim": 128, "cross_attention_dim": 4096, "num_layers": 48},
    "ltx-2.0": _LTX2,
    "ltx-2.3": _LATER,
    "ltx-2.5": _LATER | {"ff_bias": False, "use_prompt_adaln_single": False, "use_keyframes_abs_pos_embedding": True},
}
# VAEs and connectors, from the same scripts; 2.0 has the defaults of diffusers' classes, 2.5 is taken to be as 2.3. The
# VAE of 13B (0.9.7) is that of 2B (0.9.5).
_LTX_VIDEO_VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 1024, 2048),
    "down_block_types": ("LTXVideo095DownBlock3D",) * 4,
    "decoder_block_out_channels": (256, 512, 1024),
    "layers_per_block": (4, 6, 6, 2, 2),
    "decoder_layers_per_block": (5, 5, 5, 5),
    "spatio_temporal_scaling": (True,) * 4,
    "decoder_spatio_temporal_scaling": (True,) * 3,
    "decoder_inject_noise": (False,) * 4,
    "downsample_type": ("spatial", "temporal", "spatiotemporal", "spatiotemporal"),
    "upsample_residual": (True,) * 3,
    "upsample_factor": (2, 2, 2),
    "timestep_conditioning": True,
}
_LATER_VAE: dict[str, Any] = {
    "block_out_channels": (256, 512, 1024, 1024),
    "decoder_block_out_channels": (256, 512, 512, 1024),
    "layers_per_block": (4, 6, 4, 2, 2),
    "decoder_layers_per_block": (4, 6, 4, 2, 2),
    "decoder_spatio_temporal_scaling": (True,) * 4,
    "decoder_inject_noise": (False,) * 5,
    "upsample_type": ("spatiotemporal", "spatiotemporal", "temporal", "spatial"),
    "upsample_residual": (False,) * 4,
    "upsample_factor": (2, 2, 1, 2),
}
_LATER_CONNECTORS: dict[str, Any] = {
    "video_connector_num_attention_heads": 32,
    "video_connector_num_layers": 8,
    "video_gated_attn": True,
    "audio_connector_num_attention_heads": 32,
    "audio_connector_attention_head_dim": 64,
    "audio_connector_num_layers": 8,
    "audio_gated_attn": True,
    "per_modality_projections": True,
    "proj_bias": True,
}
# Numbers in T5 v1.1 XXL's encoder and in Gemma 3 12B with its eyes, counted from transformers' classes.
T5_XXL, GEMMA_12B = 4_762_310_656, 12_187_325_040


@dataclass(frozen=True)
class Model:
    """What is known of a backbone without its weights.

    Attributes:
        origin: where that is known from, in words.
        transformer: without weights (device "meta").
        geometry, prompt_tokens: the window and the longest prompt.
        encoders: numbers in the networks that encode clips and prompts, by name.
        pads_prompts: whether every prompt is padded to `prompt_tokens`.
    """

    origin: str
    transformer: nn.Module
    geometry: Geometry
    prompt_tokens: int
    encoders: dict[str, int]
    pads_prompts: bool


def model_of(backbone: str) -> Model:
    """A backbone's sizes, from its folder's configurations or, for a preset that is not here, the published ones.

    Raises:
        SyncloraError: no such model, damaged configurations, or a hub id that is not in the hub's cache (nothing is
            fetched).
    """
    where = _folder(backbone)
    if where is None:
        return _published(backbone)
    index = checkpoint.read_index(where)
    _, kind = index.get("transformer", (None, "LTXVideoTransformer3DModel"))
    is_ltx2 = kind == "LTX2VideoTransformer3DModel"
    transformer = checkpoint.skeleton(_class(is_ltx2), where, "transformer", drop_audio if is_ltx2 else None)
    settings = checkpoint.read_settings(where, _settings(is_ltx2))
    vae = _vae_config(where)
    encoders = {part: _numbers(Path(where) / part) for part in VAE + TEXT if (Path(where) / part).is_dir()}
    spatial, temporal = vae.get("spatial_compression_ratio") or 32, vae.get("temporal_compression_ratio") or 8
    return _model(f"the configuration in {where}", transformer, settings, encoders, is_ltx2, spatial, temporal)


@cache
def _published(name: str) -> Model:
    from accelerate import init_empty_weights

    is_ltx2 = name.startswith("ltx-2")
    with init_empty_weights(include_buffers=False):
        transformer = _class(is_ltx2)(**CONFIGURATIONS[name])
        encoders = _published_encoders(name)
    if is_ltx2:
        drop_audio(transformer)
    published = PUBLISHED[name]
    origin = f"its published configuration (the weights, {published.gigabytes} GB, are not here)"
    return _model(origin, transformer, _settings(is_ltx2), encoders, is_ltx2, 32, 8)


def _published_encoders(name: str) -> dict[str, int]:
    """Numbers in a published model's encoders; networks are to be made empty here."""
    from diffusers.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTXVideo
    from diffusers.models.autoencoders.autoencoder_kl_ltx2 import AutoencoderKLLTX2Video
    from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors

    def count(module: nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    if not name.startswith("ltx-2"):
        return {"text_encoder": T5_XXL, "vae": count(AutoencoderKLLTXVideo(**_LTX_VIDEO_VAE))}
    later = name != "ltx-2.0"
    connectors = LTX2TextConnectors(**(_LATER_CONNECTORS if later else {}))
    vae = AutoencoderKLLTX2Video(**(_LATER_VAE if later else {}))
    return {"text_encoder": GEMMA_12B, "connectors": count(connectors), "vae": count(vae)}


def _model(
    origin: str,
    transformer: nn.Module,
    settings: Settings,
    encoders: dict[str, int],
    is_ltx2: bool,
    spatial: int,
    temporal: int,
) -> Model:
    config: Any = transformer.config
    geometry = Geometry(
        settings.width, settings.height, settings.frames, settings.fps, spatial, temporal, config["in_channels"]
    )
    return Model(origin, transformer, geometry, settings.prompt_tokens, encoders, is_ltx2)


def _folder(backbone: str) -> Path | None:
    """The folder with a backbone's configurations; None for a preset whose weights are not here."""
    try:
        where = locate(backbone)
    except SyncloraError:
        name = open_single_file(Path(backbone)).published if backbone.endswith(".safetensors") else backbone
        if name not in CONFIGURATIONS:
            raise
        return None
    if checkpoint.is_folder(where):
        return Path(where)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(where), local_files_only=True))
    except LocalEntryNotFoundError as error:
        raise SyncloraError(
            f"{where}: not in the hub's cache, and planning fetches nothing. Fetch its configurations (some kilobytes) "
            f'with `hf download {where} --include "*.json"`.'
        ) from error


def _class(is_ltx2: bool) -> Any:
    if is_ltx2:
        from diffusers.models.transformers.transformer_ltx2 import LTX2VideoTransformer3DModel

        return LTX2VideoTransformer3DModel
    from diffusers.models.transformers.transformer_ltx import LTXVideoTransformer3DModel

    return LTXVideoTransformer3DModel


def _settings(is_ltx2: bool) -> Settings:
    return Settings(prompt_tokens=PROMPT_TOKENS) if is_ltx2 else Settings()


def _vae_config(where: Path) -> dict[str, Any]:
    path = where / "vae" / "config.json"
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise SyncloraError(f"{path}: cannot be read ({error}). Fetch the model again.") from error


def _numbers(folder: Path) -> int:
    """Numbers in a folder's safetensors files, by their headers."""
    count = 0
    for path in folder.glob("*.safetensors"):
        try:
            with safe_open(path, framework="pt") as file:
                count += sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise SyncloraError(f"{path}: not a whole safetensors file ({error}). Fetch it again.") from error
    return count
