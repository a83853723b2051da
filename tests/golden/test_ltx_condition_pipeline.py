"""Parity with diffusers' own `LTXConditionPipeline`, on a tiny random model and, where it is shipped, on nano.

The pipeline denoises a clip from a first frame and a later keyframe; a hook on its transformer notes what goes in and
what comes out. Ours must build the same positions and timesteps, predict the same velocity and, over all steps, arrive
at the same latents. The pipeline puts keyframes before the target and we after it: a network of rotary positions cannot
tell.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ltx_tiny
import numpy as np
import pytest
import torch
from diffusers.pipelines.ltx.pipeline_ltx_condition import LTXConditionPipeline, LTXVideoCondition
from PIL import Image
from torch import Tensor

from synclora.backbones.base import Text
from synclora.backbones.ltx_video import LTXVideoBackbone
from synclora.backbones.presets import PRESETS
from synclora.diffusion.flow import sample_loop
from synclora.diffusion.sequence import FirstFrame, Keyframe, Sequence, build, unpatchify

FPS, KEY, PROMPT = 24, 8, "a man with a red hat"


@dataclass
class Run:
    """One run of the pipeline: each call of its transformer, and the latents it ended with."""

    backbone: LTXVideoBackbone
    calls: list[dict[str, Any]]
    latents: Tensor
    sigmas: Tensor
    images: list[Tensor]  # first frame and keyframe, [1, 3, 1, H, W] in [-1, 1]
    encoder_is_exact: bool

    def text(self) -> Text:
        return Text(self.calls[0]["encoder_hidden_states"], self.calls[0]["encoder_attention_mask"].bool())

    def ours(self, x_BNC: Tensor) -> Tensor:
        """The pipeline's token order (keyframe, target) as ours (target, keyframe); tokens are dimension 1."""
        _, h, w = self.backbone.geometry.latent_grid()
        return torch.cat([x_BNC[:, h * w :], x_BNC[:, : h * w]], dim=1)

    def sequence(self, call: int = 0) -> Sequence:
        """Our own sequence around the latents the pipeline held in that call."""
        geometry = self.backbone.geometry
        f, h, w = geometry.latent_grid()
        tokens = self.ours(self.calls[call]["hidden_states"])
        target, key = unpatchify(tokens[:, : f * h * w], (f, h, w)), unpatchify(tokens[:, f * h * w :], (1, h, w))
        conditions = [FirstFrame(target[:, :, :1]), Keyframe(key, KEY)]
        return build(target, FPS, conditions, spatial=geometry.spatial, temporal=geometry.temporal)


def make_tiny(folder: Path) -> None:
    """Random weights, but a posterior without spread, as the pipeline samples it and we take its mode; and a scaling
    factor of 1, LTX-Video's, as the pipeline leaves it out when encoding conditions (not when decoding).
    """
    tiny = ltx_tiny.backbone(scaling_factor=1.0)
    with torch.no_grad():
        tiny.vae.get_parameter("encoder.conv_out.conv.weight")[-1] = 0
        tiny.vae.get_parameter("encoder.conv_out.conv.bias")[-1] = -30  # log variance
    ltx_tiny.pipeline(tiny).save_pretrained(folder)
    (folder / "synclora.json").write_text('{"width": 64, "height": 64, "frames": 17, "fps": 24, "prompt_tokens": 32}')


