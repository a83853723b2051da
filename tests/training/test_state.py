"""The checkpoint folders and the pure functions of the step."""

import math
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from synclora.errors import SyncloraError
from synclora.training.state import (
    PairSampler,
    TrainState,
    checkpoints,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
    set_lr,
    step_generator,
    step_seed,
    warmup_cosine,
)


def make_state(seed: int = 0) -> TrainState:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 2)).to(torch.float32)
    half = nn.Linear(2, 2).to(torch.bfloat16)
    extra = {"average": torch.randn(4)}
    parameters = [*net.parameters(), *half.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    return TrainState(modules={"net": net, "half": half, "ema": extra}, optimizer=optimizer)


def run(state: TrainState, until: int, total: int = 20) -> None:
    net, half = state.modules["net"], state.modules["half"]
    assert isinstance(net, nn.Module) and isinstance(half, nn.Module) and state.optimizer is not None
    while state.step < until:
        x = torch.randn(6, 3, generator=step_generator(1, state.step))
        set_lr(state.optimizer, warmup_cosine(state.step, 3, total, 1e-2))
        state.optimizer.zero_grad()
        loss = half(net(x).to(torch.bfloat16)).float().square().mean() + torch.rand(()) * net[0].weight.sum()  # type: ignore[index]
        loss.backward()
        state.optimizer.step()
        state.modules["ema"]["average"].lerp_(torch.randn(4), 0.1)  # type: ignore[index]
        state.step += 1


def flat(state: TrainState) -> dict[str, torch.Tensor]:
    result = {}
    for name, weights in state.modules.items():
        items = weights.state_dict() if isinstance(weights, nn.Module) else weights
        result.update({f"{name}.{key}": value.clone() for key, value in items.items()})
    return result


def test_resume_is_bit_exact_for_parameters_buffers_moments_and_rng(tmp_path: Path) -> None:
    """20 steps = 7 steps, save, load into freshly initialised modules, 13 steps: bit for bit, bf16 and RNG too."""
    through = make_state()
    torch.manual_seed(5)
    run(through, 20)
    first = make_state()
    torch.manual_seed(5)
    run(first, 7)
    first.extra = {"note": "x"}
    path = save_checkpoint(tmp_path, first)
    second = make_state(seed=99)
    load_checkpoint(path, second)
    assert second.step == 7 and second.extra == {"note": "x"}
    run(second, 20)
    for name, value in flat(through).items():
        assert torch.equal(value, flat(second)[name]), name


def test_optimizer_is_part_of_the_state(tmp_path: Path) -> None:
    """Without the moments the next step differs: the exactness above does not come for free."""
    state = make_state()
    run(state, 7)
    path = save_checkpoint(tmp_path, state)
    resumed, cold = make_state(1), make_state(2)
    load_checkpoint(path, resumed)
    load_checkpoint(path, cold)
    assert cold.optimizer is not None
    cold.optimizer.state.clear()
    torch.manual_seed(0)
    run(resumed, 8)
    torch.manual_seed(0)
    run(cold, 8)
    assert not torch.equal(flat(resumed)["net.0.weight"], flat(cold)["net.0.weight"])


def test_keep_newest_and_remove_leftovers_of_a_kill(tmp_path: Path) -> None:
    """keep=2 leaves the two newest steps; temporary folders of a killed save are removed by the next save."""
    state = make_state()
    (tmp_path / ".step-00000001.abcd1234.part").mkdir()
    for step in (1, 2, 10, 100):
        state.step = step
        save_checkpoint(tmp_path, state, keep=2)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000010", "step-00000100"]
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("harm", ["cut", "flip", "no record", "missing file"])
def test_latest_skips_a_damaged_checkpoint(tmp_path: Path, harm: str) -> None:
    """A checkpoint counts only if every file matches its sha256; else the one before it is taken."""
    state = make_state()
    older = save_checkpoint(tmp_path, state)
    state.step = 5
    newer = save_checkpoint(tmp_path, state)
    assert latest_checkpoint(tmp_path) == newer
    victim = newer / "net.safetensors"
    data = bytearray(victim.read_bytes())
    if harm == "cut":
        victim.write_bytes(data[:-3])
    elif harm == "flip":
        data[-1] ^= 1
        victim.write_bytes(data)
    elif harm == "no record":
        (newer / "state.json").unlink()
    else:
        victim.unlink()
    assert latest_checkpoint(tmp_path) == older


def test_load_names_what_differs(tmp_path: Path) -> None:
    """Another shape, dtype or name in the checkpoint is refused by name and nothing is changed."""
    state = make_state()
    path = save_checkpoint(tmp_path, state)
    other = make_state()
    other.modules["ema"] = {"average": torch.zeros(5)}
    with pytest.raises(SyncloraError, match=r"average is \(4,\).*\(5,\)"):
        load_checkpoint(path, other)
    other.modules["ema"] = {"mean": torch.zeros(4)}
    with pytest.raises(SyncloraError, match="missing: mean; unknown: average"):
        load_checkpoint(path, other)
    (path / "net.safetensors").write_bytes(b"12345")
    with pytest.raises(SyncloraError, match="not a whole safetensors file"):
        load_checkpoint(path, make_state())


def test_optimizer_parameter_outside_the_state_is_refused(tmp_path: Path) -> None:
    """A parameter the optimizer moves but no module stores would be lost on resume."""
    state = make_state()
    del state.modules["half"]
    with pytest.raises(ValueError, match="in no module"):
        save_checkpoint(tmp_path, state)
    assert checkpoints(tmp_path) == [] and not list(tmp_path.iterdir())


def test_unwritable_folder(tmp_path: Path) -> None:
    """A path that cannot be a folder gives a SyncloraError that names it, not a traceback."""
    (tmp_path / "file").write_text("")
    with pytest.raises(SyncloraError, match="cannot be written"):
        save_checkpoint(tmp_path / "file" / "run", make_state())


def test_full_disk_keeps_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ENOSPC (28) while writing, in the Rust writer's wording: SyncloraError, older checkpoint whole, no leftovers."""
    from safetensors import SafetensorError

    from synclora import tensors

    state = make_state()
    older = save_checkpoint(tmp_path, state)

    def full(*_: object, **__: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(tensors, "save_file", full)
    state.step = 3
    with pytest.raises(SyncloraError, match=os.strerror(28)):
        save_checkpoint(tmp_path, state)
    assert latest_checkpoint(tmp_path) == older and [p.name for p in tmp_path.iterdir()] == [older.name]


def test_shared_and_non_contiguous_tensors(tmp_path: Path) -> None:
    """Tied weights and transposed views are stored in full under each name."""
    base = torch.arange(6.0).reshape(2, 3)
    path = save_checkpoint(tmp_path, TrainState(modules={"m": {"a": base, "b": base, "c": base.T}}))
    target = {"a": torch.zeros(2, 3), "b": torch.zeros(2, 3), "c": torch.zeros(3, 2)}
    load_checkpoint(path, TrainState(modules={"m": target}))
    assert torch.equal(target["a"], base) and torch.equal(target["b"], base) and torch.equal(target["c"], base.T)


def test_warmup_cosine() -> None:
    """lr (s+1)/w below w; lr at s = w; lr (1+f)/2 half way; floor * lr at and past the end."""
    assert warmup_cosine(0, 10, 110, 1.0) == pytest.approx(0.1)
    assert warmup_cosine(9, 10, 110, 1.0) == pytest.approx(1.0)
    assert warmup_cosine(10, 10, 110, 2.0) == pytest.approx(2.0)
    assert warmup_cosine(60, 10, 110, 1.0, floor=0.1) == pytest.approx(0.55)
    assert warmup_cosine(110, 10, 110, 1.0, floor=0.1) == pytest.approx(0.1)
    assert warmup_cosine(500, 10, 110, 1.0) == pytest.approx(0.0)
    assert warmup_cosine(35, 10, 110, 1.0) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))


