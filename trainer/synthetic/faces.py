"""A face of its own for each (seed, index): its shape, its pose, its landmarks, and the picture painted from them.

A face is a mean shape that is deformed (identity, expression, gaze), given depth, rotated, projected (weak perspective)
and painted (`trainer.synthetic.scene`) from the projected landmarks, so that the label is right under the pixels.

Head frame: x to image right, y down, z towards the viewer; origin between the eyes; one unit is half a face's width.
As in WFLW, the contour follows the visible outline on the far side of a turned head and the jaw on the near side.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainer.landmarks import ATTRIBUTES, LAYOUTS
from trainer.synthetic.canvas import Array, Head, Image
from trainer.synthetic.scene import paint_scene

SMALLEST_SIZE = 32

_RATES = (0.18, 0.18, 0.18, 0.18, 0.18, 0.18)
_MEAN_FACE_FILE = Path(__file__).parent / "meanface_wflw98.txt"
_HEIGHT_TO_WIDTH = 1.0  # of the frontal landmark box; the stored mean face has lost its aspect ratio
_FLESH_DEPTH = 1.2  # how far a horizontal cut through the face bulges forward, relative to its half width
_CONTOUR, _BROWS, _NOSE, _EYES = slice(0, 33), slice(33, 51), slice(51, 60), slice(60, 76)
_MOUTH, _PUPILS = slice(76, 96), slice(96, 98)
_SIDES = ((slice(33, 42), slice(60, 68), 96, (60, 64)), (slice(42, 51), slice(68, 76), 97, (72, 68)))
_LOWER_LIP, _UPPER_LIP = [83, 84, 85, 86, 87, 93, 94, 95], [77, 78, 79, 80, 81, 89, 90, 91]


@dataclass(frozen=True)
class SyntheticFace:
    """One picture and its label.

    Attributes:
        image: (H, W, 3) in BGR order, as `cv2.imread` gives.
        landmarks: (98, 2) pixels (x, y) in WFLW's order; the centre of the top left pixel is (0, 0).
        box: (4,) x_min, y_min, x_max, y_max of the landmarks, tight.
        attributes: (6,) in the order of `ATTRIBUTES`; true where that nuisance is strong.
    """

    image: Image
    landmarks: Array
    box: Array
    attributes: NDArray[np.bool_]


class Expression(NamedTuple):
    """Muscle activations; 0 is at rest, 1 is strong. `eyes` is the factor on the height of the eye opening."""

    smile: float = 0.0
    jaw: float = 0.0
    brow: float = 0.0
    frown: float = 0.0
    pucker: float = 0.0
    eyes: float = 1.0


_STRONG_EXPRESSIONS = (
    Expression(smile=1.0, jaw=0.75, eyes=0.5),  # laugh
    Expression(smile=1.3, jaw=0.3, brow=0.3, eyes=0.7),  # grin
    Expression(jaw=1.0, brow=1.0, eyes=1.5, smile=-0.2),  # surprise
    Expression(jaw=0.9, frown=1.0, eyes=0.3, smile=0.4),  # scream
    Expression(smile=-1.0, frown=1.0, eyes=0.8),  # anger
    Expression(pucker=1.0, brow=0.6, eyes=1.2),  # kiss
    Expression(smile=-0.9, frown=0.8, eyes=0.06),  # pain, eyes shut
)


def draw_face(seed: int, index: int, *, size: int = 128) -> SyntheticFace:
    """Draw face number `index` of the endless data set `seed`, `size` pixels a side.

    A pure function: the same bits in any process. The same (seed, index) at another size is the same face.

    Raises:
        ValueError: If seed or index is negative, or size is below `SMALLEST_SIZE`.
    """
    if seed < 0 or index < 0:
        raise ValueError(f"seed and index must not be negative, but got seed={seed}, index={index}")
    if size < SMALLEST_SIZE:
        raise ValueError(f"size must be at least {SMALLEST_SIZE}, but got {size}")
    shape_rng, paint_rng = (np.random.default_rng(s) for s in np.random.SeedSequence((seed, index)).spawn(2))
    attributes = shape_rng.random(len(ATTRIBUTES)) < _RATES
    strong = dict(zip(ATTRIBUTES, attributes.tolist(), strict=True))
    head = _pose_head(_sample_shape(shape_rng, strong["expression"]), shape_rng, strong["pose"], size)
    image = paint_scene(head, strong, paint_rng, size)
    box = np.concatenate([head.landmarks.min(axis=0), head.landmarks.max(axis=0)])
    return SyntheticFace(image, head.landmarks, box, attributes)


@lru_cache(maxsize=1)
def _mean_shape() -> Array:
    """(98, 2) mean face, mirror symmetric, in units of the head frame."""
    mean = np.loadtxt(_MEAN_FACE_FILE)
    mirrored = mean[LAYOUTS["wflw98"].flip]
    width, height = np.ptp(mean, axis=0)
    x = (mean[:, 0] - mirrored[:, 0]) / width
    y = (mean[:, 1] + mirrored[:, 1]) / height * _HEIGHT_TO_WIDTH
    return np.stack([x, y - y[[60, 72]].mean()], axis=1)


def _sample_shape(rng: np.random.Generator, strong_expression: bool) -> Array:
    """(98, 3) landmarks of a new person in the head frame, before rotation."""
    points = _mean_shape().copy()
    _vary_outline(points, rng)
    _vary_features(points, rng)
    expression = _sample_expression(rng, strong_expression)
    _move_mouth(points, expression, rng)
    _move_eyes_and_brows(points, expression, rng)
    return np.column_stack([points, _depth(points, rng)])


def _vary_outline(points: Array, rng: np.random.Generator) -> None:
    """Face width, jaw width, chin shape and length of the lower face, in place."""
    contour = points[_CONTOUR]
    low = np.clip(contour[:, 1] / contour[:, 1].max(), 0, 1)
    jaw, chin = rng.uniform(-0.14, 0.14), rng.uniform(-0.25, 0.25)
    contour[:, 0] *= rng.uniform(0.92, 1.1) * (1 + jaw * np.sin(np.pi * low**1.5) + chin * low**6)
    length = rng.uniform(0.9, 1.1)
    below_eyes = points[:, 1] > 0
    below_eyes[_EYES] = below_eyes[_PUPILS] = False
    points[below_eyes, 1] *= length
    contour[:, 1] += rng.uniform(-0.1, 0.12) * low**3


def _vary_features(points: Array, rng: np.random.Generator) -> None:
    """Size, place and proportions of eyes, brows, nose and mouth, in place; left and right alike."""
    eye_size, spacing, eye_tilt = rng.uniform(0.85, 1.2), rng.uniform(-0.05, 0.06), rng.uniform(-0.14, 0.14)
    brow_height, brow_tilt, thickness = rng.uniform(-0.08, 0.07), rng.uniform(-0.14, 0.14), rng.uniform(0.7, 1.6)
    for side, (brow, eye, pupil, _) in zip((-1, 1), _SIDES, strict=True):
        for part, tilt in ((eye, eye_tilt), (brow, brow_tilt)):
            points[part] = _turn(points[part], points[part].mean(axis=0), -side * tilt)
        middle = points[eye].mean(axis=0)
        points[eye] = middle + (points[eye] - middle) * eye_size
        points[eye, 0] += side * spacing
        points[pupil] = points[eye].mean(axis=0)
        top, bottom = (brow.start + 1, brow.stop - 1) if side < 0 else (brow.start, brow.stop - 2)
        points[brow, 1] += brow_height + 0.3 * (points[brow, 1] - points[[top, bottom], 1].mean()) * (thickness - 1)
    nose_length, nose_width = rng.uniform(0.88, 1.14), rng.uniform(0.8, 1.3)
    points[_NOSE] *= (nose_width, nose_length)
    mouth, corner_y = points[_MOUTH], points[[76, 82], 1].mean()
    mouth[:, 0] *= rng.uniform(0.82, 1.15)
    mouth[:, 1] = corner_y + (mouth[:, 1] - corner_y) * rng.uniform(0.75, 1.35) + rng.uniform(-0.03, 0.06)


def _turn(points: Array, centre: Array, angle: float) -> Array:
    c, s = np.cos(angle), np.sin(angle)
    return centre + (points - centre) @ np.array([[c, s], [-s, c]])


def _sample_expression(rng: np.random.Generator, strong: bool) -> Expression:
    """A pose of the face muscles: at rest or talking, or one of the strong expressions with its own intensity."""
    if strong:
        base, intensity = _STRONG_EXPRESSIONS[rng.integers(len(_STRONG_EXPRESSIONS))], rng.uniform(0.8, 1.15)
        return Expression(*[intensity * value for value in base])._replace(eyes=base.eyes * rng.uniform(0.8, 1.15))
    jaw = rng.uniform(0.05, 0.35) if rng.random() < 0.4 else 0.0
    eyes = rng.uniform(0.05, 0.15) if rng.random() < 0.05 else rng.uniform(0.75, 1.25)
    return Expression(rng.uniform(-0.25, 0.6), jaw, rng.uniform(-0.25, 0.35), rng.uniform(-0.2, 0.3), 0.0, eyes)


def _move_mouth(points: Array, expression: Expression, rng: np.random.Generator) -> None:
    """Open, close, widen, bend and pucker the mouth; the chin follows the jaw. In place."""
    half_width, corner_y = points[82, 0], points[[76, 82], 1].mean()
    x = points[:, 0] / half_width
    middle = np.clip(1 - x**2, 0, 1)
    resting_gap = points[94, 1] - points[90, 1]
    opening = 0.5 * expression.jaw - 0.85 * resting_gap
    points[_LOWER_LIP, 1] += opening * middle[_LOWER_LIP]
    points[_UPPER_LIP, 1] -= 0.08 * (expression.jaw + max(expression.smile, 0)) * middle[_UPPER_LIP]
    contour = points[_CONTOUR]
    low = np.clip(contour[:, 1] / contour[:, 1].max(), 0, 1)
    contour[:, 1] += 0.3 * expression.jaw * low**3
    lopsided = 1 + rng.uniform(-0.4, 0.4) * np.sign(x)
    lift = np.abs(x) ** 1.5 * lopsided * expression.smile
    mouth = np.arange(76, 96)
    points[mouth, 1] -= 0.13 * lift[mouth]
    points[mouth, 0] *= 1 + 0.18 * max(expression.smile, 0) - 0.1 * expression.jaw - 0.4 * expression.pucker
    points[mouth, 1] = corner_y + (points[mouth, 1] - corner_y) * (1 + 0.25 * expression.pucker)


def _move_eyes_and_brows(points: Array, expression: Expression, rng: np.random.Generator) -> None:
    """Open or shut the eyes (winks happen), raise or knit the brows, turn the gaze. In place."""
    gaze = rng.uniform(-1, 1, 2) * (0.42, 0.3)
    wink = rng.integers(2) if rng.random() < 0.06 else -1
    for number, (brow, eye, pupil, (outer, inner)) in enumerate(_SIDES):
        opening = 0.08 if number == wink else expression.eyes * rng.uniform(0.93, 1.07)
        chord = points[inner] - points[outer]
        share = (points[eye, 0] - points[outer, 0]) / chord[0]
        on_chord = points[outer, 1] + share * chord[1]
        height = points[eye, 1] - on_chord
        points[eye, 1] = on_chord + height * opening
        middle = points[eye].mean(axis=0)
        points[pupil] = middle + gaze * (abs(chord[0]) / 2, np.ptp(height) * min(opening, 1.0))
        inwards = 1 - np.clip((np.abs(points[brow, 0]) - 0.15) / 0.6, 0, 1)
        points[brow, 1] -= 0.24 * expression.brow * rng.uniform(0.7, 1.3) * (0.7 + 0.3 * inwards)
        points[brow, 1] += 0.17 * expression.frown * inwards**1.5
        points[brow, 0] *= 1 - 0.15 * expression.frown * inwards


def _depth(points: Array, rng: np.random.Generator) -> Array:
    """(98,) plausible depth of every landmark: ears far back, nose tip in front."""
    x, z = points[:, 0], np.empty(len(points))
    z[_CONTOUR] = np.interp(np.abs(np.arange(33) - 16), [0, 3, 7, 11, 16], [0.12, -0.05, -0.45, -0.8, -0.95])
    z[_BROWS] = 0.1 - 0.45 * x[_BROWS] ** 2
    z[_EYES], z[_PUPILS] = -0.02 - 0.5 * x[_EYES] ** 2, -0.02 - 0.5 * x[_PUPILS] ** 2
    z[_NOSE] = [0.08, 0.22, 0.37, 0.5, 0.16, 0.28, 0.36, 0.28, 0.16]
    z[_NOSE] *= rng.uniform(0.8, 1.3)
    z[_MOUTH] = 0.32 - 1.3 * x[_MOUTH] ** 2
    return z


def _pose_head(shape: Array, rng: np.random.Generator, strong_pose: bool, size: int) -> Head:
    """Rotate, project, and place the head so that all landmarks are in the picture.

    Args:
        shape: (98, 3) landmarks in the head frame.
    """
    yaw, pitch, roll = np.deg2rad(_sample_angles(rng, strong_pose))
    rotation = _rotation(yaw, pitch, roll)
    hairline = _hairline(shape[0], shape[32], rng)
    shape = shape.copy()
    shape[_CONTOUR], hairline = _slide_to_outline(shape[_CONTOUR], yaw), _slide_to_outline(hairline, yaw)
    flat = shape @ rotation[:2].T
    low, high = flat.min(axis=0), flat.max(axis=0)
    unit = size * rng.uniform(0.48, 0.8) / (high - low).max()
    room = np.maximum(0.94 * (size - 1) - unit * (high - low), 0)
    offset = 0.03 * (size - 1) + room * (0.5 + rng.uniform(-0.5, 0.5, 2) * (1, 0.8)) - unit * low
    linear = unit * rotation[:2]
    return Head(flat * unit + offset, hairline @ linear.T + offset, linear, offset, float(unit), float(yaw))


def _sample_angles(rng: np.random.Generator, strong: bool) -> Array:
    """(3,) yaw, pitch, roll in degrees; a strong pose is a turned head, as WFLW's large poses are."""
    if strong:
        return np.array([rng.choice([-1, 1]) * rng.uniform(28, 45), rng.uniform(-20, 20), rng.uniform(-25, 25)])
    return np.clip(rng.normal(0, (10, 7, 8)), -22, 22)


