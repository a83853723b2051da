"""Planning: formulas against what autograd keeps and runs, known models' sizes, and every fault of the data."""

from __future__ import annotations

import dataclasses
import math
import re
import shutil
import weakref
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.transformers.transformer_ltx import LTXVideoTransformer3DModel
from diffusers.models.transformers.transformer_ltx2 import LTX2VideoTransformer3DModel
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode

from synclora.backbones import ltx2_transformer
from synclora.backbones.base import Geometry, Text
from synclora.backbones.ltx2 import LTX2Backbone
from synclora.backbones.ltx2_transformer import drop_audio
from synclora.backbones.ltx_video import LTXVideoBackbone
from synclora.diffusion import attention
from synclora.diffusion.flow import add_noise, masked_mse, velocity_target
from synclora.diffusion.lora import TARGETS, add_lora
from synclora.diffusion.sequence import FirstFrame, Reference, Sequence, build
from synclora.errors import SyncloraError
from synclora.pairs import Pair, PairStore, save_pair
from synclora.training import costs
from synclora.training.config import TrainConfig, parse_config
from synclora.training.costs import Step, activation_bytes, describe, flops, saved_bytes
from synclora.training.objective import precision_context
from synclora.training.plan import GIB, Card, plan
from synclora.training.published import CONFIGURATIONS, model_of
from tests import ltx2_tiny

CPU = torch.device("cpu")
TEXT_WIDTH = 48


def make_transformer(family: str, heads: int, head: int, layers: int, channels: int) -> nn.Module:
    """A transformer of LTX-Video, or the video stream of one of LTX-2.3."""
    size: dict[str, Any] = {
        "in_channels": channels,
        "out_channels": channels,
        "num_attention_heads": heads,
        "attention_head_dim": head,
        "cross_attention_dim": heads * head,
        "num_layers": layers,
    }
    if family == "ltx-video":
        return LTXVideoTransformer3DModel(**size, caption_channels=TEXT_WIDTH)
    sound = {"audio_num_attention_heads": 2, "audio_attention_head_dim": 8, "audio_cross_attention_dim": 16}
    transformer = LTX2VideoTransformer3DModel(**size, **sound, **ltx2_tiny.VERSIONS["2.3"])  # type: ignore[arg-type]
    drop_audio(transformer)
    return transformer


def make_backbone(transformer: Any, family: str) -> Any:
    """A backbone of a transformer alone."""
    geometry = Geometry(512, 512, 81, 25.0, channels=transformer.config["in_channels"])
    others: dict[str, Any] = {"geometry": geometry, "prompt_tokens": 16, "name": "x"}
    if family == "ltx-video":
        return LTXVideoBackbone(transformer, None, None, None, **others)  # type: ignore[arg-type]
    return LTX2Backbone(transformer, None, None, None, None, **others)  # type: ignore[arg-type]


def make_sequence(batch: int, channels: int, grid: tuple[int, int, int]) -> Sequence:
    """First frame and reference, as a training has them."""
    video = torch.randn(batch, channels, *grid)
    return build(video, 25.0, [FirstFrame(video[:, :, :1]), Reference(torch.randn_like(video))])


def make_text(batch: int, tokens: int, transformer: Any, family: str) -> Text:
    width = TEXT_WIDTH if family == "ltx-video" else transformer.config["cross_attention_dim"]
    return Text(torch.randn(batch, tokens, width), torch.ones(batch, tokens, dtype=torch.bool))


def loss_of(backbone: Any, clean: Sequence, text: Text, precision: str, how: Any) -> Tensor:
    """What `velocity_loss` computes, of a sequence that is built already."""
    noise = torch.randn(len(clean.tokens), math.prod(clean.grid), clean.tokens.shape[-1])
    with precision_context(CPU, precision):
        noisy = add_noise(clean, noise, torch.full((len(clean.tokens),), 0.5))
        predicted = backbone.velocity(noisy, torch.full((len(clean.tokens),), 0.5), text, attention=how)
        return masked_mse(predicted, velocity_target(clean, noise), clean.noisy)


