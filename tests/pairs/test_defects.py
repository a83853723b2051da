"""Pairs with known defects: each is as large as it says, touches what it says and nothing else, and can be seen."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from synclora.cli import app
from synclora.errors import SyncloraError
from synclora.pairs import PairStore, generate_store
from synclora.pairs.defects import DEFECTS, KINDS, LIMITS, SEEN, _shows, defect_pool_pair, defective_pair, planned
from synclora.pairs.takes import Take, blinks, draw_take
from synclora.portraits import TEST_SEED_START, Motion
from synclora.portraits.motion import CHANNELS

FRAMES = 33
MOTION_KINDS = [kind for kind, defect in DEFECTS.items() if defect.edit]
TOUCHED = {
    "damped": {"mouth_open", "mouth_width", "yaw", "pitch", "roll", "shift_x", "shift_y", "scale"},
    "exaggerated": {"mouth_open", "mouth_width", "yaw", "pitch", "roll", "shift_x", "shift_y", "scale"},
    "blink_drop": {"blink_left", "blink_right"},
    "blink_extra": {"blink_left", "blink_right"},
    "gaze_frozen": {"gaze_x", "gaze_y"},
    "wrong_visemes": {"mouth_open", "mouth_width"},
    "head_drift": {"yaw", "pitch"},
}


def take_of(kind: str, seed: int = 0, frames: int = FRAMES) -> Take:
    return draw_take(TEST_SEED_START + seed, frames, 25.0, lambda take: _shows(take, kind))


def edited(take: Take, kind: str, strength: float) -> Motion:
    edit = DEFECTS[kind].edit
    assert edit is not None
    return edit(take, strength)


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.allclose(a, b, atol=1e-4)


@pytest.mark.parametrize("kind", MOTION_KINDS)
def test_strength_0_is_the_clean_motion(kind: str) -> None:
    take = take_of(kind)
    clean, same = take.clean, edited(take, kind, 0.0)
    assert all(close(getattr(clean, name), getattr(same, name)) for name in CHANNELS)


@pytest.mark.parametrize("kind", TOUCHED)
def test_only_the_named_curves_change(kind: str) -> None:
    take = take_of(kind, 1)
    clean, changed = take.clean, edited(take, kind, DEFECTS[kind].high)
    assert {name for name in CHANNELS if not close(getattr(clean, name), getattr(changed, name))} == TOUCHED[kind]


@pytest.mark.parametrize("lag", [-6, -1, 4])
def test_shift_moves_every_curve_by_whole_frames(lag: int) -> None:
    """target(t) = motion(t - lag); the frames that come in are motion too, not copies of the first or last."""
    take = take_of("shift")
    clean, late = take.clean, edited(take, "shift", lag)
    for name in CHANNELS:
        a, b = getattr(clean, name), getattr(late, name)
        assert close(a[: FRAMES - lag], b[lag:]) if lag > 0 else close(a[-lag:], b[: FRAMES + lag])
    new = late.yaw[:4] if lag > 0 else late.yaw[-abs(lag) - 1 :]
    assert (new.diff().abs() > 1e-4).any()


def test_half_a_frame_lies_between_two() -> None:
    """A shift by 0.5 reads between the frames: the breath, a smooth curve, is there the mean of its neighbours."""
    take = take_of("shift")
    breath, late = take.motion(torch.arange(-1, FRAMES)).breath, edited(take, "shift", 0.5).breath
    assert torch.allclose((breath[1:] + breath[:-1]) / 2, late, atol=2e-3)


def test_speed_and_drift_grow_with_time() -> None:
    """speed s: frame t shows motion(t (1 + s)); drift n: the last frame shows motion(F - 1 - n), the first its own."""
    take = take_of("speed")
    fast = edited(take, "speed", 0.125)
    assert close(fast.yaw[[0, 8, 16, 24]], take.motion(torch.tensor([0, 9, 18, 27])).yaw)
    drifting = edited(take, "drift", -4.0)
    assert close(drifting.yaw[[0, 16, 32]], take.motion(torch.tensor([0, 18, 36])).yaw)


def test_damped_and_exaggerated_scale_mouth_and_head() -> None:
    take = take_of("damped")
    clean, damped, large = take.clean, edited(take, "damped", 0.6), edited(take, "exaggerated", 0.8)
    for name in ("mouth_open", "yaw", "pitch", "roll"):
        assert float(getattr(damped, name).std() / getattr(clean, name).std()) == pytest.approx(0.4, abs=1e-3)
    assert close(large.mouth_open, (clean.mouth_open * 1.8).clamp(0, 1))
    for name, limit in LIMITS.items():
        assert float(getattr(large, name).abs().max()) <= max(limit, float(getattr(clean, name).abs().max())) + 1e-4
    assert float(damped.yaw.mean()) == pytest.approx(float(clean.yaw.mean()), abs=1e-3)


@pytest.mark.parametrize("seed", range(8))
def test_a_dropped_and_an_extra_blink_are_there(seed: int) -> None:
    """The clip chosen for a drop has a whole blink; an extra one is 0.1 to 0.3 s long, shut, and apart from others."""
    take = take_of("blink_drop", seed)
    assert blinks(take.clean.blink_left) and float(edited(take, "blink_drop", 1.0).blink_left.max()) == 0
    take = take_of("blink_extra", seed)
    before, after = blinks(take.clean.blink_left), blinks(edited(take, "blink_extra", 1.0).blink_left)
    (extra,) = [run for run in after if run not in before]
    assert len(after) == len(before) + 1 and 3 <= len(extra) <= 8
    assert float(edited(take, "blink_extra", 1.0).blink_left[extra.start : extra.stop].max()) > 0.75
    assert all(run.stop + 2 <= extra.start or extra.stop + 2 <= run.start for run in before)


def test_gaze_mouth_and_head_are_off_by_what_is_said() -> None:
    take = take_of("gaze_frozen")
    assert float(edited(take, "gaze_frozen", 1.0).gaze_x.std()) < 1e-6 and float(take.clean.gaze_x.std()) > 1
    take = take_of("wrong_visemes")
    own, wrong = take.clean.mouth_open, edited(take, "wrong_visemes", 1.0).mouth_open
    assert float(torch.corrcoef(torch.stack([own, wrong]))[0, 1]) < 0.4
    take = take_of("head_drift")
    extra = edited(take, "head_drift", 20.0).yaw - take.clean.yaw
    assert float(extra[-1].abs()) == pytest.approx(20) and close(extra.diff().abs(), torch.full((32,), 20 / 32))


@pytest.mark.parametrize("kind", MOTION_KINDS)
def test_the_defect_is_there_at_pool_strength(kind: str) -> None:
    """Over 20 seeds, the weakest defect of a pool still changes some curve: a shift of one frame by a twentieth of what
    counts as seen, all others by a third."""
    for seed in range(20):
        take = take_of(kind, seed)
        clean, changed = take.clean, edited(take, kind, DEFECTS[kind].low)
        share = max(
            float((getattr(changed, n) - getattr(clean, n)).square().mean().sqrt()) / seen for n, seen in SEEN.items()
        )
        assert share > (0.05 if kind == "shift" else 0.33), (seed, share)


def test_pool_is_half_clean_and_kinds_have_equal_shares() -> None:
    """Over seeds 0..479: 240 clean, 20 of each of 12 kinds, strengths within the kind's range, both signs."""
    plans = [planned(seed) for seed in range(480)]
    assert Counter(kind for kind, _, _ in plans) == {"none": 240, **dict.fromkeys(KINDS, 20)}
    assert Counter(chosen for kind, chosen, _ in plans if kind == "none") == dict.fromkeys(KINDS, 20)
    for kind, _, strength in plans:
        if kind == "none":
            assert strength == 0
            continue
        defect = DEFECTS[kind]
        assert defect.low <= abs(strength) <= defect.high and (strength > 0 or defect.signed)
        assert not defect.whole or strength == int(strength)
    assert {strength > 0 for kind, _, strength in plans if kind == "shift"} == {True, False}


