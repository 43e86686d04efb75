"""Readers, checks and splits of the table of faces, on tiny lists written here and on real ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainer.data.face_table import read_split, require_split, synthetic_indices
from trainer.data.groups import Group
from trainer.data_config import DataConfig
from trainer.errors import DataError

WFLW_TRAIN = "WFLW_annotations/list_98pt_rect_attr_train_test/list_98pt_rect_attr_train.txt"
SKIP = {"skip_bad": True, "skip_at_most": 1.0}
RNG = np.random.default_rng(5)
POINTS98 = (RNG.random((98, 2)) * 40 + 30).round(3)
POINTS68 = (RNG.random((68, 2)) * 40 + 30).round(3)


def wflw_line(picture: str = "0--Parade/a.jpg", *, points=POINTS98, box="30 30 70 70", attributes="0 1 0 0 1 0") -> str:
    return " ".join(f"{value:.6f}" for value in points.reshape(-1)) + f" {box} {attributes} {picture}"


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"picture")


def write_wflw(root: Path, lines: list[str]) -> DataConfig:
    touch(root / "WFLW_images/0--Parade/a.jpg")
    touch(root / "WFLW_images/0--Parade/b.jpg")
    path = root / WFLW_TRAIN
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return DataConfig(kind="wflw", root=str(root), val_list=WFLW_TRAIN)


def pts_text(points=POINTS68) -> str:
    body = "\n".join(f"{x:.3f} {y:.3f}" for x, y in points + 1)
    return f"version: 1\nn_points:  {len(points)}\n{{\n{body}\n}}\n"


def write_w300(root: Path, names: list[str], listing: str = "train.txt") -> DataConfig:
    for name in names:
        touch(root / name)
        (root / name).with_suffix(".pts").write_text(pts_text())
    (root / listing).write_text("\n".join(names) + "\n")
    return DataConfig(kind="w300", root=str(root))


def coco_annotation(**changes: Any) -> dict[str, Any]:
    keypoints = np.column_stack([POINTS98, np.ones(98)]).reshape(-1).tolist()
    annotation = {
        "id": 7,
        "image_id": 2,
        "keypoints": keypoints,
        "center": [50, 52],
        "scale": 0.5,
        "bbox": [1, 2, 3, 4],
    }
    return {key: value for key, value in {**annotation, **changes}.items() if value is not None}


def write_coco(root: Path, annotations: list[Any]) -> DataConfig:
    touch(root / "images" / "a.jpg")
    tree = {"images": [{"id": 2, "file_name": "a.jpg", "width": 100, "height": 90}], "annotations": annotations}
    (root / "train.json").write_text(json.dumps(tree))
    return DataConfig(kind="coco", root=str(root), val_list="train.json")


# --- what the readers give


def test_wflw_line_is_read_field_by_field(tmp_path: Path) -> None:
    config = write_wflw(tmp_path, [wflw_line(), "", wflw_line("0--Parade/b.jpg", attributes="1 0 1 1 0 1")])
    faces = read_split(config, "train")
    assert len(faces) == 2
    np.testing.assert_array_equal(faces.landmarks, [POINTS98, POINTS98])
    np.testing.assert_array_equal(faces.boxes, [[30, 30, 70, 70]] * 2)
    assert faces.attributes is not None
    assert faces.attributes.tolist() == [
        [False, True, False, False, True, False],
        [True, False, True, True, False, True],
    ]
    assert faces.pictures[0] == str(tmp_path / "WFLW_images/0--Parade/a.jpg")
    assert faces.groups == tuple(Group("picture", picture) for picture in faces.pictures)
    assert faces.origins == (f"{tmp_path / WFLW_TRAIN}:1", f"{tmp_path / WFLW_TRAIN}:3")  # the blank line counts
    assert faces.visible.shape == (2, 98)
    assert faces.visible.all()


def test_pts_coordinates_start_at_one_and_the_box_is_that_of_the_landmarks(tmp_path: Path) -> None:
    config = write_w300(tmp_path, ["images/x_1.jpg", "images/y_1.jpg"]).model_copy(update={"val_list": "train.txt"})
    faces = read_split(config, "train")
    np.testing.assert_allclose(faces.landmarks[0], POINTS68, atol=1e-9)
    np.testing.assert_allclose(faces.boxes[0], [*POINTS68.min(0), *POINTS68.max(0)], atol=1e-9)
    assert faces.attributes is None


def test_pts_without_header_and_with_comments(tmp_path: Path) -> None:
    config = write_w300(tmp_path, ["a.jpg"]).model_copy(update={"val_list": "train.txt"})
    body = "\n".join(f"{x:.3f} {y:.3f}" for x, y in POINTS68 + 1)
    (tmp_path / "a.pts").write_text(f"# a comment\n\n// another\n{{\n{body} // chin\n}}\nafter: all\n")
    np.testing.assert_allclose(read_split(config, "train").landmarks[0], POINTS68, atol=1e-9)
    (tmp_path / "a.pts").write_text(body)
    np.testing.assert_allclose(read_split(config, "train").landmarks[0], POINTS68, atol=1e-9)


def test_w300_list_may_be_relative_to_its_own_folder(tmp_path: Path) -> None:
    write_w300(tmp_path / "lists", ["a.jpg"])
    config = DataConfig(kind="w300", root=str(tmp_path), train_list="lists/train.txt", val_list="lists/train.txt")
    assert read_split(config, "train").pictures == (str(tmp_path / "lists/a.jpg"),)


@pytest.mark.parametrize(
    ("changes", "box"),
    [
        ({}, [0, 2, 100, 102]),  # scale 0.5 is 100 pixels
        ({"scale": [0.5, 0.25]}, [0, 27, 100, 77]),
        ({"center": None, "bbox": [30, 31, 40, 41]}, [30, 31, 70, 72]),
        ({"scale": None, "bbox": None}, [*POINTS98.min(0), *POINTS98.max(0)]),
    ],
)
def test_coco_box_comes_from_center_and_scale_then_bbox_then_landmarks(
    tmp_path: Path, changes: dict[str, Any], box: list[float]
) -> None:
    faces = read_split(write_coco(tmp_path, [coco_annotation(**changes)]), "train")
    np.testing.assert_allclose(faces.boxes, [box])
    assert faces.pictures == (str(tmp_path / "images/a.jpg"),)
    assert faces.origins == (f"{tmp_path / 'train.json'}: annotation 7",)


def test_coco_landmark_with_v_0_is_missing(tmp_path: Path) -> None:
    keypoints = np.column_stack([POINTS98, np.full(98, 2)])
    keypoints[5] = [0, 0, 0]
    faces = read_split(write_coco(tmp_path, [coco_annotation(keypoints=keypoints.reshape(-1).tolist())]), "train")
    assert np.isnan(faces.landmarks[0, 5]).all()
    assert faces.visible.sum() == 97
    assert not faces.visible[0, 5]


# --- points that stand for no place


def with_points(config: DataConfig, changes: dict[int, tuple[float, float]], placeholders: str) -> DataConfig:
    """The 300-W style config, with points of its first picture's .pts file as they shall stand there."""
    points = POINTS68.copy()
    for index, point in changes.items():
        points[index] = np.array(point) - 1  # pts_text adds it
    (Path(config.root or "") / "a.pts").write_text(pts_text(points))
    return config.model_copy(update={"val_list": "train.txt", "placeholders": placeholders})


