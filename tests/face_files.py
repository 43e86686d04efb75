"""Small data sets on disk in the style of 300-W, drawn: pictures with .pts files, and a list."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from trainer.synthetic import draw_face


def write_face(root: Path, name: str, index: int = 0, *, shift: float = 0.0) -> None:
    """One drawn face as root/name (a picture) with the .pts file beside it, its points moved by `shift` pixels.

    The points are 68 of the drawing's 98, in no order that means anything; those of the NME lie apart.
    """
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    face = draw_face(0, index, size=64)
    cv2.imwrite(str(path), face.image)
    points = np.concatenate([face.landmarks[:36], face.landmarks[60:61], face.landmarks[36:67]]) + 1 + shift
    body = "\n".join(f"{x:.3f} {y:.3f}" for x, y in points)
    path.with_suffix(".pts").write_text(f"version: 1\nn_points: {len(points)}\n{{\n{body}\n}}\n")


def write_faces(root: Path, names: Sequence[str], listing: str = "train.txt", *, first: int = 0) -> Path:
    """Faces `first`, `first` + 1 and so on under these names, and their list; gives the root."""
    for index, name in enumerate(names, first):
        write_face(root, name, index)
    (root / listing).write_text("".join(f"{name}\n" for name in names))
    return root