def test_identity_changes_in_mid_clip_and_flicker_is_as_strong_as_said() -> None:
    """The first 3 frames of 17 are the clean clip's, the last 3 another person's; flicker of strength s makes the mean
    brightness of frames, against the clean ones, deviate by s within a factor of 2."""
    clean, changed = (defective_pair(2, "identity_change", s, size=64, frames=17, test=True) for s in (0, 1))
    assert (clean.source == changed.source).all() and (clean.target[:3] == changed.target[:3]).all()
    difference = (clean.target.float() - changed.target.float()).abs().flatten(1).mean(1)
    assert float(difference[-3:].min()) > 2
    clean, changed = (defective_pair(2, "flicker", s, size=64, frames=33, test=True) for s in (0, 0.1))
    gains = changed.target.float().flatten(1).mean(1) / clean.target.float().flatten(1).mean(1)
    assert 0.05 < float(gains.std()) < 0.2


def test_a_pair_follows_from_its_seed_and_tells_its_truth() -> None:
    a, b = (defect_pool_pair(5, size=64, frames=17) for _ in range(2))
    assert (a.target == b.target).all() and a.defect == b.defect and a.id == "procedural-defects-0000005"
    kind, _, strength = planned(5)
    assert a.defect is not None and json.loads(a.defect) == {
        "kind": kind, "strength": strength, "unit": DEFECTS[kind].unit, "affects": "motion"
    }  # fmt: skip
    assert defect_pool_pair(4, size=64, frames=17).defect == '{"kind": "none", "strength": 0.0}'


