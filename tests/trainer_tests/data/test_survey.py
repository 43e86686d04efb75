"""What is told of faces before they are measured on: pictures in two splits, faulty ones, crops that do not fit."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from face_files import write_face, write_faces

from trainer.config import TrainConfig
from trainer.data.crop_cache import load_split, load_splits
from trainer.data.faults import Fault, reasons, require_few
from trainer.data.survey import SplitFacts, Survey, require_faces, survey, trained_on
from trainer.data.twins import shared_pictures
from trainer.data_config import DataConfig
from trainer.errors import DataError


def config(root: Path, **changes: Any) -> DataConfig:
    known = {"kind": "w300", "root": str(root), "val_list": "val.txt", "image_size": 32, "cache_dir": f"{root}-cache"}
    return DataConfig(**(known | changes))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four training and three validation faces, all different."""
    write_faces(tmp_path / "set", ["a.png", "b.png", "c.png", "d.png"])
    return write_faces(tmp_path / "set", ["x.png", "y.png", "z.png"], "val.txt", first=10)


def found(data: DataConfig) -> Survey:
    return survey(data, {split: load_split(data, split) for split in ("train", "val")})


# --- pictures in two splits


def test_pictures_are_one_by_name_by_link_and_by_content(root: Path) -> None:
    shutil.copy(root / "a.png", root / "copy.png")
    os.link(root / "b.png", root / "hard.png")
    (root / "soft.png").symlink_to("c.png")
    first = [str(root / name) for name in ("a.png", "b.png", "c.png", "d.png")]
    second = [str(root / name) for name in ("copy.png", "hard.png", "soft.png", "d.png", "x.png", "d.png")]
    twins = shared_pictures(first, second)
    assert twins.same == (str(root / "hard.png"), str(root / "soft.png"), str(root / "d.png"))
    assert twins.copies == ((str(root / "a.png"), str(root / "copy.png")),)
    assert len(twins) == 4
    text = twins.text("in both")
    assert text == f"4 pictures are in both (3 by name, 1 as copies), such as {root / 'hard.png'}"
    assert not shared_pictures(first, [str(root / "x.png")])


def test_pictures_of_one_size_are_not_copies(tmp_path: Path) -> None:
    for name, data in (("a", b"12345"), ("b", b"12354"), ("c", b"12345")):
        (tmp_path / name).write_bytes(data)
    twins = shared_pictures([str(tmp_path / "a")], [str(tmp_path / "b"), str(tmp_path / "c")])
    assert twins.copies == ((str(tmp_path / "a"), str(tmp_path / "c")),)


def test_overlapping_lists_are_told_by_both_names_and_number(root: Path) -> None:
    (root / "val.txt").write_text("x.png\na.png\nb.png\n")
    (root / "test.txt").write_text("b.png\nz.png\n")
    lines = found(config(root)).warnings()
    assert lines == [
        f"2 pictures are in both train and val (2 by name), such as {root / 'a.png'}",
        f"1 picture is in both train and test (1 by name), such as {root / 'b.png'}",
        f"1 picture is in both val and test (1 by name), such as {root / 'b.png'}",
    ]


def test_nothing_is_said_where_there_is_nothing_to_say(root: Path) -> None:
    about = found(config(root))
    assert about.warnings() == []
    assert about.lines()[-1] == "no picture is in two splits, no face was left out"
    assert about.tags()["faces.warnings"] == "none"


def test_a_test_on_what_was_trained_on_is_refused_unless_it_is_meant(root: Path) -> None:
    (root / "test.txt").write_text("x.png\nb.png\n")
    with pytest.raises(
        DataError, match=r"1 picture is in the test split and in what was trained on .*b\.png; .*allow_overlap"
    ):
        trained_on(config(root), "test")
    allowed = trained_on(config(root, allow_overlap=True), "test")
    assert allowed is not None
    assert len(allowed) == 1
    both = config(root, train_on="train+val", allow_overlap=True)
    assert len(trained_on(both, "test") or ()) == 2
    assert len(trained_on(config(root), "val") or ()) == 0
    (root / "train.txt").unlink()
    assert trained_on(config(root), "test") is None  # nobody knows


