"""Augmentation: picture and landmarks move together, as a pure function of (seed, epoch, index).

Legend: C side of the stored canvas (crop and surroundings), S side of the network's input, K landmarks.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from trainer.config import AugmentConfig
from trainer.coords import transform

Picture = NDArray[np.uint8]


def generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The random numbers of one face in one epoch, whoever asks and in whatever order."""
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, epoch, index]))


def augment(
    canvas: Picture,
    landmarks: NDArray[np.floating],
    flip: NDArray[np.intp],
    config: AugmentConfig,
    rng: np.random.Generator,
    size: int,
) -> tuple[Picture, NDArray[np.float64], bool]:
    """One augmented face.

    Args:
        canvas: (C, C, 3) RGB, the face crop with its surroundings.
        landmarks: (K, 2) in pixels of the central S x S crop.
        flip: (K,) index order of the mirrored layout.
        config: strengths.
        rng: see `generator`.
        size: S.

    Returns:
        The picture (S, S, 3), the landmarks (K, 2) in its pixels, and whether it was mirrored (visibility must follow).
    """
    matrix, mirrored = draw_affine(config, rng, size)
    moved = transform(landmarks, matrix)
    if mirrored:
        moved = moved[flip]
    margin = (canvas.shape[0] - size) / 2
    from_canvas = matrix.copy()
    from_canvas[:, 2] -= matrix[:, :2] @ (margin, margin)
    picture = _recolour(_warp(canvas, from_canvas, size), config.colour, rng)
    if rng.random() < config.occlusion:
        _occlude(picture, rng)
    if rng.random() < config.blur:
        sigma = rng.uniform(0.3, 1.2) * max(1.0, size / 128)
        picture = cv2.GaussianBlur(picture, (0, 0), sigma)
    return picture, moved, mirrored


def draw_affine(config: AugmentConfig, rng: np.random.Generator, size: int) -> tuple[NDArray[np.float64], bool]:
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


def _recolour(picture: Picture, strength: float, rng: np.random.Generator) -> Picture:
    """Contrast, brightness and gain of each channel, through one table of 256 entries a channel."""
    contrast = 1 + strength * rng.uniform(-1, 1)
    brightness = 128 * strength * rng.uniform(-1, 1)
    gains = 1 + 0.3 * strength * rng.uniform(-1, 1, 3)
    levels = np.arange(256, dtype=np.float32)[:, None]
    table = ((levels - 128) * contrast + 128 + brightness) * gains
    recoloured: Picture = cv2.LUT(picture, np.clip(table, 0, 255).astype(np.uint8)[None])
    return recoloured


def _occlude(picture: Picture, rng: np.random.Generator) -> None:
    """Covers a rectangle with one colour and a little noise, in place."""
    size = picture.shape[0]
    height, width = (rng.uniform(0.1, 0.4, 2) * size).astype(int) + 1
    top, left = (rng.random(2) * (size - np.array([height, width]))).astype(int)
    patch = rng.integers(0, 256, 3) + rng.normal(0, 12, (height, width, 3))
    picture[top : top + height, left : left + width] = np.clip(patch, 0, 255)
