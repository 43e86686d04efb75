"""The champion in MLflow's model registry, as somebody else loads it: by its name, without this checkout."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from harness import rows
from mlflow.models import Model
from waiting import PATIENCE
from written_sweeps import final, note, read, write_trained

import trainer
from sweep import card
from sweep.analysis.sweep_result import SweepResult, load
from sweep.storage.event_log import Event, EventKind
from sweep.tracking.artifacts import make_mlflow_sync
from sweep.tracking.mlflow_client import connect
from sweep.tracking.model_registry import ALIAS, register
from trainer import checkpoint, predict
from trainer.config import TrainConfig
from trainer.inference import load_trained
from trainer.synthetic import draw_face

pytestmark = pytest.mark.slow
NAME = "starsweep-told"
LOADER = """
import json, sys
import numpy as np
import mlflow

uri, model, pictures = sys.argv[1:]
mlflow.set_tracking_uri(uri)
before = sorted(name for name in sys.modules if name.split(".")[0] in ("trainer", "sweep"))
loaded = mlflow.pyfunc.load_model(model)
found = {name: loaded.predict(pixels).tolist() for name, pixels in np.load(pictures).items()}
import trainer, trainer.inference
code = [trainer.__file__, trainer.inference.__file__]
modules = sorted(name for name in sys.modules if name.split(".")[0] == "sweep")
print(json.dumps({"found": found, "code": code, "before": before, "sweep": modules}))
"""


def uri_of(sweep: SweepResult) -> str:
    return f"sqlite:///{sweep.folder.parent / 'mlflow.db'}"


def make(sweep: SweepResult, capsys) -> str:
    """What the command prints."""
    code = card.main(["told", "--output", str(sweep.folder.parent)])
    captured = capsys.readouterr()
    assert (code, captured.err) == (0, "")
    return captured.out


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Iterator[tuple[SweepResult, str]]:
    """A sweep with its card, and what the command has printed."""
    sweep = write_trained(tmp_path_factory.mktemp("registry") / "out")
    words = ["-m", "sweep.card", "told", "--output", "out"]
    ended = subprocess.run(
        [sys.executable, *words], cwd=sweep.folder.parents[1], capture_output=True, text=True, timeout=PATIENCE
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    yield sweep, ended.stdout
    shutil.rmtree(sweep.folder.parent)  # weights of a ResNet-18 are 45 MB


def fetched(sweep: SweepResult, version: str, folder: Path) -> Path:
    """The files of a version."""
    client = connect(uri_of(sweep))
    source = client.get_model_version_download_uri(NAME, version)
    run_id, path = source.removeprefix("runs:/").split("/", 1)
    return Path(client.download_artifacts(run_id, path, str(folder)))


def test_the_command_says_where_the_model_is(published):
    sweep, out = published
    path = sweep.folder / "card" / "README.md"
    assert out.splitlines() == [str(path), f"registered: models:/{NAME}@{ALIAS} (version 1)"]
    assert f"In MLflow's registry: `models:/{NAME}@champion (version 1)`" in path.read_text(encoding="utf-8")


def test_the_version_belongs_to_the_run_that_trained_it_and_says_how_good_it_is(published):
    sweep, _ = published
    client = connect(uri_of(sweep))
    version = client.get_model_version_by_alias(NAME, "champion")
    assert str(version.version) == "1"
    run = client.get_run(version.run_id)
    assert run.data.tags["starsweep.trial"] == str(sweep.best.number)
    assert run.info.status == "FINISHED"
    assert float(version.tags["nme"]) == sweep.best.best_nme
    assert (version.tags["split"], version.tags["data"]) == ("val", "synthetic faces")
    assert [v.version for v in client.search_model_versions(f"name='{NAME}'")] == [version.version]


def test_signature_example_and_requirements_are_those_of_the_model(published, tmp_path):
    sweep, _ = published
    folder = fetched(sweep, "1", tmp_path)
    model = Model.load(folder)
    (taken,), (given,) = model.signature.inputs.to_dict(), model.signature.outputs.to_dict()
    assert (taken["tensor-spec"]["dtype"], tuple(taken["tensor-spec"]["shape"])) == ("uint8", (-1, -1, -1, 3))
    assert (given["tensor-spec"]["dtype"], tuple(given["tensor-spec"]["shape"])) == ("float32", (-1, 98, 2))
    example = np.asarray(model.load_input_example(str(folder)))
    assert (example.ndim, example.shape[0], example.shape[-1]) == (4, 1, 3)
    requirements = (folder / "requirements.txt").read_text().splitlines()
    assert {line.partition("==")[0] for line in requirements} == {
        *("torch", "torchvision", "numpy", "opencv-python-headless", "pydantic", "pyyaml", "filelock"),
        *(line.partition("==")[0] for line in requirements if line.startswith("mlflow")),
    }
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert "code/trainer/serving.py" in files
    code = Path(str(trainer.__file__)).parent
    data = {f"code/trainer/{path.relative_to(code)}" for path in code.rglob("*.txt")}
    assert data <= files
    assert not [name for name in files if "__pycache__" in name or name.startswith("code/sweep")]
    text = "".join((folder / name).read_text() for name in ("MLmodel", "requirements.txt", "conda.yaml"))
    assert str(sweep.folder.parents[1]) not in text
    assert str(code.parent) not in text


def pictures() -> dict[str, np.ndarray]:
    square = np.stack([np.ascontiguousarray(draw_face(seed, 0, size=48).image[..., ::-1]) for seed in (0, 1)])
    large = np.ascontiguousarray(draw_face(2, 0, size=96).image[..., ::-1])
    return {"square": square, "wide": np.ascontiguousarray(large[None, 20:80])}


def load_elsewhere(uri: str, model: str, folder: Path) -> dict:
    """What a process outside of the checkout gets from the registry."""
    folder.mkdir(exist_ok=True)
    np.savez(folder / "pictures.npz", **pictures())
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"TMPDIR": str(folder)}
    words = ["-c", LOADER, uri, model, str(folder / "pictures.npz")]
    ended = subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


def test_anybody_can_load_it_by_its_alias_and_finds_what_the_command_finds(published, tmp_path):
    sweep, _ = published
    told = load_elsewhere(uri_of(sweep), f"models:/{NAME}@champion", tmp_path / "elsewhere")
    assert told["before"] == []
    assert told["sweep"] == []
    stored = (tmp_path / "elsewhere", sweep.folder.parent / "mlartifacts")
    for path in map(Path, told["code"]):  # the code that is stored with it, not that of the installed package
        assert path.parts[-3:-1] == ("code", "trainer")
        assert any(place in path.parents for place in stored)
    names = [(name, i) for name, pixels in pictures().items() for i in range(len(pixels))]
    for name, i in names:
        cv2.imwrite(str(tmp_path / f"{name}{i}.png"), pictures()[name][i][..., ::-1])
    images = [str(tmp_path / f"{name}{i}.png") for name, i in names]
    weights = next((sweep.folder / "card").glob("*.pt"))
    assert predict.main([str(weights), *images, "--out", str(tmp_path / "out")]) == 0
    for name, i in names:
        expected = json.loads((tmp_path / "out" / f"{name}{i}.json").read_text())["landmarks"]
        assert np.array(told["found"][name][i]) == pytest.approx(np.array(expected), abs=1e-3)
    assert np.array(told["found"]["square"]).shape == (2, 98, 2)


@pytest.fixture
def copied(published, tmp_path) -> Iterator[SweepResult]:
    """The sweep before its card, with the database and files of MLflow as they were then: none."""
    shutil.copytree(published[0].folder, tmp_path / "out" / "told", ignore=shutil.ignore_patterns("mlflow*", "card"))
    yield load("told", tmp_path / "out")
    shutil.rmtree(tmp_path / "out")


def versions(sweep: SweepResult) -> dict[str, str]:
    """NME by version."""
    found = connect(uri_of(sweep)).search_model_versions(f"name='{NAME}'")
    return {str(version.version): version.tags["nme"] for version in found}


def test_the_same_weights_are_one_version_and_new_weights_the_next(copied, capsys):
    assert "(version 1)" in make(copied, capsys)
    assert "(version 1)" in make(copied, capsys)
    assert list(versions(copied)) == ["1"]
    client = connect(uri_of(copied))
    client.delete_registered_model_alias(NAME, ALIAS)
    make(copied, capsys)
    assert str(client.get_model_version_by_alias(NAME, ALIAS).version) == "1"  # it is given back

    folder = copied.folder / "reruns" / "final-0000-0"
    shutil.copytree(copied.folder / "trials" / "0000", folder)
    state = checkpoint.load(folder / "best.pt")
    state["config"] = TrainConfig.from_tree(state["config"]).replace({"data.train_on": "train+val"}).tree()
    state["model"] = {k: v + 1 if v.is_floating_point() else v for k, v in state["model"].items()}
    checkpoint.save({key: value for key, value in state.items() if key != "format"}, folder / "best.pt")
    sweep = note(copied, rerun(copied, folder), read(1), final())
    assert "(version 2)" in make(sweep, capsys)
    assert versions(sweep) == {"1": repr(sweep.best.best_nme), "2": "0.0671"}
    champion = client.get_model_version_by_alias(NAME, ALIAS)
    assert (str(champion.version), champion.tags["split"]) == ("2", "test")
    assert client.get_run(champion.run_id).data.tags["starsweep.purpose"] == "final"


def rerun(sweep: SweepResult, folder: Path) -> Event:
    history = [{key: value for key, value in row.items() if key != "epoch"} for row in rows(folder)]
    config = load_trained(folder)[0].tree()
    told = {"run": folder.name, "purpose": "final", "of": 0, "state": "COMPLETE", "reason": None}
    more = {"params": sweep.records[0].params, "config": config, "started": 0.0, "history": history}
    return Event(EventKind.RERUN, None, told | more)


def test_other_weights_of_the_same_run_leave_the_first_version_as_it_was(copied, tmp_path):
    projector = make_mlflow_sync(copied.config, copied.config.train.data.threshold)
    projector.catch_up()
    run_id = projector.run_id("0")
    first = copied.folder / "trials" / "0000" / "best.pt"
    second = copied.folder / "other.pt"
    state = checkpoint.load(first)
    state["model"] = {k: v * 0 if v.is_floating_point() else v for k, v in state["model"].items()}
    checkpoint.save({key: value for key, value in state.items() if key != "format"}, second)
    assert register(uri_of(copied), run_id, NAME, first, {"nme": "0.1"}) == ("1", True)
    assert register(uri_of(copied), run_id, NAME, second, {"nme": "0.2"}) == ("2", True)
    assert register(uri_of(copied), run_id, NAME, first, {"nme": "0.1"}) == ("1", False)
    assert str(connect(uri_of(copied)).get_model_version_by_alias(NAME, ALIAS).version) == "1"
    for version, path in (("1", first), ("2", second)):
        (tmp_path / version).mkdir()
        folder = fetched(copied, version, tmp_path / version)
        weights = folder / Model.load(folder).flavors["python_function"]["data"]
        assert weights.read_bytes() == path.read_bytes()