def _rotation(yaw: float, pitch: float, roll: float) -> Array:
    """(3, 3) matrix in radians: yaw first, then pitch, then roll."""
    (a, b), (c, d), (e, f) = ((np.cos(angle), np.sin(angle)) for angle in (yaw, pitch, roll))
    about_y = np.array([[a, 0, b], [0, 1, 0], [-b, 0, a]])
    about_x = np.array([[1, 0, 0], [0, c, -d], [0, d, c]])
    about_z = np.array([[e, -f, 0], [f, e, 0], [0, 0, 1]])
    return about_z @ about_x @ about_y


def _hairline(first: Array, last: Array, rng: np.random.Generator) -> Array:
    """(15, 3) from the end of the contour over the forehead back to its start."""
    angle = np.linspace(0, np.pi, 17)[1:-1]
    across = np.sign(np.cos(angle)) * np.abs(np.cos(angle)) ** 0.8
    y = (first[1] + last[1]) / 2 - rng.uniform(1.0, 1.25) * np.sin(angle)
    return np.column_stack([last[0] * across, y, first[2] + (0.05 - first[2]) * (1 - np.abs(across))])


def _slide_to_outline(points: Array, yaw: float) -> Array:
    """Move outline points (N, 3) on the far side of a turned head forward to where the head's outline is seen.

    Each horizontal cut is an ellipse with half axes a and `_FLESH_DEPTH` * a; the seen edge is its tangent point.
    """
    far = points[:, 0] * yaw > 0
    stretch = np.sqrt(np.cos(yaw) ** 2 + (_FLESH_DEPTH * np.sin(yaw)) ** 2)
    slid = points.copy()
    slid[far, 0] = points[far, 0] * np.cos(yaw) / stretch
    slid[far, 2] += np.abs(points[far, 0]) * _FLESH_DEPTH**2 * abs(np.sin(yaw)) / stretch
    return slid
