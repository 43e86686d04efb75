"""What MLflow's pages show without a click: views, faces, source, description. Real stores."""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, PERMISSION_DENIED
from prepared import copy_empty_store

from sweep.core.errors import TrackingUnavailable
from sweep.storage.event_log import Event, EventKind, EventLog
from sweep.tracking.mlflow_client import connect
from sweep.tracking.projector import MlflowSync
from sweep.tracking.shared_views import CHARTS, LEADERBOARD, page, shared_views
from sweep.tracking.sweep_facts import SweepFacts

SPACE = {
    "loss.star_weight": {"log_uniform": [0.01, 100], "when": {"loss.name": "star"}},
    "loss.name": {"choice": ["star", "wing"]},
    "data.augment.rotation": {"uniform": [0, 60]},
    "optim.lr": {"log_uniform": [1e-4, 1e-2]},
}
TAGS = {
    "command": "python -m sweep.run mine.yaml",
    "git.commit": "abc+changes",
    "data.hash.train": "v2-76693ddb1f699a6c",
    "data.hash.val": "v2-21e2d16a09f158c0",
    "faces.train": "400 faces in 398 pictures; landmarks: 0.0% missing",
    "faces.val": "80 faces in 80 pictures",
}
TRAIN = {"data": {"kind": "wflw", "root": "/data/WFLW"}}


class Sweep:
    """The log of a sweep with two trials, of which one was stopped, and MLflow's store."""

    def __init__(self, folder: Path, name: str = "mine", space: dict = SPACE, tags: dict = TAGS) -> None:
        self.log, self.uri = folder / name / "events.jsonl", f"sqlite:///{folder / 'mlflow.db'}"
        self.state = folder / name / "mlflow.json"
        copy_empty_store(folder / "mlflow.db")
        with EventLog(self.log) as log:
            config = {"name": name, "space": space, "train": TRAIN}
            log.append(Event(EventKind.SWEEP_STARTED, None, {"name": name, "tags": tags, "config": config}, 1000.5))
            for trial, epochs in enumerate((3, 1)):
                params = {"loss.name": "star", "loss.star_weight": 10.0**trial, "optim.lr": 1e-3}
                params["data.augment.rotation"] = 0.0
                log.append(Event(EventKind.TRIAL_STARTED, trial, {"params": params, "config": TRAIN}))
                for step in range(1, epochs + 1):
                    metrics = {"val/nme": 0.1 / step, "best_nme": 0.1 / step}
                    log.append(Event(EventKind.REPORT, trial, {"step": step, "metrics": metrics}))
                state = "COMPLETE" if epochs == 3 else "PRUNED"
                log.append(
                    Event(EventKind.TRIAL_ENDED, trial, {"state": state, "reason": None, "best_nme": 0.1 / epochs})
                )

    def sync(self) -> MlflowSync:
        return MlflowSync(self.log, self.uri, "faces", self.state, self.state.parent / "mlartifacts")

    def experiment(self):
        return connect(self.uri).get_experiment_by_name("faces")

    def runs(self) -> dict[str, object]:
        """The sweep's runs by trial, its own under "sweep"."""
        found = connect(self.uri).search_runs([self.experiment().experiment_id])
        return {run.data.tags.get("starsweep.trial", "sweep"): run for run in found}


def state_of(value: str) -> dict:
    """The state of a view, as the UI reads it from a tag."""
    text = json.loads(value)["state"]
    assert text.startswith("deflate;")
    return json.loads(zlib.decompress(base64.b64decode(text.removeprefix("deflate;"))))


def test_the_facts_of_a_sweep_are_in_the_first_event_of_its_log(tmp_path: Path) -> None:
    facts = SweepFacts.of(Sweep(tmp_path).log)
    assert (facts.name, facts.started) == ("mine", 1_000_500)
    assert list(facts.space) == list(SPACE)
    assert facts.logarithmic == ["loss.star_weight", "optim.lr"]
    assert facts.numeric == ["loss.star_weight", "data.augment.rotation", "optim.lr"]
    assert [(f.split, f.name, f.digest, f.source, f.count) for f in facts.faces] == [
        ("train", "wflw train", "v2-76693ddb1f699a6c", "/data/WFLW", 400),
        ("val", "wflw val", "v2-21e2d16a09f158c0", "/data/WFLW", 80),
    ]
    assert facts.source == {
        "mlflow.source.type": "LOCAL",
        "mlflow.source.name": "python -m sweep.run mine.yaml",
        "mlflow.source.git.commit": "abc+changes",
    }


def test_a_log_that_holds_less_gives_less(tmp_path: Path) -> None:
    assert SweepFacts.of(tmp_path / "none.jsonl") == SweepFacts()
    facts = SweepFacts.of(Sweep(tmp_path, space={}, tags={}).log)
    assert (facts.space, facts.faces) == ({}, ())
    assert shared_views(facts)  # without charts of settings


def test_faces_that_differ_between_trials_are_not_named(tmp_path: Path) -> None:
    space = SPACE | {"data.train_faces": {"int": [100, 400]}}
    assert [faces.split for faces in SweepFacts.of(Sweep(tmp_path, space=space).log).faces] == ["val"]


