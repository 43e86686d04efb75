"""Pictures, crops and the crop cache: geometry by hand-made dots, many processes at once, killed builders."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from waiting import PATIENCE

from trainer import synthetic
from trainer.coords import crop_matrix, transform
from trainer.data import crop_cache, crop_sources
from trainer.data.crop_cache import load_split
from trainer.data.crops import canvas_size
from trainer.data.face_table import read_split
from trainer.data.images import crop_face, read_picture
from trainer.data_config import DataConfig
from trainer.errors import DataError, DiskFullError

PROJECT = Path(__file__).parents[3]
SKIP = {"skip_bad": True, "skip_at_most": 1.0}
RNG = np.random.default_rng(11)
POINTS68 = (RNG.random((68, 2)) * 50 + 25).round(3)


def encode(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    done, data = cv2.imencode(path.suffix, image)
    assert done
    path.write_bytes(data.tobytes())
    return path


def write_faces(root: Path, count: int) -> DataConfig:
    """A 300-W style set of noise pictures 100 x 100, whose cache lies beside it."""
    names = [f"f{number}.png" for number in range(count)]
    for number, name in enumerate(names):
        encode(root / name, np.random.default_rng(number).integers(0, 256, (100, 100, 3), dtype=np.uint8))
        points = POINTS68 + 1 + number % 3
        body = "\n".join(f"{x:.3f} {y:.3f}" for x, y in points)
        (root / name).with_suffix(".pts").write_text(f"version: 1\nn_points: 68\n{{\n{body}\n}}\n")
    (root / "train.txt").write_text("\n".join(names))
    cache = str(root.parent / "cache")
    return DataConfig(kind="w300", root=str(root), val_list="train.txt", image_size=32, cache_dir=cache)


def folders(config: DataConfig) -> list[Path]:
    return sorted(path for path in config.cache_folder.iterdir() if path.is_dir())


def dot_at(point: np.ndarray, size: int, sigma: float) -> np.ndarray:
    """A picture with a soft bright dot, whose centre of mass is the point."""
    y, x = np.mgrid[:size, :size]
    bump = np.exp(-((x - point[0]) ** 2 + (y - point[1]) ** 2) / (2 * sigma**2))
    return np.repeat((bump * 255).round().astype(np.uint8)[..., None], 3, axis=2)


def centre_of_mass(image: np.ndarray) -> np.ndarray:
    weight = image[..., 0].astype(float)
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    return np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()


# --- pictures


def test_picture_is_rgb(tmp_path: Path) -> None:
    image = np.zeros((4, 6, 3), np.uint8)
    image[..., 0] = 255  # blue in OpenCV's order
    picture = read_picture(encode(tmp_path / "a.png", image))
    assert picture.shape == (4, 6, 3)
    assert picture.dtype == np.uint8
    assert picture[0, 0].tolist() == [0, 0, 255]


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (np.full((5, 4), 90, np.uint8), [90, 90, 90]),
        (np.full((5, 4, 4), 70, np.uint8), [70, 70, 70]),
        (np.full((5, 4, 3), 0x4000, np.uint16), [0x40, 0x40, 0x40]),
        (np.full((1, 1, 3), 8, np.uint8), [8, 8, 8]),
    ],
    ids=["grey", "alpha", "16 bit", "one pixel"],
)
def test_other_kinds_of_pixels_become_8_bit_rgb(tmp_path: Path, image: np.ndarray, expected: list[int]) -> None:
    picture = read_picture(encode(tmp_path / "a.png", image))
    assert picture.shape == (*image.shape[:2], 3)
    assert picture.dtype == np.uint8
    assert picture[0, 0].tolist() == expected


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.jpg", np.zeros((10, 20, 3), np.uint8))
    tiff = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"  # orientation 6: turn by a quarter
    exif = b"Exif\0\0" + tiff
    data = path.read_bytes()
    path.write_bytes(data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:])
    assert read_picture(path).shape == (20, 10, 3)


def jpeg(tmp_path: Path) -> bytes:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    return encode(tmp_path / "whole.jpg", image).read_bytes()


@pytest.mark.parametrize("keep", [0.3, 0.5, 0.9, 0.999])
def test_cut_short(tmp_path: Path, keep: float) -> None:
    data = jpeg(tmp_path)
    path = tmp_path / "cut.jpg"
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(DataError, match=r"cut\.jpg: is cut short"):
        read_picture(path)
    data = encode(tmp_path / "whole.png", np.zeros((64, 64, 3), np.uint8)).read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: int(len(data) * min(keep, 0.9))])
    with pytest.raises(DataError, match=r"cut\.png: is cut short"):
        read_picture(tmp_path / "cut.png")


@pytest.mark.parametrize("tail", [b"\0" * 50, b"\n", b"after the end \xff\xda\xff\xd8"])
def test_bytes_after_the_end_of_a_jpeg_are_allowed(tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg(tmp_path) + tail)
    assert read_picture(path).shape == (64, 64, 3)


def test_end_marker_of_a_thumbnail_does_not_make_a_picture_whole(tmp_path: Path) -> None:
    data = jpeg(tmp_path)
    thumbnail = b"thumbnail \xff\xd9 "
    comment = b"\xff\xfe" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    path = tmp_path / "a.jpg"
    path.write_bytes(data[:2] + comment + data[2:])
    assert read_picture(path).shape == (64, 64, 3)
    path.write_bytes(data[:2] + comment + data[2:-100])
    with pytest.raises(DataError, match="is cut short"):
        read_picture(path)


def test_progressive_jpeg_and_restart_markers(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    options = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_RST_INTERVAL, 2]
    data = cv2.imencode(".jpg", image, options)[1].tobytes() + b"\0"
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    assert read_picture(path).shape == (64, 64, 3)
    path.write_bytes(data[:-4])
    with pytest.raises(DataError, match="is cut short"):
        read_picture(path)


def test_files_that_are_no_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text.jpg").write_text("not a picture")
    with pytest.raises(DataError, match=r"text\.jpg: is not a picture that OpenCV can decode"):
        read_picture(tmp_path / "text.jpg")
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(DataError, match=r"empty\.jpg: is an empty file"):
        read_picture(tmp_path / "empty.jpg")
    with pytest.raises(DataError, match=r"none\.jpg: cannot be read \(No such file"):
        read_picture(tmp_path / "none.jpg")
    with pytest.raises(DataError, match="cannot be read"):
        read_picture(tmp_path)
    monkeypatch.setattr("trainer.data.images._MOST_PIXELS", 99)
    for suffix in ("png", "jpg"):
        path = encode(tmp_path / f"large.{suffix}", np.zeros((10, 10, 3), np.uint8))
        with pytest.raises(DataError, match=r"large\.\w+: is larger than 99 pixels"):
            read_picture(path)


def test_png_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    data = encode(tmp_path / "a.png", np.zeros((2, 2, 3), np.uint8)).read_bytes()
    path = tmp_path / "bomb.png"
    path.write_bytes(data[:16] + (100_000).to_bytes(4, "big") * 2 + data[24:])
    with pytest.raises(DataError, match=r"bomb\.png: is larger than 268435456 pixels"):
        read_picture(path)


# --- crops


@pytest.mark.parametrize("shrink", [0.5, 1.0, 1.9, 2.0, 3.7, 11.3])
@pytest.mark.parametrize("place", [(0.5, 0.5), (0.31, 0.62), (0.8, 0.2)])
def test_a_dot_lands_where_the_matrix_says(shrink: float, place: tuple[float, float]) -> None:
    size, canvas = 64, 80
    side = size * shrink / 1.25
    corner = np.array([120.3, 97.6])
    point = corner + side * np.array(place)
    box = np.array([*corner, *(corner + side)])
    picture = dot_at(point, int(corner.max() + 2 * side) + 30, sigma=2 * max(1.0, shrink))
    crop, matrix = crop_face(picture, box, box_scale=1.25, size=size, canvas=canvas)
    assert crop.shape == (canvas, canvas, 3)
    assert crop.dtype == np.uint8
    np.testing.assert_allclose(matrix, crop_matrix(box, 1.25, size, canvas))
    np.testing.assert_allclose(centre_of_mass(crop), transform(point, matrix), atol=0.06)


def test_exact_crop_at_scale_one() -> None:
    picture = np.random.default_rng(3).integers(0, 256, (100, 120, 3), dtype=np.uint8)
    crop, matrix = crop_face(picture, np.array([20, 30, 52, 62]), box_scale=1.0, size=32, canvas=32)
    # The middle of the box, (36, 46), lands on the middle of the crop, (15.5, 15.5): half-pixel positions.
    np.testing.assert_allclose(matrix, [[1, 0, -20.5], [0, 1, -30.5]])
    crop, _ = crop_face(picture, np.array([20.5, 30.5, 52.5, 62.5]), box_scale=1.0, size=32, canvas=32)
    np.testing.assert_array_equal(crop, picture[31:63, 21:53])


def test_shrink_by_four_is_the_mean_of_blocks() -> None:
    picture = np.random.default_rng(3).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    crop, _ = crop_face(picture, np.array([31.5, 63.5, 159.5, 191.5]), box_scale=1.0, size=32, canvas=32)
    means = picture[64:192, 32:160].reshape(32, 4, 32, 4, 3).mean(axis=(1, 3))
    assert np.abs(crop - means).max() <= 1


@pytest.mark.parametrize("shrink", [0.7, 1.5, 2.6, 5.0])
def test_centre_of_a_canvas_equals_the_crop_without_margin(shrink: float) -> None:
    picture = np.random.default_rng(3).integers(0, 256, (600, 700, 3), dtype=np.uint8)
    box = np.array([200.2, 150.7, 200.2 + 64 * shrink, 150.7 + 50 * shrink])
    large, _ = crop_face(picture, box, box_scale=1.25, size=64, canvas=96)
    small, _ = crop_face(picture, box, box_scale=1.25, size=64, canvas=64)
    assert np.abs(large[16:80, 16:80].astype(int) - small).max() <= 1


@pytest.mark.parametrize("shrink", [0.6, 1.0, 4.3])
def test_outside_of_the_picture_is_black(shrink: float) -> None:
    side = 40 * shrink
    picture = np.full((int(side), int(side), 3), 200, np.uint8)
    box = np.array([-side / 2, -side / 2, side / 2, side / 2])  # its middle is the picture's corner
    crop, _ = crop_face(picture, box, box_scale=1.0, size=40, canvas=40)
    assert (crop[:18] == 0).all()
    assert (crop[:, :18] == 0).all()
    assert (crop[22:, 22:] == 200).all()
    crop, _ = crop_face(picture, box - 10 * side, box_scale=1.0, size=40, canvas=60)
    assert crop.shape == (60, 60, 3)
    assert not crop.any()


def test_one_pixel_picture() -> None:
    crop, _ = crop_face(np.full((1, 1, 3), 9, np.uint8), np.array([-1, -1, 1, 1]), box_scale=1.0, size=32, canvas=40)
    assert crop[20, 20].max() > 0


# --- the cache


@pytest.mark.parametrize(
    ("size", "margin", "canvas"), [(64, 0.25, 80), (256, 0.25, 320), (32, 0.0, 32), (32, 0.2, 38), (96, 2.0, 288)]
)
def test_canvas_has_the_margin_on_both_sides(size: int, margin: float, canvas: int) -> None:
    assert canvas_size(DataConfig(image_size=size, crop_margin=margin)) == canvas


def test_labels_are_in_pixels_of_the_central_square(tmp_path: Path) -> None:
    config = write_faces(tmp_path / "data", 5)
    faces, split = read_split(config, "train"), load_split(config, "train")
    assert len(split) == 5
    assert split.images.shape == (5, 40, 40, 3)
    assert split.images.dtype == np.uint8
    assert (split.size, split.margin) == (32, 4)
    assert split.landmarks.dtype == split.norms.dtype == np.float32
    assert split.visible.all()
    assert split.attributes is None
    assert (split.pictures, split.origins, split.skipped) == (faces.pictures, faces.origins, ())
    for row, box in enumerate(faces.boxes):
        scale = 32 / (max(box[2] - box[0], box[3] - box[1]) * 1.25)
        middle = np.array([box[0] + box[2], box[1] + box[3]]) / 2
        np.testing.assert_allclose(split.landmarks[row], (faces.landmarks[row] - middle) * scale + 15.5, atol=1e-5)
        back = transform(split.landmarks[row].astype(np.float64), split.to_picture[row])
        np.testing.assert_allclose(back, faces.landmarks[row], atol=1e-4)
        expected = np.linalg.norm(faces.landmarks[row, 36] - faces.landmarks[row, 45]) * scale
        np.testing.assert_allclose(split.norms[row], expected, rtol=1e-5)


def test_pixels_of_the_central_square(tmp_path: Path) -> None:
    config = write_faces(tmp_path / "data", 2)
    faces, split = read_split(config, "train"), load_split(config, "train")
    picture = read_picture(faces.pictures[1])
    crop, _ = crop_face(picture, faces.boxes[1], box_scale=1.25, size=32, canvas=32)
    central = split.images[1, split.margin : -split.margin, split.margin : -split.margin]
    assert np.abs(central.astype(int) - crop).max() <= 1


def test_box_size_normalises_where_no_points_do(tmp_path: Path) -> None:
    root = tmp_path / "data"
    encode(root / "a.png", np.zeros((100, 100, 3), np.uint8))
    keypoints = np.column_stack([POINTS68[:19], np.ones(19)])
    keypoints[4] = 0
    text = keypoints.reshape(-1).tolist()
    annotation = {"id": 0, "image_id": 0, "keypoints": text, "bbox": [20, 30, 64, 16]}
    tree = {"images": [{"id": 0, "file_name": "a.png"}], "annotations": [annotation]}
    (root / "train.json").write_text(json.dumps(tree))
    cache = str(tmp_path / "cache")
    config = DataConfig(
        kind="coco",
        layout="aflw19",
        root=str(root),
        val_list="train.json",
        image_size=32,
        cache_dir=cache,
        box_scale=1.0,
    )
    split = load_split(config, "train")
    assert split.norms.tolist() == [16.0]  # sqrt(64 * 16) pixels, halved
    assert split.visible[0].tolist() == [index != 4 for index in range(19)]
    assert np.isnan(split.landmarks[0, 4]).all()


def test_a_changed_painter_draws_the_faces_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = DataConfig(train_faces=2, image_size=32, cache_dir=str(tmp_path / "cache"))
    home = shutil.copytree(Path(str(synthetic.__file__)).parent, tmp_path / "synthetic")
    monkeypatch.setattr(synthetic, "__file__", str(home / "__init__.py"))
    for count, changed in enumerate(["", "", "painting.py", "meanface_wflw98.txt"]):
        if changed:
            (home / changed).write_text((home / changed).read_text() + "\n")
        load_split(config, "train")
        assert len(folders(config)) == max(1, count)
    (home / "painting.py").unlink()
    with pytest.raises(AssertionError, match=r"scene\.py"):
        load_split(config, "train")


def test_second_load_maps_the_same_file_and_decodes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = write_faces(tmp_path / "data", 3)
    first = load_split(config, "train")

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(crop_sources, "read_bytes", fail)
    second = load_split(config, "train")
    assert isinstance(second.images, np.memmap)
    assert second.images.filename == first.images.filename
    assert not second.images.flags.writeable
    np.testing.assert_array_equal(first.images, second.images)
    np.testing.assert_array_equal(first.landmarks, second.landmarks)
    load_split(config, "val")  # the same list: the same content, the same folder
    assert len(folders(config)) == 1


def test_whatever_changes_the_content_gives_another_folder(tmp_path: Path) -> None:
    config = write_faces(tmp_path / "data", 3)
    load_split(config, "train")
    picture, points = tmp_path / "data/f1.png", tmp_path / "data/f2.pts"
    os.utime(picture, ns=(1, 1))
    load_split(config, "train")
    assert len(folders(config)) == 2
    points.write_text(points.read_text().replace("{\n", "{\n3", 1))
    load_split(config.model_copy(update={"skip_bad": True}), "train")
    assert len(folders(config)) == 3
    for count, change in enumerate([{"image_size": 64}, {"box_scale": 1.5}, {"crop_margin": 0.5}], start=4):
        load_split(config.model_copy(update={"skip_bad": True, **change}), "train")
        assert len(folders(config)) == count


def test_bad_picture_names_list_line_and_picture(tmp_path: Path) -> None:
    config = write_faces(tmp_path / "data", 3)
    (tmp_path / "data/f1.png").write_text("text")
    with pytest.raises(DataError) as error:
        load_split(config, "train")
    data = tmp_path / "data"
    assert str(error.value) == f"{data}/train.txt:2: {data}/f1.png: is not a picture that OpenCV can decode"
    assert folders(config) == []


def test_skip_bad_leaves_bad_pictures_out(tmp_path: Path) -> None:
    config = write_faces(tmp_path / "data", 12).model_copy(update=SKIP)
    good = load_split(config, "train")
    (tmp_path / "data/f1.png").write_text("text")
    (tmp_path / "data/f4.pts").write_text("text")
    encode(tmp_path / "data/f7.png", np.zeros((10, 10, 3), np.uint8))  # the box is outside of so small a picture
    split = load_split(config, "train")
    kept = [0, 2, 3, 5, 6, 8, 9, 10, 11]
    assert len(split) == 9
    assert [Path(picture).stem for picture in split.pictures] == [f"f{row}" for row in kept]
    assert [origin.rsplit(":", 1)[1] for origin in split.origins] == [str(row + 1) for row in kept]
    np.testing.assert_array_equal(split.images, good.images[kept])
    np.testing.assert_array_equal(split.landmarks, good.landmarks[kept])
    assert ["train.txt:5: " in str(split.skipped[0]), "train.txt:2: " in str(split.skipped[1])] == [True, True]
    assert "train.txt:8: " in str(split.skipped[2])
    assert "lies outside of the picture's 10 x 10 pixels" in split.skipped[2].reason
    assert load_split(config, "train").skipped == split.skipped


def test_no_face_left(tmp_path: Path) -> None:
    config = write_faces(tmp_path / "data", 2).model_copy(update=SKIP)
    for name in ("f0.png", "f1.png"):
        (tmp_path / "data" / name).write_text("text")
    with pytest.raises(DataError, match=r"no face is left, all 2 are faulty, such as .*train\.txt:1: .*f0\.png"):
        load_split(config, "train")


def test_full_disk_names_folder_and_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = write_faces(tmp_path / "data", 3)
    expected = rf"{config.cache_folder}/\w+: the disk is full: about 14 kB needed, .* are free"

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(crop_cache, "_write_crops", full)
        with pytest.raises(DiskFullError, match=expected):
            load_split(config, "train")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 14_399})())
        with pytest.raises(DiskFullError, match=expected):
            load_split(config, "train")
    assert folders(config) == []
    assert len(load_split(config, "train")) == 3


def test_cache_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file in the way")
    config = write_faces(tmp_path / "data", 1)
    with pytest.raises(DataError, match=r"data\.cache_dir: .*cache cannot be written to"):
        load_split(config, "train")


@pytest.mark.parametrize("name", ["images.npy", "table.npz"])
def test_damaged_cache_is_told(tmp_path: Path, name: str) -> None:
    config = write_faces(tmp_path / "data", 3)
    load_split(config, "train")
    path = folders(config)[0] / name
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(DataError, match="is damaged, delete this folder to have it built again"):
        load_split(config, "train")


# --- many processes

LOADER = """
import logging, os, sys, time
from pathlib import Path
from trainer.data import crop_cache, crop_sources
from trainer import synthetic
from trainer.data_config import DataConfig
logging.basicConfig(level=logging.INFO)
config = DataConfig.model_validate_json(sys.argv[1])
pause, gate, slow = float(sys.argv[2]), Path(sys.argv[3]), crop_sources.read_bytes
def read(path):
    os.write(1, b"reading\\n")  # whole, though several threads read
    time.sleep(pause)
    while not gate.exists():
        time.sleep(0.01)
    return slow(path)
