"""The head's pose read from the picture: the mesh alone trembles by half a degree, and nods where the mouth opens.

Each frame is drawn flat: the face's surface (the clip's mean head, from the mesh) is laid into the picture where the
mesh has it and its brightness read off, as a map of the face seen from the front. The maps of all frames are alike, but
for small shifts wherever the pose is a little wrong; each frame is moved, turned and scaled until its map fits the mean
map best (Gauss-Newton on brightness, as in Lucas and Kanade 1981; Baker and Matthews 2004, IJCV 56(3)), and the mean is
taken anew. What moves by itself counts little: a place of the map has the less weight the more it varies over the clip,
a place unlike the mean in one frame (a hand, a glint) little in that frame. Brows and forehead, whose skin goes with
them, the eyes and the mouth are left out. The pose stays near the mesh's: where the picture tells nothing, it is that.

A frame is compared with the clip's mean alone, never with its neighbours, so nothing moves in time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from synclora.faces.head import Array, Head
from synclora.faces.irises import EYES

Map = NDArray[np.float32]

LOW_BROWS = np.array([46, 53, 52, 65, 55, 285, 295, 282, 283, 276])  # lower edge, from left to right in the picture
# In distances between the outer eye corners:
STEP = 0.02  # of the map; 3 px in a face that fills a picture of 512 px
REACH_X, TOP, BOTTOM = 0.72, -0.62, 0.55  # of the map about the head's middle: ears, hairline, upper lip
NEAR = 0.07  # how far landmarks shape the surface
EYE_RIM = 0.03  # left out around the lids
FLAT_STEPS = 6  # of the map: shading wider than this is taken out, since it changes as a head turns
VIEW = 1.05  # of the part of the picture that is kept, from the head's middle
ROUNDS = 3
LEAST_CONTRAST = 0.03  # of the logarithm of brightness: less is the sensor's noise
NOISE = 0.2  # deviation in units of the local contrast that any place has, however still
SHARE = 60.0  # places that vary together and count as one
# How far off the mesh may be, as deviations: turns about the picture's x, y, z, log scale, shift in x and y.
MESH = np.array([np.radians(2.5), np.radians(2.0), np.radians(1.0), 0.01, 0.01, 0.01])
LARGEST = 0.1  # of one step of Gauss-Newton


@dataclass(frozen=True)
class _Surface:
    """places: [G, 3] of the map's grid in the head's frame; slopes: dz/dx, dz/dy there. used: indices [N] of what is
    compared; normals: [N, 3] out of the face there. shape: of the grid."""

    places: Map
    slopes: Map
    used: NDArray[np.intp]
    normals: Map
    shape: tuple[int, int]


@dataclass(frozen=True)
class _View:
    """The grey picture about one face, uint8, smoothed to the map's step; its corner in pixels and pixels a sample."""

    grey: NDArray[np.uint8]
    corner: tuple[int, int]
    pixels: int


def register(frames: NDArray[np.uint8], head: Head) -> Head:
    """The head with its pose read from the picture and its landmarks as seen from there.

    frames: uint8 [F, H, W, 3], those of the head.
    """
    surface = _surface(head.own.mean(0))
    views = [_view(*frame) for frame in zip(frames, head.unit, head.middle, strict=True)]
    axes, unit, middle = head.axes.copy(), head.unit.copy(), head.middle.copy()
    moved = np.zeros((len(frames), len(MESH)))  # from where the mesh has the head
    for _ in range(ROUNDS):
        maps = _maps(views, surface, axes, unit, middle)
        facing = np.clip(-2 * axes[:, 2].astype(np.float32) @ surface.normals.T - 0.2, 0, 1)
        slope_x, slope_y, apart, weights = _against_mean(maps, facing, surface)
        for f, turned in enumerate(axes.astype(np.float32)):
            changes = _changes(surface, turned, slope_x, slope_y)
            weighted = changes * weights[f]
            normal = (weighted @ changes.T).astype(np.float64) + np.diag(MESH**-2)
            step = np.linalg.solve(normal, weighted @ apart[f] - moved[f] / MESH**2).clip(-LARGEST, LARGEST)
            moved[f] += step
            axes[f] = _turn(step[:3]) @ axes[f]
            unit[f] *= np.exp(step[3])
            middle[f, :2] += step[4:] * unit[f]
    points = head.to_picture(head.own)
    return Head((points - middle[:, None]) @ axes / unit[:, None, None], axes, unit, middle)


