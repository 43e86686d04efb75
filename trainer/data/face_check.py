"""Whether the box and the landmarks of a face can be right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from trainer.landmarks import BOX
from trainer.metrics import norms

if TYPE_CHECKING:
    from trainer.data.readers import FaceRecord
    from trainer.landmarks import Norm

_MOST_PIXELS: Final = 1_000_000  # no picture is so large


def check_face(face: FaceRecord, norm: Norm) -> None:
    """Raises ValueError for a box or landmarks that cannot be right, or from which no NME could be computed."""
    x0, y0, x1, y1 = (float(value) for value in face.box)
    if not np.isfinite(face.box).all() or x1 <= x0 or y1 <= y0:
        raise ValueError(f"box must have x_min < x_max and y_min < y_max, but is {x0:g} {y0:g} {x1:g} {y1:g}")
    if max(map(abs, (x0, y0, x1, y1))) >= _MOST_PIXELS:
        raise ValueError(f"box must lie within +-{_MOST_PIXELS} pixels, but is {x0:g} {y0:g} {x1:g} {y1:g}")
    if max(x1 - x0, y1 - y0) < 1:
        raise ValueError(f"box must be a pixel wide or high, but is {x0:g} {y0:g} {x1:g} {y1:g}")
    away = np.maximum(face.box[:2] - face.landmarks, face.landmarks - face.box[2:]).max(axis=1)  # (K,), NaN: missing
    side = max(x1 - x0, y1 - y0)
    if (away > side).any():
        index = int(np.nanargmax(away))
        raise ValueError(
            f"landmark {index} (from 0) at {face.landmarks[index].tolist()} lies more than one box size ({side:g}) "
            f"outside the box {x0:g} {y0:g} {x1:g} {y1:g}"
        )
    if norm is not BOX and not norms(face.landmarks[None], norm)[0] > 0:
        ends = " and ".join(map(_listed, (norm.right, norm.left)))
        raise ValueError(
            f"landmarks {ends}, whose distance normalises the NME, must be there and apart (or data.nme_norm box)"
        )


def _listed(landmarks: tuple[int, ...]) -> str:
    return str(landmarks[0]) if len(landmarks) == 1 else f"{landmarks[0]} to {landmarks[-1]}"
