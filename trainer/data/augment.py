"""Augmentation: picture and landmarks move together, as a pure function of (seed, epoch, index).

What happens to a face is drawn first; then OpenCV does it here, or a GPU in `trainer.data.augment_device`.

Legend: C side of the stored canvas (crop and surroundings), S side of the network's input, K landmarks.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from trainer.coords import transform
from trainer.data_config import AugmentConfig

Picture = NDArray[np.uint8]

_CENTRED_LEVELS = np.arange(256, dtype=np.float32)[:, None] - 128


def generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The random numbers of one face in one epoch, whoever asks and in whatever order."""
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, epoch, index]))


@dataclass(frozen=True)
class Changes:
    """What augmentation does to one face, in this order.

    Attributes:
        matrix: (2, 3), from pixels of the crop to pixels of the picture.
        mirrored: whether left is right now, which the order of landmarks must follow.
        table: (256, 3), the new level for each old one, a channel a column.
        patch: top, left and colours (h, w, 3) of a covering patch; None: none.
        sigma: of a Gaussian blur in pixels; None: none.
    """

    matrix: NDArray[np.float64]
    mirrored: bool
    table: Picture
    patch: tuple[int, int, Picture] | None
    sigma: float | None

    def from_canvas(self, canvas: int, size: int) -> NDArray[np.float64]:
        """The matrix (2, 3) from pixels of a canvas of side C to pixels of the picture of side S."""
        matrix = self.matrix.copy()
        margin = (canvas - size) / 2
        matrix[:, 2] -= matrix[:, :2] @ (margin, margin)
        return matrix

    def move(self, landmarks: NDArray[np.floating], flip: NDArray[np.intp]) -> NDArray[np.float64]:
        """Landmarks (K, 2) of the crop where the picture shows them; `flip` (K,): the order of the mirrored layout."""
        moved = transform(landmarks, self.matrix)
        return moved[flip] if self.mirrored else moved


def augment(canvas: Picture, changes: Changes, size: int) -> Picture:
    """One augmented picture (S, S, 3) from a canvas (C, C, 3) RGB, the face crop with its surroundings."""
    warped = _warp(canvas, changes.from_canvas(canvas.shape[0], size), size)
    picture: Picture = cv2.LUT(warped, changes.table[None])
    if changes.patch is not None:
        top, left, patch = changes.patch
        picture[top : top + len(patch), left : left + patch.shape[1]] = patch
    if changes.sigma is not None:
        picture = cv2.GaussianBlur(picture, (0, 0), changes.sigma)
    return picture


def sample_changes(config: AugmentConfig, rng: np.random.Generator, size: int) -> Changes:
    """Draws the changes of one face for pictures of side S."""
    matrix, mirrored = sample_affine(config, rng, size)
    table = _draw_table(config.colour, rng)
    patch = _draw_patch(size, rng) if rng.random() < config.occlusion else None
    sigma = rng.uniform(0.3, 1.2) * max(1.0, size / 128) if rng.random() < config.blur else None
    return Changes(matrix, mirrored, table, patch, sigma)


def sample_affine(config: AugmentConfig, rng: np.random.Generator, size: int) -> tuple[NDArray[np.float64], bool]:
    """Draws mirror, rotation, scale and shift as one affine map (2, 3) of the S x S crop, about its centre."""
    angle = np.deg2rad(rng.uniform(-config.rotation, config.rotation))
    scale = rng.uniform(1 - config.scale, 1 + config.scale)
    shift = rng.uniform(-config.shift, config.shift, 2) * size
    mirrored = bool(rng.random() < config.flip)
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    turn = np.array([[cos, -sin], [sin, cos]]) @ np.diag([-1.0 if mirrored else 1.0, 1.0])
    centre = np.full(2, (size - 1) / 2)
    return np.concatenate([turn, (centre + shift - turn @ centre)[:, None]], axis=1), mirrored


def _warp(canvas: Picture, matrix: NDArray[np.float64], size: int) -> Picture:
    """Warps by way of a fourth channel: the same bits in a third of the time with OpenCV 5, whose kernel for three
    channels is slow, and the canvas is read in order."""
    warped = cv2.warpAffine(cv2.cvtColor(canvas, cv2.COLOR_RGB2RGBA), matrix, (size, size), flags=cv2.INTER_LINEAR)
    return np.asarray(cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB))


def _draw_table(strength: float, rng: np.random.Generator) -> Picture:
    """Contrast, brightness and gain of each channel, as one table of 256 entries a channel."""
    contrast = 1 + strength * rng.uniform(-1, 1)
    brightness = 128 * strength * rng.uniform(-1, 1)
    gains = 1 + 0.3 * strength * rng.uniform(-1, 1, 3)
    table = (_CENTRED_LEVELS * contrast + 128 + brightness) * gains
    return np.clip(table, 0, 255).astype(np.uint8)


def _draw_patch(size: int, rng: np.random.Generator) -> tuple[int, int, Picture]:
    """A rectangle of one colour and a little noise."""
    height, width = (rng.uniform(0.1, 0.4, 2) * size).astype(int) + 1
    top, left = (rng.random(2) * (size - np.array([height, width]))).astype(int)
    patch = rng.integers(0, 256, 3) + rng.normal(0, 12, (height, width, 3))
    return int(top), int(left), np.clip(patch, 0, 255).astype(np.uint8)