def _surface(mean: Array) -> _Surface:
    """The face's surface as depth over a grid, by local linear regression on the mean head's landmarks [478, 3]."""
    x, y = np.meshgrid(np.arange(-REACH_X, REACH_X + STEP / 2, STEP), np.arange(TOP, BOTTOM + STEP / 2, STEP))
    grid = np.stack([x, y], axis=-1).reshape(-1, 2)
    near = np.exp(-0.5 * ((mean[:468, :2] - grid[:, None]) ** 2).sum(-1) / NEAR**2) + 1e-12
    depth, slopes = _local_plane(grid, near, mean[:468])
    inside = box_mean((near.sum(1) > 0.3).astype(np.float32).reshape(x.shape), 1) > 0.999
    brows = mean[LOW_BROWS][np.argsort(mean[LOW_BROWS, 0])]
    inside &= y > np.interp(x, brows[:, 0], brows[:, 1])
    for upper, lower in EYES:
        above = y > np.interp(x, mean[upper, 0], mean[upper, 1], left=9, right=9) - EYE_RIM
        below = y < np.interp(x, mean[lower, 0], mean[lower, 1], left=-9, right=-9) + EYE_RIM
        inside &= ~(above & below)
    used = np.flatnonzero(inside)
    normals = np.column_stack([slopes[used], -np.ones(len(used))])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    places = np.column_stack([grid, depth]).astype(np.float32)
    return _Surface(places, slopes.astype(np.float32), used, normals.astype(np.float32), (len(x), len(x[0])))


def _local_plane(grid: Array, weights: Array, points: Array) -> tuple[Array, Array]:
    """Weighted least squares of z = depth + slopes (x, y - grid) at places [G, 2]; weights [G, K], points [K, 3].

    Returns:
        depth [G], slopes [G, 2].
    """
    x, y, z = points.T
    sums = weights @ np.stack([np.ones_like(x), x, y, z, x * x, x * y, y * y, x * z, y * z], axis=-1)
    sums /= sums[:, :1]
    _, mx, my, mz, mxx, mxy, myy, mxz, myz = sums.T
    vxx, vxy, vyy = mxx - mx * mx + 1e-6, mxy - mx * my, myy - my * my + 1e-6
    cx, cy = mxz - mx * mz, myz - my * mz
    area = vxx * vyy - vxy * vxy
    slopes = np.stack([cx * vyy - cy * vxy, cy * vxx - cx * vxy], axis=-1) / area[:, None]
    return mz + (slopes * (grid - np.stack([mx, my], axis=-1))).sum(1), slopes


