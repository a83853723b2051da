"""Where the irises are, read from the picture: the mesh's own irises follow a glance up or down by a third of its way.

Each eye is resampled with the head's motion undone. The iris is the dark disc that, on a bright ground, best explains
the brightness between the lids (two means, least squares; the picture's part of Daugman 1993, IEEE PAMI 15(11), with
the circular edge replaced by the disc's whole area). Its place is the peak of that fit, to parts of a pixel by
parabola. How large the disc must be is seldom clear, and glints and lashes mislead small ones; so three sizes are
tried, and the mesh is a fourth reading. Both eyes look the same way: the less the two agree over the clip, relative to
how far they move, the less a reading counts in the mean.

That is where each iris is about. Then the irises of all frames are laid over each other, their mean is the clip's own
picture of that iris (with its pupil, ring and glints, as far as the lids show them), and each frame's is moved to where
it fits the mean best, by least squares on brightness; the mean is taken anew, and so on.

The places are those in the socket, a point that is fixed in the head. The mesh's corners of the eyes tremble by a fifth
of what an iris travels when it looks up by 10 degrees, so the socket is where all frames together have it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from synclora.faces.head import Array, Head

Light = NDArray[np.float32]
Lids = NDArray[np.int_]

# Corner to corner in the picture from left to right: edge of the upper lid, edge of the lower lid.
EYES = (
    (np.array([33, 246, 161, 160, 159, 158, 157, 173, 133]), np.array([33, 7, 163, 144, 145, 153, 154, 155, 133])),
    (np.array([362, 398, 384, 385, 386, 387, 388, 466, 263]), np.array([362, 382, 381, 380, 374, 373, 390, 249, 263])),
)
IRISES = (468, 473)  # centres; the four points after each lie on its edge
# In distances between the outer eye corners:
STEP = 0.01  # between samples; 1.5 px in a face that fills a picture of 512 px
REACH_X, REACH_Y = 0.22, 0.12  # of the patch from the middle of an eye's corners
MOVE_X, MOVE_Y = 0.12, 0.06  # of the iris from there
NEAR_X, NEAR_Y = 0.05, 0.04  # of the iris from where the mesh has it
LID = 0.005  # the lids' edges are left out
FINEST = 0.004  # step of the radius
RADII = (1.0, 1.3, 1.4)  # times the mesh's iris, which comes out small in large irises
DOUBT = 0.2  # variance between the eyes, over that of their mean, at which a reading has a quarter of its weight
DEEP = 0.003  # how much a frame's depth counts beside its picture in the socket's place
GLINT = 0.9  # quantile of a patch's brightness at which it is cut: a glint is as bright as the white, no brighter
OPEN = 0.25  # least part of the disc that must lie open
SEEN = 6.0  # least fit, in grey levels
WIDE = 0.6  # of the usual open area: eyes shut more tell nothing about the iris
BEYOND = 1.6  # times the mesh's iris: how far about its middle it is compared
SHOWN = 0.15  # of the frames must show a place of the mean iris
ROUNDS = 4  # of moving the irises to their mean and taking the mean anew
NOISE = 0.06  # of brightness, the patch's white being 1
SHARE = 10.0  # samples that vary together and count as one
NEAR_START, BRIGHTER = 0.02, 0.05  # deviations: of an iris from where it is about, of a frame's brightness
LARGEST = 0.03  # of one step
LUMA: Light = np.array([0.299, 0.587, 0.114], np.float32)

_X = np.arange(-REACH_X, REACH_X + STEP / 2, STEP)
_Y = np.arange(-REACH_Y, REACH_Y + STEP / 2, STEP)
_MOVES_X = np.arange(-MOVE_X, MOVE_X + STEP / 2, STEP)
_MOVES_Y = np.arange(-MOVE_Y, MOVE_Y + STEP / 2, STEP)


def mesh_irises(head: Head) -> Array:
    """The mesh's irises from the middle of each eye's corners: [F, 2, 2], left then right, x and y in the head's frame;
    the mean of the iris's centre for each eye."""
    eyes = zip(EYES, IRISES, strict=True)
    return np.stack([head.own[:, iris, :2] - head.own[:, lids[0][[0, -1]], :2].mean(1) for lids, iris in eyes], axis=1)