@pytest.mark.parametrize("point", [(-1, -1), (-30.5, -40), (0, 0)])
@pytest.mark.parametrize("placeholders", ["refuse", "merl_rav"])
def test_a_placeholder_is_refused_by_file_and_line(tmp_path: Path, point: tuple[float, float], placeholders) -> None:
    config = with_points(write_w300(tmp_path, ["a.jpg"]), {3: point}, placeholders)
    if placeholders == "merl_rav" and point != (0, 0):
        read_split(config, "train")
        return
    with pytest.raises(DataError, match=rf"train\.txt:1: landmark 3 .* at {point[0]:g} {point[1]:g}, .*placeholder"):
        read_split(config, "train")


def test_merl_ravs_signs_mean_hidden_and_covered_and_the_box_is_that_of_what_is_there(tmp_path: Path) -> None:
    config = with_points(write_w300(tmp_path, ["a.jpg"]), {3: (-1, -1), 5: (-41.5, -52)}, "merl_rav")
    faces = read_split(config, "train")
    assert np.flatnonzero(~faces.visible[0]).tolist() == [3]
    np.testing.assert_allclose(faces.landmarks[0, 5], [40.5, 51])
    there = faces.landmarks[0][faces.visible[0]]
    np.testing.assert_allclose(faces.boxes[0], [*there.min(0), *there.max(0)])


