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

ENCODERS = ("text_encoder", "connectors", "vae")

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
# Numbers in T5 XXL's encoder or Gemma 12B, in the connectors and the VAE; the VAEs of LTX-Video are about as large.
_ENCODERS = {
    "ltx-video": {"text_encoder": 4_762_310_656, "vae": 1_250_000_000},
    "ltx-2": {"text_encoder": 12_200_000_000, "connectors": 3_170_000_000, "vae": 1_220_000_000},
}


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
    encoders = {part: _numbers(Path(where) / part) for part in ENCODERS if (Path(where) / part).is_dir()}
    spatial, temporal = vae.get("spatial_compression_ratio") or 32, vae.get("temporal_compression_ratio") or 8
    return _model(f"the configuration in {where}", transformer, settings, encoders, is_ltx2, spatial, temporal)


@cache
def _published(name: str) -> Model:
    from accelerate import init_empty_weights

    is_ltx2 = name.startswith("ltx-2")
    with init_empty_weights(include_buffers=False):
        transformer = _class(is_ltx2)(**CONFIGURATIONS[name])
    if is_ltx2:
        drop_audio(transformer)
    encoders = _ENCODERS["ltx-2" if is_ltx2 else "ltx-video"]
    published = PUBLISHED[name]
    origin = f"its published configuration (the weights, {published.gigabytes} GB, are not here)"
    return _model(origin, transformer, _settings(is_ltx2), encoders, is_ltx2, 32, 8)


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
