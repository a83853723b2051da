"""What makes large trainings fit: fewer bits, a cut-up or offloaded base, several sizes; and the moving average."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import test_clips
import tiny_run
import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from synclora.adapters.rules import Window, rules_of
from synclora.backbones.base import Geometry, Text
from synclora.diffusion.lora import add_lora, lora_state
from synclora.diffusion.lora_file import read_header
from synclora.errors import SyncloraError
from synclora.training import latents, placement, prepare, trainer
from synclora.training.buckets import BucketSampler, JoinedClips, nearest
from synclora.training.clips import StoredClips, open_clips
from synclora.training.config import Bucket, Data, parse_config
from synclora.training.ema import MovingAverage
from synclora.training.latents import LatentCache
from synclora.training.objective import load_batch, velocity_loss
from synclora.training.precision import frozen_linears, quantize_base
from synclora.training.world import World

Run = Callable[..., Path]
GEOMETRY = Geometry(64, 64, 17, 25.0)


def stop_at(output: Path, step: int) -> None:
    """As if the run had been killed after this checkpoint."""
    for path in (output / "checkpoints").iterdir():
        if path.name != f"step-{step:08d}":
            shutil.rmtree(path)
    (output / "adapter.safetensors").unlink()


@pytest.mark.parametrize(
    "settings",
    [
        {"quantize": "int8", "gradient_checkpointing": True},
        {"quantize": "fp8"},
        {"optimizer": "adamw8bit", "rank": 128},  # A and B of 4096 values: the least that is stored in 8 bits
        {"ema": 0.9},
    ],
    ids=str,
)
def test_each_trains_resumes_exactly_and_saves_an_ordinary_adapter(
    tmp_path: Path, run: Run, settings: dict[str, Any]
) -> None:
    """Resumed from checkpoint 4 of 6: the same adapter, bit for bit; its tensors and its header's names are those of
    a plain run, the base's fingerprint included; the loss falls."""
    if "ema" not in settings:
        pytest.importorskip("torchao")
    common = {"steps": 6, "keep": 3, "rank": 4} | settings
    path = run(tmp_path / "a", **common)
    whole, steps = load_file(path), sorted((tmp_path / "a" / "checkpoints").iterdir())
    moments = load_file(steps[-1] / "optimizer.safetensors")
    stop_at(tmp_path / "a", 4)
    again = load_file(run(tmp_path / "a", **common))
    assert all(torch.equal(value, again[name]) for name, value in whole.items())
    resumed = load_file(steps[-1] / "optimizer.safetensors")
    assert moments.keys() == resumed.keys() and all(torch.equal(v, resumed[n]) for n, v in moments.items())

    plain = run(tmp_path / "plain", steps=1, rank=common["rank"])
    assert {n: (t.shape, t.dtype) for n, t in load_file(plain).items()} == {
        n: (t.shape, t.dtype) for n, t in whole.items()
    }
    ours, theirs = read_header(path), read_header(plain)
    assert ours.keys() == theirs.keys() and ours["base_fingerprint"] == theirs["base_fingerprint"]
    assert any("codes" in name for name in moments) == ("optimizer" in settings)
    assert all(value.isfinite().all() for value in whole.values())


def test_quantised_layers_pass_gradients_as_the_whole_ones() -> None:
    """int8 and fp8: every frozen layer of the blocks is quantised and none of the LoRA's; the gradients of A and B
    point where those over the unquantised base do (cosine above 0.99)."""
    pytest.importorskip("torchao")
    kinds: list[Any] = [None, "int8", "fp8"]
    gradients = []
    for kind in kinds:
        backbone = tiny_run.tiny_backbone()
        torch.manual_seed(1)
        parameters = add_lora(backbone.transformer, 4)
        for parameter in parameters:
            parameter.data.normal_(std=0.1)
        if kind is not None:
            quantize_base(backbone.transformer, kind, torch.device("cpu"))
            types = {type(layer.weight).__name__ for _, layer in frozen_linears(backbone.transformer)}
            assert types == {"Int8Tensor" if kind == "int8" else "Float8Tensor"}
            assert all(type(parameter) is nn.Parameter for parameter in parameters)
        loss(backbone, "joint").backward()
        gradients.append(torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]))
    for gradient in gradients[1:]:
        assert torch.cosine_similarity(gradient, gradients[0], dim=0) > 0.99


