"""Parity with diffusers' `LTXConditionPipeline` in what is beyond one answer of the network: CFG, rescale, decoding.

A tiny random LTX-Video whose VAE takes a timestep (0.9.1 and later), in fp32, from the same noise and sigmas.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ltx_tiny
import numpy as np
import pytest
import torch
from diffusers.pipelines.ltx.pipeline_ltx_condition import LTXConditionPipeline, LTXVideoCondition
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch import Tensor

from synclora.backbones.base import Text
from synclora.backbones.ltx import DECODE_NOISE_SCALE, DECODE_TIMESTEP
from synclora.backbones.ltx_video import LTXVideoBackbone
from synclora.diffusion.flow import sample_loop
from synclora.diffusion.guidance import Guidance, guided
from synclora.diffusion.sequence import FirstFrame, build, unpatchify

FPS = 24


@pytest.fixture(scope="module")
def backbone() -> LTXVideoBackbone:
    return ltx_tiny.backbone(scaling_factor=1.0, timestep_conditioning=True)


@pytest.fixture
def pipeline(backbone: LTXVideoBackbone) -> Iterator[tuple[LTXConditionPipeline, list[dict[str, Any]]]]:
    """The pipeline over the backbone's modules, and the list that its transformer's calls are noted in."""
    made, calls = ltx_tiny.pipeline(backbone), []
    made.set_progress_bar_config(disable=True)
    handle = made.transformer.register_forward_pre_hook(lambda m, i, given: calls.append(given), with_kwargs=True)
    yield made, calls
    handle.remove()


@torch.no_grad()
def run(pipeline: LTXConditionPipeline, guidance: Guidance, **changes: Any) -> Tensor:
    picture = np.random.default_rng(0).integers(0, 256, (ltx_tiny.SIZE, ltx_tiny.SIZE, 3), dtype=np.uint8)
    given: dict[str, Any] = {
        "conditions": [LTXVideoCondition(image=Image.fromarray(picture), frame_index=0)],
        "prompt": "a man with a red hat",
        "negative_prompt": "blurry",
        "width": ltx_tiny.SIZE,
        "height": ltx_tiny.SIZE,
        "num_frames": ltx_tiny.FRAMES,
        "frame_rate": FPS,
        "num_inference_steps": 4,
        "guidance_scale": guidance.cfg,
        "guidance_rescale": guidance.rescale,
        "image_cond_noise_scale": 0.0,
        "generator": torch.Generator().manual_seed(0),
        "max_sequence_length": 32,
        "output_type": "latent",
        "return_dict": False,
    }
    return pipeline(**given | changes)[0]


def difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@torch.no_grad()
@pytest.mark.parametrize("guidance", [Guidance(), Guidance(cfg=3.0), Guidance(cfg=3.0, rescale=0.7)], ids=str)
def test_sampling(backbone: LTXVideoBackbone, pipeline: Any, guidance: Guidance):
    """A first frame, 4 steps: the pipeline's latents within 1e-4 relative, by the pipeline's own prompts."""
    theirs = run(pipeline[0], guidance)
    call = pipeline[1][0]
    hidden, mask = call["encoder_hidden_states"], call["encoder_attention_mask"].bool()
    negative, text = Text(hidden[:1], mask[:1]), Text(hidden[-1:], mask[-1:])
    start = unpatchify(call["hidden_states"][-1:], backbone.geometry.latent_grid())
    sequence = build(start, FPS, [FirstFrame(start[:, :, :1])])
    network = guided(backbone, sequence, text, guidance, negative, attention="joint")
    ours = sample_loop(network, sequence, pipeline[0].scheduler.sigmas).target_latents()
    assert difference(ours, theirs) < 1e-4
    assert difference(ours, start) > 0.1
    if guidance.cfg != 1:
        plain = guided(backbone, sequence, text, attention="joint")
        unguided = sample_loop(plain, sequence, pipeline[0].scheduler.sigmas).target_latents()
        assert difference(unguided, theirs) > 1e-2


@torch.no_grad()
def test_timestep_conditioned_decoding(backbone: LTXVideoBackbone, pipeline: Any, monkeypatch: pytest.MonkeyPatch):
    """The same latents and the same noise decode to the pipeline's video, at its timestep and its noise scale."""
    latents = run(pipeline[0], Guidance())
    handed: list[tuple] = []
    hook = backbone.vae.decoder.register_forward_pre_hook(lambda module, inputs: handed.append(inputs))
    drawn: list[Tensor] = []

    def note(*given: Any, **options: Any) -> Tensor:
        drawn.append(randn_tensor(*given, **options))
        return drawn[-1]

    monkeypatch.setattr("diffusers.pipelines.ltx.pipeline_ltx_condition.randn_tensor", note)
    settings = {"decode_timestep": DECODE_TIMESTEP, "decode_noise_scale": DECODE_NOISE_SCALE}
    video = run(pipeline[0], Guidance(), output_type="pt", **settings)
    monkeypatch.setattr("synclora.backbones.ltx.torch.randn", lambda *_, **__: drawn[-1])
    ours = backbone.decode(latents)
    hook.remove()
    for theirs, given in zip(*handed, strict=True):
        torch.testing.assert_close(given, theirs, atol=1e-5, rtol=0)
    assert len(handed[0]) == 2 and handed[0][1] is not None
    torch.testing.assert_close((ours / 2 + 0.5).transpose(1, 2), video, atol=1e-5, rtol=0)