@pytest.fixture
def as_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fused attention at every size; and norms in float32 under autocast, which CUDA's does and the CPU's does not."""
    real = nn.RMSNorm.forward
    monkeypatch.setattr(attention, "PLAIN_LIMIT", 0)
    monkeypatch.setattr(nn.RMSNorm, "forward", lambda self, x: real(self, x).float())


@pytest.mark.usefixtures("as_on_cuda")
@pytest.mark.parametrize(
    ("family", "how", "precision", "size"),
    [
        ("ltx-video", "joint", "bf16", (2, 16, 3, 4)),  # tiny: heads, their width, layers, rank
        ("ltx-video", "joint", "bf16", (4, 64, 4, 16)),  # middling
        ("ltx-video", "self", "bf16", (4, 32, 6, 8)),
        ("ltx-video", "joint", "fp32", (4, 32, 4, 8)),
        ("ltx-2", "joint", "bf16", (2, 16, 3, 4)),
        ("ltx-2", "self", "bf16", (4, 32, 6, 8)),
    ],
)
def test_saved_bytes_are_what_autograd_saves(
    family: str, how: Any, precision: str, size: tuple[int, int, int, int]
) -> None:
    """The formula is within 15 % of what `saved_tensors_hooks` counts: bytes, each storage once, no weights."""
    heads, head, layers, rank = size
    grid, batch, prompt = (3, 5, 4), 2, 16
    transformer: Any = make_transformer(family, heads, head, layers, 8)
    nn.Module.to(transformer, torch.bfloat16 if precision == "bf16" else torch.float32)
    add_lora(transformer, rank)
    weights = {parameter.untyped_storage().data_ptr() for parameter in transformer.parameters()}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if (at := tensor.untyped_storage().data_ptr()) not in weights:
            kept[at] = tensor
        return tensor

    text = make_text(batch, prompt, transformer, family)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = loss_of(make_backbone(transformer, family), make_sequence(batch, 8, grid), text, precision, how)
    counted = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    assert loss.requires_grad
    tokens = math.prod(grid)
    step = Step(batch, tokens, tokens, prompt, rank, how, checkpointing=False, mixed=precision == "bf16")
    assert saved_bytes(describe(transformer, TARGETS), step) == pytest.approx(counted, rel=0.15)


class Live(TorchDispatchMode):
    """Counts the bytes of storages that are alive, and the most there were."""

    def __init__(self, known: list[Tensor]) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._seen: dict[int, Any] = {}
        for tensor in known:
            self._seen[tensor.untyped_storage()._cdata] = weakref.ref(tensor.untyped_storage())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return

        def gone(_: object) -> None:
            self.live -= size
            self._seen.pop(key, None)

        self._seen[key] = weakref.ref(storage, gone)
        self.live += size
        self.peak = max(self.peak, self.live)


@pytest.mark.usefixtures("as_on_cuda")
@pytest.mark.parametrize("family", ["ltx-video", "ltx-2"])
def test_peak_at_the_true_width(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Width 4096, 512x512x81, rank 128, checkpointing: forward and backward over tensors without content take, at most,
    what the formula says plus the LoRA's gradients, to 10 %; 3 blocks of the 48."""
    grid, prompt, rank = (11, 16, 16), 256, 128
    with torch.device("meta"):
        transformer: Any = make_transformer(family, 32, 128, 3, 128)
        nn.Module.to(transformer, torch.bfloat16)
        add_lora(transformer, rank)
    transformer.enable_gradient_checkpointing()
    network = describe(transformer, TARGETS)
    clean, mode = make_sequence(1, 128, grid), FakeTensorMode(allow_non_fake_inputs=True)
    # Two numbers that are read off tensors, which tensors without content cannot tell.
    monkeypatch.setattr(Sequence, "num_reference", property(lambda s: s.tokens.shape[1] - math.prod(s.grid)))
    monkeypatch.setattr(ltx2_transformer, "_reference_pitch", lambda s: 32)
    names = ("tokens", "positions", "clean", "target", "reference")
    clean = dataclasses.replace(clean, **{name: mode.from_tensor(getattr(clean, name)) for name in names})
    with mode:
        for module in transformer.modules():
            for name, p in module._parameters.items():
                if p is not None:
                    module._parameters[name] = nn.Parameter(torch.empty(p.shape, dtype=p.dtype), p.requires_grad)
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)
        text = make_text(1, prompt, transformer, family)
        with Live([*transformer.parameters(), *transformer.buffers()]) as live:
            loss_of(make_backbone(transformer, family), clean, text, "bf16", "joint").backward()
    tokens = math.prod(grid)
    step = Step(1, tokens, tokens, prompt, rank, "joint", checkpointing=True)
    assert network.lora_weights(rank) == sum(p.numel() for p in transformer.parameters() if p.requires_grad)
    expected = activation_bytes(network, step) + 4 * network.lora_weights(rank)
    assert expected == pytest.approx(live.peak, rel=0.10)