def find_irises(frames: NDArray[np.uint8], head: Head) -> Array:
    """The irises in their sockets: [F, 2, 2] as `mesh_irises` has them, but from the picture; NaN where an eye shows
    none, or too little of it.

    frames: uint8 [F, H, W, 3], those of the head, which had best be `register`ed. Where the picture shows an iris in
    less than half of the frames (a face too small, dark glasses), the mesh is all there is, and is returned.
    """
    eyes = [_open_eye(frames, head, lids, _socket(head, lids)) for lids in EYES]
    meshed = np.stack([_on_plane(head, iris, eye.socket) for eye, iris in zip(eyes, IRISES, strict=True)], axis=1)
    rings = [np.linalg.norm(head.own[:, iris + 1 : iris + 5] - head.own[:, iris, None], axis=-1) for iris in IRISES]
    ring = float(np.median(rings))
    readings = [meshed]
    for factor in RADII:
        radius = max(1, round(factor * ring / FINEST)) * FINEST
        found = np.empty_like(meshed)
        for side, eye in enumerate(eyes):
            far_x = abs(_MOVES_X - meshed[:, side, :1]) > NEAR_X
            far_y = abs(_MOVES_Y - meshed[:, side, 1:]) > NEAR_Y
            fit = np.where(far_x[:, None] | far_y[:, :, None], -255.0, _fit(eye.light, eye.mask, radius))
            found[:, side] = _peak(fit)
        if 2 * np.isfinite(found).all((1, 2)).sum() >= len(frames):
            readings.append(found)
    if len(readings) == 1:
        return mesh_irises(head)
    about = _agreed(np.stack(readings))
    return np.stack([_fitted(eye, about[:, side], ring) for side, eye in enumerate(eyes)], axis=1)


def _socket(head: Head, lids: tuple[Lids, Lids]) -> Array:
    """The point [3] of the head nearest to the middle of an eye's corners in all frames' pictures; as deep as the mesh
    has it where the head does not turn."""
    middle = head.own[:, lids[0][[0, -1]]].mean(1)
    seen = np.einsum("fij,fj->fi", head.axes[:, :2], middle).reshape(-1)
    rays = head.axes[:, :2].reshape(-1, 3)
    depth = DEEP * len(middle) * np.diag([0.0, 0.0, 1.0])
    return np.linalg.solve(rays.T @ rays + depth, rays.T @ seen + depth @ middle.mean(0))


def _on_plane(head: Head, points: int | Lids, socket: Array) -> Array:
    """Where landmarks show on the plane through the socket: x and y from it, [F, ..., 2]."""
    away = head.own[:, points] - socket
    slant = np.linalg.solve(head.axes[:, :2, :2], head.axes[:, :2, 2:])[..., 0]  # of the rays, per depth
    return away[..., :2] + away[..., 2:] * slant.reshape(len(away), *[1] * (away.ndim - 2), 2)


def _agreed(readings: Array) -> Array:
    """Mean of the readings [R, F, 2 eyes, 2], per axis weighted by how well both eyes agree in each."""
    known = np.isfinite(readings).all((0, 2, 3))
    left, right = readings[:, known, 0], readings[:, known, 1]
    apart = (left - right).var(axis=1) / np.maximum(((left + right) / 2).var(axis=1), 1e-9)  # [R, axes]
    weights = 1 / (apart + DOUBT) ** 2
    return np.einsum("ra,rfea->fea", weights / weights.sum(0), readings)


@dataclass(frozen=True)
class Eye:
    """light: brightness of a patch about the socket [F, Y, X]. mask: where in it the eye lies open (0 or 1). socket:
    the patch's middle in the head [3]."""

    light: Light
    mask: Light
    socket: Array


def open_eye(frames: NDArray[np.uint8], head: Head, lids: tuple[Lids, Lids]) -> Eye:
    """What shows of one eye; lids: one of `EYES`."""
    return _open_eye(frames, head, lids, _socket(head, lids))


