"""Landmarks drawn into pictures."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from trainer.config import TrainConfig
from trainer.data.augment import augment, generator, sample_changes
from trainer.data.crops import CropSplit


def draw_overlay(
    picture: NDArray[np.uint8],
    landmarks: NDArray[np.floating],
    covariance: NDArray[np.floating] | None,
    truth: NDArray[np.floating] | None = None,
) -> bytes:
    """PNG of the picture (enlarged to 512 pixels or more) with the landmarks as green dots.

    Ellipses of one standard deviation are drawn around them, and a red line to where the truth is known to lie.
    """
    import cv2

    factor = max(1, -(-512 // max(picture.shape[:2])))
    canvas = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)[..., ::-1].copy()
    radius = max(2, max(canvas.shape[:2]) // 300)

    def to_pixel(point: NDArray[np.floating]) -> tuple[int, ...]:
        """In sixteenths of a pixel of the canvas."""
        return tuple(int(v) for v in np.clip((point + 0.5) * factor - 0.5, -1e4, 1e5) * 16)

    if covariance is not None:
        plain = canvas.copy()
        for point, spread in zip(landmarks, covariance, strict=True):
            variances, axes = np.linalg.eigh(spread)
            lengths = tuple(int(v) for v in np.sqrt(variances[::-1].clip(0)) * factor * 16)
            angle = float(np.degrees(np.arctan2(axes[1, 1], axes[0, 1])))
            cv2.ellipse(canvas, to_pixel(point), lengths, angle, 0, 360, (0, 200, 255), 1, cv2.LINE_AA, 4)
        canvas = cv2.addWeighted(canvas, 0.5, plain, 0.5, 0)  # many of them lie on top of each other
    for i, centre in enumerate(map(to_pixel, landmarks)):
        if truth is not None and np.isfinite(truth[i]).all():
            cv2.line(canvas, centre, to_pixel(truth[i]), (60, 60, 255), radius - 1, cv2.LINE_AA, 4)
        cv2.circle(canvas, centre, radius * 16, (80, 255, 80), -1, cv2.LINE_AA, 4)
    return bytes(cv2.imencode(".png", canvas)[1])


def draw_face(split: CropSplit, index: int, config: TrainConfig, augmented: bool, dots: bool) -> NDArray[np.uint8]:
    """One face, (S, S, 3) RGB, enlarged to at least 128 pixels a side, with its landmarks."""
    size, margin = split.size, split.margin
    picture = split.images[index][margin : margin + size, margin : margin + size]
    landmarks = split.landmarks[index]
    if augmented:
        changes = sample_changes(config.data.augment, generator(config.run.seed, 1, index), size)
        picture = augment(split.images[index], changes, size)
        landmarks = changes.move(landmarks, np.array(config.data.landmarks.flip))
    factor = max(1, -(-128 // size))
    tile = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    for point in ((landmarks + 0.5) * factor - 0.5)[np.isfinite(landmarks).all(1)] if dots else ():
        cv2.circle(tile, tuple(int(v) for v in point * 16), max(1, size * factor // 160) * 16, (80, 255, 80), -1, 16, 4)
    return tile.astype(np.uint8)
