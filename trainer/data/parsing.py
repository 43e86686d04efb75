"""Parts that the readers of face lists share: text, numbers, pictures, placeholders.

All raise ValueError with the reason alone; the reader adds where it was read.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trainer.errors import DataError
from trainer.settings import shorten

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trainer.data_config import Placeholders

NOTHING_VISIBLE: Final = "has no visible landmark"


def read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text ({error})") from None


def shortened(value: Any) -> str:
    return shorten(str(value), 80)


def lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """Yields (number from 1, text) of every line that is not blank, counted as editors do."""
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            yield number, line.strip()


def is_file(path: Path) -> bool:
    """Whether there is such a file; False, too, for a name that no file can have."""
    with contextlib.suppress(OSError, ValueError):  # too long, or with a NUL
        return path.is_file()
    return False


def is_dir(path: Path) -> bool:
    """Whether there is such a folder; False, too, for a name that no folder can have."""
    with contextlib.suppress(OSError, ValueError):
        return path.is_dir()
    return False


def find_picture(candidates: Sequence[Path]) -> str:
    for path in candidates:
        if is_file(path):
            return str(path.absolute())
    raise ValueError(f"there is no picture {shorten(str(candidates[0]))}")


def parse_numbers(fields: Sequence[str]) -> list[float]:
    return [parse_number(field) for field in fields]


def parse_number(field: str) -> float:
    try:
        if "_" not in field:  # which Python takes: 1_0 is ten
            return float(field)
    except ValueError:
        pass
    raise ValueError(f"{shortened(repr(field))} is not a number")


def require_finite(landmarks: NDArray[np.float64]) -> NDArray[np.float64]:
    finite = np.isfinite(landmarks).all(axis=1)
    if not finite.all():
        index = int(np.argmin(finite))
        raise ValueError(f"landmark {index} (from 0) is not finite: {landmarks[index].tolist()}")
    return landmarks


def without_placeholders(points: NDArray[np.float64], placeholders: Placeholders) -> NDArray[np.float64]:
    """Points (K, 2) as they stand in a file -> with NaN for those that stand for no place.

    With no coordinate above 0 a point is no place that an annotator clicks on, unlike with one negative coordinate:
    that is a landmark beyond the picture's border.
    """
    if placeholders == "merl_rav":
        points = _merl_rav(points)
    empty = np.asarray((points <= 0).all(axis=1))  # NaN is not
    if placeholders == "missing":
        points = np.where(empty[:, None], np.nan, points)
    elif placeholders != "keep" and empty.any():
        index = int(np.argmax(empty))
        x, y = points[index]
        raise ValueError(
            f"landmark {index} (from 0) is at {x:g} {y:g}, which looks like a placeholder; data.placeholders says what "
            "such points mean: missing, merl_rav (-1 -1 missing, -x -y covered at x y) or keep"
        )
    if np.isnan(points).any(axis=1).all():
        raise ValueError(NOTHING_VISIBLE)
    return points


def _merl_rav(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """MERL-RAV's signs (Kumar et al., LUVLi Face Alignment, CVPR 2020): -1 -1 is a landmark that the head itself hides,
    whose place nobody knows, and -x -y one at x y that something else covers."""
    unknown = (points == -1).all(axis=1, keepdims=True)
    covered = (points < 0).all(axis=1, keepdims=True)
    return np.where(unknown, np.nan, np.where(covered, -points, points))


def parse_array(annotation: dict[str, Any], key: str, *lengths: int) -> NDArray[np.float64]:
    try:
        raw = np.array(annotation[key]).reshape(-1)
        values = raw.astype(np.float64)
        if raw.dtype.kind not in "iuf" and len(raw):  # numpy reads numbers out of text, and null as NaN
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{key} must be numbers, but is {shortened(annotation[key])}") from None
    if len(values) not in lengths:
        raise ValueError(f"{key} must have {' or '.join(map(str, lengths))} numbers, has {len(values)}")
    return values


def landmark_box(points: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([np.fmin.reduce(points), np.fmax.reduce(points)])  # pass NaN over
