"""Layouts: what swaps under a flip, what covers what, and the facts they were taken from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from trainer.landmarks import BOX, LAYOUTS, Layout

layouts = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=list(LAYOUTS))


@pytest.mark.parametrize(
    ("name", "count", "pairs", "parts"),
    [("wflw98", 98, 44, 9), ("w300_68", 68, 29, 8), ("cofw29", 29, 11, 0), ("aflw19", 19, 8, 0)],
)
def test_counts(name: str, count: int, pairs: int, parts: int) -> None:
    layout = LAYOUTS[name]
    assert (layout.name, layout.count, len(layout.flip_pairs), len(layout.parts)) == (name, count, pairs, parts)


@layouts
def test_a_flip_twice_is_no_flip(layout: Layout) -> None:
    order = np.array(layout.flip)
    assert sorted(order) == list(range(layout.count))
    assert order[order].tolist() == list(range(layout.count))


@layouts
def test_no_landmark_is_in_two_pairs(layout: Layout) -> None:
    paired = [index for pair in layout.flip_pairs for index in pair]
    assert len(set(paired)) == len(paired)
    assert all(0 <= index < layout.count for index in paired)
    moved = {index for index, other in enumerate(layout.flip) if index != other}
    assert moved == set(paired)


@layouts
def test_parts_cover_the_face_once(layout: Layout) -> None:
    covered = [index for start, stop in layout.parts.values() for index in range(start, stop)]
    assert covered == (list(range(layout.count)) if layout.parts else [])


@layouts
def test_a_flip_takes_each_part_to_its_mirror(layout: Layout) -> None:
    for part, (start, stop) in layout.parts.items():
        mirror = part
        if part.startswith(("right_", "left_")):
            side, rest = part.split("_", 1)
            mirror = f"{'left' if side == 'right' else 'right'}_{rest}"
        assert sorted(layout.flip[start:stop]) == list(range(*layout.parts[mirror])), part


@layouts
@pytest.mark.parametrize("name", ["inter_ocular", "inter_pupil"])
def test_the_ends_of_a_norm_are_mirrored(layout: Layout, name: str) -> None:
    norm = layout.norm(name)
    assert sorted(layout.flip[index] for index in norm.right) == sorted(norm.left)
    assert set(norm.right).isdisjoint(norm.left)


@layouts
def test_every_norm_has_a_name_and_the_first_is_the_default(layout: Layout) -> None:
    assert {norm.name for norm in layout.norms} == {"inter_ocular", "inter_pupil", "box"}
    assert layout.norm() is layout.norms[0] is layout.norm(layout.norms[0].name)
    assert layout.norm().name == ("box" if layout.name == "aflw19" else "inter_ocular")
    assert layout.norm("box") is BOX
    with pytest.raises(KeyError):
        layout.norm("nose")


def test_thresholds_are_those_of_the_published_tables() -> None:
    thresholds = {name: layout.threshold for name, layout in LAYOUTS.items()}
    assert thresholds == {"wflw98": 0.10, "w300_68": 0.08, "cofw29": 0.10, "aflw19": 0.07}


@layouts
def test_every_fact_of_the_published_layouts(layout: Layout, test_data: Path) -> None:
    facts = json.loads((test_data / "layouts.json").read_text())
    assert set(facts) == set(LAYOUTS)
    fact = facts[layout.name]
    assert layout.count == fact["count"]
    assert sorted(layout.flip_pairs) == sorted(tuple(pair) for pair in fact["flip_pairs"])
    assert [i for i, other in enumerate(layout.flip) if i == other] == fact["on_the_midline"]
    norm = layout.norm()
    assert [*norm.right, *norm.left] == (fact["nme_points"] or [])
    assert layout.parts == {name: (part["start"], part["stop"]) for name, part in fact["parts"].items()}


@pytest.mark.parametrize("name", ["wflw98", "w300_68"])
def test_a_mirrored_mean_face_stays_the_mean_face(name: str, test_data: Path) -> None:
    layout, points = LAYOUTS[name], np.loadtxt(test_data / "meanface" / f"{name}.txt")
    assert points.shape == (layout.count, 2)
    mirrored = (points * [-1, 1] + [1, 0])[layout.flip]
    distance = np.linalg.norm(mirrored - points, axis=1)
    assert distance.max() < 0.03  # of the crop; neighbours lie 0.02 to 0.08 apart, eyes 0.4
    wrong = np.linalg.norm((points * [-1, 1] + [1, 0]) - points, axis=1)
    assert wrong.max() > 0.5


@pytest.mark.parametrize("name", ["wflw98", "w300_68"])
def test_right_is_the_subjects_right(name: str, test_data: Path) -> None:
    layout, points = LAYOUTS[name], np.loadtxt(test_data / "meanface" / f"{name}.txt")
    for part in ("brow", "eye"):
        right, left = (points[slice(*layout.parts[f"{side}_{part}"])] for side in ("right", "left"))
        assert right[:, 0].max() < left[:, 0].min()