# --- faces that are left out


FAULTS = [Fault(f"/x/l.txt:{n}", f"there is no picture /x/{n}.jpg") for n in range(3)]
FAULTS.append(Fault("/x/l.txt:9", "landmark 7 (from 0) is not finite: [nan, 3.5]"))


def test_faults_are_counted_by_what_they_have_in_common() -> None:
    assert reasons(FAULTS).startswith("3 x there is no picture, 1 x landmark N (from N) is not finite")
    many = [Fault("l", f"{'abcdef'[n]} is wrong") for n in range(6)]
    assert reasons(many).endswith("2 x others")


def test_more_faults_than_a_small_share_are_an_error() -> None:
    require_few(FAULTS, 80, 0.05, "l.txt")
    with pytest.raises(
        DataError, match=r"l\.txt: 4 of 79 faces are faulty \(3 x there is no picture, .*skip_at_most = 0\.05"
    ):
        require_few(FAULTS, 79, 0.05, "l.txt")


@pytest.mark.parametrize("of", ["list", "pictures"])
def test_faulty_entries_and_faulty_pictures_count(root: Path, of: str) -> None:
    if of == "list":
        (root / "b.pts").unlink()
    else:
        (root / "b.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="1 of 4 faces are faulty"):
        found(config(root, skip_bad=True))
    about = found(config(root, skip_bad=True, skip_at_most=0.25))
    (line,) = about.warnings()
    assert line.startswith("1 of 4 faces of train are faulty and left out: 1 x ")
    assert line in about.tags()["faces.warnings"]
    assert [fault.origin for fault in about.skipped["train"]] == [f"{root / 'train.txt'}:2"]
    assert about.splits["train"].faces == 3


# --- crops that do not fit


def boxed(root: Path, name: str, grow: float, index: int = 0) -> DataConfig:
    """A COCO-style list of one face whose box is that of its landmarks, each side moved outwards by a share of it."""
    write_face(root, f"{name}.png", index)
    lines = (root / f"{name}.pts").read_text().split("{")[1].replace("}", "").split()
    points = np.array(lines, float).reshape(-1, 2) - 1
    side = np.ptp(points, axis=0)
    low, high = points.min(0) - grow * side, points.max(0) + grow * side
    height, width = cv2.imread(str(root / f"{name}.png")).shape[:2]
    image = {"id": 1, "file_name": f"{name}.png", "width": width, "height": height}
    keypoints = np.column_stack([points, np.full(68, 2)]).reshape(-1).tolist()
    entry = {"id": 1, "image_id": 1, "keypoints": keypoints, "bbox": [*low, *(high - low)]}
    for split in ("train", "val"):
        (root / f"{split}.json").write_text(json.dumps({"images": [image], "annotations": [entry]}))
    return config(root, kind="coco", layout="w300_68", val_list="val.json")


def test_a_detectors_box_that_cuts_the_jaw_off_is_told(tmp_path: Path) -> None:
    data = boxed(tmp_path, "tight", -0.15)
    crops = load_split(data, "val")
    share = float((((crops.landmarks < -0.5) | (crops.landmarks > 31.5)).any(-1)).mean())
    assert 0.05 < share < 0.5
    facts = SplitFacts.of(crops)
    assert facts.outside == pytest.approx(share)
    line = Survey({"val": facts}, data.norm).warnings()[0]
    assert line.startswith(f"{share:.1%} of the landmarks of val lie outside of the crop, in 1 faces, most in ")
    assert "val.json: annotation 1" in line


def test_boxes_far_larger_than_faces_are_told_and_then_refused_by_file_and_line(tmp_path: Path) -> None:
    data = boxed(tmp_path, "large", 1.0)
    line = Survey({"val": SplitFacts.of(load_split(data, "val"))}, data.norm).warnings()[0]
    assert line == "faces of val span 27% of the crop in the median: boxes are too large"
    with pytest.raises(
        DataError, match=r"val\.json: annotation 1: its landmarks span 1\d% of its crop, box .* far larger"
    ):
        load_split(boxed(tmp_path, "larger", 3.0), "val")


def test_landmarks_outside_of_crop_or_picture_are_refused_by_file_and_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"val\.json: annotation 1: \d\d% of its landmarks lie outside of its crop"):
        load_split(boxed(tmp_path, "tight", -0.2), "val")
    write_face(tmp_path, "moved.png", shift=40)
    (tmp_path / "val.txt").write_text("moved.png\n")
    with pytest.raises(DataError, match=r"val\.txt:1: \d\d% of its landmarks lie outside of the picture's 64 x 64"):
        load_split(config(tmp_path, kind="w300"), "val")