@pytest.mark.parametrize("how", ["joint", "self"])
def test_no_copy_of_the_lora_outlives_its_block(how: Any) -> None:
    """A LoRA far larger than the activations, checkpointing: in bf16 a forward pass never has half of it cast."""
    transformer: Any = make_transformer("ltx-video", 2, 16, 6, 8)
    nn.Module.to(transformer, torch.bfloat16)
    add_lora(transformer, 1024)
    transformer.enable_gradient_checkpointing()
    clean, text = make_sequence(1, 8, (2, 2, 2)), make_text(1, 4, transformer, "ltx-video")
    with Live([*transformer.parameters(), *transformer.buffers()]) as live:
        loss_of(make_backbone(transformer, "ltx-video"), clean, text, "bf16", how)
    assert live.peak < describe(transformer, TARGETS).lora_weights(1024)  # 2 bytes each: half of it


@pytest.mark.parametrize(("family", "how"), [("ltx-video", "joint"), ("ltx-2", "self")])
def test_flops_are_those_of_torch(family: str, how: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within 5 % of torch's own count of a checkpointed step; plain attention, whose backward recomputes no scores."""
    monkeypatch.setattr(costs, "FLASH_BACKWARD", 2.0)
    grid, prompt, rank, batch = (3, 4, 4), 16, 8, 2
    transformer: Any = make_transformer(family, 4, 32, 6, 8)
    add_lora(transformer, rank)
    transformer.enable_gradient_checkpointing()
    clean, text = make_sequence(batch, 8, grid), make_text(batch, prompt, transformer, family)
    with FlopCounterMode(display=False) as counter:
        loss_of(make_backbone(transformer, family), clean, text, "fp32", how).backward()
    tokens = math.prod(grid)
    step = Step(batch, tokens, tokens, prompt, rank, how, checkpointing=True, mixed=False)
    assert flops(describe(transformer, TARGETS), step).total == pytest.approx(counter.get_total_flops(), rel=0.05)


@pytest.mark.parametrize(("name", "billions"), [("ltxv-2b", 1.923), ("ltxv-13b", 13.043), ("ltx-2.3", 13.124)])
def test_published_models_are_planned_without_weights(name: str, billions: float) -> None:
    """Their numbers of weights are those of docs/backbones.md, without LTX-2's sound; nothing is allocated."""
    model = model_of(name)
    assert sum(p.numel() for p in model.transformer.parameters()) / 1e9 == pytest.approx(billions, abs=0.001)
    assert all(p.device.type == "meta" for p in model.transformer.parameters())
    assert "not here" in model.origin and name in CONFIGURATIONS


def configured(tmp_path: Path, **changes: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "backbone": "ltxv-13b", "output": str(tmp_path / "run"), "data": {"pairs": str(tmp_path / "pairs")},
        "rank": 128, "batch": 1, "attention": "joint", "gradient_checkpointing": True,
    }  # fmt: skip
    return parse_config(values | changes)


def test_tokens_and_items_of_memory(tmp_path: Path) -> None:
    """512x512x81 is 2816 + 2816 tokens; the base 2 bytes a weight, the LoRA and its gradients 4, AdamW's moments 8."""
    found = plan(configured(tmp_path))
    assert (found.step.target, found.step.reference) == (2816, 2816)
    lora = found.network.lora_weights(128)
    # 10 layers of 48 blocks, r (in + out): eight of 4096 and 4096, two of 4096 and 16384
    assert lora == 48 * 128 * (8 * 8192 + 2 * 20480)
    assert found.memory["frozen base, bf16"] == 2 * found.network.weights
    assert found.memory["LoRA weights, float32"] == found.memory["LoRA gradients, float32"] == 4 * lora
    assert found.memory["adamw moments"] == 8 * lora
    assert found.total == sum(found.memory.values())


def test_settings_that_save_memory(tmp_path: Path) -> None:
    """Each saves what it should: 8 bits half of the layers, 8 processes seven eighths, offloading all of them."""
    plain = plan(configured(tmp_path))
    layers = 2 * plain.network.block_weights

    def base(**changes: Any) -> int:
        other = plan(configured(tmp_path, **changes), 8 if "sharding" in changes else 1)
        return next(count for name, count in other.memory.items() if name.startswith("frozen base"))

    whole = plain.memory["frozen base, bf16"]
    assert whole - base(quantize="int8") == pytest.approx(layers / 2, rel=0.01)
    assert whole - base(sharding="full") == pytest.approx(layers * 7 / 8, rel=0.001)
    assert whole - base(offload=True) == layers
    assert plan(configured(tmp_path, offload=True)).host == layers
    eight = plan(configured(tmp_path, optimizer="adamw8bit", ema=0.99))
    assert eight.memory["adamw8bit moments"] == pytest.approx(plain.memory["adamw moments"] / 4, rel=0.02)
    assert eight.memory["moving average"] == plain.memory["LoRA weights, float32"]
    free = plan(configured(tmp_path, gradient_checkpointing=False))
    assert free.memory["activations"] > 7 * plain.memory["activations"]
    assert free.flops.recomputed == 0 and plain.flops.recomputed == plain.flops.forward


def test_fit_counts_encoding_too(tmp_path: Path) -> None:
    """LTX-2.3 offloaded trains in 24 GB, but its text encoder does not fit there: the card is said not to do."""
    found = plan(configured(tmp_path, backbone="ltx-2.3", offload=True, optimizer="adamw8bit"))
    assert found.total < 24 * GIB < found.encoding
    assert not found.fits(Card("small", 24, 1)) and found.fits(Card("large", 48, 1))


def test_a_full_cache_spares_the_encoding(tmp_path: Path) -> None:
    """The same card does where nothing is left to encode, and the plan says so; one of 12 GB does not do even then."""
    small, smaller = Card("small", 24, 1), Card("smaller", 12, 1)
    found = plan(configured(tmp_path, backbone="ltx-2.3", offload=True, optimizer="adamw8bit"))
    assert found.fits(small, cached=True) and not found.fits(smaller, cached=True)
    told = replace(found, cards=(small, smaller)).lines()
    assert any("small, 24 GB" in line and " fits cached " in line for line in told)
    assert any("smaller, 12 GB" in line and " does not fit " in line for line in told)


# ---------------------------------------------------------------- data


def make_store(root: Path, count: int = 4, frames: int = 17, fps: int = 25) -> PairStore:
    """Pairs of flat grey clips, each of its own level."""
    rows = []
    for index in range(count):
        source = torch.full((frames, 128, 128, 3), 20 * index, dtype=torch.uint8)
        pair = Pair(f"pair-{index}", source, source + 10, Fraction(fps), "words", [], index, None)
        rows.append(save_pair(root, pair, generator="grey"))
    store = PairStore(root)
    store.append(rows)
    return store


@pytest.fixture(scope="module")
def sound_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("store") / "pairs"
    make_store(root)
    return root


def problems_of(backbone: Path, store: Path, tmp_path: Path, **changes: Any) -> list[str]:
    values: dict[str, Any] = {
        "backbone": str(backbone), "output": str(tmp_path / "run"), "rank": 4, "batch": 1,
        "data": {"pairs": str(store), "validation": 1},
    }  # fmt: skip
    found = plan(parse_config(values | changes))
    said = "\n".join(found.lines())
    assert all(problem in said for problem in found.problems)
    return found.problems


def test_sound_data_have_no_problems(tiny_backbone: Path, sound_store: Path, tmp_path: Path) -> None:
    """Pairs are counted, held out ones apart; disk is latents and prompts at 2 bytes; nothing is written."""
    config = parse_config(
        {"backbone": str(tiny_backbone), "output": str(tmp_path / "run"), "rank": 4, "batch": 1,
         "data": {"pairs": str(sound_store), "validation": 1}}
    )  # fmt: skip
    found = plan(config)
    assert found.problems == [] and (found.data.pairs, found.data.held_out) == (3, 1)
    # 8 clips of 3 x 4 x 4 latents of 16 channels, and one prompt and two empty ones of up to 32 tokens of 16 numbers
    assert found.cache == 2 * (8 * 48 * 16 + 3 * 32 * 16)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("spoil", "changes", "said"),
    [
        (lambda store: shutil.rmtree(store), {}, r"no pairs\.parquet .*synclora pairs generate"),
        (lambda store: PairStore(store).update(lambda r: replace(r, verdict="reject")), {}, r"kept none of 4 pairs.*l"),
        (lambda store: next((store / "media").iterdir()).unlink(), {}, r"pair-.*missing.*synclora pairs check"),
        (
            lambda store: PairStore(store).update(lambda r: replace(r, fps="30")),
            {},
            r"has 25 fps and .* says 30",
        ),
        (lambda store: None, {"batch": 8}, r"3 pairs to learn from, and a step takes 8.*Lower batch"),
        (lambda store: None, {"output": __file__}, r"a file, and .* must be a folder"),
        (lambda store: None, {"start": "absent.safetensors"}, r"start absent.safetensors: no such LoRA file"),
    ],
)
def test_faults_are_told_with_the_way_out(
    tiny_backbone: Path, sound_store: Path, tmp_path: Path, spoil: Callable[[Path], Any], changes: Any, said: str
) -> None:
    """Each fault of the data, the folders and the settings is one problem that says what to do."""
    store = tmp_path / "pairs"
    shutil.copytree(sound_store, store)
    spoil(store)
    found = problems_of(tiny_backbone, store, tmp_path, **changes)
    assert any(re.search(said, problem, re.S) for problem in found), found