def test_test_pairs_keep_to_their_side_of_the_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    """With test=True every motion and every person drawn has a seed from TEST_SEED_START on, else below it."""
    from synclora.pairs import defects, takes

    drawn: list[int] = []
    for module, name in ((takes, "sample_motion"), (defects, "sample_person")):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda s, *rest, real=real: drawn.append(s) or real(s, *rest))
    monkeypatch.setattr(defects, "render", lambda person, motion, size: torch.zeros(len(motion), size, size, 3))
    for kind in ("identity_change", "wrong_visemes", "blink_extra"):
        defective_pair(1, kind, 1.0, size=64, frames=17, test=True)
        assert len(drawn) >= 3 and min(drawn) >= TEST_SEED_START
        drawn.clear()
        defective_pair(1, kind, 1.0, size=64, frames=17)
        assert max(drawn) < TEST_SEED_START
        drawn.clear()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: defective_pair(0, "hiccup", 1), "choose one of: shift"),
        (lambda: defective_pair(0, "shift", 9), "-8 to 8 is possible"),
        (lambda: defective_pair(0, "damped", -0.1), "0 to 1 is possible"),
        (lambda: defective_pair(0, "shift", 1, frames=9), "at least 17"),
        (lambda: defective_pair(-1, "shift", 1), "seeds run from 0"),
        (lambda: generate_store("unused", 1, frames=9, defects=True), "at least 17"),
    ],
)
def test_bad_settings_are_told(call, said: str) -> None:
    with pytest.raises(SyncloraError, match=said):
        call()


def test_generate_with_defects(tmp_path: Path) -> None:
    """The command's rows carry the truth, the store is sound, and a second run makes nothing."""
    command = [
        "pairs",
        "generate",
        "--defects",
        "--count",
        "2",
        "--out",
        str(tmp_path),
        "--size",
        "64",
        "--frames",
        "17",
    ]
    for made in (2, 0):
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0 and f"{made} pairs generated" in result.output
    rows = PairStore(tmp_path).rows()
    assert [json.loads(row.defect or "")["kind"] for row in rows] == ["none", planned(1)[0]]
    assert PairStore(tmp_path).verify() == [] and rows[0].id == "procedural-defects-0000000"


def test_generate_to_a_url(tmp_path: Path) -> None:
    """A remote store fills as a local one does, and a second run finds its pairs whole."""
    url = f"memory://generate-{tmp_path.name}"
    assert generate_store(url, 2, size=64, frames=9) == 2 and PairStore(url).verify() == []
    assert generate_store(url, 2, size=64, frames=9) == 0
