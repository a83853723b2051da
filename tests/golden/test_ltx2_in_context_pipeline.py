"""Parity with diffusers' own `LTX2InContextPipeline`, on tiny random models of LTX-2.0, 2.3 and 2.5.

The pipeline edits a clip from a first frame and a reference video; a hook on its transformer isolates its audio stream
and notes what goes in. Ours, from the same pictures, prompt, noise and sigmas, must feed the same positions, timesteps
and text and arrive at the same latents: with and without CFG, STG and rescale, with a later keyframe, with a reference
of half the size, at the distilled sigmas.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import ltx2_tiny
import numpy as np
import pytest
import torch
from diffusers.pipelines.ltx2.pipeline_ltx2_condition import LTX2VideoCondition
from diffusers.pipelines.ltx2.pipeline_ltx2_ic_lora import LTX2InContextPipeline, LTX2ReferenceCondition
from diffusers.pipelines.ltx2.utils import DISTILLED_SIGMA_VALUES
from PIL import Image
from torch import Tensor

from synclora.backbones.ltx2 import LTX2Backbone
from synclora.backbones.ltx2_transformer import drop_audio, midpoints
from synclora.diffusion.flow import sample_loop
from synclora.diffusion.guidance import DISTILLED_SIGMAS, Guidance, guided
from synclora.diffusion.sequence import FirstFrame, Keyframe, Reference, Sequence, build, unpatchify

SIZE, FRAMES, FPS, PROMPT, NEGATIVE = ltx2_tiny.SIZE, ltx2_tiny.FRAMES, ltx2_tiny.FPS, "a man with a red hat", "blurry"
KEY = 9  # pixel frame of the later keyframe: latent frame 2
GUIDANCES = {
    "plain": Guidance(),
    "cfg": Guidance(cfg=3.0),
    "stg": Guidance(stg=1.0, stg_blocks=(1,)),
    "cfg and stg": Guidance(cfg=3.0, stg=1.0, stg_blocks=(1,)),
    "cfg, stg and rescale": Guidance(cfg=3.0, stg=1.0, stg_blocks=(1,), rescale=0.7),
}


@dataclass
class Run:
    """One run of the pipeline: each call of its transformer, its latents at the end, and the pictures it was given."""

    latents: Tensor
    sigmas: Tensor
    calls: list[dict[str, Any]]
    images: dict[int, Tensor]  # by pixel frame, [1, 3, 1, H, W] in [-1, 1]
    source: Tensor  # [1, 3, F, H, W] in [-1, 1]
    downscale: int

    def sequence(self, backbone: LTX2Backbone) -> Sequence:
        """Our own sequence, of our own latents, around the pipeline's noise."""
        grid = backbone.geometry.latent_grid()
        noise = self.calls[0]["hidden_states"][-1:, : grid[0] * grid[1] * grid[2]]
        conditions: list[Any] = [Reference(backbone.encode(self.source), self.downscale)]
        for index, image in self.images.items():
            latents = backbone.encode(image)
            conditions.append(Keyframe(latents, index) if index else FirstFrame(latents))
        return build(unpatchify(noise, grid), FPS, conditions)