def test_placeholders_may_be_missing_or_kept(tmp_path: Path) -> None:
    config = write_w300(tmp_path, ["a.jpg"])
    changes = {3: (-1.0, -1.0), 4: (0.0, 0.0), 6: (-2.0, 60.0)}
    missing = read_split(with_points(config, changes, "missing"), "train")
    assert np.flatnonzero(~missing.visible[0]).tolist() == [3, 4]
    np.testing.assert_allclose(missing.landmarks[0, 6], [-3, 59])  # beyond the border is a place
    kept = read_split(with_points(config, changes, "keep"), "train")
    assert kept.visible.all()
    np.testing.assert_allclose(kept.landmarks[0, 3], [-2, -2])


def test_a_face_of_placeholders_alone_is_refused(tmp_path: Path) -> None:
    config = with_points(write_w300(tmp_path, ["a.jpg"]), dict.fromkeys(range(68), (-1.0, -1.0)), "missing")
    with pytest.raises(DataError, match=r"train\.txt:1: has no visible landmark"):
        read_split(config, "train")


@pytest.mark.parametrize("keypoint", [[0, 0, 2], [-1, -1, -1], [50, 50, -1], [-3, -4, 1]])
def test_coco_placeholders(tmp_path: Path, keypoint: list[float]) -> None:
    keypoints = np.column_stack([POINTS98, np.full(98, 2)])
    keypoints[5] = keypoint
    config = write_coco(tmp_path, [coco_annotation(keypoints=keypoints.reshape(-1).tolist())])
    with pytest.raises(DataError, match=r"train\.json: annotation 7: landmark 5 .*placeholder"):
        read_split(config, "train")
    faces = read_split(config.model_copy(update={"placeholders": "missing"}), "train")
    assert np.flatnonzero(~faces.visible[0]).tolist() == [5]


def test_wflw_placeholders(tmp_path: Path) -> None:
    points = POINTS98.copy()
    points[9] = -1, -1
    config = write_wflw(tmp_path, [wflw_line(), wflw_line(points=points)])
    with pytest.raises(DataError, match=r"list_98pt_rect_attr_train\.txt:2: landmark 9 .*placeholder"):
        read_split(config, "train")


def test_merl_rav_is_for_pts_files() -> None:
    with pytest.raises(ValueError, match=r"data\.placeholders = 'merl_rav'.*data\.kind coco has none"):
        DataConfig(kind="coco", root="x", placeholders="merl_rav")


def test_coco_agrees_with_the_wflw_list_it_was_made_from(tmp_path: Path, test_data: Path) -> None:
    """MMPose's converter keeps center = middle of the box and scale = its longer side / 200."""
    wflw = read_split(DataConfig(kind="wflw", root=str(test_data / "wflw_sample")), "test")
    x0, y0, x1, y1 = wflw.boxes[0]
    keypoints = np.column_stack([wflw.landmarks[0], np.ones(98)]).reshape(-1).tolist()
    annotation = coco_annotation(keypoints=keypoints, center=[482.5, 164.5], scale=0.425)  # of MMPose's own test data
    coco = read_split(write_coco(tmp_path, [annotation]), "train")
    np.testing.assert_allclose(coco.landmarks[0], wflw.landmarks[0])
    assert (coco.boxes[0][0] + coco.boxes[0][2]) / 2 == (x0 + x1) / 2
    assert coco.boxes[0][2] - coco.boxes[0][0] == max(x1 - x0, y1 - y0)


def test_real_wflw_sample(test_data: Path) -> None:
    faces = read_split(DataConfig(kind="wflw", root=str(test_data / "wflw_sample")), "test")
    assert len(faces) == 4
    np.testing.assert_array_equal(faces.landmarks[0, 0], [440.696106, 132.732559])
    np.testing.assert_array_equal(faces.boxes[0], [440, 122, 525, 207])
    assert len(set(faces.groups)) == 2


def test_real_68_point_faces_and_no_person_in_two_lists(test_data: Path) -> None:
    config = DataConfig(kind="w300", root=str(test_data / "ytf68"), val_list="val.txt")
    train, val, test = (read_split(config, split) for split in ("train", "val", "test"))
    assert (len(train), len(val), len(test)) == (1600, 200, 300)
    persons = [set(faces.groups) for faces in (train, val, test)]
    assert [len(names) for names in persons] == [147, 50, 75]
    assert not persons[0] & persons[1]
    assert not persons[0] & persons[2]
    assert not persons[1] & persons[2]


