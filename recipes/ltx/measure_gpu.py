"""Speed and memory at true size, on random weights: nothing is downloaded.

    python recipes/ltx/measure_gpu.py --out out/gpu            the first GPU: LTX-Video 13B and LTX-2.3
    python recipes/ltx/measure_gpu.py --tiny --out out/tiny    the same at tiny size on the CPU, in seconds

Measured for each model, at 512x512x81 (reference and target), in bf16:

    training    the trainer's own loss and optimizer, rank 128, batch 1, blocks recomputed: peak memory, time, TFLOP/s
                of forward, backward and recomputation, against the rate of a large matrix product on the same card
    editing     the editor's own loop, `joint`, and `self` with its cache, beside diffusers' forward on the same
                weights, sequence and text

Writes OUT/gpu.json and OUT/gpu.md, which name the card. The weights are made on the device: no host memory is needed.
LTX-2.3 trains without its audio stream, as the trainer has it; beside diffusers it is whole, for diffusers always runs
sound: its forward is called with 3 audio tokens and the streams isolated, the least it can do.
"""

from __future__ import annotations

import argparse
import gc
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers.models.transformers.transformer_ltx import LTXVideoTransformer3DModel
from diffusers.models.transformers.transformer_ltx2 import LTX2VideoTransformer3DModel
from torch import Tensor, nn

from synclora.atomic import write_json, write_text
from synclora.backbones.base import Attention, Geometry, Text
from synclora.backbones.ltx2 import PROMPT_TOKENS, LTX2Backbone
from synclora.backbones.ltx2_transformer import drop_audio, midpoints
from synclora.backbones.ltx_video import LTXVideoBackbone
from synclora.diffusion.flow import add_noise, noise_for, sample_loop, sigma_schedule
from synclora.diffusion.guidance import Guidance, guided
from synclora.diffusion.lora import TARGETS, add_lora
from synclora.diffusion.sequence import FirstFrame, Reference, Sequence, build
from synclora.training.costs import Step, activation_bytes, describe, flops
from synclora.training.objective import Batch, precision_context, velocity_loss
from synclora.training.plan import matrix_rate
from synclora.training.precision import make_optimizer
from synclora.training.published import CONFIGURATIONS

RANK, PROMPT = 128, 256
BARS = {"training share of the matrix rate": 0.4, "joint over diffusers": 1.0, "self over diffusers": 1.7}
TINY: dict[str, Any] = {
    "in_channels": 8,
    "out_channels": 8,
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "cross_attention_dim": 32,
    "num_layers": 2,
    "caption_channels": 32,
}
TINY_SOUND = {
    "audio_in_channels": 4,
    "audio_out_channels": 4,
    "audio_num_attention_heads": 2,
    "audio_attention_head_dim": 8,
    "audio_cross_attention_dim": 16,
}


@dataclass(frozen=True)
class Case:
    """A model to measure: its configuration, window and prompt."""

    name: str
    config: dict[str, Any]
    geometry: Geometry
    prompt: int
    rank: int

    @property
    def is_ltx2(self) -> bool:
        """Whether it is of the LTX-2 family."""
        return self.name.startswith("ltx-2")


def cases(tiny: bool) -> list[Case]:
    """What is measured."""
    if not tiny:
        window = Geometry(512, 512, 81, 25.0)
        return [
            Case("ltxv-13b", CONFIGURATIONS["ltxv-13b"], window, PROMPT, RANK),
            Case("ltx-2.3", CONFIGURATIONS["ltx-2.3"], window, PROMPT_TOKENS, RANK),
        ]
    window = Geometry(64, 64, 17, 25.0, channels=8)
    later = CONFIGURATIONS["ltx-2.3"] | TINY | TINY_SOUND
    return [Case("ltxv-13b", TINY, window, 16, 4), Case("ltx-2.3", later, window, 16, 4)]


def make_transformer(case: Case, device: torch.device, dtype: torch.dtype, sound: bool = False) -> Any:
    """A transformer with random weights, each made on the device in its final dtype."""
    kind: Any = LTX2VideoTransformer3DModel if case.is_ltx2 else LTXVideoTransformer3DModel
    with init_empty_weights(include_buffers=False):
        transformer = kind(**case.config)
    if case.is_ltx2 and not sound:
        drop_audio(transformer)
    for name, module in transformer.named_modules():
        for key, parameter in list(module._parameters.items()):
            if parameter is not None:
                value = torch.empty(parameter.shape, device=device, dtype=dtype)
                norm = "norm" in name.rsplit(".", 1)[-1]
                value.fill_(1.0) if norm else value.normal_(0, 0.02)
                module._parameters[key] = nn.Parameter(value, requires_grad=False)
        for key, buffer in list(module._buffers.items()):
            if buffer is not None:
                module._buffers[key] = buffer.to(device)
    return transformer.eval()