crop_sources.read_bytes = read
split = crop_cache.load_split(config, "train")
print("loaded", len(split), int(split.images.astype(int).sum()), flush=True)
"""


def start_loader(config: DataConfig, gate: Path, pause: float = 0.0) -> subprocess.Popen[str]:
    """A process that takes so many seconds for each picture, and gets none before the gate is there."""
    command = [sys.executable, "-c", LOADER, config.model_dump_json(), str(pause), str(gate)]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment, cwd=PROJECT)


def test_eight_processes_at_once_build_once(tmp_path: Path) -> None:
    config = write_faces(tmp_path / "data", 6)
    loaders = [start_loader(config, tmp_path, 0.3) for _ in range(8)]
    outputs = [loader.communicate(timeout=PATIENCE) for loader in loaders]
    assert [loader.returncode for loader in loaders] == [0] * 8, outputs
    builders = [out for out, _ in outputs if "reading" in out]
    assert len(builders) == 1
    assert builders[0].count("reading") == 6
    assert sum("building the crop cache of 6 faces" in err for _, err in outputs) == 1
    assert len({out.splitlines()[-1] for out, _ in outputs}) == 1
    assert len(folders(config)) == 1


def test_killed_builder_leaves_nothing_half(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = write_faces(tmp_path / "data", 30)
    other = config.model_copy(update={"box_scale": 1.5})
    for victim in (config, other):
        loader = start_loader(victim, tmp_path / "never")
        assert loader.stdout is not None
        assert loader.stdout.readline() == "reading\n"
        loader.send_signal(signal.SIGKILL)
        loader.communicate(timeout=PATIENCE)
    assert [path.suffix for path in folders(config)] == [".tmp"]  # the second removed what the first left
    with caplog.at_level(logging.INFO):
        assert len(load_split(config, "train")) == 30
    assert "building the crop cache of 30 faces" in caplog.text
    assert [path.suffix for path in folders(config)] == [""]


def test_living_builder_of_another_split_is_left_alone(tmp_path: Path) -> None:
    config = write_faces(tmp_path / "data", 8)
    loader = start_loader(config.model_copy(update={"box_scale": 1.5}), tmp_path / "gate")
    assert loader.stdout is not None
    assert loader.stdout.readline() == "reading\n"
    load_split(config, "train")
    (tmp_path / "gate").touch()
    out, err = loader.communicate(timeout=PATIENCE)
    assert loader.returncode == 0, err
    assert "loaded 8" in out
    assert len(folders(config)) == 2


# --- procedural and real faces


def test_synthetic_split_is_drawn_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = DataConfig(val_faces=4, image_size=64, cache_dir=str(tmp_path / "cache"))
    split = load_split(config, "val")
    faces = read_split(config, "val")
    assert split.pictures == faces.pictures
    np.testing.assert_array_equal(split.attributes, faces.attributes)
    for row in range(4):
        back = transform(split.landmarks[row].astype(np.float64), split.to_picture[row])
        np.testing.assert_allclose(back, faces.landmarks[row], atol=1e-4)
    calls: list[int] = []
    monkeypatch.setattr(crop_sources, "render_synthetic", lambda config, index: calls.append(index))
    again = load_split(config, "val")
    np.testing.assert_array_equal(again.images, split.images)
    assert calls == []


def test_synthetic_seed_and_split_give_other_faces(tmp_path: Path) -> None:
    config = DataConfig(train_faces=2, val_faces=2, image_size=32, cache_dir=str(tmp_path / "cache"))
    train, val = load_split(config, "train"), load_split(config, "val")
    other = load_split(config.model_copy(update={"synthetic_seed": 1}), "train")
    assert not np.array_equal(train.images, val.images)
    assert not np.array_equal(train.images, other.images)
    assert len(folders(config)) == 3


def test_real_wflw_sample(tmp_path: Path, test_data: Path) -> None:
    config = DataConfig(kind="wflw", root=str(test_data / "wflw_sample"), cache_dir=str(tmp_path / "cache"))
    split = load_split(config, "test")
    assert split.images.shape == (4, 320, 320, 3)
    assert split.attributes is not None
    assert split.attributes.shape == (4, 6)
    inside = (split.landmarks >= 0) & (split.landmarks <= 255)
    assert inside.all()  # the boxes are those of the landmarks
    centre = split.images[:, 32:288, 32:288].astype(float)
    assert (centre.std(axis=(1, 2, 3)) > 20).all()
    assert (centre[..., 0].mean(axis=(1, 2)) > centre[..., 2].mean(axis=(1, 2))).all()  # skin: more red than blue


def test_real_68_point_faces(tmp_path: Path, test_data: Path) -> None:
    root = test_data / "ytf68"
    config = DataConfig(
        kind="w300", root=str(root), val_list="val.txt", image_size=64, cache_dir=str(tmp_path / "cache"), val_faces=50
    )
    split = load_split(config, "val")
    assert split.images.shape == (50, 80, 80, 3)
    mean = split.landmarks.mean(axis=0)
    assert mean[36:42, 0].mean() < mean[42:48, 0].mean()  # the subject's right eye is on the left
    assert mean[36:48, 1].mean() < mean[48:68, 1].mean()  # eyes are above the mouth
    np.testing.assert_allclose(
        split.norms, np.linalg.norm(split.landmarks[:, 36] - split.landmarks[:, 45], axis=1), rtol=1e-5
    )


# --- train + val, and what tells one set of faces from another


def test_crops_of_train_and_val_are_those_of_both(tmp_path: Path) -> None:
    config = write_faces(tmp_path / "set", 4)
    (tmp_path / "set" / "train.txt").write_text("f0.png\nf1.png\nf2.png")
    (tmp_path / "set" / "val.txt").write_text("f3.png")
    config = config.model_copy(update={"val_list": "val.txt"})
    train, val, both = (load_split(config, split) for split in ("train", "val", "train+val"))
    assert both.pictures == train.pictures + val.pictures
    np.testing.assert_array_equal(both.images, np.concatenate([train.images, val.images]))
    np.testing.assert_array_equal(both.landmarks, np.concatenate([train.landmarks, val.landmarks]))
    assert len({train.fingerprint(), val.fingerprint(), both.fingerprint()}) == 3


def test_the_fingerprint_does_not_depend_on_the_place(tmp_path: Path) -> None:
    here, there = write_faces(tmp_path / "set", 3), write_faces(tmp_path / "far" / "away" / "set", 3)
    first, second = load_split(here, "train"), load_split(there, "train")
    assert first.pictures != second.pictures
    assert first.fingerprint() == second.fingerprint()
    assert re.fullmatch("v2-[0-9a-f]{16}", first.fingerprint())


def test_the_fingerprint_follows_annotations_names_order_and_number(tmp_path: Path) -> None:
    config = write_faces(tmp_path / "set", 3)
    root, seen = tmp_path / "set", [load_split(config, "train").fingerprint()]

    points = (root / "f1.pts").read_text().splitlines()
    x, y = points[10].split()
    (root / "f1.pts").write_text("\n".join([*points[:10], f"{float(x) + 0.01:.3f} {y}", *points[11:]]))
    seen.append(load_split(config, "train").fingerprint())  # one landmark by a hundredth of a pixel

    (root / "train.txt").write_text("f1.png\nf0.png\nf2.png")
    seen.append(load_split(config, "train").fingerprint())

    (root / "train.txt").write_text("f1.png\nf0.png")
    seen.append(load_split(config, "train").fingerprint())

    for kind in ("png", "pts"):
        (root / f"f0.{kind}").rename(root / f"g0.{kind}")
    (root / "train.txt").write_text("f1.png\ng0.png")
    seen.append(load_split(config, "train").fingerprint())

    assert len(set(seen)) == 5


def test_the_fingerprint_of_synthetic_faces_follows_their_seed(tmp_path: Path) -> None:
    config = DataConfig(train_faces=2, image_size=32, cache_dir=str(tmp_path))
    other = config.model_copy(update={"synthetic_seed": 1})
    first, again = load_split(config, "train").fingerprint(), load_split(config, "train").fingerprint()
    assert first == again != load_split(other, "train").fingerprint()
