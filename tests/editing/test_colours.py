"""What an edit does to colours: found where it is a function of them, and known not to be one where it is not."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from synclora.editing.colours import ColourChange, recolour, resized

Array = NDArray[np.float32]
SIDE = 96
STILL = np.zeros((SIDE, SIDE, 2), np.float32)
EVEN = np.ones((SIDE, SIDE), np.float32)
MATRIX = np.array([[0.6, 0.1, 0], [0.2, 0.8, 0.1], [0, 0.1, 0.5]], np.float32)


def colour(*levels: float) -> Array:
    return np.array(levels, np.float32)


def texture(seed: int = 0, blur: float = 1.5) -> Array:
    """Many colours side by side, [96, 96, 3]."""
    import cv2

    noise = np.random.default_rng(seed).normal(size=(SIDE, SIDE, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), blur)
    return (128 + 35 * smooth / smooth.std()).clip(0, 255).astype(np.float32)


def halves(left: Array, right: Array, at: int = SIDE // 2) -> Array:
    return np.where(np.arange(SIDE)[None, :, None] < at, left, right)


def test_an_affine_map_of_colours_is_found_and_fits_frames_it_has_not_seen() -> None:
    own, later = texture(0), texture(1)
    change = ColourChange(own, own @ MATRIX + 20, EVEN)
    for picture in (own, later):
        affine, told = change.at(picture, STILL)
        error = np.abs(picture + recolour(affine, picture) - (picture @ MATRIX + 20))[8:-8, 8:-8]
        assert error.mean() < 1 < 15 < np.abs(picture @ MATRIX + 20 - picture).mean()
        assert told.min() > 0.98


def test_what_appears_gets_the_colour_of_its_like_beside_it() -> None:
    """Light skin made dark beside a blue that stays; then the edge is 3 px elsewhere, which the flow does not know:
    each pixel is taken for what it looks like, not for what was there."""
    grain = (texture(2) - 128) / 10
    skin, blue = colour(220, 180, 150) + grain, colour(40, 60, 160) + grain
    dark = 0.4 * skin
    change = ColourChange(halves(skin, blue), halves(dark, blue), EVEN)
    for at in (SIDE // 2 - 3, SIDE // 2 + 3):
        later = halves(skin, blue, at)
        error = np.abs(later + recolour(change.at(later, STILL)[0], later) - halves(dark, blue, at))
        added = np.abs(later + halves(dark - skin, 0 * blue) - halves(dark, blue, at))
        strip = slice(SIDE // 2 - 3, SIDE // 2 + 3)
        assert error[:, strip].mean() < 6 < 40 < added[:, strip].mean()


def test_the_places_move_with_the_flow() -> None:
    """The left half gets redder and the right half bluer, in the same colours: after 10 px to the right each side is
    found 10 px further."""
    own = texture(3)
    red, blue = own + colour(30, 0, 0), own + colour(0, 0, 30)
    change = ColourChange(own, halves(red, blue), EVEN)
    flow = STILL + colour(-10, 0)
    moved = recolour(change.at(own, flow)[0], own)
    assert moved[:, SIDE // 2 + 6, 0].mean() > 20 > 10 > moved[:, SIDE // 2 + 14, 0].mean()
    still = recolour(change.at(own, STILL)[0], own)
    assert still[:, SIDE // 2 - 6, 0].mean() > 20 > 10 > still[:, SIDE // 2 + 6, 0].mean()


def test_no_edit_changes_nothing_at_all() -> None:
    own = texture()
    affine, told = ColourChange(own, own, EVEN).at(texture(5), STILL)
    assert not affine.any() and told.min() == 1


def test_something_new_is_not_told_by_colours() -> None:
    """Another texture in a square: there little is told, far from it everything."""
    own = texture(6, 3)
    edited = own.copy()
    edited[30:66, 30:66] = texture(7, 3)[30:66, 30:66] * 2 - 128
    told = ColourChange(own, edited, EVEN).at(own, STILL)[1]
    assert told[38:58, 38:58].mean() < 0.75 and told[:10].min() > 0.99


def test_what_does_not_count_is_not_seen() -> None:
    """Whatever the edit does in a square that does not count, beside it is the same map, but for rounding."""
    own = texture(8)
    counts = EVEN.copy()
    counts[40:50, 40:50] = 0
    plain, spoilt = own @ MATRIX, own @ MATRIX
    spoilt[40:50, 40:50] = 255
    maps = [ColourChange(own, edited, counts).at(own, STILL)[0] for edited in (plain, spoilt)]
    beside = (slice(None), slice(30, 60), slice(51, 60))
    assert np.abs(maps[0][beside] - maps[1][beside]).max() < 1e-3
    everywhere = ColourChange(own, spoilt, EVEN).at(own, STILL)[0]
    assert np.abs(maps[0][beside] - everywhere[beside]).max() > 0.1


def test_maps_are_resized_as_pictures_are() -> None:
    own = texture(9)
    affine = ColourChange(own, own @ MATRIX + 20, EVEN).at(own, STILL)[0]
    large = resized(affine, 2 * SIDE, 3 * SIDE)
    assert large.shape == (3, 2 * SIDE, 3 * SIDE, 4)
    colours = np.full((2 * SIDE, 3 * SIDE, 3), 128, np.float32)
    error = np.abs(colours + recolour(large, colours) - (colours @ MATRIX + 20))[20:-20, 20:-20]
    assert error.mean() < 2
