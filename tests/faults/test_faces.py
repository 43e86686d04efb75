"""Faces that change, overlap or are faulty under a sweep: it says so, and judges no trial on others than the rest."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from face_files import write_face, write_faces
from harness import CALM, TINY, Sweep

from sweep.storage.event_log import EventKind

pytestmark = pytest.mark.slow

TRAIN = [f"t{number:02d}.png" for number in range(24)]
VAL = [f"v{number}.png" for number in range(6)]


def settings(root: Path, **data: Any) -> dict[str, Any]:
    faces = {"kind": "w300", "root": str(root), "val_list": "val.txt", "image_size": 32, "workers": 0}
    space = {"optim.lr": {"log_uniform": [1e-4, 1e-2]}}
    train = TINY | {"data": faces | data, "optim": {"epochs": 1, "batch_size": 8}}
    return CALM | {"space": space, "known": [], "trials": 2, "train": train, "pruner": {"name": "none"}}


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One faulty training face of 24, and a test list that holds two of the training faces."""
    root = tmp_path_factory.mktemp("faces")
    write_faces(root, VAL, "val.txt", first=100)
    write_faces(root, TRAIN)
    (root / "t07.png").write_bytes(b"no picture")
    (root / "test.txt").write_text("v0.png\nt01.png\nt02.png\n")
    return root


@pytest.fixture(scope="module")
def ended(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Sweep, str]:
    """A sweep that has come to its end on these faces, and what it said."""
    sweep = Sweep(tmp_path_factory.mktemp("sweep") / "home", settings=settings(faces, skip_bad=True))
    done = sweep.run()
    assert done.returncode == 0, done.stderr
    return sweep, " ".join((done.stdout + done.stderr).split())


def rerun(sweep: Sweep, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sweep.rerun", str(sweep.folder), *words]
    return subprocess.run(command, cwd=sweep.home, capture_output=True, text=True)


def test_what_is_odd_about_the_faces_is_said_noted_and_listed(ended: tuple[Sweep, str], faces: Path) -> None:
    sweep, said = ended
    left_out = "1 of 24 faces of train are faulty and left out: 1 x is not a picture that OpenCV can decode"
    overlap = "2 pictures are in both train and test (2 by name)"
    tags = next(e for e in sweep.events() if e.kind is EventKind.SWEEP_STARTED).data["tags"]
    for text in (left_out, overlap):
        assert text in said
        assert text in tags["faces.warnings"]
    assert tags["faces.train"].startswith("23 faces in 23 pictures; ")
    (line,) = (sweep.folder / "skipped_faces.txt").read_text().splitlines()
    assert line.startswith(f"train: {faces / 'train.txt'}:8: {faces / 't07.png'}: is not a picture")
    assert (sweep.folder / "trials" / "0000" / "skipped_faces.txt").read_text().splitlines() == [line]
    parent = sweep.runs()[None].data.tags
    assert parent["faces.train"] == tags["faces.train"]
    assert parent["faces.warnings"] == tags["faces.warnings"]


@pytest.mark.parametrize("change", ["a label", "a picture", "fewer"])
def test_other_faces_between_two_calls_are_refused_with_what_differs(
    ended: tuple[Sweep, str], faces: Path, change: str
) -> None:
    """And no run beside the trials takes place on them, either."""
    sweep, _ = ended
    before = {path: path.read_bytes() for path in (faces / "v3.pts", faces / "v3.png", faces / "val.txt")}
    events = len(sweep.events())
    try:
        if change == "a label":
            write_face(faces, "v3.png", 103, shift=0.25)
        elif change == "a picture":
            write_face(faces, "v3.png", 999)
            (faces / "v3.pts").write_bytes(before[faces / "v3.pts"])
        else:
            (faces / "val.txt").write_text("v0.png\nv1.png\n")
        again = sweep.run("--trials", "4")
        seeds = rerun(sweep, "--seeds", "1")
    finally:
        for path, data in before.items():
            path.write_bytes(data)
    assert again.returncode == 2
    assert "sweep 'faces' has trials on other faces:" in again.stderr
    assert "data.hash.val: v2-" in again.stderr
    assert "6 faces in 6 pictures" in again.stderr
    assert ("2 faces in 2 pictures" in again.stderr) == (change == "fewer")
    assert "--name NEW --warm_start '[faces]'" in again.stderr
    assert seeds.returncode != 0
    assert "the val faces here are not those that the sweep began with" in seeds.stderr
    kinds = [event.kind for event in sweep.events()[events:]]
    assert EventKind.TRIAL_STARTED not in kinds
    assert EventKind.SWEEP_STARTED not in kinds


@pytest.mark.long
def test_with_the_old_faces_back_it_goes_on_and_on_new_ones_under_another_name(
    ended: tuple[Sweep, str], faces: Path
) -> None:
    sweep, _ = ended
    done = sweep.run("--trials", "3")
    assert done.returncode == 0, done.stderr
    assert set(sweep.states()) == {0, 1, 2}
    text = (faces / "val.txt").read_text()
    try:
        (faces / "val.txt").write_text("v0.png\nv1.png\n")
        new = sweep.run("--name", "new", "--warm_start", "[faces]", "--trials", "1")
    finally:
        (faces / "val.txt").write_text(text)
    assert new.returncode == 0, new.stderr


def test_no_final_model_is_measured_on_what_it_was_trained_on(ended: tuple[Sweep, str]) -> None:
    """Refused before anything is trained or read; v0 is trained on, too, as a final model is trained on train + val."""
    sweep, _ = ended
    done = rerun(sweep, "--final")
    assert done.returncode != 0
    assert "3 pictures are in the test split and in what was trained on (3 by name)" in done.stderr
    assert "data.allow_overlap" in done.stderr
    assert EventKind.TEST_READ not in {event.kind for event in sweep.events()}
    assert "final" not in {event.data.get("purpose") for event in sweep.events()}


def test_a_dry_run_has_a_section_on_faces(faces: Path, tmp_path: Path) -> None:
    sweep = Sweep(tmp_path / "home", settings=settings(faces, skip_bad=True))
    done = sweep.run("--dry-run")
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    first = next(i for i, words in enumerate(lines) if words[:1] == ["faces"])
    section = [" ".join(words) for words in lines[first : first + 6]]
    assert section[0].startswith(
        "faces train 23 faces in 23 pictures; landmarks: 0.0% missing, 0.0% outside of the crop;"
    )
    assert section[1].startswith("val 6 faces in 6 pictures;")
    assert section[2] == "norm the distance of the outer eye corners (inter_ocular) divides the NME"
    assert section[3].startswith("2 pictures are in both train and test (2 by name), such as")
    assert section[4].startswith("1 picture is in both val and test (1 by name), such as")
    assert section[5].startswith("1 of 24 faces of train are faulty and left out")


def test_too_many_faulty_faces_end_a_sweep_before_it_begins(faces: Path, tmp_path: Path) -> None:
    sweep = Sweep(tmp_path / "home", settings=settings(faces, skip_bad=True, skip_at_most=0.01))
    done = sweep.run()
    assert done.returncode != 0
    assert "1 of 24 faces are faulty (1 x is not a picture that OpenCV can decode)" in done.stderr
    assert "data.skip_at_most = 0.01" in done.stderr
    assert not (sweep.folder / "events.jsonl").exists()
