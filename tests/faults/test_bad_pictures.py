"""Damaged and odd pictures by the hundred, through the one reader, the crop cache and prediction: picture or name."""

from __future__ import annotations

import contextlib
import os
import resource
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from trainer.config import TrainConfig
from trainer.data.crop_cache import load_split
from trainer.data.images import crop_face, read_picture
from trainer.data_config import DataConfig
from trainer.errors import DataError
from trainer.model import LandmarkNet
from trainer.predict import predict_picture

HEIGHT, WIDTH = 48, 64
DAMAGED = 40  # of each kind of file, cut short and with bytes changed
Y, X = np.mgrid[:HEIGHT, :WIDTH]
PICTURE = np.stack([X * 4, Y * 5, (X * Y) % 256], axis=-1).astype(np.uint8)
SKIP: dict[str, Any] = {"skip_bad": True, "skip_at_most": 1.0}
POINTS = np.random.default_rng(5).random((68, 2)) * [40, 30] + 8


def encode(suffix: str, image: np.ndarray, *options: int) -> bytes:
    done, data = cv2.imencode(suffix, image, list(options))
    assert done
    return data.tobytes()


def palette_png() -> bytes:
    """A PNG of 8-bit palette indices, which OpenCV does not write: from its grey one with a PLTE chunk put in."""
    import zlib

    grey = encode(".png", PICTURE[..., 0])
    header = grey[12:25] + b"\x03" + grey[26:29]  # IHDR with colour type 3
    palette = b"PLTE" + bytes(range(256)) * 3
    chunks = b"".join(
        (len(body) - 4).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big") for body in (header, palette)
    )
    return grey[:8] + chunks + grey[33:]


def with_segment(jpeg: bytes, marker: int, content: bytes) -> bytes:
    return jpeg[:2] + bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content + jpeg[2:]


def turned(jpeg: bytes, orientation: int) -> bytes:
    tiff = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0" + bytes([orientation]) + b"\0" * 7
    return with_segment(jpeg, 0xE1, b"Exif\0\0" + tiff)


def cmyk(jpeg: bytes) -> bytes:
    """A four-component JPEG: the Y component's scan data with a frame and scan header that name it four times."""
    at = jpeg.index(b"\xff\xc0")
    length = int.from_bytes(jpeg[at + 2 : at + 4], "big")
    parts = b"".join(bytes([i, 0x11, 0]) for i in range(1, 5))
    frame = b"\xff\xc0" + (8 + len(parts)).to_bytes(2, "big") + jpeg[at + 4 : at + 9] + b"\x04" + parts
    scan = jpeg.index(b"\xff\xda")
    scan_length = int.from_bytes(jpeg[scan + 2 : scan + 4], "big")
    chosen = b"".join(bytes([i, 0]) for i in range(1, 5))
    header = b"\xff\xda" + (6 + len(chosen)).to_bytes(2, "big") + b"\x04" + chosen + b"\0\x3f\0"
    return jpeg[:at] + frame + jpeg[at + 2 + length : scan] + header + jpeg[scan + 2 + scan_length :]


JPEG, PNG = encode(".jpg", PICTURE), encode(".png", PICTURE)
GREY_JPEG = encode(".jpg", PICTURE[..., 0])
WHOLE: dict[str, bytes] = {
    "plain.jpg": JPEG,
    "grey.jpg": GREY_JPEG,
    "progressive.jpg": encode(".jpg", PICTURE, cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_RST_INTERVAL, 2),
    "turned.jpg": turned(JPEG, 6),
    "thumbnail.jpg": with_segment(JPEG, 0xE2, encode(".jpg", PICTURE[:8, :8])),
    "plain.png": PNG,
    "grey.png": encode(".png", PICTURE[..., 0]),
    "alpha.png": encode(".png", np.dstack([PICTURE, PICTURE[..., 0]])),
    "16bit.png": encode(".png", PICTURE.astype(np.uint16) * 257),
    "palette.png": palette_png(),
    "plain.bmp": encode(".bmp", PICTURE),
    "plain.gif": encode(".gif", PICTURE),
    "plain.webp": encode(".webp", PICTURE),
    "16bit.tiff": encode(".tiff", PICTURE.astype(np.uint16) * 257),
}
TURNED = {"turned.jpg"}


