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
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import filelock
import numpy as np

from trainer import metrics
from trainer.coords import crop_matrix, invert, outside, transform
from trainer.cores import available_cores
from trainer.data.crop_sources import Sample, Source, open_source
from trainer.data.crops import CropSplit, canvas_size
from trainer.data.face_table import Split
from trainer.data.faults import Fault, require_few
from trainer.data.images import crop_face
from trainer.data.parsing import is_dir
from trainer.errors import DataError
from trainer.landmarks import BOX
from trainer.runtime.disk import full_disk, is_full

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trainer.config import TrainConfig
    from trainer.data_config import DataConfig
    from trainer.landmarks import Norm

_LOG = logging.getLogger(__name__)
_FORMAT: Final = 2  # raise when the same inputs would give other crops
_CHUNK: Final = 64  # pictures in flight, so that a slow disk does not fill the memory
_MOST_OUTSIDE: Final = 0.5  # share of a face's landmarks that may lie outside of its crop, or of the picture
_LEAST_EXTENT: Final = 0.15  # of the crop's side that the landmarks must span


def load_splits(config: TrainConfig) -> dict[Split, CropSplit]:
    """The crops of the faces that a run trains on, and of those that it validates on, where it does.

    Raises:
        DataError: as `load_split`, or too few faces for a batch.
    """
    training = load_split(config.data, config.data.train_on)
    if not config.fits_batch_norm(len(training)):
        raise DataError(f"{training.origins[0]}: is the only face to train on; batch norm needs two, or 64 pixels")
    crops: dict[Split, CropSplit] = {config.data.train_on: training}
    return crops if config.data.train_on == "train+val" else {**crops, "val": load_split(config.data, "val")}


def load_split(config: DataConfig, split: Split) -> CropSplit:
    """Returns the crops of a split, decoding or drawing them first unless the cache has them.

    Any number of processes may ask at once: one builds, the others wait.

    Raises:
        DataError: a fault of the annotations (see `read_split`), a picture or crop that cannot be used (under
            data.skip_bad, too many of them), no face left, or a cache folder that cannot be written to or is damaged.
        DiskFullError: there is no room for the crops.
    """
    source = open_source(config, split)
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
    crops, faults = _open(config, source, folder)
    require_few(faults, len(source.pictures), config.skip_at_most, f"data.{split} pictures")
    return crops


def _key(config: DataConfig, source: Source) -> str:
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


def _build(config: DataConfig, source: Source, folder: Path) -> None:
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


def _write_crops(file: BinaryIO, config: DataConfig, source: Source) -> dict[str, NDArray[Any]]:
    """Appends the crops in the order of the faces and returns the table of labels of those that are kept."""
    rows: list[dict[str, Any]] = []
    faults: list[Fault] = []
    for row, result in enumerate(_cropped(config, source)):
        if isinstance(result, DataError):
            fault = Fault(source.origins[row], str(result))
            if not config.skip_bad:
                raise DataError(str(fault)) from result
            faults.append(fault)
            continue
        crop, sample = result
        file.write(crop.tobytes())
        rows.append({"kept": row, **_labels(config, sample)})
    if not rows:
        raise DataError(f"no face is left, all {len(faults)} are faulty, such as {faults[0]}")
    table = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    return {**table, "faults": np.array(faults, dtype=np.str_).reshape(-1, 2)}