# --- faulty faces

WFLW_FAULTS: list[tuple[str, str]] = [
    (" ".join(wflw_line().split()[:-7]), "must have 207 fields (196 coordinates, box, attributes, name), has 200"),
    (wflw_line("two words.jpg"), "must have 207 fields (196 coordinates, box, attributes, name), has 208"),
    (wflw_line(box="30 3o 70 70"), "'3o' is not a number"),
    (wflw_line(points=np.where(np.arange(98)[:, None] == 3, np.nan, POINTS98)), "landmark 3 (from 0) is not finite"),
    (wflw_line(points=np.where(np.arange(98)[:, None] == 9, np.inf, POINTS98)), "landmark 9 (from 0) is not finite"),
    (wflw_line(attributes="0 0 2 0 0 0"), "attribute in field 203 must be 0 or 1, but is '2'"),
    (wflw_line(box="70 30 30 70"), "box must have x_min < x_max and y_min < y_max, but is 70 30 30 70"),
    (wflw_line(box="30 50 70 50"), "box must have x_min < x_max"),
    (wflw_line(box="30 nan 70 50"), "box must have x_min < x_max"),
    (wflw_line(box="200 200 240 240"), "lies more than one box size (40) outside the box 200 200 240 240"),
    (wflw_line("0--Parade/none.jpg"), "there is no picture"),
    (wflw_line("x" * 300 + ".jpg"), "there is no picture"),
    (wflw_line(points=np.where(np.isin(np.arange(98), [60, 72])[:, None], 50.0, POINTS98)), "landmarks 60 and 72"),
]


@pytest.mark.parametrize(("line", "reason"), WFLW_FAULTS)
def test_faulty_wflw_face_names_file_and_line(tmp_path: Path, line: str, reason: str) -> None:
    config = write_wflw(tmp_path, [wflw_line(), line, wflw_line()])
    with pytest.raises(DataError) as error:
        read_split(config, "train")
    assert str(error.value).startswith(f"{tmp_path / WFLW_TRAIN}:2: ")
    assert reason in str(error.value)


def test_skip_bad_leaves_out_and_tells(tmp_path: Path) -> None:
    lines = [wflw_line(), *(line for line, _ in WFLW_FAULTS), wflw_line()]
    config = write_wflw(tmp_path, lines).model_copy(update=SKIP)
    faces = read_split(config, "train")
    assert len(faces) == 2
    assert faces.origins[1].endswith(f":{len(lines)}")
    assert len(faces.skipped) == len(WFLW_FAULTS)
    for number, (fault, (_, reason)) in enumerate(zip(faces.skipped, WFLW_FAULTS, strict=True), start=2):
        assert fault.origin == f"{tmp_path / WFLW_TRAIN}:{number}"
        assert reason in str(fault)
    assert faces.take([1]).skipped == faces.skipped


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: text.replace("68", "98", 1), "a.pts:2: n_points must be 68, but is 98"),
        (
            lambda text: "\n".join([*text.splitlines()[:9], *text.splitlines()[10:]]),
            "a.pts: must have 68 points, has 67",
        ),
        (lambda text: text.replace("}", ""), "a.pts: the brackets around the points must be { }, but are {"),
        (lambda text: "\n".join([*text.splitlines()[:5], "1.0 b", *text.splitlines()[6:]]), "a.pts:6: 'b' is not a"),
        (lambda text: "\n".join([*text.splitlines()[:5], "1 2 3", *text.splitlines()[6:]]), "a.pts:6: must have 2 fi"),
        (
            lambda text: "\n".join([*text.splitlines()[:5], "1 inf", *text.splitlines()[6:]]),
            "landmark 2 (from 0) is not",
        ),
        (lambda text: "", "a.pts: must have 68 points, has 0"),
    ],
)
def test_faulty_pts_names_list_and_pts(tmp_path: Path, change: Callable[[str], str], reason: str) -> None:
    config = write_w300(tmp_path, ["a.jpg"]).model_copy(update={"val_list": "train.txt"})
    (tmp_path / "a.pts").write_text(change(pts_text()))
    with pytest.raises(DataError) as error:
        read_split(config, "train")
    assert str(error.value).startswith(f"{tmp_path / 'train.txt'}:1: ")
    assert reason in str(error.value)