def make_backbone(case: Case, transformer: Any) -> Any:
    """A backbone of a transformer alone."""
    given: dict[str, Any] = {"geometry": case.geometry, "prompt_tokens": case.prompt, "name": case.name}
    if case.is_ltx2:
        return LTX2Backbone(transformer, None, None, None, None, **given)  # type: ignore[arg-type]
    return LTXVideoBackbone(transformer, None, None, None, **given)  # type: ignore[arg-type]


def make_inputs(case: Case, transformer: Any, device: torch.device) -> tuple[Tensor, Tensor, Text]:
    """Latents of a source and a target, and an embedded prompt."""
    generator = torch.Generator().manual_seed(0)
    shape = (1, case.geometry.channels, *case.geometry.latent_grid())
    source, target = (torch.randn(shape, generator=generator).to(device) for _ in range(2))
    projected = not case.is_ltx2 or transformer.config["use_prompt_embeddings"]
    width = transformer.config["caption_channels" if projected else "cross_attention_dim"]
    hidden = torch.randn(1, case.prompt, width, generator=generator).to(device)
    return source, target, Text(hidden, torch.ones(1, case.prompt, dtype=torch.bool, device=device))


def measure_training(case: Case, device: torch.device, rate: float, steps: int) -> dict[str, float]:
    """A training step as the trainer takes it: time, memory, achieved and possible rate."""
    _forget(device)
    transformer = make_transformer(case, device, torch.bfloat16)
    parameters = add_lora(transformer, case.rank)
    for parameter in parameters:
        parameter.data = parameter.data.to(device)
    transformer.enable_gradient_checkpointing()
    backbone = make_backbone(case, transformer)
    batch = Batch(*make_inputs(case, transformer, device))
    optimizer = make_optimizer("adamw", parameters, lr=1e-4, weight_decay=0.0)
    sigma = torch.full((1,), 0.5, device=device)
    noise = torch.randn(1, batch.target[0, 0].numel(), case.geometry.channels).to(device)

    def passes() -> None:
        with precision_context(device, "bf16"):
            loss = velocity_loss(backbone, batch, sigma, noise, "joint")
        loss.backward()

    def step() -> None:
        passes()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    for _ in range(2):
        step()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    whole = timed(step, device, steps)
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    alone = timed(passes, device, steps)
    tokens = batch.target[0, 0].numel()
    network = describe(transformer, TARGETS)
    counted = Step(1, tokens, tokens, case.prompt, case.rank, "joint", checkpointing=True)
    work = flops(network, counted).total
    computed = sum(p.numel() * p.element_size() for p in transformer.parameters())
    computed += 12 * network.lora_weights(case.rank) + activation_bytes(network, counted)
    return {
        "step s": whole,
        "forward and backward s": alone,
        "peak GiB": peak / 2**30,
        "computed GiB": computed / 2**30,
        "TFLOP": work / 1e12,
        "TFLOP/s": work / whole / 1e12,
        "training share of the matrix rate": work / whole / rate,
        "share of forward and backward alone": work / alone / rate,
    }


@torch.inference_mode()
def measure_editing(case: Case, device: torch.device, steps: int) -> dict[str, float]:
    """A denoising step, ours in both kinds of attention and diffusers', on the same weights and sequence."""
    _forget(device)
    dtype = torch.bfloat16
    transformer = make_transformer(case, device, dtype, sound=True)
    backbone = make_backbone(case, transformer)
    source, target, text = make_inputs(case, transformer, device)
    geometry = case.geometry
    conditions = [FirstFrame(target[:, :, :1]), Reference(source)]
    clean = build(target, geometry.fps, conditions, spatial=geometry.spatial, temporal=geometry.temporal)
    sequence = add_noise(clean, noise_for(clean, torch.Generator().manual_seed(1)), 1.0)
    levels = sigma_schedule(steps, sequence.num_target)

    def edit(attention: Attention) -> float:
        network = guided(backbone, sequence, text, Guidance(), attention=attention)  # makes the cache of `self`
        network(sequence, 1.0)
        return timed(lambda: sample_loop(network, sequence, levels), device, 1) / steps

    def theirs() -> Tensor:
        return diffusers_forward(case, transformer, sequence, 0.5, text, dtype)

    ours = backbone.velocity(sequence, 0.5, text, attention="joint", whole=True)
    difference = (ours - theirs().float()).norm() / ours.norm()
    cache_s = timed(lambda: backbone.reference_cache(sequence, text), device, 2)
    found = {"diffusers s": timed(theirs, device, steps), "joint s": edit("joint"), "self s": edit("self")}
    return found | {
        "cache of self, once, s": cache_s,
        "joint over diffusers": found["diffusers s"] / found["joint s"],
        "self over diffusers": found["diffusers s"] / found["self s"],
        "self over joint": found["joint s"] / found["self s"],
        "relative difference of joint": float(difference),
    }