def _cropped(config: DataConfig, source: Source) -> Iterator[tuple[NDArray[np.uint8], Sample] | DataError]:
    """Yields crop and labels of each face in order, or the reason why there is none. OpenCV lets threads run."""
    size, canvas = config.image_size, canvas_size(config)

    def work(row: int) -> tuple[NDArray[np.uint8], Sample] | DataError:
        try:
            sample = source.fetch(row)
            height, width = sample.image.shape[:2]
            x0, y0, x1, y1 = sample.box
            if x1 < 0 or y1 < 0 or x0 > width - 1 or y0 > height - 1:
                what = f"box {x0:g} {y0:g} {x1:g} {y1:g} lies outside of the picture's {width} x {height} pixels"
                raise DataError(f"{source.pictures[row]}: {what}")
            _check_fit(sample, config)
        except DataError as error:
            return error
        crop, _ = crop_face(sample.image, sample.box, box_scale=config.box_scale, size=size, canvas=canvas)
        return crop, sample

    rows: Sequence[int] = range(len(source.pictures))
    with ThreadPoolExecutor(min(4, available_cores())) as pool:
        for start in range(0, len(rows), _CHUNK):
            yield from pool.map(work, rows[start : start + _CHUNK])


def _check_fit(sample: Sample, config: DataConfig) -> None:
    """Raises DataError where box and landmarks cannot belong together, or landmarks and picture."""
    points = sample.landmarks[np.isfinite(sample.landmarks).all(axis=1)]
    size = config.image_size
    inside = transform(points, crop_matrix(sample.box, config.box_scale, size))
    height, width = sample.image.shape[:2]
    x0, y0, x1, y1 = sample.box
    box = f"box {x0:g} {y0:g} {x1:g} {y1:g}"
    if (share := outside(points, width, height).mean()) > _MOST_OUTSIDE:
        raise DataError(f"{share:.0%} of its landmarks lie outside of the picture's {width} x {height} pixels")
    if (share := outside(inside, size, size).mean()) > _MOST_OUTSIDE:
        raise DataError(
            f"{share:.0%} of its landmarks lie outside of its crop, {box} enlarged {config.box_scale:g} times"
        )
    if (extent := float(np.ptp(inside, axis=0).max()) / size) < _LEAST_EXTENT:
        raise DataError(f"its landmarks span {extent:.0%} of its crop, {box} is far larger than the face")


def _labels(config: DataConfig, sample: Sample) -> dict[str, Any]:
    matrix = crop_matrix(sample.box, config.box_scale, config.image_size)
    landmarks = transform(sample.landmarks, matrix)
    labels: dict[str, Any] = {
        "landmarks": landmarks.astype(np.float32),
        "visible": np.isfinite(landmarks).all(axis=1),
        "norms": np.float32(_norm(config.norm, landmarks, sample.box, matrix)),
        "to_picture": invert(matrix),
        "marks": np.frombuffer(sample.mark, np.uint8),
    }
    return labels if sample.attributes is None else {**labels, "attributes": sample.attributes}


def _norm(norm: Norm, landmarks: NDArray[np.float64], box: NDArray[np.float64], matrix: NDArray[np.float64]) -> float:
    if norm is BOX:
        return float(np.sqrt((box[2] - box[0]) * (box[3] - box[1])) * matrix[0, 0])
    return float(metrics.norms(landmarks[None], norm)[0])


def _open(config: DataConfig, source: Source, folder: Path) -> tuple[CropSplit, tuple[Fault, ...]]:
    """The crops of a folder, and the faults of those that are not there."""
    try:
        images = np.load(folder / "images.npy", mmap_mode="r")
        with open(folder / "table.npz", "rb") as file, np.load(file) as stored:
            table = dict(stored)
        if len(images) != len(table["kept"]):
            raise ValueError(f"{len(images)} crops, {len(table['kept'])} labels")
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{folder}: is damaged, delete this folder to have it built again ({error})") from error
    kept, faults = table.pop("kept").tolist(), tuple(Fault(*fault) for fault in table.pop("faults").tolist())
    crops = CropSplit(
        images=images,
        attributes=table.pop("attributes", None),
        pictures=tuple(source.pictures[row] for row in kept),
        origins=tuple(source.origins[row] for row in kept),
        skipped=source.skipped + faults,
        groups=tuple(source.groups[row] for row in kept),
        size=config.image_size,
        **table,
    )
    return crops, faults