def test_missing_and_unreadable_pts(tmp_path: Path) -> None:
    config = write_w300(tmp_path, ["a.jpg", "b.jpg"]).model_copy(update={"val_list": "train.txt"})
    (tmp_path / "b.pts").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(DataError, match=r"train\.txt:2: .*b\.pts: cannot be read as text"):
        read_split(config, "train")
    (tmp_path / "b.pts").unlink()
    with pytest.raises(DataError, match=r"train\.txt:2: there is no .*b\.pts beside the picture"):
        read_split(config, "train")


@pytest.mark.parametrize(
    ("annotation", "reason"),
    [
        (3, "annotation number 0: must be a mapping, but is int"),
        (coco_annotation(keypoints=None), "annotation 7: has no keypoints"),
        (coco_annotation(image_id=9), "annotation 7: image_id 9 is not among the images"),
        (coco_annotation(keypoints=[1, 2, 3]), "annotation 7: keypoints must have 294 numbers, has 3"),
        (coco_annotation(keypoints=["a"] * 294), "annotation 7: keypoints must be numbers, but is ['a', "),
        (coco_annotation(keypoints=[0] * 294), "annotation 7: has no visible landmark"),
        (coco_annotation(center=[1]), "annotation 7: center must have 2 numbers, has 1"),
        (coco_annotation(scale=0), "annotation 7: box must have x_min < x_max"),
        (
            coco_annotation(keypoints=[50, 50, 1] * 60 + [0, 0, 0] * 38),
            "landmarks 60 and 72, whose distance normalises",
        ),
        (coco_annotation(keypoints=[float("nan"), 50, 1] * 98), "landmark 0 (from 0) is not finite"),
    ],
)
def test_faulty_coco_annotation(tmp_path: Path, annotation: Any, reason: str) -> None:
    with pytest.raises(DataError) as error:
        read_split(write_coco(tmp_path, [annotation]), "train")
    assert str(error.value).startswith(f"{tmp_path / 'train.json'}: annotation ")
    assert reason in str(error.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"images": [],\n oops}', r"train\.json:2: is not valid json"),
        ('{"images": []}', r"train\.json: must hold images .* but: no 'annotations'"),
        ("[]", r"train\.json: must hold images"),
        ('{"images": [], "annotations": []}', r"train\.json: holds no face"),
    ],
)
def test_faulty_coco_file(tmp_path: Path, text: str, reason: str) -> None:
    config = write_coco(tmp_path, [])
    (tmp_path / "train.json").write_text(text)
    with pytest.raises(DataError, match=reason):
        read_split(config, "train")


def test_empty_list_and_list_of_faults(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"list_98pt_rect_attr_train\.txt: holds no face$"):
        read_split(write_wflw(tmp_path, ["", "  "]), "train")
    config = write_wflw(tmp_path, ["1 2 3"]).model_copy(update={"skip_bad": True})
    with pytest.raises(DataError, match=r"holds no face but 1 faulty ones, such as .*train\.txt:1: must have 207"):
        read_split(config, "train")


def test_the_same_face_twice_is_kept(tmp_path: Path) -> None:
    assert len(read_split(write_wflw(tmp_path, [wflw_line(), wflw_line()]), "train")) == 2


# --- missing files


def test_missing_root_shows_the_expected_tree(tmp_path: Path) -> None:
    root = tmp_path / "WFLW"
    config = DataConfig(kind="wflw", root=str(root))
    with pytest.raises(DataError) as error:
        read_split(config, "train")
    lines = str(error.value).splitlines()
    assert lines[0] == f"data.root = {str(root)!r}: there is no folder {root}; data.kind wflw expects"
    assert lines[1] == f"  {root}/"
    assert lines[2] == f"    {WFLW_TRAIN}"
    assert lines[3] == f"    {WFLW_TRAIN.replace('train.txt', 'test.txt')}"
    assert lines[4].startswith("    WFLW_images/")


