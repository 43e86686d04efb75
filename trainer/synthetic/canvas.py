"""The head as the painter sees it, and the few ways to put colour on a picture: curve, fill, line, tint, strands.

Outlines are (N, 2) pixels with sub-pixel positions; colours are BGR, 0-255. OpenCV draws a filled edge about half a
pixel outside its outline, on all sides alike.
"""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Image = NDArray[np.uint8]
Rng = np.random.Generator

_SUBPIXEL_BITS = 4
_ANGLES = np.linspace(0, 2 * np.pi, 24, endpoint=False)
CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)


@dataclass(frozen=True)
class Head:
    """A posed head in the picture.

    Attributes:
        landmarks: (98, 2) pixels.
        hairline: (H, 2) pixels, over the forehead from landmark 32's side to landmark 0's.
        linear: (2, 3) and offset (2,): head frame to pixels.
        unit: pixels of half a face's width.
        yaw: radians, positive if the face is turned to image right.
    """

    landmarks: Array
    hairline: Array
    linear: Array
    offset: Array
    unit: float
    yaw: float

    @property
    def down(self) -> Array:
        """(2,) pixels of one unit towards the chin."""
        return self.linear[:, 1]

    def project(self, points: Array) -> Array:
        """(..., 3) in the head frame -> (..., 2) pixels."""
        return points @ self.linear.T + self.offset

    def disc(self, centre: Array, radius_x: float, radius_y: float) -> Array:
        """(24, 2) outline in pixels of a disc parallel to the face, about `centre` (2,) in pixels."""
        return centre + (CIRCLE * (radius_x, radius_y)) @ self.linear[:, :2].T

    def ball(self, centre: tuple[float, float, float], radii: tuple[float, float, float]) -> Array:
        """(24, 2) silhouette in pixels of an ellipsoid given in the head frame."""
        half = self.linear * radii
        return self.project(np.array(centre)) + CIRCLE @ np.linalg.cholesky(half @ half.T).T

    def face(self) -> Array:
        """(N, 2) outline in pixels of the face's skin: contour and forehead."""
        return smooth(np.concatenate([self.landmarks[:33], self.hairline]), closed=True, steps=2)


@lru_cache
def _spline(count: int, closed: bool, steps: int) -> Array:
    """Matrix that turns `count` points into a Catmull-Rom curve through them, `steps` points a segment."""
    u = np.arange(steps) / steps
    weights = np.stack([-(u**3) + 2 * u**2 - u, 3 * u**3 - 5 * u**2 + 2, -3 * u**3 + 4 * u**2 + u, u**3 - u**2]) / 2
    padded = np.zeros((count + 2, count))
    padded[np.arange(1, count + 1), np.arange(count)] = 1
    if closed:
        padded[0, -1] = padded[-1, 0] = 1
        padded = np.concatenate([padded, np.eye(1, count, 1)])
        return np.concatenate([weights.T @ padded[i : i + 4] for i in range(count)])
    padded[0, :2], padded[-1, -2:] = (2, -1), (-1, 2)
    segments = [weights.T @ padded[i : i + 4] for i in range(count - 1)]
    return np.concatenate([*segments, np.eye(1, count, count - 1)])


def smooth(points: Array, *, closed: bool = False, steps: int = 4) -> Array:
    """A smooth curve (M, 2) through points (N, 2); an open one keeps its ends as corners."""
    return _spline(len(points), closed, steps) @ points


def ring(*curves: Array) -> Array:
    """Join curves end to end into one outline."""
    return np.concatenate(curves)


def _fixed(points: Array) -> NDArray[np.int32]:
    """Pixels as OpenCV's fixed-point numbers."""
    return np.rint(points * 2**_SUBPIXEL_BITS).astype(np.int32)


def fill(image: Image, outline: Array, colour: Array) -> None:
    cv2.fillPoly(image, [_fixed(outline)], colour.tolist(), cv2.LINE_AA, _SUBPIXEL_BITS)


def line(image: Image, points: Array, colour: Array, width: float) -> None:
    """Open lines (N, 2) or (L, N, 2), `width` pixels wide, at least one."""
    lines = list(_fixed(points)) if points.ndim == 3 else [_fixed(points)]
    cv2.polylines(image, lines, False, colour.tolist(), max(round(width), 1), cv2.LINE_AA, _SUBPIXEL_BITS)


def tint(image: Image, outline: Array, colour: Array | Image, opacity: float, softness: float = 0.0) -> None:
    """Blend a colour (3,), or another picture of the same size, into an outline; edge blurred by `softness` pixels."""
    margin = int(2.5 * softness) + 2
    x0, y0 = np.maximum(outline.min(axis=0).astype(int) - margin, 0).tolist()
    x1, y1 = np.maximum(outline.max(axis=0).astype(int) + margin + 2, 0).tolist()
    region = image[y0:y1, x0:x1]
    if region.size == 0:
        return
    mask = np.zeros(region.shape[:2], np.uint8)
    cv2.fillPoly(mask, [_fixed(outline - (x0, y0))], 255, cv2.LINE_AA, _SUBPIXEL_BITS)
    if softness > 0:
        mask = cv2.GaussianBlur(mask, (0, 0), softness, borderType=cv2.BORDER_CONSTANT)
    source = np.clip(colour if colour.ndim == 1 else colour[y0:y1, x0:x1], 0, 254).astype(np.float32)
    region[:] = region + (source - region) * (mask[..., None] * np.float32(opacity / 255)) + np.float32(0.5)


def strands(image: Image, starts: Array, ends: Array, colour: Array, width: float) -> None:
    """Hair-like lines from starts (N, 2) to ends (N, 2) in a darker, a lighter and the lightest shade of `colour`."""
    lines = np.stack([starts, ends], axis=1)
    for number, light in enumerate((0.72, 1.18, 1.34)):
        line(image, lines[number::3], colour * light, width)