def loss(backbone: Any, attention: Any) -> torch.Tensor:
    """The loss of one fixed batch of noise latents."""
    generator = torch.Generator().manual_seed(0)
    from synclora.training.objective import Batch

    source, target = (torch.randn(2, 8, 2, 2, 2, generator=generator) for _ in range(2))
    text = Text(torch.randn(2, 16, 16, generator=generator), torch.ones(2, 16, dtype=torch.bool))
    noise = torch.randn(2, 8, 8, generator=generator)
    return velocity_loss(backbone, Batch(source, target, text), torch.tensor([0.5, 0.7]), noise, attention)


@pytest.mark.parametrize("recompute", [False, True])
def test_an_offloaded_base_gives_the_same_gradients(recompute: bool) -> None:
    """FSDP2's offloading, in one process: loss and gradients to the bit, in both kinds of attention; the base's
    weights are DTensors between uses."""
    results = []
    try:
        for offloaded in (False, True):
            backbone = tiny_run.tiny_backbone()
            torch.manual_seed(1)
            parameters = add_lora(backbone.transformer, 4)
            for parameter in parameters:
                parameter.data.normal_(std=0.1)
            if recompute:
                backbone.transformer.enable_gradient_checkpointing()  # type: ignore[operator]
            if offloaded:
                mesh = placement.open_mesh(World(), torch.device("cpu"), sharded=False)
                placement.shard(backbone, mesh, offload=True)
            values: list[torch.Tensor] = []
            for attention in ("self", "joint", "self"):
                value = loss(backbone, attention)
                value.backward()
                values.append(value.detach())
            results.append([*values, *(p.grad for p in parameters)])
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
        frozen = dict(frozen_linears(backbone.transformer))  # type: ignore[possibly-undefined]
        # (Recomputed under `self`, the last block's stay until their next use: the reference's end has no gradient.)
        dropped = {name for name, layer in frozen.items() if hasattr(layer.weight, "placements")}
        assert len(frozen) == 20 and dropped >= {
            n for n in frozen if not recompute or n.startswith("transformer_blocks.0.")
        }
        assert len(lora_state(backbone.transformer)) == 40  # type: ignore[possibly-undefined]
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def test_no_thread_outlives_a_cut_up_base() -> None:
    """Gloo's threads, begun for FSDP2's groups, end with the training: one that frees a tensor while Python ends aborts
    the process, and with it the whole launch."""

    def begun() -> list[str]:
        names = (path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm"))
        return [name for name in names if "gloo" in name]

    def compute() -> list[str]:
        backbone = tiny_run.tiny_backbone()
        placement.shard(backbone, placement.open_mesh(World(), torch.device("cpu"), sharded=False), offload=True)
        loss(backbone, "self")
        return begun()

    if not Path("/proc/self/task").exists():
        pytest.skip("threads are counted in Linux's /proc")
    with World():
        during = compute()
    assert during and not begun()


def test_encoders_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, console: Any) -> None:
    """On another device ("meta"): clips are encoded with the VAE alone there, prompts with the text encoder alone, and
    afterwards each encoder has its own weights on the CPU again, not copies."""
    monkeypatch.setattr(trainer, "open_clips", tiny_run.noise_clips)
    monkeypatch.setattr(trainer, "place_small", lambda *_: None)  # weights cannot go to "meta" in place
    monkeypatch.setattr(latents, "module_fingerprint", lambda *_: "x")  # which has none there
    backbone, meta, seen = tiny_run.tiny_backbone(), torch.device("meta"), []
    parts: dict[str, Any] = {"vae": backbone.vae, "text_encoder": backbone.text_encoder}
    weights = {id(p) for part in parts.values() for p in part.parameters()}

    def there() -> set[str]:
        return {name for name, part in parts.items() if any(p.is_meta for p in part.parameters())}

    def encode(video: torch.Tensor) -> torch.Tensor:
        seen.append(("encode", there()))
        return torch.zeros(len(video), 8, 2, 2, 2)

    def embed(prompts: list[str]) -> Text:
        seen.append(("embed", there()))
        return Text(torch.zeros(len(prompts), 16, 16), torch.ones(len(prompts), 16, dtype=torch.bool))

    monkeypatch.setattr(backbone, "encode", encode)
    monkeypatch.setattr(backbone, "embed", embed)
    run = trainer._Run(parse_config(tiny_run.values(tmp_path)), World(), meta, backbone, console)
    run._encode()
    assert [call for call, _ in seen] == ["encode"] * 3 + ["embed"] * 2
    assert all(found == {"vae" if call == "encode" else "text_encoder"} for call, found in seen)
    assert weights == {id(p) for part in parts.values() for p in part.parameters()}