def test_short_clips_and_leaks(tiny_backbone: Path, sound_store: Path, tmp_path: Path) -> None:
    """Clips shorter than the window are named with the length that would do; a video on both sides of the split too."""
    make_store(tmp_path / "short", count=2, frames=9)
    [short] = problems_of(tiny_backbone, tmp_path / "short", tmp_path)
    assert "Set data.frames to 9" in short
    store = tmp_path / "pairs"
    shutil.copytree(sound_store, store)
    PairStore(store).update(lambda row: replace(row, target="media/same.mp4", sha256_target="same"))
    shutil.copy(next((store / "media").iterdir()), store / "media" / "same.mp4")
    assert any("held out" in problem for problem in problems_of(tiny_backbone, store, tmp_path))


def test_a_disk_too_small(tiny_backbone: Path, sound_store: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """A cache larger than the free disk is a problem that says both sizes' way out."""
    usage = shutil._ntuple_diskusage(100, 99, 1)  # type: ignore[attr-defined]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    [problem] = problems_of(tiny_backbone, sound_store, tmp_path)
    assert "Free some space" in problem


def test_unknown_models_are_refused(tmp_path: Path) -> None:
    """A hub id that is not in the cache is not fetched; the error says how to fetch its configurations."""
    with pytest.raises(SyncloraError, match="hf download someone/absent"):
        plan(configured(tmp_path, backbone="someone/absent"))
