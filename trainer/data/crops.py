"""The crops of a split, as they lie in memory or in the cache."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trainer.data.faults import Fault
    from trainer.data.groups import Group
    from trainer.data_config import DataConfig

HASH_VERSION: Final = "v2-"  # hashes of other versions say nothing about whether faces are the same


@dataclass(frozen=True)
class CropSplit:
    """The crops of one split.

    Landmarks, norms and `to_picture` are in pixels of the central S x S square, `images[:, m:m+S, m:m+S]` with
    m = `margin`: for evaluation nothing has to be shifted. In pixels of the whole canvas add m to x and y.

    Attributes:
        images: (N, C, C, 3) uint8, RGB, read-only memory map.
        landmarks: (N, K, 2) pixels of the central square, NaN where missing; may lie outside of it.
        visible: (N, K): which landmarks are there.
        norms: (N,) what the NME is divided by: the distance of data.nme_norm, or sqrt(box width * height).
        attributes: (N, 6) in the order of `trainer.landmarks.ATTRIBUTES`; None where the data set has none.
        to_picture: (N, 2, 3) affine maps from pixels of the central square back to picture pixels.
        pictures: path of each face's picture, or 'synthetic:SEED:INDEX'.
        origins: where each face is listed, for messages.
        skipped: the faces left out under data.skip_bad.
        groups: what each face belongs to.
        marks: (N, 16) uint8, digests of all that a face is: names, labels and the bytes of its picture.
        size: S.
    """

    images: NDArray[np.uint8]
    landmarks: NDArray[np.float32]
    visible: NDArray[np.bool_]
    norms: NDArray[np.float32]
    attributes: NDArray[np.bool_] | None
    to_picture: NDArray[np.float64]
    pictures: tuple[str, ...]
    origins: tuple[str, ...]
    skipped: tuple[Fault, ...]
    groups: tuple[Group, ...]
    marks: NDArray[np.uint8]
    size: int

    def __len__(self) -> int:
        return len(self.images)

    def fingerprint(self) -> str:
        """Hash of the files' names, the annotations and the pictures' bytes, the same wherever the data set lies and
        however it is cropped; of version 2 (the first knew no pictures, and followed the crops)."""
        return f"{HASH_VERSION}{hashlib.sha256(self.marks.tobytes()).hexdigest()[:16]}"

    @property
    def margin(self) -> int:
        """Pixels of the canvas on each side of the central square."""
        return int(self.images.shape[1] - self.size) // 2


def canvas_size(config: DataConfig) -> int:
    """C: data.image_size and the margin on both sides, so that C - S is even."""
    return config.image_size + 2 * round(config.image_size * config.crop_margin / 2)