@cache
def pipeline(version: str) -> tuple[LTX2InContextPipeline, list[dict[str, Any]]]:
    """The pipeline, and the list its transformer's calls are noted in."""
    made, calls = ltx2_tiny.pipeline(version), []
    made.set_progress_bar_config(disable=True)

    def isolate(module: torch.nn.Module, inputs: tuple, given: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        calls.append(given)
        return inputs, {**given, "isolate_modalities": True}

    made.transformer.register_forward_pre_hook(isolate, with_kwargs=True)
    return made, calls


@cache
def backbone(version: str) -> LTX2Backbone:
    """Of the pipeline's weights, without sound."""
    made = ltx2_tiny.backbone(version)
    drop_audio(made.transformer)
    return made


@torch.no_grad()
def record(
    version: str, guidance: Guidance, *, key: bool = False, downscale: int = 1, sigmas: list[float] | None = None
) -> Run:
    made, calls = pipeline(version)
    calls.clear()
    rng = np.random.default_rng(0)
    pixels = {i: rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8) for i in ((0, KEY) if key else (0,))}
    side = SIZE // downscale
    source = [rng.integers(0, 256, (side, side, 3), dtype=np.uint8) for _ in range(FRAMES)]
    latents, _ = made(
        prompt=PROMPT,
        negative_prompt=NEGATIVE,
        conditions=[
            LTX2VideoCondition(Image.fromarray(image), index=(i + 7) // 8, crf=0) for i, image in pixels.items()
        ],
        reference_conditions=[LTX2ReferenceCondition([Image.fromarray(image) for image in source])],
        reference_downscale_factor=downscale,
        width=SIZE,
        height=SIZE,
        num_frames=FRAMES,
        frame_rate=FPS,
        num_inference_steps=4 if sigmas is None else len(sigmas),
        sigmas=sigmas,
        guidance_scale=guidance.cfg,
        audio_guidance_scale=guidance.cfg,
        stg_scale=guidance.stg,
        audio_stg_scale=guidance.stg,
        spatio_temporal_guidance_blocks=list(guidance.stg_blocks) or None,
        modality_scale=1.0,
        audio_modality_scale=1.0,
        guidance_rescale=guidance.rescale,
        generator=torch.Generator().manual_seed(0),
        max_sequence_length=ltx2_tiny.PROMPT_TOKENS,
        output_type="latent",
        return_dict=False,
    )
    mean, std = (x.view(1, -1, 1, 1, 1) for x in (made.vae.latents_mean, made.vae.latents_std))
    images = {i: _video([image]) for i, image in pixels.items()}
    return Run((latents - mean) / std, made.scheduler.sigmas, list(calls), images, _video(source), downscale)


def _video(pictures: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(pictures)).permute(3, 0, 1, 2)[None].float() / 127.5 - 1


def difference(a: Tensor, b: Tensor) -> float:
    """Relative: the norm of what is between them over b's."""
    return float((a - b).norm() / b.norm())


@torch.no_grad()
def ours(version: str, run: Run, guidance: Guidance) -> Tensor:
    model = backbone(version)
    sequence = run.sequence(model)
    text, negative = model.embed([PROMPT]), model.embed([NEGATIVE])
    network = guided(model, sequence, text, guidance, negative, attention="joint")
    return sample_loop(network, sequence, run.sigmas).target_latents()


@pytest.mark.parametrize("version", ltx2_tiny.VERSIONS)
@pytest.mark.parametrize("guidance", GUIDANCES.values(), ids=GUIDANCES)
def test_sampling(version: str, guidance: Guidance):
    """First frame and reference, 4 steps: the pipeline's latents within 1e-4; the first frame untouched."""
    run = record(version, guidance)
    assert len(run.calls) == 4 * (1 + (guidance.stg != 0))
    end = ours(version, run, guidance)
    assert difference(end, run.latents) < 1e-4
    first = backbone(version).encode(run.images[0])
    assert torch.equal(end[:, :, :1], first)
    assert difference(run.latents, run.sequence(backbone(version)).target_latents()) > 0.3


def test_guidance_matters():
    """Each term changes the result by more than a hundred times the tolerance, or the above would not tell."""
    run = record("2.3", GUIDANCES["plain"])
    for name in list(GUIDANCES)[1:]:
        assert difference(ours("2.3", run, GUIDANCES[name]), run.latents) > 1e-2, name
    rescaled, without = (ours("2.3", run, GUIDANCES[name]) for name in ("cfg, stg and rescale", "cfg and stg"))
    assert difference(rescaled, without) > 1e-2


@pytest.mark.parametrize("version", ["2.0", "2.3"])
@pytest.mark.parametrize("downscale", [1, 2])
def test_keyframe_and_small_reference(version: str, downscale: int):
    """A later keyframe beside the reference, and a reference of half the rows and columns: the same latents."""
    guidance = GUIDANCES["cfg, stg and rescale"]
    run = record(version, guidance, key=True, downscale=downscale)
    assert difference(ours(version, run, guidance), run.latents) < 1e-4


def test_distilled_sigmas():
    """The published levels are the pipeline's; 8 steps without guidance reach the same latents."""
    assert list(DISTILLED_SIGMAS) == [*DISTILLED_SIGMA_VALUES, 0]
    run = record("2.3", Guidance(), sigmas=DISTILLED_SIGMA_VALUES)
    torch.testing.assert_close(run.sigmas, torch.tensor(DISTILLED_SIGMAS), atol=1e-7, rtol=0)
    assert difference(ours("2.3", run, Guidance()), run.latents) < 1e-4


@pytest.mark.parametrize("downscale", [1, 2])
def test_positions(downscale: int):
    """The middles of the spans that the pipeline feeds, bit for bit: target, keyframe, reference."""
    run = record("2.3", Guidance(), key=True, downscale=downscale)
    start, end = run.calls[0]["video_coords"].unbind(dim=-1)
    assert torch.equal(midpoints(run.sequence(backbone("2.3"))), (start + end) / 2)


def test_timesteps():
    """1000 sigma, and 0 for first frame, keyframe and reference, at every step; the text's sigma is the video's."""
    run = record("2.3", Guidance(), key=True)
    for call, sigma in zip(run.calls, run.sigmas[:-1], strict=True):
        ours = 1000 * run.sequence(backbone("2.3")).timesteps(sigma)
        torch.testing.assert_close(ours, call["timestep"], atol=1e-3, rtol=0)
        torch.testing.assert_close(call["sigma"], 1000 * sigma[None], atol=1e-3, rtol=0)


@pytest.mark.parametrize("version", ltx2_tiny.VERSIONS)
def test_text(version: str):
    """Prompt and negative prompt through Gemma (3, and 4 for LTX-2.5) and the connectors, registers included."""
    run, model = record(version, GUIDANCES["cfg"]), backbone(version)
    text = model.embed([NEGATIVE, PROMPT])
    torch.testing.assert_close(text.hidden, run.calls[0]["encoder_hidden_states"], atol=1e-5, rtol=0)
    assert text.mask.all() and bool(run.calls[0]["encoder_attention_mask"].all())


def test_latents():
    """First frame and reference are encoded alike: the posterior's mode, normalised."""
    run = record("2.3", Guidance())
    sequence, theirs = run.sequence(backbone("2.3")), run.calls[0]["hidden_states"]
    torch.testing.assert_close(sequence.tokens, theirs, atol=1e-5, rtol=0)