def test_the_views_hold_the_trials_of_one_sweep_best_first_with_what_was_searched(tmp_path: Path) -> None:
    facts = SweepFacts.of(Sweep(tmp_path).log)
    views = shared_views(facts)
    assert {json.loads(value)["name"] for value in views.values()} == {"mine: leaderboard", "mine: charts"}
    assert all(len(value) < 5000 for value in views.values())  # the longest tag of an experiment
    assert views == shared_views(facts)  # nothing to write a second time
    for key, value in views.items():
        assert key.startswith(f"mlflow.sharedViewState.{facts.sweep_id}-")
        state = state_of(value)
        assert facts.sweep_id in state["searchFilter"]
        assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`best_nme`", True)
        assert {f"params.`{key}`" for key in SPACE} <= set(state["selectedColumns"])
        charts = {chart["type"]: chart for chart in state["compareRunCharts"]}
        assert charts["LINE"]["metricKey"] == "val/nme"
        assert charts["PARALLEL"]["selectedParams"] == ["loss.name", "data.augment.rotation"]
        assert charts["PARALLEL"]["selectedMetrics"] == ["log10/loss.star_weight", "log10/optim.lr", "best_nme"]
        assert charts["CONTOUR"]["xaxis"] == {"key": "log10/loss.star_weight", "type": "METRIC"}
        assert charts["CONTOUR"]["yaxis"] == {"key": "data.augment.rotation", "type": "PARAM"}


def test_a_view_of_forty_settings_fits_into_a_tag() -> None:
    facts = SweepFacts("id", "big", 0, {f"data.augment.setting_number_{i}": "log_uniform" for i in range(40)})
    assert all(len(value) < 5000 for value in shared_views(facts).values())


def test_sweeps_of_one_experiment_keep_their_views(tmp_path: Path) -> None:
    sweeps = [Sweep(tmp_path, "one"), Sweep(tmp_path, "two")]
    for sweep in sweeps:
        sweep.sync().catch_up()
    tags = sweeps[0].experiment().tags
    assert sum(key.startswith("mlflow.sharedViewState.") for key in tags) == 4
    for sweep in sweeps:
        sync = sweep.sync()  # of a later call
        for view in (LEADERBOARD, CHARTS):
            key = sync.page(view).partition("viewStateShareKey=")[2].partition("&")[0]
            assert f"mlflow.sharedViewState.{key}" in tags
    assert "compareRunsMode=CHART" in sync.page(CHARTS)
    assert "`best_nme`" in tags["mlflow.note.content"]


def test_a_description_of_the_users_own_stays(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    connect(sweep.uri).create_experiment(
        "faces", (tmp_path / "mlartifacts").as_uri(), tags={"mlflow.note.content": "mine"}
    )
    sweep.sync().catch_up()
    assert sweep.experiment().tags["mlflow.note.content"] == "mine"


def test_who_may_not_describe_the_experiment_gets_its_plain_address(tmp_path: Path, monkeypatch) -> None:
    def refuse(*words: object) -> None:
        raise MlflowException("not yours", PERMISSION_DENIED)

    monkeypatch.setattr(MlflowClient, "set_experiment_tag", refuse)
    sweep = Sweep(tmp_path)
    sync = sweep.sync()
    assert sync.page(LEADERBOARD) == ""
    assert sync.catch_up() == 9
    assert sync.page(LEADERBOARD) == page(sync.experiment_id, None, LEADERBOARD)
    assert sync.page(CHARTS) == f"/#/experiments/{sync.experiment_id}?workflowType=machine_learning"
    assert len(sweep.runs()) == 3


def test_a_server_that_is_away_while_it_is_described_is_tried_again(tmp_path: Path, monkeypatch) -> None:
    def fail(*words: object) -> None:
        raise MlflowException("away", INTERNAL_ERROR)

    sweep = Sweep(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "set_experiment_tag", fail)
        with pytest.raises(TrackingUnavailable):
            sweep.sync().catch_up()
    sync = sweep.sync()
    sync.catch_up()
    assert "viewStateShareKey" in sync.page(LEADERBOARD)


def test_runs_show_faces_source_epochs_and_logarithms_once(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    sweep.sync().catch_up()
    sweep.state.unlink()
    sweep.sync().catch_up()  # all again
    runs = sweep.runs()
    for name, run in runs.items():
        inputs = run.inputs.dataset_inputs
        assert sorted(i.dataset.name for i in inputs) == ["wflw train", "wflw val"], name
        contexts = {tag.value: i.dataset for i in inputs for tag in i.tags if tag.key == "mlflow.data.context"}
        assert json.loads(contexts["train"].profile) == {"num_rows": 400}
        assert json.loads(contexts["val"].source) == {"uri": "/data/WFLW"}
        assert run.data.tags["mlflow.source.name"] == "python -m sweep.run mine.yaml"
        assert run.data.tags["mlflow.source.git.commit"] == "abc+changes"
        assert run.data.tags["starsweep.kind"] == ("sweep" if name == "sweep" else "trial")
    assert [runs[trial].data.metrics["epoch"] for trial in "01"] == [3, 1]
    assert [runs[trial].data.metrics["log10/loss.star_weight"] for trial in "01"] == [0, 1]
    assert runs["0"].data.metrics["log10/optim.lr"] == pytest.approx(-3)
    assert "log10/data.augment.rotation" not in runs["0"].data.metrics
    history = connect(sweep.uri).get_metric_history(runs["0"].info.run_id, "log10/optim.lr")
    assert len(history) == 1
    assert (runs["1"].data.tags["starsweep.state"], runs["1"].info.status) == ("PRUNED", "FINISHED")
