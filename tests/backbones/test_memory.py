"""Parts that take turns on a device, a text encoder that is let go, and videos decoded in tiles."""

from __future__ import annotations

from typing import Any

import ltx2_tiny
import ltx_tiny
import pytest
import torch
from torch import Tensor, nn

from synclora.backbones import ltx, memory
from synclora.backbones.ltx import TILE, TILE_STRIDE
from synclora.backbones.memory import Turns, bytes_of, planned
from synclora.errors import SyncloraError

META, GB = torch.device("meta"), 10**9
OVERLAP = TILE - TILE_STRIDE


class Card:
    """A device of so many bytes (the device "meta", where tensors take no memory), and what is on it."""

    def __init__(self, total: int, *parts: nn.Module) -> None:
        self.total, self.parts = total, parts

    def free(self) -> int:
        return self.total - sum(bytes_of(part) for part in self.parts if is_on_meta(part))


def is_on_meta(part: nn.Module) -> bool:
    return next(part.parameters()).is_meta


def linear(kilobytes: int) -> nn.Linear:
    return nn.Linear(256, kilobytes, bias=False).requires_grad_(False)  # of 1024 bytes a row


def test_the_oldest_part_leaves():
    """A part comes when used, and the least recently used leave until its bytes and the reserve are free."""
    a, b, c = linear(40), linear(40), linear(60)
    weights = [part.weight.clone() for part in (a, b, c)]
    card = Card(110 * 1024, a, b, c)
    turns = Turns(META, reserve=10 * 1024, free=card.free, capacity=card.total)
    for part, there in ((a, [a]), (b, [a, b]), (a, [a, b]), (c, [a, c]), (b, [b, c]), (b, [b, c])):
        assert turns.use(part) == META
        assert [is_on_meta(x) for x in (a, b, c)] == [any(x is y for y in there) for x in (a, b, c)]
    turns.forget(b)
    turns.forget(c)
    assert all(torch.equal(part.weight, weight) for part, weight in zip((a, b, c), weights, strict=True))


def test_a_part_too_large_stays():
    """Larger than the room there is for parts: it runs on the CPU, and nothing leaves for it."""
    small, large = linear(40), linear(200)
    card = Card(100 * 1024, small, large)
    turns = Turns(META, reserve=0, free=card.free, capacity=card.total)
    assert turns.use(small) == META and turns.use(large) == torch.device("cpu")
    assert is_on_meta(small) and not is_on_meta(large)


def test_layers_added_later_come_along():
    """A LoRA that is put into a part already there is brought with the next use, and leaves with it."""
    part, other = nn.Sequential(linear(4)), linear(4)
    turns = Turns(META, reserve=0, free=lambda: 0, capacity=10**6)
    turns.use(part)
    part.append(linear(4))
    turns.use(part)
    assert all(p.is_meta for p in part.parameters())
    turns.use(other)  # nothing is free: part leaves
    assert not any(p.is_meta for p in part.parameters()) and is_on_meta(other)


