"""Edited images carried along with the source: exactly at their own frames, sharp where the source moves on, not at all
where it cannot be found again."""

from __future__ import annotations

import torch
from echo import editor, grey_clip
from torch import Tensor
from torch.nn import functional as F

from synclora.editing.carry import Carrier

SIDE, LEFT = 64, slice(8, 56)


def scene(frames: int, speed: int = 1) -> Tensor:
    """A smooth random texture that moves `speed` px a frame to the right, uint8 [F, 64, 64, 3]."""
    noise = torch.rand(1, 3, 12, 40, generator=torch.Generator().manual_seed(1))
    wide = F.interpolate(noise, (SIDE, 4 * SIDE), mode="bicubic").clamp(0, 1)[0].permute(1, 2, 0)
    starts = [2 * SIDE - speed * number for number in range(frames)]
    return torch.stack([(40 + 170 * wide[:, at : at + SIDE]).round().to(torch.uint8) for at in starts])


def marked(frame: Tensor, column: int, level: int = 250) -> Tensor:
    """The frame with a thin bright bar that its surroundings carry."""
    shown = frame.clone()
    shown[16:48, column : column + 3] = level
    return shown


def test_a_thin_thing_moves_with_what_it_is_on() -> None:
    """A bar of 3 px over a texture that moves 1 px a frame; the model drew nothing but grey. Whole levels near the
    truth after 8 frames, where the grey is 60 away."""
    source = scene(9)
    grey = torch.full_like(source, 128)
    shown = Carrier({0: marked(source[0], 20)}).show(source, 0, grey)
    for number in (1, 4, 8):
        truth = marked(source[number], 20 + number)
        error = (shown[number].float() - truth.float())[8:56, LEFT].abs().mean()
        assert error < 6 < 30 < (grey[number].float() - truth.float())[8:56, LEFT].abs().mean(), (number, error)


def test_edited_images_are_shown_as_they_were_given() -> None:
    """Frames 0, 20 and 47 over three windows, bit for bit, in a whole edit."""
    made, _ = editor()
    clip = grey_clip(60, SIDE)
    given = {index: marked(clip.frames[index], 30) for index in (0, 20, 47)}
    further = {index: image for index, image in given.items() if index}
    shown = made.edit(clip, given[0], keyframes=further, detail="source").frames
    assert all(torch.equal(shown[index], image) for index, image in given.items())


def test_where_the_source_cannot_be_found_again_the_model_stays() -> None:
    """After a cut to another scene nothing is carried."""
    source = scene(6)
    source[3:] = 255 - source[3:].flip(1)
    made = torch.full_like(source, 128)
    shown = Carrier({0: marked(source[0], 30)}).show(source, 0, made).float()
    assert (shown[3:] - 128).abs().mean() < 4 < 20 < (shown[:3] - 128).abs().mean()


def test_between_two_images_the_nearer_counts_more() -> None:
    """A still source with a light image at frame 0 and a dark one at frame 8: frame n is (8 - n) / 8 light; before its
    number an image is carried within its window alone, after it on through later windows."""
    source = scene(1).expand(9, -1, -1, -1).contiguous()
    light, dark = torch.full_like(source[0], 200), torch.full_like(source[0], 40)
    shown = Carrier({0: light, 8: dark}).show(source, 0, source)
    for number in range(9):
        assert (shown[number].float() - (200 - 20 * number)).abs().max() <= 1
    carrier = Carrier({0: light, 8: dark})
    first, second = (carrier.show(source[:6], start, source[:6]) for start in (0, 4))
    assert bool((first == 200).all()) and bool((second[4:] == 40).all())


def test_a_larger_output_gets_the_image_in_its_own_size() -> None:
    """A source of 128 px that moves 2 px a frame, edited at 64: lines of 1 px, which no picture of 64 holds, are in the
    output's frames 1 to 4, at their own frame bit for bit; a frame that was shown is not kept."""
    small, wide = scene(5), F.interpolate(scene(5).permute(0, 3, 1, 2).float(), scale_factor=2, mode="bicubic")
    source = wide.clamp(0, 255).round().to(torch.uint8).permute(0, 2, 3, 1)

    def lined(number: int) -> Tensor:
        shown = source[number].clone()
        shown[40:90:2, 40 + 2 * number : 80 + 2 * number] = 250
        return shown

    edited = F.interpolate(lined(0).permute(2, 0, 1)[None].float(), (SIDE, SIDE), mode="area")[0].permute(1, 2, 0)
    carrier = Carrier({0: edited.round().to(torch.uint8)}, {0: (lined(0), source[0])})
    shown = carrier.show(small, 0, small)
    pasted = F.interpolate(shown.permute(0, 3, 1, 2).float(), scale_factor=2, mode="bicubic").clamp(0, 255)
    pasted = pasted.round().to(torch.uint8).permute(0, 2, 3, 1)
    for number in range(5):
        large = carrier.show_large(number, source[number], pasted[number])
        truth = lined(number).float()
        error, before = ((x.float() - truth)[36:94, 36:92].abs().mean() for x in (large, pasted[number]))
        assert error == 0 if number == 0 else error < before / 2, number
    assert torch.equal(carrier.show_large(4, source[4], pasted[4]), pasted[4])


def test_an_image_that_changes_nothing_leaves_a_larger_source_as_it_is() -> None:
    small = scene(5)
    source = torch.randint(0, 256, (5, 150, 150, 3), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    carrier = Carrier({0: small[0]}, {0: (source[0], source[0])})
    carrier.show(small, 0, small)
    assert all(
        torch.equal(carrier.show_large(number, source[number], source[number]), source[number]) for number in range(5)
    )