@pytest.fixture(scope="module", params=["tiny", "nano"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    if request.param == "nano":
        folder = PRESETS["nano"]
        if not (folder / "model_index.json").is_file():
            pytest.skip("nano's weights are not here")
    else:
        folder = tmp_path_factory.mktemp("golden") / "tiny"
        make_tiny(folder)
    return record(folder, encoder_is_exact=request.param == "tiny")


@torch.no_grad()
def record(folder: Path, encoder_is_exact: bool) -> Run:
    backbone = LTXVideoBackbone.load(folder)
    pipeline = LTXConditionPipeline.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    calls: list[dict[str, Any]] = []

    def note(module: torch.nn.Module, inputs: tuple, given: dict[str, Any], output: tuple) -> None:
        calls.append({**given, "output": output[0]})

    handle = pipeline.transformer.register_forward_hook(note, with_kwargs=True)
    geometry, rng = backbone.geometry, np.random.default_rng(0)
    pixels = [rng.integers(0, 256, (geometry.height, geometry.width, 3), dtype=np.uint8) for _ in range(2)]
    (latents,) = pipeline(
        conditions=[
            LTXVideoCondition(image=Image.fromarray(picture), frame_index=index)
            for picture, index in zip(pixels, (0, KEY), strict=True)
        ],
        prompt=PROMPT,
        width=geometry.width,
        height=geometry.height,
        num_frames=geometry.frames,
        frame_rate=FPS,
        num_inference_steps=4,
        guidance_scale=1.0,
        image_cond_noise_scale=0.0,
        generator=torch.Generator().manual_seed(0),
        max_sequence_length=64,
        output_type="latent",
        return_dict=False,
    )
    handle.remove()
    images = [torch.from_numpy(p).permute(2, 0, 1)[None, :, None].float() / 127.5 - 1 for p in pixels]
    return Run(backbone, calls, latents, pipeline.scheduler.sigmas, images, encoder_is_exact)


def test_positions(run: Run):
    """Seconds, rows and columns of target and keyframe are the coordinates the pipeline feeds."""
    theirs = run.ours(run.calls[0]["video_coords"].transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(run.sequence().positions, theirs, atol=1e-6, rtol=0)


def test_timesteps(run: Run):
    """1000 sigma, and 0 for the first frame and the keyframe, at every step."""
    for call, sigma in enumerate(run.sigmas[:-1]):
        theirs = run.ours(run.calls[call]["timestep"])
        torch.testing.assert_close(1000 * run.sequence(call).timesteps(sigma), theirs, atol=1e-3, rtol=0)


def test_first_frame_latents(run: Run):
    """The conditions' latents are the ones our encoder makes of the same images."""
    if not run.encoder_is_exact:
        pytest.skip("the pipeline samples the posterior, we take its mode")
    sequence = run.sequence()
    first, key = (run.backbone.encode(image) for image in run.images)
    torch.testing.assert_close(sequence.target_latents()[:, :, :1], first, atol=1e-4, rtol=0)
    torch.testing.assert_close(unpatchify(sequence.tokens[:, sequence.num_target :], (1, 2, 2)), key, atol=1e-4, rtol=0)


def test_text(run: Run):
    """Padded to 16 here and to 64 there, the prompt's own tokens are embedded alike."""
    ours, theirs = run.backbone.embed([PROMPT]), run.text()
    count = int(ours.mask.sum())
    assert count == int(theirs.mask.sum()) == len(PROMPT) + 1
    torch.testing.assert_close(ours.hidden[:, :count], theirs.hidden[:, :count].float(), atol=1e-5, rtol=0)


@torch.no_grad()
def test_velocity(run: Run):
    """The same numbers from the same latents at every step, with our own text."""
    text = run.backbone.embed([PROMPT])
    for call, sigma in enumerate(run.sigmas[:-1].tolist()):
        velocity = run.backbone.velocity(run.sequence(call), sigma, text)
        torch.testing.assert_close(velocity, run.ours(run.calls[call]["output"]), atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_sampling(run: Run):
    """Our loop over the pipeline's noise levels ends at the pipeline's latents, first frame untouched."""
    text = run.text()
    end = sample_loop(lambda s, sigma: run.backbone.velocity(s, sigma, text), run.sequence(), run.sigmas)
    torch.testing.assert_close(end.target_latents(), run.latents, atol=1e-4, rtol=1e-4)
    assert torch.equal(end.target_latents()[:, :, 0], run.sequence().target_latents()[:, :, 0])
    assert (run.latents - run.sequence().target_latents()).abs().max() > 0.1
