"""One random LoRA for a tiny transformer of diffusers' own classes, and its files as other tools write them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import ltx_tiny
import torch
from diffusers.models.transformers.transformer_ltx2 import LTX2VideoTransformer3DModel
from diffusers.pipelines.ltx2.pipeline_ltx2 import LTX2Pipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from safetensors.torch import save_file
from torch import Tensor, nn

SIGMA = torch.tensor([0.3, 0.8])
Matrices = dict[str, tuple[Tensor, Tensor, float]]  # module -> A, B, alpha

# A layer of every kind, in and outside the blocks; diffusers' name -> Lightricks'.
TRUNK = {
    "ltx-video": {"proj_in": "patchify_proj", "time_embed.linear": "adaln_single.linear", "proj_out": "proj_out"},
    "ltx-2": {
        "proj_in": "patchify_proj",
        "audio_proj_in": "audio_patchify_proj",
        "time_embed.emb.timestep_embedder.linear_1": "adaln_single.emb.timestep_embedder.linear_1",
        "audio_time_embed.linear": "audio_adaln_single.linear",
        "prompt_adaln.linear": "prompt_adaln_single.linear",
        "av_cross_attn_video_scale_shift.linear": "av_ca_video_scale_shift_adaln_single.linear",
        "av_cross_attn_audio_v2a_gate.linear": "av_ca_v2a_gate_adaln_single.linear",
    },
}
BLOCK = {
    "ltx-video": ("attn1.to_q", "attn1.to_out.0", "attn2.to_k", "attn2.to_v", "ff.net.0.proj", "ff.net.2"),
    "ltx-2": (
        *("attn1.to_q", "attn1.to_gate_logits", "attn2.to_out.0", "ff.net.0.proj", "audio_attn1.to_v"),
        *("audio_to_video_attn.to_k", "video_to_audio_attn.to_out.0", "audio_ff.net.2"),
    ),
}


def transformer(family: str, seed: int = 0) -> Any:
    """Two or three blocks; LTX-2's with all that is new in 2.3."""
    if family == "ltx-video":
        return ltx_tiny.transformer(seed)
    torch.manual_seed(seed)
    small: dict[str, Any] = {
        "in_channels": 8,
        "out_channels": 8,
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "cross_attention_dim": 32,
        "audio_in_channels": 8,
        "audio_out_channels": 8,
        "audio_num_attention_heads": 2,
        "audio_attention_head_dim": 8,
        "audio_cross_attention_dim": 16,
        "caption_channels": 24,
        "num_layers": 2,
        "gated_attn": True,
        "audio_gated_attn": True,
        "cross_attn_mod": True,
        "audio_cross_attn_mod": True,
        "use_prompt_embeddings": False,
        "perturbed_attn": True,
        "rope_type": "split",
    }
    return LTX2VideoTransformer3DModel(**small).eval()


@torch.no_grad()
def velocity(model: Any) -> Tensor:
    """The model's own forward on fixed inputs; of LTX-2, video and audio side by side."""
    draw = torch.Generator().manual_seed(7)
    if isinstance(model, LTX2VideoTransformer3DModel):
        video, audio = torch.randn(1, 12, 8, generator=draw), torch.randn(1, 5, 8, generator=draw)
        text, audio_text = torch.randn(1, 6, 32, generator=draw), torch.randn(1, 6, 16, generator=draw)
        found = model(
            video,
            audio,
            text,
            audio_text,
            timestep=torch.full((1, 12), 600.0),
            audio_timestep=torch.full((1, 5), 600.0),
            sigma=torch.full((1,), 600.0),
            num_frames=3,
            height=2,
            width=2,
            audio_num_frames=5,
            return_dict=False,
        )
        return torch.cat([part.flatten() for part in found])
    sequence, text = ltx_tiny.full_sequence(SIGMA), ltx_tiny.text()
    return model(
        sequence.tokens,
        text.hidden,
        torch.full((2, sequence.tokens.shape[1]), 600.0),
        text.mask.float(),
        video_coords=sequence.positions,
        return_dict=False,
    )[0]


def lora(
    family: str, rank: int = 4, alpha: float | None = 6.0, *, trunk: bool = True, dtype: torch.dtype = torch.float32
) -> Matrices:
    """Random matrices of size ~ 0.1 each; every third layer has a rank 2 higher. alpha None: the rank."""
    draw, model = torch.Generator().manual_seed(3), transformer(family)
    blocks = range(len(model.transformer_blocks))
    names = [f"transformer_blocks.{i}.{layer}" for i in blocks for layer in BLOCK[family]]
    result: Matrices = {}
    for index, name in enumerate(names + (list(TRUNK[family]) if trunk else [])):
        layer, r = model.get_submodule(name), rank + 2 * (index % 3 == 0)
        assert isinstance(layer, nn.Linear)
        a = torch.randn(r, layer.in_features, generator=draw) * 0.3
        b = torch.randn(layer.out_features, r, generator=draw) * 0.3 / r**0.5
        result[name] = (a.to(dtype), b.to(dtype), float(r) if alpha is None else alpha)
    return result


def applied(model: Any, matrices: Matrices) -> Any:
    """A copy of the model with W' = W + alpha / rank * B A, computed here: the truth all files must give."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for name, (a, b, alpha) in matrices.items():
            model.get_submodule(name).weight += (alpha / len(a)) * (b.float() @ a.float())
    return model


def native(family: str, name: str) -> str:
    return TRUNK[family].get(name, name)


def write(path: Path, style: str, family: str, matrices: Matrices, header: dict[str, str] | None = None) -> Path:
    """The LoRA in a style, its keys spelt out here; alpha is folded for all but kohya's."""
    tensors: dict[str, Tensor] = {}
    for name, (a, b, alpha) in matrices.items():
        if style == "kohya":
            flat = "lora_unet_" + native(family, name).replace(".", "_")
            tensors |= {f"{flat}.lora_down.weight": a, f"{flat}.lora_up.weight": b}
            tensors[f"{flat}.alpha"] = torch.tensor(alpha, dtype=a.dtype)
            continue
        prefix, module = {
            "comfyui": ("diffusion_model.", native(family, name)),
            "diffusers": ("transformer.", name),
            "peft": ("base_model.model.", name),
            "bare": ("", name),
        }[style]
        folded = b if alpha == len(a) else (b.float() * alpha / len(a)).to(b.dtype)
        tensors |= {f"{prefix}{module}.lora_A.weight": a, f"{prefix}{module}.lora_B.weight": folded}
    save_file(tensors, path, metadata=header or {})
    return path


def pipeline(family: str, model: Any) -> Any:
    """diffusers' own pipeline around a transformer; of LTX-2 without its other parts, which a LoRA does not touch."""
    if family == "ltx-video":
        backbone = ltx_tiny.backbone()
        backbone.transformer = model
        return ltx_tiny.pipeline(backbone)
    absent: dict[str, Any] = dict.fromkeys(("vae", "audio_vae", "text_encoder", "tokenizer", "connectors", "vocoder"))
    return LTX2Pipeline(scheduler=FlowMatchEulerDiscreteScheduler(), transformer=model, **absent)
