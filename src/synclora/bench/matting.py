"""Which pixels of a clip are the person, the hair, the clothes: soft masks for edits that are composited on footage.

The person comes from MediaPipe's selfie segmentation, whose model is part of the wheel, with its edge drawn along the
picture's own by a guided filter (He et al. 2013, IEEE PAMI 35(6)). Models for hair and clothes are not part of the
wheel, so these two are derived: what lies above the brows and outside the face is taken for hair, the face for skin,
what lies well below the chin for clothes; from the colours found there every pixel of the person is told to be one of
the three, the same way in all frames. It is a guess by place and colour: a hat counts as hair, a dark scarf below dark
long hair may as well. For an edit whose truth is known by construction that is good enough, so long as it is steady.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from synclora.bench.pixels import Array, Frames, Mask, Picture, blurred, filled, smooth_in_time, to_lab
from synclora.faces.graphs import quiet_stderr

# Indices into MediaPipe's face mesh.
OVAL = [10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152, 148, 176, 149,
        150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109]  # fmt: skip
BROW_TOPS = [70, 63, 105, 66, 107, 336, 296, 334, 293, 300]
FOREHEAD, CHIN = 10, 152
CHEEKS = [50, 280, 205, 425, 117, 346, 36, 266]

EDGE = 100  # the edge of a mask is looked for within 1 / 100 of the picture's side
HOLE = 0.01  # of the picture: a smaller hole in the person, such as an earring, is part of it
SAMPLES = 20_000  # pixels that the colours of a part are learnt from
PARTS = 3  # gaussians a part
LEAST = 0.015  # of the picture: less hair or clothes than this is no edit to speak of
MOSTLY = 0.4  # of what is below the chin must be clothes, of what is above the brows must not be skin
NEVER = -1e9  # log likelihood
SHADE = 0.78  # of the skin's lightness: what has its hue and is no darker than this is skin
FRINGE = 2.0  # of log likelihood: how much more like hair than skin a pixel of the forehead must be
APART = 3.0  # deviations between hair and skin; a bald head has hair the colour of skin
HUE = 0.5  # radians to either side of the skin's
ALIKE = 25.0  # in Lab, of skin from its median


@dataclass(frozen=True)
class Layers:
    """A clip's frames, uint8 [F, H, W, 3], its landmarks, [F, 478, 3] in pixels with a face in every frame, and the
    masks derived from them when they are first asked for."""

    frames: Frames
    landmarks: Array

    @cached_property
    def person(self) -> Mask:
        """How much of each pixel is the person, float32 [F, H, W] in [0, 1]."""
        rough = [_without_holes(mask) for mask in _segment(self.frames)]
        return np.stack([_refined(frame, mask) for frame, mask in zip(self.frames, rough, strict=True)])

    @cached_property
    def hair(self) -> Mask | None:
        """The same for the hair; None where there is too little of it."""
        return self._parts[0]

    @cached_property
    def clothes(self) -> Mask | None:
        """The same for the clothes; None where there is too little of them."""
        return self._parts[1]

    @cached_property
    def _parts(self) -> tuple[Mask | None, Mask | None]:
        labs = [_colours_of(frame) for frame in self.frames]
        height, width = self.frames.shape[1:3]
        places = [_Places(points, (height, width)) for points in self.xy]
        solid = self.person > 0.9
        hair = _Colours.learn(labs, [s & p.above for s, p in zip(solid, places, strict=True)])
        skin = _Colours.learn(labs, _near_median(labs, [p.cheeks for p in places]))
        if skin is None:
            return None, None
        hair = hair and hair.unlike(skin)
        others = [part for part in (hair, skin) if part]
        seeds = [
            s & p.below & (np.min([o.far(lab) for o in others], axis=0) > APART**2) & ~_same_hue(lab, skin.means)
            for s, p, lab in zip(solid, places, labs, strict=True)
        ]
        clothes = _Colours.learn(labs, seeds)
        masks = self._told(labs, places, hair, skin, clothes)
        below = np.stack([s & place.below for s, place in zip(solid, places, strict=True)])
        if clothes is not None and masks[1][below].mean() < MOSTLY:
            masks = self._told(labs, places, hair, skin, None)
        hairy, clad = (mask if mask.mean() > LEAST else None for mask in masks)
        return hairy, clad

    def _told(
        self,
        labs: list[Picture],
        places: list[_Places],
        hair: _Colours | None,
        skin: _Colours,
        clothes: _Colours | None,
    ) -> tuple[Mask, Mask]:
        """Every pixel of the person by the likeliest of the three: masks of hair and of clothes."""
        found: tuple[list[Mask], list[Mask]] = ([], [])
        for frame, lab, place, person in zip(self.frames, labs, places, self.person, strict=True):
            likely = [part.likelihood(lab) if part else np.full(lab.shape[:2], NEVER) for part in (hair, skin, clothes)]
            likely[1][place.below & ~_same_hue(lab, skin.means)] = NEVER  # a neck has the hue of the face
            is_hair = (likely[0] > np.maximum(likely[1], likely[2])) & ~place.face
            is_hair |= (likely[0] > likely[1] + FRINGE) & place.hairline
            is_clothes = (likely[2] > np.maximum(likely[0], likely[1])) & place.below_brows & (likely[2] > NEVER)
            for masks, chosen, region in ((found[0], is_hair, place.above), (found[1], is_clothes, place.below)):
                masks.append(np.minimum(_refined(frame, _touching(chosen & (person > 0.3), region)), person))
            if hair:
                found[0][-1] *= _soft_step(likely[0] - likely[1] - FRINGE) * _rim(found[0][-1], lab, hair, skin)
        return np.stack(found[0]), np.stack(found[1])

    @cached_property
    def xy(self) -> Array:
        """The landmarks in the picture, [F, 478, 2], steadied by a symmetric filter over three frames."""
        return smooth_in_time(self.landmarks[:, :, :2])


def foreground(frame: Frames, alpha: Mask) -> NDArray[np.float32]:
    """The person's own colours at the soft edge, where a pixel mixes them with the background: float32 [H, W, 3].

    Blur fusion in two passes, a wide and a narrow one (Forte 2021, IEEE ICIP, "Approximate Fast Foreground Colour
    Estimation"); here solid pixels count more than by their alpha, by its cube.
    """
    image, a = frame.astype(np.float32), alpha[..., None]
    front = behind = image
    for part in (8, 48):
        wide = _odd(min(alpha.shape) / part)
        near, far = _spread(front, alpha**3, wide), _spread(behind, (1 - alpha) ** 3, wide)
        rest = image - a * near - (1 - a) * far
        front, behind = np.clip(near + a * rest, 0, 255), np.clip(far + (1 - a) * rest, 0, 255)
    return front


def _spread(colours: Picture, weight: Mask, wide: int) -> Picture:
    """The weighted mean colours in a square of `wide` pixels about each."""
    import cv2

    share = np.asarray(cv2.blur(weight, (wide, wide)), np.float32)[..., None]
    return np.asarray(cv2.blur(colours * weight[..., None], (wide, wide)), np.float32) / (share + 1e-5)


def _segment(frames: Frames) -> Mask:
    with quiet_stderr():
        from mediapipe.python.solutions.selfie_segmentation import SelfieSegmentation

        network = SelfieSegmentation(model_selection=0)
        network.process(np.zeros((64, 64, 3), np.uint8))
    try:
        results = [getattr(network.process(np.ascontiguousarray(frame)), "segmentation_mask") for frame in frames]  # noqa: B009
    finally:
        network.close()
    return np.stack(results).astype(np.float32)


class _Places:
    """Regions of one picture by where its face is: boolean [H, W] each."""

    def __init__(self, xy: Array, size: tuple[int, int]) -> None:
        up = xy[FOREHEAD] - xy[CHIN]
        tall = float(np.linalg.norm(up))
        up = up / tall
        y, x = np.mgrid[: size[0], : size[1]]
        above_chin = (x - xy[CHIN, 0]) * up[0] + (y - xy[CHIN, 1]) * up[1]
        brows = float(((xy[BROW_TOPS] - xy[CHIN]) @ up).max())
        middle = xy[OVAL].mean(0)
        oval = filled([xy[OVAL]], size) > 0.5
        wide = filled([middle + 1.12 * (xy[OVAL] - middle)], size) > 0.5
        inner = filled([middle + 0.85 * (xy[OVAL] - middle)], size) > 0.5
        self.face = oval
        self.hairline = oval & ((above_chin > brows + 0.12 * tall) | (~inner & (above_chin > 0.45 * tall)))
        self.above = ~wide & (above_chin > brows)
        self.below_brows = ~oval & (above_chin < brows)
        self.below = ~wide & (above_chin < -0.15 * tall)
        self.cheeks = filled([xy[[index]] + 0.04 * tall * _circle() for index in CHEEKS], size) > 0.5


@dataclass(frozen=True)
class _Colours:
    """The colours of a part: gaussians in Lab by mean [K, 3], inverse covariance [K, 3, 3], log weight over root
    determinant [K], and weight [K]."""

    means: Array
    inverses: Array
    heights: Array
    weights: Array

    @classmethod
    def learn(cls, labs: list[Picture], masks: list[NDArray[np.bool_]]) -> _Colours | None:
        """From the pixels of all frames that the masks choose; None where there are too few."""
        import cv2

        pixels = np.concatenate([lab[mask] for lab, mask in zip(labs, masks, strict=True)])
        if len(pixels) < 30 * PARTS * len(labs):
            return None
        pixels = np.ascontiguousarray(pixels[:: max(1, len(pixels) // SAMPLES)])
        order = np.argsort(np.argsort(pixels[:, 0], kind="stable"))
        labels = (order * PARTS // len(pixels)).astype(np.int32)[:, None]  # from dark to light: no chance involved
        stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_MAX_ITER, 20, 0.1)
        _, labels, _ = cv2.kmeans(pixels, PARTS, labels, stop, 1, cv2.KMEANS_USE_INITIAL_LABELS)
        groups = [pixels[labels[:, 0] == k].astype(np.float64) for k in range(PARTS)]
        groups = [group for group in groups if len(group) > 30]
        covariances = np.stack([np.cov(group.T) + 4.0 * np.eye(3) for group in groups])
        weights = np.array([len(group) for group in groups]) / len(pixels)
        heights = np.log(weights) - 0.5 * np.log(np.linalg.det(covariances))
        return cls(np.stack([group.mean(0) for group in groups]), np.linalg.inv(covariances), heights, weights)

    def far(self, lab: Picture) -> NDArray[np.float32]:
        """Squared Mahalanobis distance of each pixel to the nearest gaussian, [H, W]."""
        return np.min([self._squared(lab, k) for k in range(len(self.means))], axis=0)

    def likelihood(self, lab: Picture) -> Array:
        """Log likelihood of each pixel, up to a constant that all parts share, [H, W]."""
        return np.max([h - 0.5 * self._squared(lab, k) for k, h in enumerate(self.heights)], axis=0)

    def unlike(self, other: _Colours) -> _Colours | None:
        """Only the gaussians that are not the other part's colours in another light; None where those are few."""
        means = self.means[None].astype(np.float32)
        alike = _same_hue(means, other.means)[0] & (self.means[:, 0] > SHADE * other.means[:, 0].mean())
        apart = ~alike & (np.sqrt(other.far(means)[0]) > APART)
        if self.weights[apart].sum() < MOSTLY:
            return None
        return _Colours(self.means[apart], self.inverses[apart], self.heights[apart], self.weights[apart])

    def _squared(self, lab: Picture, k: int) -> NDArray[np.float32]:
        root = np.linalg.cholesky(self.inverses[k]).astype(np.float32)
        apart = (lab.reshape(-1, 3) - self.means[k].astype(np.float32)) @ root
        return np.einsum("ni,ni->n", apart, apart).reshape(lab.shape[:2])


def _near_median(labs: list[Picture], masks: list[NDArray[np.bool_]]) -> list[NDArray[np.bool_]]:
    """The masks without pixels far from their median colour: a lock of hair on the cheek."""
    median = np.median(np.concatenate([lab[mask] for lab, mask in zip(labs, masks, strict=True)]), axis=0)
    return [mask & (np.linalg.norm(lab - median, axis=-1) < ALIKE) for lab, mask in zip(labs, masks, strict=True)]


def _rim(mask: Mask, lab: Picture, part: _Colours, beside: _Colours) -> Mask:
    """What to multiply a mask with so that its rim, where a pixel mixes two parts, fades as its colour nears the other
    part's: with t the place between the two mean colours, 1 up to t = 0.25 and 0 from t = 0.75 on."""
    import cv2

    start, end = part.means.mean(0), beside.means.mean(0)
    between = ((lab - start) @ (end - start)) / float((end - start) @ (end - start))
    width = 2 * round(min(mask.shape) / EDGE) + 1
    inner = blurred(cv2.erode(mask, np.ones((width, width), np.uint8), iterations=2), width / 2)
    return inner + (1 - inner) * (1 - np.clip(2 * between - 0.5, 0, 1)).astype(np.float32)


def _soft_step(x: Array) -> Mask:
    return (1 / (1 + np.exp(-np.clip(x, -30, 30)))).astype(np.float32)


def _same_hue(lab: Picture, means: Array) -> NDArray[np.bool_]:
    """Pixels of about the hue of a part's mean, and no less than half as colourful: a neck in the shade of the head."""
    a, b = means[:, 1:].mean(0)
    along = (lab[..., 1] * a + lab[..., 2] * b) / np.hypot(a, b)
    chroma = np.hypot(lab[..., 1], lab[..., 2])
    return (along > np.cos(HUE) * chroma) & (chroma > 0.5 * np.hypot(a, b))


def _colours_of(frame: Frames) -> Picture:
    return to_lab(blurred(frame, min(frame.shape[:2]) / 256))  # compression's blocks are no colour


def _circle() -> Array:
    angle = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    return np.stack([np.cos(angle), np.sin(angle)], axis=-1)


def _without_holes(mask: Mask) -> Mask:
    """Fill small holes in the person and drop specks beside it."""
    import cv2

    result = mask.copy()
    for inside, value in ((False, 1.0), (True, 0.0)):
        count, labels, stats, _ = cv2.connectedComponentsWithStats(
            ((mask > (0.5 if inside else 0.95)) == inside).astype(np.uint8)
        )
        for label in range(1, count):
            if stats[label, cv2.CC_STAT_AREA] < HOLE * mask.size:
                result[labels == label] = value
    return result


def _touching(mask: NDArray[np.bool_], place: NDArray[np.bool_]) -> Mask:
    """The connected parts of a mask that reach into a region, without specks."""
    import cv2

    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (_odd(min(mask.shape) / 60),) * 2)
    solid = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, kernel)  # a shadow at the collar is no lock of hair
    count, found, stats, _ = cv2.connectedComponentsWithStats(solid)
    labels = np.asarray(found, np.intp)
    area = np.bincount(labels[place], minlength=count)
    keep = (area > 0) & (stats[:, cv2.CC_STAT_AREA] > 0.001 * mask.size)
    keep[0] = False
    return keep[labels].astype(np.float32)


def _refined(frame: Frames, mask: Mask) -> Mask:
    """The mask with its edge along the picture's edges, a few pixels to either side."""
    import cv2

    guide = frame.astype(np.float32) / 255
    fine = cv2.ximgproc.guidedFilter(guide, mask.astype(np.float32), max(2, round(min(mask.shape) / EDGE)), 1e-5)
    return np.clip((fine - 0.15) / 0.7, 0, 1).astype(np.float32)


def _odd(size: float) -> int:
    return 2 * round(size / 2) + 1