def _open_eye(frames: NDArray[np.uint8], head: Head, lids: tuple[Lids, Lids], socket: Array) -> Eye:
    grid = np.stack([*np.meshgrid(_X, _Y), np.zeros((len(_Y), len(_X)))], axis=-1)
    light = sample(frames, head.to_picture(np.broadcast_to(socket + grid, (len(frames), *grid.shape))))
    light = np.minimum(light, np.quantile(light, GLINT, axis=(1, 2), keepdims=True))
    upper, lower = (_on_plane(head, lid, socket) for lid in lids)
    top = np.stack([np.interp(_X, *points.T) for points in upper])[:, None]
    bottom = np.stack([np.interp(_X, *points.T) for points in lower])[:, None]
    across = (upper[:, :1, 0] < _X) & (upper[:, -1:, 0] > _X)
    height = _Y[None, :, None]
    mask = (height > top + LID) & (height < bottom - LID) & across[:, None]
    return Eye(light, mask.astype(np.float32), socket)


def sample(frames: NDArray[np.uint8], places: Array) -> Light:
    """Brightness [F, ...] at places [F, ..., 2 or more] in pixels, between pixels by bilinear weights."""
    height, width = frames.shape[1:3]
    x, y = np.clip(places[..., 0] - 0.5, 0, width - 1.001), np.clip(places[..., 1] - 0.5, 0, height - 1.001)
    left, top = x.astype(np.intp), y.astype(np.intp)
    right, down = (x - left).astype(np.float32), (y - top).astype(np.float32)
    index = np.arange(len(frames)).reshape(-1, *[1] * (x.ndim - 1))
    light = np.zeros(x.shape, np.float32)
    for row, weight_y in ((top, 1 - down), (top + 1, down)):
        for column, weight_x in ((left, 1 - right), (left + 1, right)):
            light += (frames[index, row, column] @ LUMA) * weight_x * weight_y
    return light


def _fit(light: Light, mask: Light, radius: float) -> Light:
    """How well a dark disc tells the open eye's brightness, for each place of its centre [F, moves y, moves x]: the
    difference of the two means times sqrt(n_disc n_ground) / n (the root of the variance explained), in grey levels."""
    discs = _discs(radius)
    flat, shown = mask.reshape(len(mask), -1), (light * mask).reshape(len(mask), -1)
    open_all, everything = flat.sum(1, keepdims=True), shown.sum(1, keepdims=True)
    open_disc, inside = flat @ discs, shown @ discs
    open_ground = open_all - open_disc
    apart = (everything - inside) / np.maximum(open_ground, 1) - inside / np.maximum(open_disc, 1)
    fit = apart * np.sqrt(np.maximum(open_disc * open_ground, 0)) / np.maximum(open_all, 1)
    enough = open_disc > OPEN * np.pi * (radius / STEP) ** 2
    return np.where(enough, fit, -255.0).reshape(len(mask), len(_MOVES_Y), len(_MOVES_X))


@lru_cache(maxsize=32)
def _discs(radius: float) -> NDArray[np.float32]:
    """Discs about every place as columns [Y * X, places], with soft edges."""
    grid = np.stack(np.meshgrid(_X, _Y), axis=-1).reshape(-1, 1, 2)
    centres = np.stack(np.meshgrid(_MOVES_X, _MOVES_Y), axis=-1).reshape(1, -1, 2)
    away = np.linalg.norm(grid - centres, axis=-1)
    return np.clip((radius - away) / STEP + 0.5, 0, 1).astype(np.float32)