def test_a_full_cache_needs_no_text_encoder_on_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, console: Any
) -> None:
    """The second run reads the empty prompt where the first has put it: nothing is embedded, nothing brought there."""
    monkeypatch.setattr(trainer, "open_clips", tiny_run.noise_clips)
    backbone, config = tiny_run.tiny_backbone(), parse_config(tiny_run.values(tmp_path))
    prompt = backbone.embed([""])
    first = trainer._Run(config, World(), torch.device("cpu"), backbone, console)._encode()
    torch.testing.assert_close(first, prompt.hidden[0][prompt.mask[0]].bfloat16().float(), rtol=0.02, atol=0.02)
    backbone, placed = tiny_run.tiny_backbone(), []
    backbone.embed = None  # type: ignore[assignment]
    on_device = trainer.on_device
    monkeypatch.setattr(trainer, "on_device", lambda *given: placed.append(given[1]) or on_device(*given))
    assert torch.equal(trainer._Run(config, World(), torch.device("cpu"), backbone, console)._encode(), first)
    assert placement.TEXT not in placed


def test_moving_average() -> None:
    """d = min(0.5, (1 + t) / (10 + t)): after weights 1 and then 4 from 0, (9/11) 1 = 0.818..., then
    0.25 of that + 0.75 x 4; put in place of the weights and taken out again."""
    weights = {"w": torch.zeros(1)}
    average = MovingAverage(weights, 0.5)
    for step, value in ((1, 1.0), (2, 4.0)):
        weights["w"].fill_(value)
        average.update(step)
    expected = 0.25 * (9 / 11) + 0.75 * 4
    assert average.average["w"].item() == pytest.approx(expected)
    with average.in_place():
        assert weights["w"].item() == pytest.approx(expected)
    assert weights["w"].item() == 4.0


def test_what_is_written_is_the_average(tmp_path: Path, run: Run) -> None:
    """The adapter holds the average (bf16), not the last weights, and the held-out loss is the average's."""
    path = run(tmp_path, ema=0.99, steps=8)
    newest = tmp_path / "checkpoints" / "step-00000008"
    average, last = load_file(newest / "ema.safetensors"), load_file(newest / "lora.safetensors")
    name = "transformer_blocks.0.attn1.to_q.lora_B.default.weight"
    written = load_file(path)["diffusion_model.transformer_blocks.0.attn1.to_q.lora_B.weight"]
    assert torch.equal(written, average[name].bfloat16()) and not torch.equal(written, last[name].bfloat16())


@pytest.mark.parametrize("settings", [{"quantize": "int8"}, {"optimizer": "adamw8bit"}])
def test_without_torchao(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str]) -> None:
    """The error names the setting and what to install."""
    for name in ("torchao", "torchao.quantization", "torchao.optim"):
        monkeypatch.setitem(sys.modules, name, None)
    name, value = next(iter(settings.items()))
    with pytest.raises(SyncloraError, match=rf"{name}: {value} needs torchao.*pip install synclora\[quantize\]"):
        run(tmp_path, **settings)