def damaged(rng: np.random.Generator, data: bytes, number: int) -> bytes:
    """The file cut short, with bytes changed (near its start or anywhere), or with some taken out."""
    changed = bytearray(data)
    match number % 4:
        case 0 | 1:
            return data[: rng.integers(0, len(data))]
        case 2:
            for _ in range(rng.integers(1, 7)):
                changed[rng.integers(min(len(data), 120) if number % 8 == 2 else len(data))] = rng.integers(256)
        case _:
            at = rng.integers(len(data))
            del changed[at : at + rng.integers(1, 40)]
    return bytes(changed)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A folder of pictures: whole ones of every kind, damaged ones, and what is none at all."""
    folder, rng = tmp_path_factory.mktemp("zoo"), np.random.default_rng(0)
    paths = []

    def add(name: str, data: bytes) -> None:
        (folder / name).write_bytes(data)
        paths.append(folder / name)

    for name, data in WHOLE.items():
        add(f"whole-{name}", data)
        for number in range(2 * DAMAGED):
            add(f"damaged{number:03d}-{name}", damaged(rng, data, number))
    for orientation in range(10):
        add(f"odd-turned{orientation}.jpg", turned(JPEG, orientation))
    add("odd-cmyk.jpg", cmyk(GREY_JPEG))
    add("odd-one.png", encode(".png", np.full((1, 1, 3), 9, np.uint8)))
    add("odd-wide.png", encode(".png", np.zeros((2, 20_000, 3), np.uint8)))
    add("odd-high.jpg", encode(".jpg", np.zeros((20_000, 3, 3), np.uint8)))
    add("none-empty.jpg", b"")
    add("none-text.jpg", b"not a picture\n")
    add("none-zeros.png", b"\0" * 5000)
    add("none-start.png", PNG[:8])
    add("none-start.jpg", JPEG[:3])
    add("none-thumbnail.jpg", WHOLE["thumbnail.jpg"][: WHOLE["thumbnail.jpg"].index(b"\xff\xd9") + 2])
    assert len(paths) >= 1000
    return paths


@contextlib.contextmanager
def little_memory() -> Iterator[None]:
    """Whoever wants another gigabyte gets an error instead."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + 2**30, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def read(path: Path) -> np.ndarray | None:
    """The picture, or None after a message that names the file in one line."""
    message = ""
    picture: np.ndarray | None = None
    try:
        with little_memory():
            picture = read_picture(path)
    except DataError as error:
        message = str(error)
    assert (picture is None) == message.startswith(f"{path}: ")
    assert "\n" not in message
    assert len(message) < 400
    return picture


def test_every_file_gives_a_picture_or_its_name(zoo: list[Path]) -> None:
    outcomes: Counter[tuple[str, bool]] = Counter()
    for path in zoo:
        picture = read(path)
        kind = path.name.split("-")[0][:4]
        outcomes[kind, picture is not None] += 1
        if picture is None:
            assert kind not in ("whol", "odd"), path
            continue
        assert kind != "none", path
        assert picture.dtype == np.uint8
        assert picture.ndim == 3
        assert picture.shape[2] == 3
        stale = [np.full(picture.size + extra, 170, np.uint8) for extra in (0, 64, 4096)]
        del stale  # what a decoder leaves unset would show it
        np.testing.assert_array_equal(picture, read_picture(path))
        if kind == "whol":
            assert picture.shape[:2] == ((WIDTH, HEIGHT) if path.name[6:] in TURNED else (HEIGHT, WIDTH))
    assert sum(outcomes.values()) == len(zoo) >= 1000
    assert outcomes["dama", True] > 100
    assert outcomes["dama", False] > 500


@pytest.mark.parametrize("name", [name for name in WHOLE if name.endswith((".jpg", ".png"))])
def test_a_jpeg_or_png_cut_anywhere_is_refused(tmp_path: Path, name: str) -> None:
    path, data = tmp_path / name, WHOLE[name]
    for length in range(0, len(data) - 13, 23):  # the last chunk of a PNG is 12 bytes
        path.write_bytes(data[:length])
        assert read(path) is None, length


def test_a_png_with_a_changed_byte_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    for at in (*range(8, 60), *range(60, len(PNG) - 12, 13)):
        path.write_bytes(PNG[:at] + bytes([PNG[at] ^ 0x40]) + PNG[at + 1 :])
        assert read(path) is None, at


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    for path in (tmp_path / "pipe.jpg", tmp_path / "folder.jpg", tmp_path / "loop.jpg", Path("/dev/zero"), tmp_path):
        assert read(path) is None


