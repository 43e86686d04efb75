"""Which faces belong together, by the names that data sets of faces give their pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainer.data.face_table import read_split
from trainer.data.groups import Group, description, find_groups
from trainer.data.readers import FaceRecord
from trainer.data_config import DataConfig
from trainer.errors import DataError


def faces(names: Sequence[str], fields: Sequence[dict[str, Any]] | None = None) -> list[FaceRecord]:
    box, points = np.array([0.0, 0.0, 1.0, 1.0]), np.zeros((2, 2))
    entries = fields or [{}] * len(names)
    return [FaceRecord(f"/data/{name}", points, box, fields=entry) for name, entry in zip(names, entries, strict=True)]


def together(names: Sequence[str], how: str = "auto", fields: Sequence[dict[str, Any]] | None = None) -> list[set[str]]:
    """The sets of names that stay together, largest first."""
    found: dict[Group, set[str]] = {}
    for name, group in zip(names, find_groups(faces(names, fields), how, Path("/data")), strict=True):
        found.setdefault(group, set()).add(name)
    return sorted(found.values(), key=lambda members: (-len(members), min(members)))


def test_frames_of_a_video_stay_together() -> None:
    """300-VW: a folder a video."""
    names = [f"{video}/{frame}" for video in ("001", "002") for frame in ("000001.jpg", "000002.jpg", "000003.jpg")]
    assert together(names) == [set(names[:3]), set(names[3:])]
    assert description(find_groups(faces(names), "auto", Path("/data"))) == "2 videos"
    assert len(together([f"a/frame_{n:03d}.png" for n in range(4)] + [f"b/frame_{n:03d}.png" for n in range(4)])) == 2


def test_numbers_in_one_folder_are_pictures() -> None:
    names = [f"images/{number:06d}.jpg" for number in range(5)]
    assert len(together(names)) == 5


def test_a_folder_with_other_names_is_no_video() -> None:
    names = ["a/0001.jpg", "a/portrait.jpg", "b/0001.jpg", "b/0002.jpg"]
    assert together(names) == [{"b/0001.jpg", "b/0002.jpg"}, {"a/0001.jpg"}, {"a/portrait.jpg"}]


def test_crops_of_a_photograph_stay_together() -> None:
    """300-W: AFW's and IBUG's names; LFPW's image_0001 is a picture of its own."""
    names = ["afw/134212_1.jpg", "afw/134212_2.jpg", "ibug/image_003_1.jpg", "ibug/image_003_2.jpg"]
    names += ["lfpw/image_0001.png", "lfpw/image_0002.png"]
    assert together(names) == [set(names[:2]), set(names[2:4]), {names[4]}, {names[5]}]
    assert description(find_groups(faces(names), "auto", Path("/data"))) == "2 photographs, 2 pictures"
    flat = ["afw134212_1.jpg", "afw134212_2.jpg", "ibugimage_003_1.jpg", "ibugimage_003_2.jpg", "indoor_001.png"]
    assert together(flat) == [set(flat[:2]), set(flat[2:4]), {flat[4]}]


@pytest.mark.parametrize("suffix", ["_mirror", "-mirrored", "_flip", "_flipped"])
def test_a_face_and_its_mirrored_copy_stay_together(suffix: str) -> None:
    names = ["image_01.jpg", f"image_01{suffix}.jpg", "134212_1.jpg", f"134212_1{suffix}.jpg", "x.jpg"]
    assert together(names) == [{"134212_1.jpg", f"134212_1{suffix}.jpg"}, set(names[:2]), {"x.jpg"}]


def test_persons_are_told_by_names_only_where_all_names_tell_one() -> None:
    assert together(["p001_01.jpg", "p001_02.jpg", "p002_01.jpg"]) == [{"p001_01.jpg", "p001_02.jpg"}, {"p002_01.jpg"}]
    assert together(["a/p001_01.jpg", "b/p001_02.jpg"]) == [{"a/p001_01.jpg", "b/p001_02.jpg"}]
    assert len(together(["p001_01.jpg", "p001_02.jpg", "indoor.jpg"])) == 3


@pytest.mark.parametrize("field", ["video_id", "person_id"])
def test_fields_of_an_entry_tell_videos_and_persons(field: str) -> None:
    entries = [{field: 4}, {field: 4}, {field: 5}]
    assert together(["a.jpg", "b.jpg", "c.jpg"], fields=entries) == [{"a.jpg", "b.jpg"}, {"c.jpg"}]
    assert len(together(["a.jpg", "b.jpg", "c.jpg"], fields=[*entries[:2], {}])) == 3  # not of every face


def test_a_way_to_group_may_be_given() -> None:
    names = ["x/cam1_01.jpg", "x/cam1_02.jpg", "y/cam2_01.jpg"]
    assert len(together(names, "picture")) == 3
    assert together(names, "folder") == [set(names[:2]), {names[2]}]
    assert together(names, r"_(\d+)") == [{names[0], names[2]}, {names[1]}]
    assert together(names, r"^(\w)/") == [set(names[:2]), {names[2]}]  # of the path under data.root
    assert together(names, "field:site", [{"site": "a"}, {"site": "b"}, {"site": "b"}]) == [set(names[1:]), {names[0]}]


def test_a_face_that_no_way_fits_is_named() -> None:
    with pytest.raises(DataError, match=r"data\.group_by = 'field:site': the entry of /data/b\.jpg has no site"):
        together(["a.jpg", "b.jpg"], "field:site", [{"site": 1}, {}])
    with pytest.raises(DataError, match=r"does not fit b\.jpg"):
        together(["a1.jpg", "b.jpg"], r"a(\d)")


@pytest.mark.parametrize(
    ("how", "reason"), [("persons", "has no group"), ("(", "no regular expression"), ("field:", "has no group")]
)
def test_other_ways_are_refused(how: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        DataConfig(kind="w300", root="/faces", group_by=how)


def test_real_faces_are_grouped_by_person(test_data: Path) -> None:
    config = DataConfig(kind="w300", root=str(test_data / "ytf68"))
    train, val = read_split(config, "train"), read_split(config, "val")
    assert {group.kind for group in train.groups + val.groups} == {"person"}
    assert set(train.groups).isdisjoint(val.groups)