def _peak(fit: Light) -> Array:
    """The place of the best fit [F, 2], NaN where it is too low."""
    frames = np.arange(len(fit))
    row, column = np.unravel_index(fit.reshape(len(fit), -1).argmax(1), fit.shape[1:])
    top = fit[frames, row, column]
    place = []
    for values, index, moves in ((fit[frames, row], column, _MOVES_X), (fit[frames, :, column], row, _MOVES_Y)):
        inside = np.clip(index, 1, len(moves) - 2)
        before, after = values[frames, inside - 1], values[frames, inside + 1]
        bend = before - 2 * top + after
        between = (index == inside) & (bend < 0) & (np.minimum(before, after) > -255)
        place.append(moves[index] + STEP * np.where(between, 0.5 * (before - after) / np.where(between, bend, 1), 0))
    return np.where((top > SEEN)[:, None], np.stack(place, axis=-1), np.nan)


def _fitted(eye: Eye, about: Array, ring: float) -> Array:
    """The iris's places [F, 2] where each frame's iris fits the clip's mean iris best, from `about` [F, 2]; NaN where
    the eye is too narrow to compare: what was found there, between lids and lashes, jumps by a fifth of a glance."""
    known = np.isfinite(about).all(1)
    area = eye.mask.sum((1, 2))
    known &= area > WIDE * np.quantile(area, 0.75)
    if known.sum() < 2:
        return about.copy()
    places = np.full_like(about, np.nan)
    light, mask, start = eye.light[known], eye.mask[known], about[known]
    light = light / np.maximum(np.quantile(light, 0.95, axis=(1, 2), keepdims=True), 10)
    reach = int(BEYOND * ring / STEP)
    x, y = np.meshgrid(np.arange(-reach, reach + 1), np.arange(-reach, reach + 1))
    disc = np.hypot(x, y) <= reach
    prior = np.diag([*[NEAR_START**-2] * 2, BRIGHTER**-2])
    at = start.copy()
    for _ in range(ROUNDS):
        column = (at[:, 0, None, None] - _X[0]) / STEP + x
        row = (at[:, 1, None, None] - _Y[0]) / STEP + y
        seen, weights = _shifted(light, column, row), (_shifted(mask, column, row) > 0.99) & disc
        count = weights.sum(0)
        mean = (seen * weights).sum(0) / np.maximum(count, 1)
        variance = (weights * (seen - mean) ** 2).sum(0) / np.maximum(count, 1)
        trusted = weights / (1 + (seen - mean) ** 2 / (2 * (variance + NOISE**2)))
        total = np.maximum(trusted.sum(0), 1e-6)
        mean = (seen * trusted).sum(0) / total
        variance = (trusted * (seen - mean) ** 2).sum(0) / total + NOISE**2
        # Slopes are known where the mean is, next to it too.
        common = np.pad(count > SHOWN * len(at), 1)
        common = common[1:-1, 1:-1] & common[2:, 1:-1] & common[:-2, 1:-1] & common[1:-1, 2:] & common[1:-1, :-2]
        slope_y, slope_x = np.gradient(mean, STEP)
        changes = np.stack([slope_x, slope_y, np.ones_like(mean)], axis=-1).reshape(-1, 3)
        weights = (trusted * common / (variance * SHARE)).reshape(len(at), -1)
        gain = (weights * (mean - seen).reshape(len(at), -1)) @ changes
        gain[:, :2] -= (at - start) / NEAR_START**2
        normal = np.einsum("fn,ni,nj->fij", weights, changes, changes, optimize=True) + prior
        at = at + np.linalg.solve(normal, gain[..., None])[:, :2, 0].clip(-LARGEST, LARGEST)
    places[known] = at
    return places


def _shifted(patches: Light, column: Array, row: Array) -> Array:
    """Patches [F, Y, X] between their samples, at columns and rows [F, ...]."""
    high, wide = patches.shape[1:]
    column, row = np.clip(column, 0, wide - 1.001), np.clip(row, 0, high - 1.001)
    left, top = column.astype(np.intp), row.astype(np.intp)
    right, down = column - left, row - top
    index = (np.arange(len(patches)) * high * wide).reshape(-1, *[1] * (row.ndim - 1)) + top * wide + left
    one, two, three, four = (patches.ravel().take(index + d) for d in (0, 1, wide, wide + 1))
    upper, lower = one + (two - one) * right, three + (four - three) * right
    return upper + (lower - upper) * down