# --- the crop cache


def write_list(root: Path, paths: list[Path]) -> DataConfig:
    root.mkdir()
    body = "\n".join(f"{x:.3f} {y:.3f}" for x, y in POINTS + 1)
    for path in paths:
        path.with_suffix(".pts").write_text(f"n_points: 68\n{{\n{body}\n}}\n")
    (root / "train.txt").write_text("\n".join(map(str, paths)))
    cache = str(root / "cache")
    return DataConfig(kind="w300", root=str(root), val_list="train.txt", image_size=32, cache_dir=cache, **SKIP)


def test_the_crop_cache_keeps_or_names_every_face(zoo: list[Path], tmp_path: Path) -> None:
    config = write_list(tmp_path / "data", zoo)
    split = load_split(config, "train")
    assert len(split) + len(split.skipped) == len(zoo)
    places = [int(fault.origin.removeprefix(f"{tmp_path / 'data/train.txt'}:")) for fault in split.skipped]
    kept = [int(origin.rsplit(":", 1)[-1]) for origin in split.origins]
    assert sorted(places + kept) == list(range(1, len(zoo) + 1))
    assert all(str(zoo[place - 1]) in fault.reason for place, fault in zip(places, split.skipped, strict=True))
    box = np.array([*POINTS.min(0), *POINTS.max(0)]).round(3)
    canvas = split.images.shape[1]
    assert split.images.dtype == np.uint8
    assert split.images.shape == (len(kept), canvas, canvas, 3)
    for row, place in enumerate(kept):
        crop, _ = crop_face(read_picture(zoo[place - 1]), box, box_scale=1.25, size=32, canvas=canvas)
        assert np.abs(split.images[row].astype(int) - crop).max() <= 1, zoo[place - 1]
    assert np.isfinite(split.landmarks).all()
    assert np.isfinite(split.to_picture).all()


def test_the_first_bad_picture_stops_a_build_by_name_and_leaves_no_cache(zoo: list[Path], tmp_path: Path) -> None:
    good = [path for path in zoo if path.name.startswith("whole")]
    for number, bad in enumerate(path for path in zoo if path.name.startswith("none")):
        config = write_list(tmp_path / str(number), [*good, bad]).model_copy(
            update={"skip_bad": False, "skip_at_most": 0.05}
        )
        with pytest.raises(DataError) as error:
            load_split(config, "train")
        assert str(error.value).startswith(f"{tmp_path / str(number) / 'train.txt'}:{len(good) + 1}: {bad}: ")
        assert [path for path in config.cache_folder.iterdir() if path.is_dir()] == []


@pytest.mark.parametrize(
    "box", [[-4e5, -4e5, 4e5, 4e5], [-9e5, 5, 9e5, 20], [3, 3, 4, 4], [-9e5, -9e5, 9, 9], [9, 9, 9e5, 9e5]]
)
def test_a_box_out_of_proportion_costs_no_memory(box: list[float]) -> None:
    with little_memory():
        crop, matrix = crop_face(PICTURE, np.array(box), box_scale=1.25, size=32, canvas=40)
    assert crop.shape == (40, 40, 3)
    assert crop.dtype == np.uint8
    assert np.isfinite(matrix).all()


# --- prediction


@pytest.fixture
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("_one_thread")
def test_prediction_reads_or_names_every_picture(zoo: list[Path]) -> None:
    torch.manual_seed(0)
    config = TrainConfig().replace(
        {
            "data.image_size": 32,
            "model.backbone": "resnet18",
            "model.width": 8,
            "run.precision": "float32",
            "run.channels_last": True,
        }
    )
    model = LandmarkNet(config.model, 98).eval()
    chosen = [path for number, path in enumerate(zoo) if number % 24 == 0 or not path.name.startswith("damaged")]
    refused = 0
    for path in chosen:
        if read(path) is None:
            with pytest.raises(DataError, match=f"^{path}: "):
                predict_picture(path, None, config, model)
            refused += 1
        else:
            found, overlay = predict_picture(path, None, config, model)
            assert np.isfinite(found["landmarks"]).all()
            assert np.array(found["landmarks"]).shape == (98, 2)
            assert overlay.startswith(b"\x89PNG")
    assert len(chosen) > 70
    assert 10 < refused < len(chosen)