def _view(frame: NDArray[np.uint8], unit: float, middle: Array) -> _View:
    height, width = frame.shape[:2]
    left, top = (int(np.clip(at - VIEW * unit, 0, side - 2)) for at, side in zip(middle, (width, height), strict=False))
    right = int(np.clip(middle[0] + VIEW * unit, left + 2, width))
    bottom = int(np.clip(middle[1] + VIEW * unit, top + 2, height))
    picture = Image.fromarray(np.ascontiguousarray(frame[top:bottom, left:right])).convert("L")
    pixels = max(1, int(STEP * unit / 2))
    pixels = min(pixels, (right - left) // 2, (bottom - top) // 2)
    picture = picture.reduce(pixels) if pixels > 1 else picture
    blur = (STEP * unit / pixels - 1) / 2
    if blur > 0:
        picture = picture.filter(ImageFilter.BoxBlur(float(blur)))
    return _View(np.asarray(picture), (left, top), pixels)


def _maps(views: list[_View], surface: _Surface, axes: Array, unit: Array, middle: Array) -> Map:
    """Each frame's map [F, Y, X]: the logarithm of brightness, flattened and in units of the local contrast."""
    maps = np.empty((len(views), len(surface.places)), np.float32)
    for f, view in enumerate(views):
        x, y = (unit[f] * axes[f, :2]).astype(np.float32) @ surface.places.T
        x = (x + np.float32(middle[f, 0] - view.corner[0])) / view.pixels
        y = (y + np.float32(middle[f, 1] - view.corner[1])) / view.pixels
        maps[f] = _between(view.grey, x, y)
    maps = np.log(maps + 10).reshape(-1, *surface.shape)  # 10: grey levels; darker ones differ by noise alone
    maps -= box_mean(maps, FLAT_STEPS)
    maps /= np.sqrt(box_mean(maps * maps, 2 * FLAT_STEPS) + LEAST_CONTRAST**2)
    return maps


def _between(grey: NDArray[np.uint8], x: Map, y: Map) -> Map:
    """Brightness between samples by bilinear weights; x, y in samples, 0.5 being the first one's middle."""
    height, width = grey.shape
    x, y = np.clip(x - 0.5, 0, width - 1.01), np.clip(y - 0.5, 0, height - 1.01)
    left, top = x.astype(np.int32), y.astype(np.int32)
    right, down = x - left, y - top
    index, values = top * width + left, grey.ravel()
    one, two, three, four = (values.take(index + d).astype(np.float32) for d in (0, 1, width, width + 1))
    upper, lower = one + (two - one) * right, three + (four - three) * right
    return upper + (lower - upper) * down


def _against_mean(maps: Map, facing: Map, surface: _Surface) -> tuple[Map, Map, Map, Map]:
    """The mean map's slopes in x and y [N], what each frame lacks of the mean [F, N], and the weight of that [F, N]."""
    used = surface.used
    seen = maps.reshape(len(maps), -1)[:, used]
    count = np.maximum(facing.sum(0), 1e-3)
    mean = (seen * facing).sum(0) / count
    for _ in range(2):
        apart = mean - seen
        variance = (facing * apart**2).sum(0) / count + NOISE**2
        weights = facing / (1 + apart**2 / (2 * variance))
        mean = (seen * weights).sum(0) / np.maximum(weights.sum(0), 1e-3)
    apart = mean - seen
    variance = (facing * apart**2).sum(0) / count + NOISE**2
    flat = maps.mean(0).ravel()
    flat[used] = mean
    slope_y, slope_x = np.gradient(flat.reshape(surface.shape), STEP)
    return slope_x.ravel()[used], slope_y.ravel()[used], apart, weights / (variance * SHARE)


def _changes(surface: _Surface, axes: Map, slope_x: Map, slope_y: Map) -> Map:
    """What the map gains by each of the six motions, [6, N]: its slopes, taken into the picture, times the motion of
    the surface there (parallel rays)."""
    places, slopes = surface.places[surface.used], surface.slopes[surface.used]
    at = axes @ places.T
    xx, xy = axes[0, 0] + axes[0, 2] * slopes[:, 0], axes[0, 1] + axes[0, 2] * slopes[:, 1]
    yx, yy = axes[1, 0] + axes[1, 2] * slopes[:, 0], axes[1, 1] + axes[1, 2] * slopes[:, 1]
    area = xx * yy - xy * yx  # of the picture for one of the map; none where the surface is seen from its edge
    inverse = np.where(area > 0.2, 1 / np.maximum(area, 0.2), 0)
    x, y = (slope_x * yy - slope_y * yx) * inverse, (slope_y * xx - slope_x * xy) * inverse
    return np.stack([-y * at[2], x * at[2], y * at[0] - x * at[1], x * at[0] + y * at[1], x, y])


def _turn(by: Array) -> Array:
    """Rotation matrix about an axis [3] by its length in radians (Rodrigues)."""
    angle = float(np.linalg.norm(by))
    x, y, z = by / max(angle, 1e-12)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def box_mean(values: Map, reach: int) -> Map:
    """Mean over windows of 2 * reach + 1 by as many, cut at the borders; values [..., Y, X]."""
    for axis in (-1, -2):
        size = values.shape[axis]
        sums = np.cumsum(values, axis=axis, dtype=np.float32)
        sums = np.concatenate([np.zeros_like(sums.take([0], axis)), sums], axis)
        stop, start = np.minimum(np.arange(size) + reach + 1, size), np.maximum(np.arange(size) - reach, 0)
        count = (stop - start).astype(np.float32)
        values = (sums.take(stop, axis) - sums.take(start, axis)) / (count if axis == -1 else count[:, None])
    return values