def test_missing_list_and_missing_picture_folder(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    config = DataConfig(kind="w300", root=str(tmp_path), val_list="mine.txt")
    with pytest.raises(DataError, match=r"there is no file .*mine\.txt; data\.kind w300 expects(.|\n)*NAME\.pts"):
        read_split(config, "val")
    config = DataConfig(kind="coco", root=str(tmp_path))
    with pytest.raises(
        DataError, match=r"there is no file .*test\.json; data\.kind coco expects(.|\n)*images/NAME\.jpg"
    ):
        read_split(config, "test")
    (tmp_path / WFLW_TRAIN).parent.mkdir(parents=True)
    (tmp_path / WFLW_TRAIN).write_text(wflw_line())
    with pytest.raises(DataError, match=r"there is no folder .*WFLW_images"):
        read_split(DataConfig(kind="wflw", root=str(tmp_path)), "train")


# --- splits


def test_validation_cut_keeps_persons_together_and_is_deterministic(tmp_path: Path) -> None:
    names = [f"p{person:03d}_{number:02d}.jpg" for person in range(20) for number in range(3)]
    config = write_w300(tmp_path / "one", names)
    train, val = read_split(config, "train"), read_split(config, "val")
    assert (len(train), len(val)) == (54, 6)  # 2 of 20 persons
    assert set(val.groups).isdisjoint(train.groups)
    assert sorted(train.pictures + val.pictures) == sorted(str(tmp_path / "one" / name) for name in names)
    assert read_split(config, "val").groups == val.groups
    elsewhere = write_w300(tmp_path / "another" / "place", names)
    assert read_split(elsewhere, "val").groups == val.groups
    cuts = {read_split(config.model_copy(update={"split_seed": seed}), "val").groups for seed in range(5)}
    assert len(cuts) > 1
    third = read_split(config.model_copy(update={"val_fraction": 0.3}), "val")
    assert len(set(third.groups)) == 6


def test_faces_of_one_wflw_picture_stay_together(tmp_path: Path) -> None:
    config = write_wflw(tmp_path, [wflw_line("0--Parade/a.jpg"), wflw_line("0--Parade/b.jpg")] * 5)
    config = config.model_copy(update={"val_list": None, "val_fraction": 0.5})
    assert [len(read_split(config, split)) for split in ("train", "val")] == [5, 5]


def test_a_cut_far_from_what_was_asked_is_refused(tmp_path: Path) -> None:
    """Two cameras are no persons, though their names look like it: half of all faces would be held back."""
    config = write_w300(tmp_path, [f"cam{camera}_{number:03d}.jpg" for camera in (1, 2) for number in range(20)])
    with pytest.raises(
        DataError, match=r"val_fraction = 0\.1: holds 20 of 40 faces back.* 2 persons.*group_by = 'auto'"
    ):
        read_split(config, "train")
    by_picture = config.model_copy(update={"group_by": "picture"})
    assert [len(read_split(by_picture, split)) for split in ("train", "val")] == [36, 4]


def test_cut_that_leaves_no_training_face(tmp_path: Path) -> None:
    config = write_w300(tmp_path, ["a.jpg"])
    with pytest.raises(DataError, match=r"data\.val_fraction = 0\.1: leaves no training face"):
        read_split(config, "train")


def test_skipped_faces_of_a_cut_list_belong_to_training(tmp_path: Path) -> None:
    lines = [wflw_line("0--Parade/a.jpg"), "oops", wflw_line("0--Parade/b.jpg")]
    config = write_wflw(tmp_path, lines).model_copy(update={"val_list": None, **SKIP})
    assert len(read_split(config, "train").skipped) == 1
    assert read_split(config, "val").skipped == ()


def test_limits_keep_a_random_subset_in_order(tmp_path: Path) -> None:
    names = [f"f{number}.jpg" for number in range(40)]
    config = write_w300(tmp_path, names).model_copy(update={"val_list": "train.txt", "train_faces": 10})
    chosen = read_split(config, "train")
    numbers = [int(Path(picture).stem[1:]) for picture in chosen.pictures]
    assert len(set(numbers)) == 10
    assert numbers == sorted(numbers)
    assert numbers != list(range(10))
    assert read_split(config, "train").pictures == chosen.pictures
    assert read_split(config.model_copy(update={"split_seed": 1}), "train").pictures != chosen.pictures
    assert len(read_split(config, "val")) == 40
    with pytest.raises(DataError, match=r"data\.val_faces = 41: the val split has 40 faces"):
        read_split(config.model_copy(update={"val_faces": 41}), "val")


# --- procedural faces


def test_synthetic_split() -> None:
    config = DataConfig(synthetic_seed=3, val_faces=3, image_size=64)
    faces = read_split(config, "val")
    assert faces.pictures[0] == "synthetic:3:10000000"
    assert faces.landmarks.shape == (3, 98, 2)
    assert faces.attributes is not None
    assert faces.attributes.shape == (3, 6)
    assert faces.visible.all()
    np.testing.assert_allclose(faces.boxes[:, :2], faces.landmarks.min(axis=1))


def test_synthetic_splits_are_disjoint_and_have_their_usual_sizes() -> None:
    config = DataConfig()
    ranges = [synthetic_indices(config, split) for split in ("train", "val", "test")]
    assert [len(indices) for indices in ranges] == [1600, 200, 300]
    assert ranges[0].stop <= ranges[1].start
    assert ranges[1].stop <= ranges[2].start


# --- train + val


def test_train_and_val_are_the_union_without_a_face_of_test(tmp_path: Path) -> None:
    config = write_w300(tmp_path, [f"{group}_{i}.jpg" for group in "abcdefgh" for i in (1, 2)])
    write_w300(tmp_path, ["t_1.jpg", "t_2.jpg"], listing="test.txt")
    parts = {split: read_split(config, split) for split in ("train", "val", "test", "train+val")}
    train, val, both = parts["train"], parts["val"], parts["train+val"]
    assert both.pictures == train.pictures + val.pictures
    assert len(set(both.pictures)) == len(both) == 16
    assert not set(both.pictures) & set(parts["test"].pictures)
    assert not set(train.groups) & set(val.groups)
    assert (both.groups, both.origins) == (train.groups + val.groups, train.origins + val.origins)
    np.testing.assert_array_equal(both.landmarks, np.concatenate([train.landmarks, val.landmarks]))
    np.testing.assert_array_equal(both.boxes, np.concatenate([train.boxes, val.boxes]))
    assert both.attributes is None
    assert both.layout is train.layout


def test_limits_of_train_and_val_hold_in_their_union(tmp_path: Path) -> None:
    config = write_w300(tmp_path, [f"{group}_{i}.jpg" for group in "abcdefgh" for i in (1, 2)])
    config = config.model_copy(update={"train_faces": 5, "val_faces": 1, "val_fraction": 0.25})
    both = read_split(config, "train+val")
    assert both.pictures == read_split(config, "train").pictures + read_split(config, "val").pictures
    assert len(both) == 6


def test_attributes_and_messages_of_both_are_in_the_union(tmp_path: Path) -> None:
    config = write_wflw(tmp_path, [wflw_line(attributes="0 1 0 0 1 0"), wflw_line(box="70 70 30 30")])
    other = "val.txt"
    (tmp_path / other).write_text(wflw_line("0--Parade/b.jpg", attributes="1 0 0 0 0 1") + "\n")
    config = config.model_copy(update={"val_list": other, **SKIP})
    both = read_split(config, "train+val")
    assert both.attributes is not None
    assert both.attributes.tolist() == [
        [False, True, False, False, True, False],
        [True, False, False, False, False, True],
    ]
    assert len(both.skipped) == 1
    assert both.skipped[0].origin.endswith(":2")


def test_synthetic_train_and_val_hold_no_face_twice() -> None:
    config = DataConfig(train_faces=7, val_faces=3, test_faces=4)
    parts = {split: list(synthetic_indices(config, split)) for split in ("train", "val", "test", "train+val")}
    assert parts["train+val"] == parts["train"] + parts["val"]
    assert len(set(parts["train+val"])) == 10
    assert not set(parts["train+val"]) & set(parts["test"])
    assert read_split(config, "train+val").pictures == tuple(f"synthetic:0:{i}" for i in parts["train+val"])


def test_a_list_is_asked_for_without_being_read(tmp_path):
    config = write_wflw(tmp_path, [wflw_line()])
    require_split(config, "train")
    with pytest.raises(DataError, match=r"there is no file .*list_98pt_rect_attr_test\.txt"):
        require_split(config, "test")
    (tmp_path / WFLW_TRAIN.replace("_train.txt", "_test.txt")).write_text("no face at all\n")
    require_split(config, "test")
    require_split(DataConfig(), "test")  # synthetic faces have no lists
