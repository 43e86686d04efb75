"""Reading pictures from disk, and cutting face crops out of them."""

from __future__ import annotations

import re
import stat
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np

from trainer.coords import crop_matrix, invert, transform
from trainer.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MOST_PIXELS: Final = 2**28
_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_JPEG_MARKER: Final = re.compile(rb"\xff[\x02-\xcf\xd8-\xfe]")  # not FF00 (an FF in the data), FF01, restarts


def read_picture(path: str | Path) -> NDArray[np.uint8]:
    """Reads a picture as (H, W, 3) uint8 RGB; see `decode_picture`."""
    return decode_picture(read_bytes(path), path)


def read_bytes(path: str | Path) -> bytes:
    """Reads a picture's file; a DataError where there is none."""
    path = Path(path)
    try:
        if stat.S_ISFIFO(mode := path.stat().st_mode) or stat.S_ISCHR(mode):  # reading one may never end
            raise DataError(f"{path}: is no file")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def decode_picture(data: bytes, path: str | Path) -> NDArray[np.uint8]:
    """The picture (H, W, 3) uint8 RGB that a file's bytes hold; grey, alpha and 16 bits a channel are converted.

    EXIF orientation is applied, as `cv2.imread` and MMPose do by default: annotations are taken to be in pixels of the
    upright picture. (PIL and `IMREAD_UNCHANGED` do not turn it.)

    Raises:
        DataError: names the path: empty, not a picture, larger than 2^28 pixels, or cut short (JPEG and PNG: OpenCV
            would fill the rest with grey in silence, or take long to refuse it).
    """
    if not data:
        raise DataError(f"{path}: is an empty file")
    if data.startswith(_PNG) and _too_large(int.from_bytes(data[16:20]), int.from_bytes(data[20:24])):
        raise DataError(f"{path}: is larger than {_MOST_PIXELS} pixels")  # before a bomb unfolds
    if (data.startswith(_JPEG) and not _jpeg_ends(data)) or (data.startswith(_PNG) and not _png_ends(data)):
        raise DataError(f"{path}: is cut short or damaged")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise DataError(f"{path}: cannot be decoded ({error.err})") from None
    if image is None:
        raise DataError(f"{path}: is not a picture that OpenCV can decode")
    if _too_large(*image.shape[:2]):
        raise DataError(f"{path}: is larger than {_MOST_PIXELS} pixels")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))


def _too_large(height: int, width: int) -> bool:
    return height * width > _MOST_PIXELS


def _jpeg_ends(data: bytes) -> bool:
    """Whether a JPEG's end marker FFD9 is there: at the end, or, found by walking its segments, before other data."""
    if data.endswith(b"\xff\xd9"):
        return True
    at = 2
    while match := _JPEG_MARKER.search(data, at):
        if data[match.start() + 1] == 0xD9:
            return True
        at = match.end() + int.from_bytes(data[match.end() : match.end() + 2])
    return False


def _png_ends(data: bytes) -> bool:
    """Whether the chunks of a PNG follow each other to the last, IEND, those that matter with the right checksums.

    OpenCV takes gigabytes and seconds to refuse a wrong length or size.
    """
    at = len(_PNG)
    while at + 12 <= len(data):
        kind, last = data[at + 4 : at + 8], at + 8 + int.from_bytes(data[at : at + 4])
        if kind == b"IEND":
            return True
        if kind[:1].isupper() and zlib.crc32(data[at + 4 : last]) != int.from_bytes(data[last : last + 4]):
            return False
        at = last + 4
    return False


def crop_face(
    picture: NDArray[np.uint8], box: NDArray[np.floating], *, box_scale: float, size: int, canvas: int
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Cuts the square face crop that `coords.crop_matrix` describes, black outside of the picture.

    A shrink by 2 or more averages whole blocks of pixels first, so that nothing aliases.

    Args:
        picture: (H, W, 3).
        box: x_min, y_min, x_max, y_max.
        box_scale: enlargement of the box.
        size: pixels a side that the enlarged box fills.
        canvas: pixels a side of the crop, at least `size`; the rest is the margin around.

    Returns:
        The crop (canvas, canvas, 3) and the affine map (2, 3) from picture pixels to its pixels.
    """
    matrix = crop_matrix(box, box_scale, size, canvas)
    factor = max(1, min(int(1 / matrix[0, 0]), max(picture.shape[:2])))  # one block may hold the whole picture
    corners = transform(np.array([[-0.5, -0.5], [canvas - 0.5, canvas - 0.5]]), invert(matrix))
    limit = np.array([picture.shape[1], picture.shape[0]])
    first = np.clip(np.floor(corners[0]) - factor - 1, 0, limit).astype(int)
    first -= first % factor  # blocks lie on one grid, so that the centre of a canvas equals a crop without margin
    last = np.clip(np.ceil(corners[1]) + factor + 2, 0, limit).astype(int)
    if (last <= first).any():
        return np.zeros((canvas, canvas, 3), np.uint8), matrix
    region = np.ascontiguousarray(picture[first[1] : last[1], first[0] : last[0]])
    if factor > 1:
        columns, rows = -(-(last - first) // factor)
        right, bottom = np.array([columns, rows]) * factor - (last - first)
        region = cv2.copyMakeBorder(region, 0, int(bottom), 0, int(right), cv2.BORDER_CONSTANT)
        region = cv2.resize(region, (int(columns), int(rows)), interpolation=cv2.INTER_AREA)
    # x_region = (x - first + 0.5) / factor - 0.5
    inner = matrix[:, :2] * factor
    shift = matrix[:, 2] + matrix[:, :2] @ (first + (factor - 1) / 2)
    crop = cv2.warpAffine(region, np.column_stack([inner, shift]), (canvas, canvas), flags=cv2.INTER_LINEAR)
    return np.asarray(crop), matrix
