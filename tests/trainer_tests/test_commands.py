"""The command lines end to end: train, go on, evaluate, predict; exit codes and what is printed."""

from __future__ import annotations

import contextlib
import io
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from face_files import write_face, write_faces

from trainer import checkpoint, engine, evaluate, predict, show, train, visualize
from trainer.config import TrainConfig
from trainer.landmarks import ATTRIBUTES, LAYOUTS
from trainer.model import build_model
from trainer.synthetic import draw_face

from .conftest import Tiny

YAML = """
data: {{kind: synthetic, train_faces: 16, val_faces: 8, test_faces: 6, image_size: 32, workers: 0, cache_dir: {cache}}}
model: {{backbone: resnet18, width: 8}}
optim: {{lr: 5e-3, epochs: 3, batch_size: 8}}
run: {{threads: 1, precision: float32}}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, crop_cache: Path) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(YAML.format(cache=crop_cache))
    return path


@pytest.fixture(autouse=True)
def _small(tmp_path: Path) -> Iterator[None]:
    """Removes checkpoints after each test: that of a ResNet-18 is 130 MB, and pytest keeps its folders."""
    yield
    for path in tmp_path.rglob("*.pt"):
        path.unlink()


@pytest.fixture(scope="module")
def trained(recipe: Path) -> Iterator[tuple[Path, str, str]]:
    """Run folder, standard output and standard error of one training."""
    folder, out, err = recipe.parent / "run", io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        assert train.main([str(recipe), "--run.output", str(folder), "--optim.lr", "4e-3"]) == 0
    yield folder, out.getvalue(), err.getvalue()
    shutil.rmtree(folder)


def metrics_of(folder: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in row.items() if k not in ("images_per_second", "epoch_seconds", "memory_gb")} for row in rows
    ]


def strict(text: str) -> Any:
    def refuse(token: str) -> None:
        raise AssertionError(f"{token} is no JSON")

    return json.loads(text, parse_constant=refuse)


# --- train


def test_training_tells_every_epoch_and_the_result(trained: tuple[Path, str, str]) -> None:
    folder, out, err = trained
    rows = metrics_of(folder)
    best = min(rows, key=lambda row: row["val/nme"])
    assert out == f"best val NME {best['val/nme']:.4%} (epoch {best['epoch']} of 3)  {folder}\n"
    told = [line for line in err.splitlines() if "loss" in line]
    assert [line.split()[:2] for line in told] == [["epoch", f"{epoch}/3"] for epoch in (1, 2, 3)]
    assert [f"val NME {row['val/nme']:7.3%}" in line for row, line in zip(rows, told, strict=True)] == [True] * 3
    assert told[-1].endswith("00:00:00 left")
    assert "\r" not in err  # nothing is drawn anew where nobody looks
    assert TrainConfig.load(folder / "config.yaml").optim.lr == 4e-3


def test_the_resolved_config_trains_the_same_again(trained: tuple[Path, str, str], tmp_path: Path) -> None:
    folder, _, _ = trained
    again = tmp_path / "again"
    assert train.main([str(folder / "config.yaml"), "--run.output", str(again)]) == 0
    assert metrics_of(again) == metrics_of(folder)


def test_an_existing_run_is_not_overwritten(
    trained: tuple[Path, str, str], recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _, _ = trained
    before = (folder / "metrics.jsonl").read_text()
    with pytest.raises(SystemExit) as ended:
        train.main([str(recipe), "--run.output", str(folder)])
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert "already holds a run" in message
    assert f"--resume {folder}" in message
    assert (folder / "metrics.jsonl").read_text() == before


def test_an_interrupted_training_goes_on_with_resume(
    trained: tuple[Path, str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, measure, calls = tmp_path / "run", engine.evaluate, []

    def interrupted(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return measure(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(engine, "evaluate", interrupted)
        assert train.main([str(trained[0] / "config.yaml"), "--run.output", str(folder)]) == 130
    assert "--resume" in capsys.readouterr().err
    assert len(metrics_of(folder)) == 1
    assert train.main(["--resume", str(folder)]) == 0
    assert metrics_of(folder) == metrics_of(trained[0])
    assert capsys.readouterr().out.endswith(f"{folder}\n")


def test_without_an_output_the_run_is_named_by_its_config(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "tiny").mkdir(parents=True)
    assert train.main([str(recipe), "--optim.epochs", "1", "--data.train_faces", "8"]) == 0
    assert (tmp_path / "runs" / "tiny-2" / "last.pt").exists()
    assert capsys.readouterr().out.endswith(f"{Path('runs/tiny-2')}\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--optim.lr", "1e30", "--optim.schedule", "constant"], "NonFiniteError: loss is nan at batch 2 of epoch 1"),
        (["--model.pretrained", "none.pt"], "ModelError: model.pretrained = 'none.pt': no such file"),
        (["--data.kind", "wflw", "--data.root", "nowhere"], "DataError: "),
    ],
)
def test_what_fails_ends_with_code_1_and_one_message(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert train.main([str(recipe), "--run.output", str(tmp_path / "run"), *arguments]) == 1
    told = capsys.readouterr().err
    assert any(line.startswith(message) for line in told.splitlines())
    assert "Traceback" not in told


def test_a_damaged_checkpoint_is_told_by_name(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    TrainConfig.load(recipe).dump(tmp_path / "config.yaml")
    (tmp_path / "last.pt").write_bytes(b"half a checkpoint")
    assert train.main(["--resume", str(tmp_path)]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"CheckpointError: {tmp_path / 'last.pt'}: damaged")


def test_one_face_to_train_on_is_refused_by_its_line_before_batch_norm_fails(tmp_path: Path, capsys) -> None:
    root = str(write_faces(tmp_path, ["a.png"]))
    arguments = ["--data.kind", "w300", "--data.root", root, "--data.val_list", "train.txt"]
    small = [
        "--data.cache_dir",
        root,
        "--data.image_size",
        "32",
        "--model.backbone",
        "resnet18",
        "--run.precision",
        "float32",
    ]
    assert train.main([*arguments, *small, "--run.output", str(tmp_path / "run")]) == 1
    assert "train.txt:1: is the only face to train on; batch norm needs two" in capsys.readouterr().err


def test_a_run_does_not_go_on_with_other_faces(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_faces(tmp_path / "set", [f"{number}.png" for number in range(8)])
    arguments = ["--data.kind", "w300", "--data.root", str(root), "--data.val_list", "train.txt"]
    small = ["--data.cache_dir", str(tmp_path), "--data.image_size", "32", "--model.backbone", "resnet18"]
    run = str(tmp_path / "run")
    quick = ["--optim.batch_size", "8", "--optim.epochs", "1", "--run.precision", "float32", "--run.output", run]
    assert train.main([*arguments, *small, *quick]) == 0
    assert train.main(["--resume", run]) == 0  # nothing is left to do
    write_face(root, "3.png", 3, shift=0.5)
    assert train.main(["--resume", run]) == 1
    assert "has begun on other faces, its numbers would not go together (train v2-" in capsys.readouterr().err


# --- evaluate


def evaluated(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert evaluate.main([*arguments, "--json"]) == 0
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 1
    found: dict[str, Any] = strict(out)
    return found


def test_evaluation_gives_the_number_of_the_training(
    trained: tuple[Path, str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _, _ = trained
    found = evaluated(capsys, str(folder))
    assert set(found) == {"nme", "fr10", "auc10", "norm", "faces", "subsets", "parts"}
    best = min(metrics_of(folder), key=lambda row: row["val/nme"])
    assert (found["nme"], found["fr10"], found["auc10"]) == (best["val/nme"], best["val/fr10"], best["val/auc10"])
    assert found["faces"] == 8
    assert list(found["parts"]) == list(LAYOUTS["wflw98"].parts)
    assert set(found["subsets"]) <= set(ATTRIBUTES)
    assert all(set(subset) == {"nme", "fr10", "auc10", "faces"} for subset in found["subsets"].values())
    assert evaluated(capsys, str(folder / "best.pt"), "--split", "val") == found


def test_another_split_and_other_settings(trained: tuple[Path, str, str], capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(trained[0])
    validation, test = evaluated(capsys, folder), evaluated(capsys, folder, "--split", "test")
    assert test["faces"] == 6
    assert test["nme"] != validation["nme"]
    assert evaluated(capsys, folder, "--run.flip_test", "false")["nme"] != validation["nme"]
    assert evaluated(capsys, folder, "--data.val_faces", "3")["faces"] == 3


def test_the_table_reads_in_percent(trained: tuple[Path, str, str], capsys: pytest.CaptureFixture[str]) -> None:
    found = evaluated(capsys, str(trained[0]))
    assert evaluate.main([str(trained[0])]) == 0
    table = capsys.readouterr().out
    assert f"{found['nme']:.3%}" in table
    assert "NaN" not in table
    for name in [*found["subsets"], *found["parts"]]:
        assert name in table


def test_evaluation_of_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main([str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"CheckpointError: {tmp_path / 'best.pt'}: no such checkpoint\n"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--data.rooot", "x"], "nearest valid key: data.root"),
        (["--optim.lr", "1"], "--optim.lr: unknown option"),
        (["--split", "train"], "invalid choice: 'train'"),
        (["--data.image_size", "33"], "multiple of 32"),
        (
            ["--data.kind", "w300", "--data.root", "/faces"],
            "was trained on wflw98 (98 landmarks), the faces have w300_68 (68)",
        ),
    ],
)
def test_bad_input_of_evaluation(
    trained: tuple[Path, str, str], capsys: pytest.CaptureFixture[str], arguments: list[str], named: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        evaluate.main([str(trained[0]), *arguments])
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert named in message
    assert len(message.splitlines()) == 1


# --- predict


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "face.png"
    cv2.imwrite(str(path), draw_face(3, 1, size=100).image)
    return path


def predicted(out: Path, name: str = "face") -> dict[str, Any]:
    found: dict[str, Any] = strict((out / f"{name}.json").read_text())
    return found


def test_prediction_writes_json_and_overlay(
    trained: tuple[Path, str, str], picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "out"
    assert predict.main([str(trained[0]), str(picture), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out / 'face.png'}\n"
    found = predicted(out)
    assert set(found) == {"image", "layout", "box", "landmarks", "covariance"}
    assert (found["image"], found["layout"]) == ("face.png", "wflw98")
    landmarks, covariance = np.array(found["landmarks"]), np.array(found["covariance"])
    assert landmarks.shape == (98, 2)
    assert (np.abs(landmarks - 49.5) < 60).all()
    assert covariance.shape == (98, 2, 2)
    np.testing.assert_array_equal(covariance, covariance.transpose(0, 2, 1))
    assert (np.linalg.eigvalsh(covariance) > -1e-3).all()
    assert 0 < np.sqrt(covariance[:, 0, 0].mean()) < 100
    overlay = cv2.imread(str(out / "face.png"))
    assert overlay.shape == (600, 600, 3)  # a whole multiple, at least 512
    plain = cv2.resize(cv2.imread(str(picture)), (600, 600), interpolation=cv2.INTER_CUBIC)
    assert (overlay != plain).any(-1).mean() > 0.001


def test_a_face_somewhere_in_a_picture_is_found_by_its_box(
    trained: tuple[Path, str, str], picture: Path, tmp_path: Path
) -> None:
    wide = cv2.copyMakeBorder(cv2.imread(str(picture)), 40, 10, 60, 20, cv2.BORDER_CONSTANT)
    cv2.imwrite(str(tmp_path / "wide.png"), wide)
    out, checkpoint_path = tmp_path / "out", str(trained[0] / "best.pt")
    assert predict.main([checkpoint_path, str(picture), "--out", str(out), "--box", "20,20,80,80"]) == 0
    shifted = ["--out", str(out), "--box", "80,60,140,120"]
    assert predict.main([checkpoint_path, str(tmp_path / "wide.png"), *shifted]) == 0
    plain, moved = predicted(out), predicted(out, "wide")
    assert plain["box"] == [20, 20, 80, 80]
    np.testing.assert_allclose(np.array(moved["landmarks"]) - [60, 40], plain["landmarks"], atol=0.05)
    np.testing.assert_allclose(moved["covariance"], plain["covariance"], rtol=0.01, atol=0.01)


def test_without_a_box_the_face_fills_the_picture(
    trained: tuple[Path, str, str], picture: Path, tmp_path: Path
) -> None:
    assert predict.main([str(trained[0]), str(picture), "--out", str(tmp_path)]) == 0
    x0, y0, x1, y1 = predicted(tmp_path)["box"]
    assert ((x0 + x1) / 2, (y0 + y1) / 2) == pytest.approx((49.5, 49.5))
    assert x1 - x0 == y1 - y0 == pytest.approx(99 / 1.25)


def test_a_bad_picture_fails_and_the_others_are_done(
    trained: tuple[Path, str, str], picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    out = tmp_path / "out"
    images = [str(bad), str(tmp_path / "none.jpg"), str(picture)]
    assert predict.main([str(trained[0]), *images, "--out", str(out)]) == 1
    messages = capsys.readouterr().err.splitlines()
    assert [str(tmp_path / name) in line for name, line in zip(["bad.png", "none.jpg"], messages, strict=True)]
    assert messages[0].startswith(f"DataError: {bad}: ")
    assert messages[1].startswith(f"DataError: {tmp_path / 'none.jpg'}: cannot be read")
    assert sorted(p.name for p in out.iterdir()) == ["face.json", "face.png"]


def test_two_pictures_of_one_name_both_have_a_place(
    trained: tuple[Path, str, str], picture: Path, tmp_path: Path
) -> None:
    assert predict.main([str(trained[0]), str(picture), str(picture), "--out", str(tmp_path / "out")]) == 0
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert names == ["face-2.json", "face-2.png", "face.json", "face.png"]


def test_a_regression_network_has_no_covariance(tiny: Tiny, picture: Path, tmp_path: Path) -> None:
    config = tiny({"model.head": "regression", "loss.name": "wing"})
    state = {"config": config.tree(), "model": build_model(config).state_dict()}
    checkpoint.save(state, tmp_path / "best.pt")
    assert predict.main([str(tmp_path / "best.pt"), str(picture), "--out", str(tmp_path / "out")]) == 0
    found = predicted(tmp_path / "out")
    assert "covariance" not in found
    assert np.abs(np.array(found["landmarks"]) - 49.5).max() < 20  # it has learnt nothing: near the middle
    assert cv2.imread(str(tmp_path / "out" / "face.png")) is not None


@pytest.mark.parametrize("box", ["1,2,3", "1,2,3,x", "5,0,1,9", "0,0,nan,9", ""])
def test_a_bad_box(trained: tuple[Path, str, str], picture: Path, tmp_path: Path, capsys, box: str) -> None:
    with pytest.raises(SystemExit) as ended:
        predict.main([str(trained[0]), str(picture), "--out", str(tmp_path), "--box", box])
    assert ended.value.code == 2
    assert "must be four numbers X0,Y0,X1,Y1" in capsys.readouterr().err


def test_prediction_without_a_checkpoint(picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict.main([str(tmp_path / "none.pt"), str(picture), "--out", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err == f"CheckpointError: {tmp_path / 'none.pt'}: no such checkpoint\n"


def test_the_ellipse_of_a_heatmap_is_in_pixels_of_the_picture() -> None:
    """A landmark drawn on a plain picture: the dot lies where it is said to, the ellipse about it."""
    grey = np.full((600, 600, 3), 90, np.uint8)
    landmarks, covariance = np.array([[200.0, 400.0]]), np.array([[[900.0, 0.0], [0.0, 100.0]]])
    drawn = cv2.imdecode(np.frombuffer(visualize.draw_overlay(grey, landmarks, covariance), np.uint8), cv2.IMREAD_COLOR)
    y, x = np.nonzero((drawn != 90).any(-1))
    assert (x.min(), x.max()) == pytest.approx((200 - 30, 200 + 30), abs=2)
    assert (y.min(), y.max()) == pytest.approx((400 - 10, 400 + 10), abs=2)
    turned = visualize.draw_overlay(grey, landmarks, covariance[:, ::-1, ::-1])
    y, x = np.nonzero((cv2.imdecode(np.frombuffer(turned, np.uint8), cv2.IMREAD_COLOR) != 90).any(-1))
    assert (x.max() - x.min(), y.max() - y.min()) == pytest.approx((20, 60), abs=3)
    assert math.isclose(np.mean(x), 200, abs_tol=1)


# --- show


@pytest.mark.parametrize("options", [[], ["--augmented"], ["--plain", "--split", "test"]])
def test_a_contact_sheet_is_a_picture(recipe: Path, tmp_path: Path, options: list[str]) -> None:
    path = tmp_path / "new" / "sheet.png"
    assert show.main([str(recipe), "--out", str(path), "--rows", "2", "--columns", "3", *options]) == 0
    sheet = cv2.imread(str(path))
    assert sheet.shape == (256, 384, 3)
    assert (sheet == (80, 255, 80)).all(-1).any() == ("--plain" not in options)