def test_quantised_weights_are_not_cut_up(tmp_path: Path, run: Run, console: Any) -> None:
    """FSDP2 cannot take torchao's weights apart: said, and the base stays whole."""
    pytest.importorskip("torchao")
    run(tmp_path, steps=1, quantize="int8", sharding="full")
    assert "quantize: int8 keeps the base whole on every device" in console.file.getvalue()


# ---------------------------------------------------------------- sizes


def buckets(*sizes: tuple[int, int, int]) -> list[Bucket]:
    return [Bucket(width=width, height=height, frames=frames) for width, height, frames in sizes]


def test_nearest_bucket() -> None:
    """By shape first, then the longest that the clip fills, then area."""
    some = buckets((64, 64, 17), (64, 64, 9), (96, 64, 9), (64, 96, 9), (128, 128, 9))
    assert str(nearest(512, 512, 40, some)) == "64x64x17"
    assert str(nearest(512, 512, 16, some)) == "128x128x9"
    assert str(nearest(100, 100, 16, some)) == "128x128x9" and str(nearest(60, 60, 9, some)) == "64x64x9"
    assert str(nearest(1920, 1080, 40, some)) == "96x64x9" and str(nearest(720, 1280, 40, some)) == "64x96x9"


def test_sampler_takes_each_step_from_one_bucket() -> None:
    """Buckets of 12, 6 and 2 pairs in steps of 2: 6, 3 and 1 steps an epoch, each pair once in it, and never two
    buckets in a step; a step's pairs do not depend on which were asked for before."""
    ranges = [range(12), range(12, 18), range(18, 20)]
    sampler = BucketSampler(ranges, 2, seed=3)
    for epoch in range(3):
        steps = [sampler.indices(10 * epoch + step) for step in range(10)]
        assert sorted(pair for pairs in steps for pair in pairs) == list(range(20))
        assert all(
            len({place for place, bucket in enumerate(ranges) for pair in p if pair in bucket}) == 1 for p in steps
        )
    fresh = BucketSampler(ranges, 2, seed=3)
    assert [fresh.indices(step) for step in reversed(range(30))][::-1] == [sampler.indices(s) for s in range(30)]


def test_pairs_are_cut_to_their_buckets(tmp_path: Path) -> None:
    """Clips of 96 x 64 and 33 frames: at 96x64x17 there is one window each, at 64x64x9 none; shards are of one size."""
    test_clips.make_store(tmp_path, frames=33)
    data = Data(pairs=tmp_path, validation=1, buckets=buckets((64, 64, 9), (96, 64, 17)))
    train, held_out = open_clips(data, GEOMETRY)
    assert isinstance(train, StoredClips) and train.frames == 17 and train.geometry.width == 96
    assert train.load(0)[0].shape == (6, 17, 64, 96, 3) and held_out.load(0)[0].shape == (2, 17, 64, 96, 3)
    square = StoredClips("train", train.store, train.windows[:1], GEOMETRY, 9)
    joined = JoinedClips("train", [train, square])
    assert joined.pairs == [(0, 1), (2, 3), (4, 5), (6, 7)] and joined.buckets == [range(3), range(3, 4)]
    assert [joined.load(shard)[0].shape[1:4] for shard in range(2)] == [(17, 64, 96), (9, 64, 64)]


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((60, 64, 9), "60x64x9; width and height must be multiples of 32, such as 64x64"),
        ((64, 64, 16), r"64x64x16; the backbone takes 8k\+1 frames up to 17, such as 9"),
        ((64, 64, 25), r"64x64x25; .* such as 17"),
    ],
)
def test_sizes_the_backbone_cannot_take(tmp_path: Path, size: tuple[int, int, int], message: str) -> None:
    """Refused with the nearest that fits."""
    with pytest.raises(SyncloraError, match=message):
        open_clips(Data(pairs=tmp_path, buckets=buckets(size)), GEOMETRY)


