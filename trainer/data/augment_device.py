"""Augmentation of a whole batch as tensor operations, for a GPU that would wait for the CPU's; runs on any device.

Legend: B batch, C side of the stored canvases, S side of the pictures, P faces with a patch, Q blurred faces, T taps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from trainer.data.augment import Changes


class DeviceChanges(NamedTuple):
    """The changes of a batch as tensors.

    Attributes:
        theta: (B, 2, 3) float32, from the picture to the canvas, both in [-1, 1], as torch's affine_grid takes it.
        tables: (B, 3, 256) uint8, see `Changes.table`.
        patched: (P,) rows of the batch; patches: (P, 3, S, S) uint8; covered: (P, S, S) bool, where they apply.
        blurred: (Q,) rows of the batch; kernels: (Q, T) float32, T odd.
    """

    theta: Tensor
    tables: Tensor
    patched: Tensor
    patches: Tensor
    covered: Tensor
    blurred: Tensor
    kernels: Tensor

    @classmethod
    def collect(cls, changes: Sequence[Changes], canvas: int, size: int) -> DeviceChanges:
        """Gathers what was drawn for the faces of a batch."""
        theta = np.stack([_theta(c.from_canvas(canvas, size), canvas, size) for c in changes])
        tables = np.stack([c.table.T for c in changes])
        patched = [row for row, c in enumerate(changes) if c.patch is not None]
        patches = np.zeros((len(patched), size, size, 3), np.uint8)
        covered = np.zeros((len(patched), size, size), bool)
        for i, row in enumerate(patched):
            top, left, patch = changes[row].patch or (0, 0, patches[0])
            area = np.s_[i, top : top + patch.shape[0], left : left + patch.shape[1]]
            patches[area], covered[area] = patch, True
        blurred = [row for row, c in enumerate(changes) if c.sigma is not None]
        return cls(
            torch.from_numpy(theta.astype(np.float32)),
            torch.from_numpy(tables),
            torch.tensor(patched, dtype=torch.long),
            torch.from_numpy(patches).permute(0, 3, 1, 2),
            torch.from_numpy(covered),
            torch.tensor(blurred, dtype=torch.long),
            torch.from_numpy(_kernels([changes[row].sigma or 0.0 for row in blurred])),
        )


def augment_batch(canvases: Tensor, changes: DeviceChanges, size: int) -> Tensor:
    """Pictures (B, 3, S, S) uint8 from canvases (B, 3, C, C) uint8 on the device of both.

    They differ by a few grey levels from OpenCV's, which knows positions to 1/32 pixel only.
    """
    grid = functional.affine_grid(changes.theta, [len(canvases), 3, size, size], align_corners=True)
    warped = functional.grid_sample(canvases.float(), grid, padding_mode="zeros", align_corners=True)
    levels = warped.round().long().flatten(2)
    pictures = changes.tables.gather(2, levels).unflatten(2, (size, size))
    covered = torch.where(changes.covered[:, None], changes.patches, pictures[changes.patched])
    pictures = pictures.index_copy(0, changes.patched, covered)
    pictures = pictures.index_copy(0, changes.blurred, _blur(pictures[changes.blurred], changes.kernels))
    return pictures.contiguous(memory_format=torch.channels_last)


def _theta(from_canvas: NDArray[np.float64], canvas: int, size: int) -> NDArray[np.float64]:
    """From the matrix in pixels to its inverse in [-1, 1], where -1 and 1 are the centres of the outermost pixels."""
    inverse = cv2.invertAffineTransform(from_canvas)
    half = (size - 1) / 2
    linear = inverse[:, :2] * (size - 1)
    offset = 2 * (inverse[:, 2] + inverse[:, :2] @ (half, half)) - (canvas - 1)
    return np.column_stack([linear, offset]) / (canvas - 1)


def _kernels(sigmas: Sequence[float]) -> NDArray[np.float32]:
    """Gaussian kernels (Q, T) of OpenCV's lengths for 8 bits, padded with zeros to the longest."""
    kernels = [cv2.getGaussianKernel(round(6 * sigma + 1) | 1, sigma).ravel() for sigma in sigmas]
    taps = max(map(len, kernels), default=1)
    padded = [np.pad(kernel, (taps - len(kernel)) // 2) for kernel in kernels]
    return np.array(padded, np.float32).reshape(len(sigmas), taps)


def _blur(pictures: Tensor, kernels: Tensor) -> Tensor:
    """Blurs each of (Q, 3, S, S) uint8 with its own kernel, along the rows and then the columns."""
    if not len(pictures):
        return pictures
    size, reach = pictures.shape[-1], kernels.shape[1] // 2
    maps = pictures.float().flatten(0, 1)[None]  # (1, 3Q, S, S)
    taps = kernels.repeat_interleave(3, 0)[:, None]  # (3Q, 1, T)
    padded = functional.pad(maps, (reach, reach, reach, reach), mode="reflect")
    rows = functional.conv2d(padded, taps[:, :, None], groups=len(taps))
    columns = functional.conv2d(rows, taps[..., None], groups=len(taps))
    return columns.round().clamp(0, 255).to(torch.uint8).view(-1, 3, size, size)