def of_size(count: int) -> nn.Module:
    return nn.Linear(1, count // 4, bias=False, device="meta")


@pytest.mark.parametrize(
    ("total", "expected"),
    [
        (80, "all fit"),
        (48, "take turns"),
        (32, "text encoder does not fit alone and runs"),
        (24, "must fit"),
    ],
)
def test_plans(total: int, expected: str):
    """LTX-2.3 in bfloat16 (26 GB of transformer, 24 of text encoder, 3 of VAE) on cards of several sizes."""
    parts = {"transformer": of_size(26 * GB), "VAE": of_size(3 * GB), "text encoder": of_size(27 * GB)}
    if expected == "must fit":
        with pytest.raises(SyncloraError, match=r"24\.0 GB free.*56\.0 GB, 26\.0 GB of it the transformer.*must fit"):
            planned(META, parts, lambda: total * GB, total * GB)
        return
    turns = planned(META, parts, lambda: total * GB, total * GB)
    assert (turns is None) == (expected == "all fit")
    if turns is not None:
        assert expected in turns.notice and f"{total}.0 GB free and the model takes 56.0 GB" in turns.notice
        assert ("runs on the CPU" in turns.notice) == (total == 32)


@pytest.mark.parametrize("tiny", [ltx_tiny, ltx2_tiny], ids=["ltx-video", "ltx-2"])
def test_editing_in_turns(tiny: Any, monkeypatch: pytest.MonkeyPatch):
    """Each step brings the part it runs; the results are those of a backbone whose parts are all there."""
    plain, shared, brought = tiny.backbone(), tiny.backbone(), []
    shared.turns = Turns(torch.device("cpu"), reserve=0, free=lambda: 0, capacity=10**12)
    use = shared.turns.use
    monkeypatch.setattr(shared.turns, "use", lambda module: brought.append(module) or use(module))
    video = torch.rand(1, 3, 9, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        assert torch.equal(shared.embed(["a hat"]).hidden, plain.embed(["a hat"]).hidden)
        latents = shared.encode(video)
        assert torch.equal(latents, plain.encode(video))
        sequence, text = ltx_tiny.full_sequence(0.5, batch=1), plain.embed([""])
        assert torch.equal(shared.velocity(sequence, 0.5, text), plain.velocity(sequence, 0.5, text))
        assert torch.equal(shared.decode(latents), plain.decode(latents))
    last = [module for i, module in enumerate(brought) if i == 0 or brought[i - 1] is not module]
    connectors = [shared.connectors] if tiny is ltx2_tiny else []
    assert last == [shared.text_encoder, *connectors, shared.vae, shared.transformer, shared.vae]


@pytest.mark.parametrize("tiny", [ltx_tiny, ltx2_tiny], ids=["ltx-video", "ltx-2"])
def test_the_text_encoder_is_let_go(tiny: Any, monkeypatch: pytest.MonkeyPatch):
    """Where the host is short it is gone after a prompt, and loaded anew for the next; elsewhere it stays."""
    backbone, loaded = tiny.backbone(), []
    original = backbone.text_encoder
    backbone.load_text_encoder = lambda: loaded.append(1) or original
    monkeypatch.setattr(ltx, "host_is_short", lambda: False)
    expected = backbone.embed(["a hat"]).hidden
    assert backbone.text_encoder is original and not loaded
    monkeypatch.setattr(ltx, "host_is_short", lambda: True)
    assert torch.equal(backbone.embed(["a hat"]).hidden, expected) and backbone.text_encoder is None
    assert torch.equal(backbone.embed(["a hat"]).hidden, expected) and len(loaded) == 1


@pytest.mark.parametrize("tiny", [ltx_tiny, ltx2_tiny], ids=["ltx-video", "ltx-2"])
def test_the_text_encoder_stays_on_a_gpu(tiny: Any, monkeypatch: pytest.MonkeyPatch):
    """Where all parts are on a GPU it is not in the host, however short that is: it is not loaded anew, to the CPU."""
    backbone = tiny.backbone()
    original = backbone.text_encoder
    backbone.load_text_encoder = lambda: pytest.fail("loaded anew")
    monkeypatch.setattr(ltx, "host_is_short", lambda: True)
    monkeypatch.setattr(type(backbone), "device", torch.device("cuda"))
    backbone._text_is_done()
    assert backbone.text_encoder is original


def test_host_is_short(monkeypatch: pytest.MonkeyPatch):
    """Less than a tenth of the host's memory is available."""

    class Told:
        total = 100

        def __init__(self, available: int) -> None:
            self.available = available

    for available, short in ((9, True), (11, False)):
        monkeypatch.setattr(memory.psutil, "virtual_memory", lambda available=available: Told(available))
        assert memory.host_is_short() == short


@pytest.mark.parametrize("tiny", [ltx_tiny, ltx2_tiny], ids=["ltx-video", "ltx-2"])
def test_large_videos_are_decoded_in_tiles(tiny: Any, monkeypatch: pytest.MonkeyPatch):
    """640 x 640 pixels in 4 tiles of 512: the picture untiled, its middle blended without a step where tiles meet.

    Random decoders of random latents are the worst there is: what lies beyond a tile's edge is felt further than in a
    trained one, and nothing is smooth. In the corner that one tile alone makes, nothing differs.
    """
    backbone, calls = tiny.backbone(), []
    backbone.vae.decoder.register_forward_pre_hook(lambda module, inputs: calls.append(tuple(inputs[0].shape[-2:])))
    latents = torch.randn(1, 8, 1, 20, 20, generator=torch.Generator().manual_seed(0))
    whole = backbone.decode(latents)
    for name, value in (("TILED_ABOVE", 640 * 640 - 1), ("TILE", 512), ("TILE_STRIDE", 512 - OVERLAP)):
        monkeypatch.setattr(ltx, name, value)
    tiled = backbone.decode(latents)
    assert calls == [(20, 20), (16, 16), (16, 10), (10, 16), (10, 10)]
    error, spread = (tiled - whole).abs(), float(whole.std())
    assert error[..., :256, :256].max() < 1e-3 * spread and error[..., 576:, 576:].max() < 1e-3 * spread
    assert 0 < float(error.mean()) < 0.06 * spread
    for axis in (3, 4):
        assert abs(step_at(tiled, axis, 512 - OVERLAP) / step_at(whole, axis, 512 - OVERLAP) - 1) < 0.03
    backbone.decode(latents[..., :10, :10])
    assert not backbone.vae.use_tiling


def step_at(video: Tensor, axis: int, place: int) -> float:
    """The mean difference of the two rows or columns that meet at `place`."""
    return float((video.narrow(axis, place, 1) - video.narrow(axis, place - 1, 1)).abs().mean())