def test_a_run_over_two_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    """Trains, validates at the quantiles of both, and resumes exactly; the window written is that of most pairs."""

    class Wide(tiny_run.NoiseClips):
        def clip(self, number: int) -> torch.Tensor:
            return torch.cat([super().clip(number), super().clip(number + 50)], dim=2)[:, :, :96]

    def two_sizes(*_: object) -> tuple[JoinedClips, JoinedClips]:
        train = JoinedClips("train", [tiny_run.NoiseClips(), Wide(count=4, seed=2)])
        return train, JoinedClips("validation", [tiny_run.NoiseClips("validation", 2, 7), Wide("validation", 2, 8)])

    whole = load_file(run_with(run, monkeypatch, two_sizes, tmp_path / "a"))
    lines = [json.loads(line) for line in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()]
    assert {"validation/loss_q1", "validation/loss_q4"} <= lines[-1].keys()
    stop_at(tmp_path / "a", 4)
    path = run_with(run, monkeypatch, two_sizes, tmp_path / "a")
    assert all(torch.equal(value, whole[name]) for name, value in load_file(path).items())
    assert rules_of(path, read_header(path)).window == Window(64, 64, 9, 25)


def run_with(run: Run, monkeypatch: pytest.MonkeyPatch, clips: Callable[..., Any], output: Path) -> Path:
    """Train on other clips than the fixture's."""
    monkeypatch.setattr(trainer, "open_clips", clips)
    return run(output, steps=6, keep=3)


# ---------------------------------------------------------------- what the adapter says


def test_an_adapter_names_its_rules(tmp_path: Path, run: Run) -> None:
    """Attention, window and base are in the header, and are what editing asks for."""
    path = run(tmp_path, steps=1, attention="joint")
    header = read_header(path)
    rules = rules_of(path, header)
    assert rules.attention == "joint" and rules.window == Window(64, 64, 9, 25) and rules.prompt is None
    assert header["base_model"] == "tiny"


def test_the_one_prompt_of_a_data_set_is_the_adapters(tmp_path: Path) -> None:
    """All pairs with one caption: an edit takes it; two captions: none."""

    class OneCaption(tiny_run.NoiseClips):
        def load(self, shard: int) -> tuple[torch.Tensor, list[str]]:
            frames, captions = super().load(shard)
            return frames, ["3d1t"] * len(captions)

    backbone, config = tiny_run.tiny_backbone(), parse_config(tiny_run.values(tmp_path))
    prompts = []
    for name, clips in (("one", OneCaption()), ("many", tiny_run.NoiseClips())):
        cache = LatentCache(tmp_path / name, clips, backbone)
        cache.fill()
        header = prepare.provenance(config, backbone, cache, base_model="nano", steps=1, data="x")
        prompts.append(rules_of("x.safetensors", header).prompt)
    assert prompts == ["3d1t", None]


def test_equal_captions_are_stored_once(tmp_path: Path) -> None:
    """Six clips of three captions: the file holds three and the empty one; each clip reads its own."""

    class Three(tiny_run.NoiseClips):
        def load(self, shard: int) -> tuple[torch.Tensor, list[str]]:
            frames, captions = super().load(shard)
            return frames, ["abc"[int(caption[5]) % 3] for caption in captions]

    backbone = tiny_run.tiny_backbone()
    cache = LatentCache(tmp_path, Three(), backbone)
    cache.fill()
    batch = load_batch(cache, [0, 1], torch.zeros(1, 16))
    assert batch.text.hidden.shape[0] == 2
    with safe_open(str(tmp_path / "train-text-00000.safetensors"), framework="pt") as file:
        tokens = file.get_slice("text").get_shape()[0]
    lengths = [len(text) for text in cache.text(list(range(6)))]
    assert tokens == sum(lengths[:3]) + len(cache.empty()) and lengths[:3] == lengths[3:]
    a, b = cache.text([1, 4])
    assert torch.equal(a, b) and not torch.equal(a, cache.text([2])[0])
