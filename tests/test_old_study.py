"""A study that an earlier version has left on disk goes on here; `old_study/make.py` says what is in it."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from harness import Sweep, rows
from old_study.make import drawn, told
from waiting import PATIENCE

from sweep import load
from trainer.config import TrainConfig

STUDY = Path(__file__).parent / "old_study" / "study.tar.gz"
CHAMPION = """
import sys
if sys.argv[1] == "here":
    import trainer.serving
import json
import mlflow, numpy as np
mlflow.set_tracking_uri(sys.argv[2])
found = mlflow.pyfunc.load_model("models:/starsweep-faces@champion").predict(np.load(sys.argv[3]))
print(json.dumps({"found": found.tolist(), "code": sys.modules["trainer.serving"].__file__}))
"""


def unpacked(folder: Path) -> tuple[Sweep, dict]:
    """The study in a folder of its own, and what the version that made it said of it."""
    with tarfile.open(STUDY) as archive:
        archive.extractall(folder, filter="data")
    home = folder / "study"
    said = json.loads((home / "expected.json").read_text())
    settings = yaml.safe_load((home / "faces.yaml").read_text())
    with sqlite3.connect(home / "out" / "mlflow.db") as database:  # MLflow holds paths that are absolute
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            for column in [row[1] for row in database.execute(f"PRAGMA table_info({table})")]:
                moved = f"UPDATE {table} SET {column} = replace({column}, ?, ?) WHERE instr({column}, ?)"
                database.execute(moved, (said["home"], str(home), said["home"]))
    return Sweep(home, settings=settings), said


@pytest.fixture(scope="module")
def old(tmp_path_factory) -> tuple[Sweep, dict]:
    """The study for tests that only look at it."""
    return unpacked(tmp_path_factory.mktemp("old"))


@pytest.fixture(scope="module")
def now(old) -> dict:
    """What this version says of it, as JSON holds it."""
    return json.loads(json.dumps(told(old[0])))


@pytest.mark.parametrize("fact", ["trials", "history", "best", "findings", "best_config"])
def test_it_is_told_as_before(old, now, fact):
    assert now[fact] == old[1][fact]


def test_it_holds_what_it_should(old):
    _, said = old
    assert said["findings"] == ["repeat"]
    assert [n for n, (state, *_) in said["trials"].items() if state not in ("COMPLETE", "PRUNED", "DIVERGED")] == ["3"]


def test_its_best_config_and_weights_are_used(old, now):
    sweep, said = old
    assert TrainConfig.load(sweep.folder / "best.yaml") == TrainConfig.from_tree(said["best_config"])
    np.testing.assert_allclose(now["landmarks"], said["landmarks"], atol=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("code", ["its own", pytest.param("here", marks=pytest.mark.long)])
def test_its_registered_model_predicts(old, tmp_path, code):
    sweep, said = old
    np.save(tmp_path / "face.npy", drawn())
    words = [sys.executable, "-c", CHAMPION, code, f"sqlite:///{sweep.output / 'mlflow.db'}", tmp_path / "face.npy"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    np.testing.assert_allclose(answer["found"][0], said["landmarks"], atol=0.01)
    ours = Path(__file__).parents[1] / "trainer" / "serving.py"
    assert (Path(answer["code"]) == ours) is (code == "here")


@pytest.mark.slow
def test_the_same_command_goes_on_where_it_stopped(tmp_path):
    sweep, said = unpacked(tmp_path)
    refused = sweep.run()  # a default is another one since then
    assert refused.returncode == 2
    assert "sampler.random_share: 0.3 -> 0.15" in refused.stderr
    done = sweep.run("--sampler.random_share", "0.3")
    assert done.returncode == 0, done.stderr
    sweep.check(4)  # each epoch is there once: what was trained is not trained again
    history = json.loads(json.dumps(told(sweep)))["history"]
    for number, values in said["history"].items():
        assert history[number].items() >= values.items()
    assert len(history["3"]) > len(said["history"]["3"])
    first = rows(sweep.folder / "trials" / "0003")[0]  # from the old checkpoint: trained again, it took another time
    assert first["epoch_seconds"] == load(sweep.folder).history_by_trial[3][1]["epoch_seconds"]
