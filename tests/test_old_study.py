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
from waiting import PATIENCE

from sweep import load
from trainer.config import TrainConfig
from trainer.serving import LandmarkPredictor
from trainer.synthetic import draw_face

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


@pytest.fixture
def old(tmp_path) -> tuple[Sweep, dict]:
    """The study in a folder of its own, and what the version that made it said of it."""
    with tarfile.open(STUDY) as archive:
        archive.extractall(tmp_path, filter="data")
    home = tmp_path / "study"
    told = json.loads((home / "expected.json").read_text())
    settings = yaml.safe_load((home / "faces.yaml").read_text())
    with sqlite3.connect(home / "out" / "mlflow.db") as database:  # MLflow holds paths that are absolute
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            for column in [row[1] for row in database.execute(f"PRAGMA table_info({table})")]:
                moved = f"UPDATE {table} SET {column} = replace({column}, ?, ?) WHERE instr({column}, ?)"
                database.execute(moved, (told["home"], str(home), told["home"]))
    return Sweep(home, settings=settings), told


def drawn() -> np.ndarray:
    """(1, 64, 64, 3): the face on which the earlier version's landmarks were found."""
    return np.ascontiguousarray(draw_face(0, 7, size=64).image[..., ::-1])[None]


def weights(sweep: Sweep, told: dict) -> Path:
    return sweep.folder / "trials" / f"{told['best']:04}" / "best.pt"


def test_its_event_log_tells_the_same(old):
    sweep, told = old
    read = load(sweep.folder)
    trials = {str(r.number): [r.state.value, r.best_nme, r.epochs, r.params, r.seed] for r in read.records.values()}
    assert trials == told["trials"]
    history = {str(n): {str(e): row["val/nme"] for e, row in rows.items()} for n, rows in read.rows.items()}
    assert history == told["history"]
    assert read.best.number == told["best"]
    assert sorted(read.findings) == told["findings"] == ["repeat"]


def test_its_best_config_and_weights_are_used(old):
    sweep, told = old
    config = TrainConfig.load(sweep.folder / "best.yaml")
    assert config == TrainConfig.from_tree(told["best_config"])
    found = LandmarkPredictor(weights(sweep, told)).predict(drawn())
    np.testing.assert_allclose(found[0], told["landmarks"], atol=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("code", ["its own", "here"])
def test_its_registered_model_predicts(old, tmp_path, code):
    sweep, told = old
    np.save(tmp_path / "face.npy", drawn())
    words = [sys.executable, "-c", CHAMPION, code, f"sqlite:///{sweep.output / 'mlflow.db'}", tmp_path / "face.npy"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    np.testing.assert_allclose(answer["found"][0], told["landmarks"], atol=0.01)
    ours = Path(__file__).parents[1] / "trainer" / "serving.py"
    assert (Path(answer["code"]) == ours) is (code == "here")


@pytest.mark.slow
def test_the_same_command_goes_on_where_it_stopped(old):
    sweep, told = old
    cut_off = [n for n, (state, *_) in told["trials"].items() if state not in ("COMPLETE", "PRUNED", "DIVERGED")]
    assert cut_off == ["3"]
    done = sweep.run()
    assert done.returncode == 0, done.stderr
    sweep.check(4)  # each epoch is there once: what was trained is not trained again
    history = load(sweep.folder).rows
    for number, values in told["history"].items():
        kept = {str(epoch): history[int(number)][epoch]["val/nme"] for epoch in history[int(number)]}
        assert kept.items() >= values.items()
    assert len(history[3]) > len(told["history"]["3"])
    first = rows(sweep.folder / "trials" / "0003")[0]  # from the old checkpoint: trained again, it took another time
    assert first["epoch_seconds"] == history[3][1]["epoch_seconds"]