def diffusers_forward(
    case: Case, transformer: Any, sequence: Sequence, sigma: float, text: Text, dtype: torch.dtype
) -> Tensor:
    """diffusers' own forward over all tokens, each with its timestep, as its pipelines call it."""
    level = torch.full((1,), sigma, device=sequence.tokens.device)
    given = {
        "hidden_states": sequence.tokens.to(dtype),
        "encoder_hidden_states": text.hidden.to(dtype),
        "encoder_attention_mask": text.mask,
        "timestep": 1000 * sequence.timesteps(level),
        "return_dict": False,
    }
    if not case.is_ltx2:
        return transformer(**given, video_coords=sequence.positions)[0]
    config, device = transformer.config, sequence.tokens.device
    width = config["audio_cross_attention_dim"]
    return transformer(
        **given,
        video_coords=midpoints(sequence),
        sigma=1000 * level,
        audio_hidden_states=torch.zeros(1, 3, config["audio_in_channels"], device=device, dtype=dtype),
        audio_encoder_hidden_states=torch.zeros(1, case.prompt, width, device=device, dtype=dtype),
        audio_timestep=1000 * level,
        audio_num_frames=3,
        isolate_modalities=True,
        use_cross_timestep=True,
    )[0]


def timed(function: Callable[[], Any], device: torch.device, repeats: int) -> float:
    """The median time of a call, in seconds, after one that is not counted."""
    times = []
    for _ in range(repeats + 1):
        _wait(device)
        start = time.perf_counter()
        function()
        _wait(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _forget(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def card_of(device: torch.device) -> str:
    """The device by name."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    return f"CPU ({platform.processor() or platform.machine()}, {torch.get_num_threads()} threads)"


def table(found: dict[str, Any]) -> str:
    """What was measured, as Markdown."""
    names = [*found["models"]]
    lines = [
        f"{found['card']}, torch {found['torch']}, matrix rate {found['matrix TFLOP/s']:.4g} TFLOP/s (measured). "
        f"{'Tiny models: the numbers mean nothing.' if found['tiny'] else 'Random weights at true size.'}",
        "",
        f"| | {' | '.join(names)} | bar |",
        f"|---|{'---|' * len(names)}---|",
    ]
    for part in ("training", "editing"):
        for row in found["models"][names[0]][part]:
            values = " | ".join(f"{found['models'][name][part][row]:.4g}" for name in names)
            bar = f"at least {BARS[row]}" if row in BARS else ""
            lines.append(f"| {part}: {row} | {values} | {bar} |")
    return "\n".join(lines) + "\n"


def measure(out: Path, tiny: bool, device: torch.device, steps: int = 5) -> dict[str, Any]:
    """Measure every case and write both files."""
    rate = matrix_rate(device, 256 if tiny else 8192, 0.05 if tiny else 1.0)
    found: dict[str, Any] = {
        "card": card_of(device),
        "torch": torch.__version__,
        "tiny": tiny,
        "matrix TFLOP/s": rate / 1e12,
        "models": {},
    }
    for case in cases(tiny):
        training = measure_training(case, device, rate, steps)
        found["models"][case.name] = {"training": training, "editing": measure_editing(case, device, steps)}
        write_json(out / "gpu.json", found)  # what is measured so far outlives a later failure
    write_text(out / "gpu.md", table(found))
    return found


def main() -> None:
    """Measure on the first GPU, or tiny models on the CPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/gpu"), help="folder to write to")
    parser.add_argument("--tiny", action="store_true", help="tiny models on the CPU")
    parser.add_argument("--steps", type=int, default=5, help="repeats of what is timed")
    arguments = parser.parse_args()
    if not arguments.tiny and not torch.cuda.is_available():
        raise SystemExit("no GPU here: run this on a machine with one, or pass --tiny to see that it runs")
    arguments.out.mkdir(parents=True, exist_ok=True)
    device = torch.device("cpu" if arguments.tiny else "cuda")
    measure(arguments.out, arguments.tiny, device, arguments.steps)
    print((arguments.out / "gpu.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
