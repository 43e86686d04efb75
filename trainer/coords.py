"""The one coordinate convention of this project.

Points are (x, y), x to the right and y down. In pixels, the centre of the top left pixel is (0, 0), so a picture W
pixels wide spans centres 0 ... W - 1. Normalised coordinates put these end centres at -1 and 1 (corner-aligned), and a
heatmap of any size lays its end cells' centres on -1 and 1 too: pixel x, normalised u and heatmap column j are tied by
u = 2 x / (W - 1) - 1 = 2 j / (w - 1) - 1.

Legend: B batch, K landmarks, H rows and W columns of a picture or heatmap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Points = TypeVar("Points", bound=Any)  # an array or tensor (..., 2)


def to_normalised(points: Points, size: int) -> Points:
    """Pixels of a square picture with `size` pixels a side (..., 2) -> [-1, 1]."""
    return points * (2.0 / (size - 1)) - 1.0


def to_pixels(points: Points, size: int) -> Points:
    """[-1, 1] (..., 2) -> pixels of a square picture with `size` pixels a side; undoes `to_normalised`."""
    return (points + 1.0) * ((size - 1) / 2.0)


def crop_matrix(
    box: NDArray[np.floating], box_scale: float, size: int, canvas: int | None = None
) -> NDArray[np.float64]:
    """Affine map (2, 3) from picture pixels to the pixels of a square face crop.

    The square about the box's centre, `box_scale` times the longer side of the box, fills `size` pixels; a `canvas`
    larger than `size` shows the surroundings at the same scale, about the same centre.

    Args:
        box: x_min, y_min, x_max, y_max in pixels.
        box_scale: enlargement of the box.
        size: pixels a side that the enlarged box fills.
        canvas: pixels a side of the crop; None: `size`.
    """
    x0, y0, x1, y1 = (float(v) for v in box)
    scale = size / (max(x1 - x0, y1 - y0) * box_scale)
    middle = ((canvas or size) - 1) / 2
    return np.array(
        [[scale, 0.0, middle - scale * (x0 + x1) / 2], [0.0, scale, middle - scale * (y0 + y1) / 2]], dtype=np.float64
    )


def transform(points: NDArray[np.floating], matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Applies an affine map (2, 3) to points (..., 2)."""
    moved: NDArray[np.float64] = points @ matrix[:, :2].T + matrix[:, 2]
    return moved


def outside(points: NDArray[np.floating], width: int, height: int) -> NDArray[np.bool_]:
    """Which points (..., 2) lie beyond the borders of a picture of so many pixels; NaN lies nowhere."""
    beyond = (points < -0.5) | (points > np.array([width, height], points.dtype) - 0.5)
    return np.asarray(beyond.any(axis=-1))


def invert(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Inverse of an affine map (2, 3)."""
    inner = np.linalg.inv(matrix[:, :2])
    return np.concatenate([inner, -inner @ matrix[:, 2:]], axis=1)