@pytest.mark.parametrize(("pairs", "batch"), [(7, 3), (2, 5), (4, 4), (1, 1)])
def test_sampler_visits_every_pair_once_an_epoch(pairs: int, batch: int) -> None:
    """Positions [e n, (e+1) n) hold each index once; the order is the same read backwards."""
    steps = 3 * pairs
    order = [index for step in range(steps) for index in PairSampler(pairs, batch, seed=3).indices(step)]
    for epoch in range(steps * batch // pairs):
        assert sorted(order[epoch * pairs : (epoch + 1) * pairs]) == list(range(pairs))
    sampler = PairSampler(pairs, batch, seed=3)
    backwards = {step: sampler.indices(step) for step in reversed(range(steps))}
    assert [index for step in range(steps) for index in backwards[step]] == order


def test_sampler_orders_differ_between_epochs_and_seeds() -> None:
    """A fixed order would repeat the same batches for ever."""
    epochs = [tuple(PairSampler(50, 50, seed=0).indices(step)) for step in range(3)]
    assert len(set(epochs)) == 3 and tuple(PairSampler(50, 50, seed=1).indices(0)) not in epochs


def test_step_seeds_do_not_collide() -> None:
    """(seed, step) and stream each change the draw: no reuse of noise between neighbouring seeds and steps."""
    seeds = {step_seed(seed, step, stream) for seed in range(20) for step in range(50) for stream in ("a", "b")}
    assert len(seeds) == 2000 and all(0 <= value < 2**63 for value in seeds)
