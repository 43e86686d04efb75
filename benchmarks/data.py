"""What the data path costs: a face from the crop cache against one from its JPEG, and the cache across processes.

Whatever has to be seen by a process that knows nothing yet (building the cache, opening it, sharing its memory) runs
in processes of its own. This one maps the cache last, because whoever maps it shares in its pages.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import re
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Final
from unittest import mock

import cv2
import numpy as np

from benchmarks.measuring import Table, milliseconds, time_in_turn
from trainer.config import TrainConfig
from trainer.data import crop_sources
from trainer.data.batches import training_batches
from trainer.data.crop_cache import load_split
from trainer.data.face_table import read_split
from trainer.data.images import crop_face, read_bytes, read_picture
from trainer.data_config import DataConfig
from trainer.synthetic import draw_face

FACES, SIDE, SIZE, QUALITY, ROUNDS = 64, 1024, 256, 90, 15
SHARES = (1, 4)  # processes on one cache
_DRAWN, _GRAIN = 256, 6.0  # side of the drawing that is enlarged; noise, so that a JPEG is as large as of a photo
_SMAPS: Final = Path("/proc/self/smaps")
_PATIENCE: Final = 120.0  # seconds until a process that others wait for is given up


def measure() -> Table:
    """Writes pictures, has their cache built and opened by other processes, then times a face of either kind."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        config, size = _config(root), _write_pictures(root)
        (first, decoded), (second, again) = _alone(config), _alone(config)
        (file,) = root.glob("crops/*/images.npy")
        rows = [
            ["first trial on a machine", f"{milliseconds(first)}, decodes {decoded} pictures", ""],
            ["second trial", f"{milliseconds(second)}, decodes {again} pictures", "decodes none"],
            *(_shared(config, file, processes) for processes in SHARES),
        ]
        return Table("Data path", ["what", "measured", "demand"], [*_faces(config), *rows], _conditions(size))


def _conditions(size: float) -> str:
    return (
        f"{FACES} pictures of {SIDE} px with a face each, JPEG quality {QUALITY}, {size / 1e3:.0f} kB on average, in "
        f"the file cache; crops of {SIZE} px and their margin; default augmentation. A face's times are of one thread, "
        f"medians of {ROUNDS} rounds over all faces; a trial's are `load_split` in a fresh process, imports apart. "
        "Shared memory is the sum of the processes' PSS, in which a page counts 1/n in each of the n that map it."
    )


def _config(root: Path) -> TrainConfig:
    data = {"kind": "coco", "root": str(root), "train_list": "all.json", "val_list": "all.json", "image_size": SIZE}
    return TrainConfig.from_tree({"data": {**data, "cache_dir": str(root / "crops"), "workers": 0}})


def _write_pictures(root: Path) -> float:
    """Writes the JPEGs and their list in COCO's form; returns the mean size of a picture in bytes."""
    zoom, rng = SIDE / _DRAWN, np.random.default_rng(0)
    images, annotations, written = [], [], 0
    for index in range(FACES):
        face, path = draw_face(0, index, size=_DRAWN), root / f"{index}.jpg"
        smooth = cv2.resize(face.image, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
        grainy = np.clip(smooth + rng.normal(0, _GRAIN, smooth.shape), 0, 255).astype(np.uint8)
        cv2.imwrite(str(path), grainy, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
        points = np.column_stack([(face.landmarks + 0.5) * zoom - 0.5, np.full(len(face.landmarks), 2)])
        images.append({"id": index, "file_name": path.name})
        annotations.append({"id": index, "image_id": index, "keypoints": points.ravel().tolist()})
        written += path.stat().st_size
    (root / "all.json").write_text(json.dumps({"images": images, "annotations": annotations}), encoding="utf-8")
    return written / FACES


def _faces(config: TrainConfig) -> Iterator[list[str]]:
    """A face from the cache and one from its JPEG, timed in turn."""
    split, faces, epochs = load_split(config.data, "train"), read_split(config.data, "train"), itertools.count(1)

    def cached() -> None:
        for _ in training_batches(split, config, next(epochs)):
            pass

    def decoded() -> None:
        for path, box in zip(faces.pictures, faces.boxes, strict=True):
            crop_face(read_picture(path), box, box_scale=config.data.box_scale, size=SIZE, canvas=SIZE)

    seconds = time_in_turn({"cached": cached, "decoded": decoded}, ROUNDS)
    fast, slow = seconds["cached"] / FACES, seconds["decoded"] / FACES
    yield ["a face decoded and warped", milliseconds(slow), ""]
    yield ["a face from the cache, augmented", f"{milliseconds(fast)}, 1/{slow / fast:.1f} of that", "at most 1/10"]


def _alone(config: TrainConfig) -> tuple[float, int]:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_load, config.data).result()


def _load(config: DataConfig) -> tuple[float, int]:
    """In a fresh process: seconds of `load_split`, and how many pictures it decoded."""
    with mock.patch.object(crop_sources, "read_bytes", wraps=read_bytes) as reader:
        started = time.perf_counter()
        load_split(config, "train")
        return time.perf_counter() - started, len(reader.call_args_list)  # threads call: `call_count` may lose some


def _shared(config: TrainConfig, file: Path, processes: int) -> list[str]:
    """The row of so many processes that have all pages of one cache in their memory at the same time."""
    what = f"cache in {processes} process{'es' if processes > 1 else ''}"
    if not _SMAPS.exists():
        return [what, "not measured: this system has no /proc", "one copy"]
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, ProcessPoolExecutor(processes, context) as pool:
        barrier = manager.Barrier(processes, timeout=_PATIENCE)
        counts = [pool.submit(_pages, config.data, str(file), barrier) for _ in range(processes)]
        together = sum(count.result() for count in counts)
    size = file.stat().st_size
    return [what, f"{together / 1e6:.2f} MB, {together / size:.3f}x the file of {size / 1e6:.2f} MB", "1x the file"]


def _pages(config: DataConfig, file: str, barrier: Barrier) -> int:
    """In a fresh process: touches every page of the cache and returns the bytes of it that are counted here."""
    split = load_split(config, "train")
    split.images.sum()
    barrier.wait()  # all have touched all
    entries = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", _SMAPS.read_text(encoding="utf-8"), flags=re.M)
    kilobytes = [re.findall(r"^Pss:\s+(\d+) kB", entry, re.M)[0] for entry in entries if file in entry]
    barrier.wait()  # all have counted
    return 1024 * sum(map(int, kilobytes))
