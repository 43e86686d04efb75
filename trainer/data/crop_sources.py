"""Where the faces of a split come from before they are cropped: pictures of a data set, or drawings."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np

from trainer import synthetic
from trainer.data.face_table import Split, read_split, render_synthetic, synthetic_indices
from trainer.data.faults import Fault
from trainer.data.groups import Group
from trainer.data.images import decode_picture, read_bytes
from trainer.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trainer.data_config import DataConfig


class Sample(NamedTuple):
    """One face: picture (H, W, 3), landmarks (K, 2) and box (4,) in its pixels, and WFLW's attributes, if any."""

    image: NDArray[np.uint8]
    landmarks: NDArray[np.float64]
    box: NDArray[np.float64]
    attributes: NDArray[np.bool_] | None
    mark: bytes  # a digest of all that the face is


@dataclass(frozen=True)
class Source:
    """A split before it is decoded: names, what identifies its content, and how to get at face number i."""

    pictures: tuple[str, ...]
    origins: tuple[str, ...]
    skipped: tuple[Fault, ...]
    groups: tuple[Group, ...]
    identity: tuple[Any, ...]
    fetch: Callable[[int], Sample]


def open_source(config: DataConfig, split: Split) -> Source:
    """The source of a split.

    Raises:
        DataError: a fault of the annotations (see `read_split`).
    """
    return _synthetic_source(config, split) if config.kind == "synthetic" else _file_source(config, split)


def _synthetic_source(config: DataConfig, split: Split) -> Source:
    indices = synthetic_indices(config, split)
    names = tuple(f"synthetic:{config.synthetic_seed}:{index}" for index in indices)
    painter = _painter()

    def fetch(row: int) -> Sample:
        face = render_synthetic(config, indices[row])
        mark = _digest(names[row].encode(), painter.encode())
        return Sample(np.ascontiguousarray(face.image[..., ::-1]), face.landmarks, face.box, face.attributes, mark)

    groups = tuple(Group("picture", name) for name in names)
    return Source(names, names, (), groups, (config.synthetic_seed, list(indices), painter), fetch)


def _painter() -> str:
    """A hash of all that decides what a synthetic face looks like beside its seed and index."""
    home = Path(synthetic.__file__).parent
    files = [*sorted(home.glob("*.py")), *home.glob("meanface*.txt")]
    names = {path.name for path in files}
    assert names >= {"faces.py", "scene.py", "painting.py", "canvas.py", "meanface_wflw98.txt"}, names
    code = hashlib.sha256(f"{np.__version__} {cv2.__version__}".encode())
    for path in files:
        code.update(path.read_bytes())
    return code.hexdigest()


def _file_source(config: DataConfig, split: Split) -> Source:
    faces = read_split(config, split)
    stats = {picture: Path(picture).stat() for picture in set(faces.pictures)}
    files = [(picture, stats[picture].st_size, stats[picture].st_mtime_ns) for picture in faces.pictures]
    labels = hashlib.sha256(faces.landmarks.tobytes() + faces.boxes.tobytes())
    if faces.attributes is not None:
        labels.update(faces.attributes.tobytes())

    def fetch(row: int) -> Sample:
        path, landmarks, box = faces.pictures[row], faces.landmarks[row], faces.boxes[row]
        attributes = None if faces.attributes is None else faces.attributes[row]
        data = read_bytes(path)
        picture = decode_picture(data, path)
        _check_size(picture, faces.sizes[row], path)
        name = "/".join(Path(path).parts[-2:])
        labels = [table.tobytes() for table in (landmarks, box, attributes) if table is not None]
        return Sample(picture, landmarks, box, attributes, _digest(name.encode(), *labels, data))

    identity = (files, labels.hexdigest(), faces.sizes)
    return Source(faces.pictures, faces.origins, faces.skipped, faces.groups, identity, fetch)


def _check_size(picture: NDArray[np.uint8], listed: tuple[int, int] | None, path: str) -> None:
    """Raises DataError where a list says another size: its landmarks would be in pixels of another picture."""
    height, width = picture.shape[:2]
    if listed in (None, (width, height)):
        return
    turned = ", perhaps turned by its EXIF orientation" if listed == (height, width) else ""
    raise DataError(f"{path}: is {width} x {height} pixels, but its list says {listed[0]} x {listed[1]}{turned}")


def _digest(*parts: bytes) -> bytes:
    """Of several parts, whose lengths count, too."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(8))
        digest.update(part)
    return digest.digest()
