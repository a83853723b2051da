"""Parity of an edit at twice the model's size with diffusers' pipelines, run one after the other.

LTX-2: `LTX2InContextPipeline` (first frame and reference, distilled levels), `LTX2LatentUpsamplePipeline`, and the
first again at twice the size from the upsampled latents, reference included. LTX-Video: `LTXLatentUpsamplePipeline`,
and `LTXConditionPipeline` with the last 4 of 10 steps. Tiny random models of the real classes, fp32, the pipelines'
noise.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ltx2_tiny
import ltx_tiny
import numpy as np
import torch
from diffusers.pipelines.ltx.modeling_latent_upsampler import LTXLatentUpsamplerModel
from diffusers.pipelines.ltx.pipeline_ltx_condition import LTXVideoCondition, linear_quadratic_schedule
from diffusers.pipelines.ltx.pipeline_ltx_latent_upsample import LTXLatentUpsamplePipeline
from diffusers.pipelines.ltx2.latent_upsampler import LTX2LatentUpsamplerModel
from diffusers.pipelines.ltx2.pipeline_ltx2_condition import LTX2VideoCondition
from diffusers.pipelines.ltx2.pipeline_ltx2_ic_lora import LTX2ReferenceCondition
from diffusers.pipelines.ltx2.pipeline_ltx2_latent_upsample import LTX2LatentUpsamplePipeline
from diffusers.pipelines.ltx2.utils import DISTILLED_SIGMA_VALUES, STAGE_2_DISTILLED_SIGMA_VALUES
from PIL import Image
from torch import Tensor

from synclora.adapters.rules import SAMPLINGS
from synclora.backbones.upsampler import Upsampler
from synclora.diffusion.sequence import FirstFrame, unpatchify
from synclora.editing.adapter import Adapter
from synclora.editing.sampler import REFINE_SIGMAS, Sampler, _shrink
from synclora.editing.stages import Stages

SIZE, FRAMES, FPS, PROMPT = 2 * ltx2_tiny.SIZE, ltx2_tiny.FRAMES, 25.0, "a man with a red hat"
SMALL: dict[str, Any] = {"in_channels": 8, "mid_channels": 32, "num_blocks_per_stage": 1}


class GivenNoise(Sampler):
    """A sampler whose noise is given, and that keeps the latents it decodes."""

    noises: Iterator[Tensor]
    end: Tensor

    def _noise(self, grid: Any) -> Tensor:
        return next(self.noises)


def sampler(backbone: Any, image: Tensor, adapter: Adapter | None, upsample: Any, **more: Any) -> GivenNoise:
    made = GivenNoise(
        backbone, adapter, {0: image}, PROMPT, 1, "joint", FPS, torch.Generator(), Stages(), upsample=upsample, **more
    )
    decode = backbone.decode

    def keep(latents: Tensor) -> Tensor:
        made.end = latents
        return decode(latents)

    backbone.decode = keep
    return made


def difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def pictures() -> tuple[Tensor, Tensor]:
    """The edited image and the source, uint8 [SIZE, SIZE, 3] and [FRAMES, SIZE, SIZE, 3]."""
    frames = np.random.default_rng(0).integers(0, 256, (FRAMES + 1, SIZE, SIZE, 3), dtype=np.uint8)
    return torch.from_numpy(frames[0]), torch.from_numpy(frames[1:])


def images(frames: Tensor) -> list[Image.Image]:
    return [Image.fromarray(frame.numpy()) for frame in frames]


@torch.no_grad()
def test_ltx2():
    """Both stages with first frame and reference, at 64 and 128 pixels: the pipelines' latents within 1e-4 relative.

    Without the reference the second stage ends elsewhere by more than a hundred times that.
    """
    pipeline, backbone, calls = ltx2_tiny.pipeline("2.3"), ltx2_tiny.backbone("2.3"), []
    pipeline.set_progress_bar_config(disable=True)

    def isolate(module: Any, inputs: tuple, given: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        calls.append(given)
        return inputs, {**given, "isolate_modalities": True}

    pipeline.transformer.register_forward_pre_hook(isolate, with_kwargs=True)
    torch.manual_seed(1)
    network = LTX2LatentUpsamplerModel(**SMALL).eval()
    image, source = pictures()

    def run(smaller: int, sigmas: list[float], **more: Any) -> Tensor:
        calls.clear()
        given: dict[str, Any] = {
            "prompt": PROMPT,
            "conditions": [LTX2VideoCondition(images(_shrink(image[None], smaller))[0], index=0, crf=0)],
            "reference_conditions": [LTX2ReferenceCondition(images(_shrink(source, smaller)))],
            "width": SIZE // smaller,
            "height": SIZE // smaller,
            "num_frames": FRAMES,
            "frame_rate": FPS,
            "num_inference_steps": len(sigmas),
            "sigmas": sigmas,
            "generator": torch.Generator().manual_seed(0),
            "max_sequence_length": ltx2_tiny.PROMPT_TOKENS,
            "output_type": "latent",
            "return_dict": False,
        }
        off = {"guidance_scale": 1.0, "stg_scale": 0.0, "modality_scale": 1.0, "guidance_rescale": 0.0}
        off |= {f"audio_{name}": value for name, value in off.items() if name != "guidance_rescale"}
        return pipeline(**given, **off, **more)[0]

    small = run(2, DISTILLED_SIGMA_VALUES)
    first_noise = unpatchify(calls[0]["hidden_states"][:, : 3 * 2 * 2], (3, 2, 2))
    upsampled = LTX2LatentUpsamplePipeline(pipeline.vae, network)(
        latents=small, height=SIZE // 2, width=SIZE // 2, output_type="latent", return_dict=False
    )[0]
    theirs = run(1, STAGE_2_DISTILLED_SIGMA_VALUES, latents=upsampled)
    mean, std = (x.view(1, -1, 1, 1, 1) for x in (pipeline.vae.latents_mean, pipeline.vae.latents_std))
    begin, sigma = (upsampled - mean) / std, STAGE_2_DISTILLED_SIGMA_VALUES[0]
    noised = unpatchify(calls[0]["hidden_states"][:, : 3 * 4 * 4], (3, 4, 4))
    noise = (noised - (1 - sigma) * begin) / sigma

    distilled = SAMPLINGS["distilled"]
    assert distilled.refine is not None and distilled.refine == (*STAGE_2_DISTILLED_SIGMA_VALUES, 0)
    upsample = Upsampler(network, backbone, "")
    ours = sampler(
        backbone,
        image,
        Adapter(Path("x.safetensors"), "joint", 1),
        upsample,
        sigmas=distilled.sigmas,
        refine=distilled.refine,
    )
    ours.noises = iter([first_noise, noise])
    assert ours.make(source, 0, None).shape == (FRAMES, SIZE, SIZE, 3)
    end = (theirs - mean) / std
    assert difference(ours.end, end) < 1e-4
    assert difference(begin, end) > 0.1

    conditions = ours._conditions(source, 0, None, 1)
    ours.noises = iter([noise])
    alone = ours._denoise("Refining", begin, (3, 4, 4), conditions[1:], distilled.refine)
    assert difference(alone, end) > 1e-2


@torch.no_grad()
def test_ltx_video():
    """Upsampled with its statistics kept, then refined from a first frame: the pipelines' latents within 1e-4."""
    backbone, calls = ltx_tiny.backbone(scaling_factor=1.0), []
    pipeline = ltx_tiny.pipeline(backbone)
    pipeline.set_progress_bar_config(disable=True)
    torch.manual_seed(1)
    network = LTXLatentUpsamplerModel(**SMALL).eval()
    small = ltx_tiny.latents(3, batch=1)
    begin = LTXLatentUpsamplePipeline(backbone.vae, network)(
        latents=small, height=SIZE, width=SIZE, adain_factor=1.0, output_type="latent", return_dict=False
    )[0]
    assert difference(Upsampler(network, backbone, "")(small), begin) < 1e-5

    torch.testing.assert_close(torch.tensor(REFINE_SIGMAS[:-1]), linear_quadratic_schedule(10)[6:], atol=1e-6, rtol=0)
    image, _ = pictures()
    handle = pipeline.transformer.register_forward_pre_hook(lambda m, i, given: calls.append(given), with_kwargs=True)
    theirs = pipeline(
        conditions=[LTXVideoCondition(image=Image.fromarray(image.numpy()), frame_index=0)],
        prompt=PROMPT,
        width=SIZE,
        height=SIZE,
        num_frames=FRAMES,
        frame_rate=int(FPS),
        denoise_strength=0.4,
        num_inference_steps=10,
        latents=begin,
        guidance_scale=1.0,
        image_cond_noise_scale=0.0,
        generator=torch.Generator().manual_seed(0),
        max_sequence_length=32,
        output_type="latent",
        return_dict=False,
    )[0]
    handle.remove()
    assert len(calls) == len(REFINE_SIGMAS) - 1
    noised, sigma = unpatchify(calls[0]["hidden_states"], (3, 4, 4)), REFINE_SIGMAS[0]
    ours = sampler(backbone, image, None, None)
    ours.noises = iter([(noised - (1 - sigma) * begin) / sigma])
    hidden = calls[0]["encoder_hidden_states"]
    ours._texts = type(backbone.embed([""]))(hidden, calls[0]["encoder_attention_mask"].bool()), None
    first = FirstFrame(noised[:, :, :1])  # the pipeline draws it from the posterior
    end = ours._denoise("Refining", begin, (3, 4, 4), [first], REFINE_SIGMAS)
    assert difference(end, theirs) < 1e-4
    assert difference(begin, theirs) > 0.1