def test_a_picture_of_another_size_than_its_list_says_is_refused(tmp_path: Path) -> None:
    """Labels that were made on a smaller copy, or on the picture before EXIF turned it."""
    data = boxed(tmp_path, "a", 0.0)
    picture = cv2.imread(str(tmp_path / "a.png"))
    tree = json.loads((tmp_path / "val.json").read_text())
    for size, text in (
        ((128, 128), "is 64 x 64 pixels, but its list says 128 x 128"),
        ((64, 48), "turned by its EXIF"),
    ):
        tree["images"][0] |= dict(zip(("width", "height"), size, strict=True))
        (tmp_path / "val.json").write_text(json.dumps(tree))
        if size == (64, 48):
            cv2.imwrite(str(tmp_path / "a.png"), picture[:, :48])
        with pytest.raises(DataError, match=text):
            load_split(data, "val")


# --- the same faces everywhere


@pytest.mark.parametrize("change", ["label", "picture", "fewer"])
def test_other_faces_than_expected_are_refused(root: Path, change: str) -> None:
    whole = TrainConfig(data=config(root))
    expected = {split: crops.fingerprint() for split, crops in load_splits(whole).items()}
    require_faces(whole, load_splits(whole), expected)
    if change == "label":
        write_face(root, "y.png", 11, shift=0.01)
    elif change == "picture":  # a pixel, in a file of any size
        picture = cv2.imread(str(root / "y.png"))
        picture[0, 0, 0] ^= 1
        cv2.imwrite(str(root / "y.png"), picture)
    else:
        (root / "val.txt").write_text("x.png\ny.png\n")
    with pytest.raises(DataError, match="the val faces here are not those that the sweep began with"):
        require_faces(whole, load_splits(whole), expected)
    final = whole.replace({"data.train_on": "train+val"})
    with pytest.raises(DataError, match="the val faces here"):
        require_faces(final, load_splits(final), expected)


def test_a_hash_is_that_of_the_faces_not_of_their_crops(root: Path) -> None:
    """Settings of the crop may be searched, and still all trials are judged on the same faces."""
    hashes = set()
    for changes in ({}, {"image_size": 64}, {"box_scale": 1.5}, {"crop_margin": 0.5}, {"nme_norm": "box"}):
        hashes.add(load_split(config(root, **changes), "val").fingerprint())
    assert len(hashes) == 1
    drawn = {
        load_split(DataConfig(val_faces=2, image_size=s, cache_dir=f"{root}-c"), "val").fingerprint() for s in (32, 64)
    }
    assert len(drawn) == 1


def test_real_faces_fit_their_crops(test_data: Path, tmp_path: Path) -> None:
    for name, kind in (("ytf68", "w300"), ("wflw_sample", "wflw")):
        data = DataConfig(kind=kind, root=str(test_data / name), image_size=32, cache_dir=str(tmp_path))
        splits = {split: load_split(data, split) for split in ("train", "val")}
        assert not [line for line in survey(data, splits).warnings() if "crop" in line]
