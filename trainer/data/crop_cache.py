"""Decode-once crop cache: the crops of a split in one memory-mapped file, shared by every process on a machine.

A crop is a square canvas about the face. Its centre, data.image_size pixels a side, shows the square about the box
whose side is data.box_scale times the longer side of the box; around it lies a margin for augmentation to move in.

The cache folder's name is a hash of all that decides its content, so a changed list, picture or setting gets a folder
of its own and nothing is ever updated. A folder is built under a lock, beside its place, and renamed when it is whole.

Legend: N faces, K landmarks, C canvas side, S = data.image_size.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, NamedTuple

import cv2
import filelock
import numpy as np

from trainer import metrics, synthetic
from trainer.coords import crop_matrix, invert, transform
from trainer.cores import available_cores
from trainer.data.crops import CropSplit, canvas_size
from trainer.data.face_table import Split, draw, read_split, synthetic_indices
from trainer.data.images import crop_face, read_picture
from trainer.data.readers import is_dir
from trainer.errors import DataError
from trainer.landmarks import BOX
from trainer.runtime.disk import full_disk, is_full

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trainer.config import DataConfig
    from trainer.landmarks import Norm

_LOG = logging.getLogger(__name__)
_FORMAT: Final = 1  # raise when the same inputs would give other crops
_CHUNK: Final = 64  # pictures in flight, so that a slow disk does not fill the memory


class _Sample(NamedTuple):
    image: NDArray[np.uint8]
    landmarks: NDArray[np.float64]
    box: NDArray[np.float64]
    attributes: NDArray[np.bool_] | None


@dataclass(frozen=True)
class _Source:
    """A split before it is decoded: names, what identifies its content, and how to get at face number i."""

    pictures: tuple[str, ...]
    origins: tuple[str, ...]
    skipped: tuple[str, ...]
    identity: tuple[Any, ...]
    fetch: Callable[[int], _Sample]


def load_split(config: DataConfig, split: Split) -> CropSplit:
    """Returns the crops of a split, decoding or drawing them first unless the cache has them.

    Any number of processes may ask at once: one builds, the others wait.

    Raises:
        DataError: a fault of the annotations (see `read_split`), a picture that cannot be used (left out under
            data.skip_bad), no face left, or a cache folder that is full, cannot be written to or is damaged.
    """
    source = _synthetic_source(config, split) if config.kind == "synthetic" else _file_source(config, split)
    try:
        folder = config.cache_folder / _key(config, source)
    except RuntimeError:
        raise DataError(f"data.cache_dir = {config.cache_dir!r}: there is no such user") from None
    if not is_dir(folder):
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with filelock.FileLock(folder.with_suffix(".lock")):
                if not folder.is_dir():
                    _remove_stale(folder)
                    _build(config, source, folder)
        except OSError as error:
            if is_full(error):
                raise full_disk(folder, len(source.pictures) * canvas_size(config) ** 2 * 3) from error
            message = f"data.cache_dir: {config.cache_folder} cannot be written to ({error})"
            raise DataError(message) from error
    return _open(config, source, folder)


def _synthetic_source(config: DataConfig, split: Split) -> _Source:
    indices = synthetic_indices(config, split)
    names = tuple(f"synthetic:{config.synthetic_seed}:{index}" for index in indices)

    def fetch(row: int) -> _Sample:
        face = draw(config, indices[row])
        return _Sample(np.ascontiguousarray(face.image[..., ::-1]), face.landmarks, face.box, face.attributes)

    return _Source(names, names, (), (config.synthetic_seed, list(indices), _painter()), fetch)


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


def _file_source(config: DataConfig, split: Split) -> _Source:
    faces = read_split(config, split)
    stats = {picture: Path(picture).stat() for picture in set(faces.pictures)}
    files = [(picture, stats[picture].st_size, stats[picture].st_mtime_ns) for picture in faces.pictures]
    labels = hashlib.sha256(faces.landmarks.tobytes() + faces.boxes.tobytes())
    if faces.attributes is not None:
        labels.update(faces.attributes.tobytes())

    def fetch(row: int) -> _Sample:
        attributes = None if faces.attributes is None else faces.attributes[row]
        return _Sample(read_picture(faces.pictures[row]), faces.landmarks[row], faces.boxes[row], attributes)

    return _Source(faces.pictures, faces.origins, faces.skipped, (files, labels.hexdigest()), fetch)


def _key(config: DataConfig, source: _Source) -> str:
    settings = (
        (config.landmarks.name, config.norm.name, config.skip_bad),
        (config.image_size, config.box_scale, config.crop_margin),
    )
    content = json.dumps([_FORMAT, settings, source.identity])
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def _remove_stale(folder: Path) -> None:
    """Removes what dead builders left: a folder being built whose lock nobody holds. Our own lock is held."""
    for temporary in folder.parent.glob("*.tmp"):
        lock = filelock.FileLock(temporary.with_suffix(".lock"), timeout=0)
        try:
            if temporary.stem == folder.name:
                shutil.rmtree(temporary)
            else:
                with lock:
                    shutil.rmtree(temporary)
        except (filelock.Timeout, FileNotFoundError):
            continue  # alive, or renamed meanwhile


def _build(config: DataConfig, source: _Source, folder: Path) -> None:
    """Decodes every face into `folder`, which appears whole or not at all."""
    count, canvas = len(source.pictures), canvas_size(config)
    free = shutil.disk_usage(folder.parent).free
    if free < count * canvas * canvas * 3:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    _LOG.info("building the crop cache of %d faces in %s", count, folder)
    temporary = folder.with_suffix(".tmp")
    temporary.mkdir()
    try:
        with open(temporary / "images.npy", "wb") as file:
            _write_header(file, count, canvas)
            table = _write_crops(file, config, source)
            file.seek(0)
            _write_header(file, len(table["kept"]), canvas)
            file.flush()
            os.fsync(file.fileno())
        np.savez(temporary / "table.npz", allow_pickle=False, **table)
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _write_header(file: BinaryIO, count: int, canvas: int) -> None:
    """Writes the .npy header, whose length does not depend on the count: numpy leaves room for it to grow."""
    shape = (count, canvas, canvas, 3)
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})


def _write_crops(file: BinaryIO, config: DataConfig, source: _Source) -> dict[str, NDArray[Any]]:
    """Appends the crops in the order of the faces and returns the table of labels of those that are kept."""
    rows: list[dict[str, Any]] = []
    faults: list[str] = []
    for row, result in enumerate(_cropped(config, source)):
        if isinstance(result, DataError):
            message = f"{source.origins[row]}: {result}"
            if not config.skip_bad:
                raise DataError(message) from result
            faults.append(message)
            continue
        crop, sample = result
        file.write(crop.tobytes())
        rows.append({"kept": row, **_labels(config, sample)})
    if not rows:
        raise DataError(f"no face is left, all {len(faults)} are faulty, such as {faults[0]}")
    table = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    return {**table, "faults": np.array(faults, dtype=np.str_)}


def _cropped(config: DataConfig, source: _Source) -> Iterator[tuple[NDArray[np.uint8], _Sample] | DataError]:
    """Yields crop and labels of each face in order, or the reason why there is none. OpenCV lets threads run."""
    size, canvas = config.image_size, canvas_size(config)

    def work(row: int) -> tuple[NDArray[np.uint8], _Sample] | DataError:
        try:
            sample = source.fetch(row)
            height, width = sample.image.shape[:2]
            x0, y0, x1, y1 = sample.box
            if x1 < 0 or y1 < 0 or x0 > width - 1 or y0 > height - 1:
                what = f"box {x0:g} {y0:g} {x1:g} {y1:g} lies outside of the picture's {width} x {height} pixels"
                raise DataError(f"{source.pictures[row]}: {what}")
        except DataError as error:
            return error
        crop, _ = crop_face(sample.image, sample.box, box_scale=config.box_scale, size=size, canvas=canvas)
        return crop, sample

    rows: Sequence[int] = range(len(source.pictures))
    with ThreadPoolExecutor(min(4, available_cores())) as pool:
        for start in range(0, len(rows), _CHUNK):
            yield from pool.map(work, rows[start : start + _CHUNK])


def _labels(config: DataConfig, sample: _Sample) -> dict[str, Any]:
    matrix = crop_matrix(sample.box, config.box_scale, config.image_size)
    landmarks = transform(sample.landmarks, matrix)
    labels: dict[str, Any] = {
        "landmarks": landmarks.astype(np.float32),
        "visible": np.isfinite(landmarks).all(axis=1),
        "norms": np.float32(_norm(config.norm, landmarks, sample.box, matrix)),
        "to_picture": invert(matrix),
    }
    return labels if sample.attributes is None else {**labels, "attributes": sample.attributes}


def _norm(norm: Norm, landmarks: NDArray[np.float64], box: NDArray[np.float64], matrix: NDArray[np.float64]) -> float:
    if norm is BOX:
        return float(np.sqrt((box[2] - box[0]) * (box[3] - box[1])) * matrix[0, 0])
    return float(metrics.norms(landmarks[None], norm)[0])


def _open(config: DataConfig, source: _Source, folder: Path) -> CropSplit:
    try:
        images = np.load(folder / "images.npy", mmap_mode="r")
        with open(folder / "table.npz", "rb") as file, np.load(file) as stored:
            table = dict(stored)
        if len(images) != len(table["kept"]):
            raise ValueError(f"{len(images)} crops, {len(table['kept'])} labels")
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{folder}: is damaged, delete this folder to have it built again ({error})") from error
    kept, faults = table.pop("kept").tolist(), tuple(table.pop("faults").tolist())
    return CropSplit(
        images=images,
        attributes=table.pop("attributes", None),
        pictures=tuple(source.pictures[row] for row in kept),
        origins=tuple(source.origins[row] for row in kept),
        skipped=source.skipped + faults,
        size=config.image_size,
        **table,
    )
