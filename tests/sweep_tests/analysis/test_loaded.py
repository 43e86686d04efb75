"""A sweep read from its folder alone: what a real one left, and event logs written here for what goes wrong."""

import json
import math
import os
import subprocess
import sys
from types import SimpleNamespace

import optuna
import pandas as pd
import pytest
import yaml
from harness import CALM, MARK, TINY, Sweep, rows
from waiting import PATIENCE

from sweep import load
from sweep.analysis.findings import Findings
from sweep.analysis.sweep_result import RunInterval
from sweep.core.config_file import load_sweep
from sweep.core.trial import State, TrialRecord
from sweep.storage.event_log import Event, EventKind, EventLog
from trainer.config import TrainConfig
from trainer.errors import ConfigError

FIXED = ["number", "state", "best_nme", "epochs", "seconds", "reason"]

# A real sweep, run from Python

SETTINGS = CALM | {
    "space": {"optim.lr": {"choice": [1e-3, 1e-6, 1e30]}},
    "known": [{"optim.lr": 1e-3}, {"optim.lr": 1e30}, {"optim.lr": 1e-6}],  # complete, diverged, pruned
    "train": TINY | {"data": TINY["data"] | {"train_faces": 16}},
}
SCRIPT = """
import json, sys
from pathlib import Path
import sweep.run
from sweep import load, run_sweep
from sweep.analysis.sweep_result import SweepResult
assert run_sweep is sweep.run.run_sweep
found = run_sweep("faces.yaml", trials=3, output="out", **{"train.optim.epochs": 2, "mlflow_experiment": "python"})
assert type(found) is SweepResult and type(load("faces", "out")) is SweepResult
seen = {"name": found.name, "best": found.best.best_nme, "states": [r.state for r in found.records.values()]}
Path("seen.json").write_text(json.dumps(seen))
"""


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    sweep = Sweep(tmp_path_factory.mktemp("loaded") / "home", settings=SETTINGS)
    sweep.prepare("--train.optim.epochs", "2")
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=sweep.home,
        env=os.environ | {"XDG_CACHE_HOME": str(sweep.cache), MARK: sweep.mark},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert ended.returncode == 0, ended.stderr
    return sweep, ended


@pytest.mark.slow
def test_a_sweep_runs_from_python(calm):
    sweep, ended = calm
    seen = json.loads((sweep.home / "seen.json").read_text())
    found = load("faces", sweep.output)
    assert seen == {"name": "faces", "best": found.best.best_nme, "states": ["COMPLETE", "DIVERGED", "PRUNED"]}
    assert "3 trials: 1 complete, 1 pruned, 1 diverged" in ended.stdout
    assert "\x1b" not in ended.stdout + ended.stderr
    assert ended.stderr == ""
    assert found.config.trials == 3
    assert found.config.train.optim.epochs == 2
    assert found.tags["command"].startswith("sweep.run_sweep('faces.yaml', trials=3, output='out', ")
    assert sweep.client().get_experiment_by_name("python") is not None


@pytest.mark.slow
def test_what_is_read_is_what_the_study_holds(calm):
    sweep, _ = calm
    found, study = load(sweep.folder), sweep.study()
    states = {trial.number: trial.state for trial in study.trials}
    assert states[0] is optuna.trial.TrialState.COMPLETE
    assert sorted(found.records) == [0, 1, 2] == [trial.number for trial in study.trials]
    for trial in study.trials:
        record = found.records[trial.number]
        assert record.number == trial.number
        assert record.params == trial.params
        assert record.curve == trial.intermediate_values
        assert record.state.value == sweep.states()[trial.number]
    assert found.best.number == study.best_trial.number == 0
    assert found.best.best_nme == study.best_value
    assert "learning rate" in found.records[1].reason
    assert found.epochs_spent == sum(len(trial.intermediate_values) for trial in study.trials)
    assert found.best_config == TrainConfig.load(sweep.folder / "best.yaml")
    assert found.config.tree() == yaml.safe_load((sweep.folder / "sweep.yaml").read_text())
    assert {"version.torch", "git.commit", "data.hash.train", "data.hash.val", "threads"} <= found.tags.keys()
    assert (found.reruns, found.findings, found.test_readings, len(found.invocations)) == ({}, Findings(), 0, 1)


@pytest.mark.slow
def test_the_table_is_the_leaderboard(calm):
    sweep, _ = calm
    found, table = load(sweep.folder), sweep.leaderboard()
    frame = found.trials
    assert list(frame.columns) == [*FIXED, "optim.lr"]
    assert frame["number"].tolist() == [int(row["number"]) for row in table] == [r.number for r in found.ranked]
    assert frame["state"].tolist() == [row["state"] for row in table]
    assert frame["optim.lr"].tolist() == [float(row["optim.lr"]) for row in table]
    assert frame["epochs"].tolist() == [int(row["epochs"]) for row in table]
    for seconds, row in zip(frame["seconds"], table, strict=True):
        assert f"{seconds:.1f}" == row["seconds"]
    diverged = frame.set_index("number").loc[1]
    assert math.isnan(diverged["best_nme"])
    assert diverged["reason"].startswith("loss is ")
    assert frame["best_nme"].dtype == float


@pytest.mark.slow
def test_the_history_is_what_the_trainer_wrote(calm):
    sweep, _ = calm
    found = load(sweep.folder)
    frame = found.history
    assert list(frame.columns[:2]) == ["trial", "epoch"]
    for number in (0, 2):
        written = rows(sweep.folder / "trials" / f"{number:04d}")
        told = frame[frame["trial"] == number].drop(columns="trial").to_dict("records")
        assert told == written
    assert 1 not in set(frame["trial"])  # diverged in its first epoch
    assert found.best_nme_by_report == [
        row["best_nme"] for n in (0, 2) for row in rows(sweep.folder / "trials" / f"{n:04d}")
    ]
    assert [(s.trial, s.outcome) for s in found.run_intervals] == [(0, "COMPLETE"), (1, "DIVERGED"), (2, "PRUNED")]
    assert all(s.end >= s.start for s in found.run_intervals)
    assert found.trial_hours * 3600 >= sum(r.seconds for r in found.records.values())


# Logs written here


@pytest.fixture
def written(tmp_path):
    """A sweep of which only config and event log are there; `add` appends an event at a second."""
    (tmp_path / "faces.yaml").write_text(yaml.safe_dump({"space": SETTINGS["space"], "train": SETTINGS["train"]}))
    config = load_sweep(tmp_path / "faces.yaml", {"output": str(tmp_path / "out")})
    config.folder.mkdir(parents=True)
    config.dump(config.folder / "sweep.yaml")
    path = config.folder / "events.jsonl"

    def add(second, kind, trial=None, **data):
        with EventLog(path) as log:
            log.append(Event(kind, trial, data, float(second)))

    def begin(second, **tags):
        add(second, EventKind.SWEEP_STARTED, name="faces", tags=tags, config=config.tree())

    def start(second, trial, **more):
        params = {"optim.lr": 1e-3}
        add(
            second,
            EventKind.TRIAL_STARTED,
            trial,
            params=params,
            config=config.trial_config(TrialRecord(trial, params)).tree(),
            **more,
        )

    def report(second, trial, epoch, nme, **more):
        metrics = {"train/loss": 1.0, "val/nme": nme, "best_nme": nme, "epoch_seconds": 2.0, **more}
        add(second, EventKind.REPORT, trial, step=epoch, metrics=metrics)

    def end(second, trial, state="COMPLETE", reason=None):
        add(second, EventKind.TRIAL_ENDED, trial, state=state, reason=reason, best_nme=None)

    return SimpleNamespace(
        add=add, begin=begin, start=start, report=report, end=end, folder=config.folder, path=path, config=config
    )


def test_a_sweep_that_just_began_is_empty(written):
    written.begin(10, **{"version.torch": "1"})
    found = load(written.folder)
    assert (found.records, found.history_by_trial, found.run_intervals, found.ranked, found.best) == (
        {},
        {},
        [],
        [],
        None,
    )
    assert (found.epochs_spent, found.trial_hours, found.invocations, found.tags) == (
        0,
        0,
        [10.0],
        {"version.torch": "1"},
    )
    assert list(found.trials.columns) == [*FIXED, "optim.lr"]
    assert list(found.history.columns) == ["trial", "epoch"]
    assert len(found.trials) == len(found.history) == 0
    with pytest.raises(ConfigError, match="sweep faces: no trial is complete, so there is no winner yet"):
        _ = found.best_config


def test_time_is_that_in_which_trials_ran(written):
    """Trial 0 is interrupted and gone on with, 1 crashes once, 2 is cut off by a kill, 3 still runs."""
    written.begin(0, **{"a": "old", "b": "kept"})
    written.start(10, 0)
    written.start(11, 1)
    written.report(20, 0, 1, 0.3)
    written.start(25, 1, attempt=1)
    written.report(30, 1, 1, 0.2)
    written.end(31, 1, "PRUNED")
    written.add(40, EventKind.TRIAL_INTERRUPTED, 0)
    written.add(41, EventKind.SWEEP_ENDED, state="KILLED", summary="", best_trial=None, artifacts=[])
    written.begin(100, a="new")
    written.start(110, 0)
    written.start(111, 2)
    written.report(120, 0, 2, 0.1)
    written.end(121, 0)
    written.report(130, 2, 1, 0.4)
    written.begin(1000, a="newest")  # the driver was killed: all that is known is that trial 2 ran until 130
    written.start(1010, 2)
    written.start(1011, 3)
    written.end(1020, 2, "FAILED", "IsADirectoryError: x")
    written.report(1030, 3, 1, 0.5)
    found = load(written.folder)
    assert found.run_intervals == [
        RunInterval(1, 11, 25, "CRASHED"),
        RunInterval(1, 25, 31, "PRUNED"),
        RunInterval(0, 10, 40, "INTERRUPTED"),
        RunInterval(0, 110, 121, "COMPLETE"),
        RunInterval(2, 111, 130, "INTERRUPTED"),
        RunInterval(2, 1010, 1020, "FAILED"),
        RunInterval(3, 1011, 1030, "RUNNING"),
    ]
    assert found.trial_hours == pytest.approx((14 + 6 + 30 + 11 + 19 + 10 + 19) / 3600)
    assert found.epochs_spent == 2 + 1 + 1 + 1
    assert found.best_nme_by_report == [0.3, 0.2, 0.1, 0.4, 0.5]
    assert found.invocations == [0, 100, 1000]
    assert found.tags == {"a": "newest", "b": "kept"}
    states = {n: r.state for n, r in found.records.items()}
    assert states == {0: State.COMPLETE, 1: State.PRUNED, 2: State.FAILED, 3: State.RUNNING}
    assert found.records[0].curve == {1: 0.3, 2: 0.1}
    assert found.records[0].seconds == 4
    assert found.records[2].reason == "IsADirectoryError: x"
    assert [r.number for r in found.ranked] == [0, 1, 3, 2]


def test_frames_hold_nan_where_there_is_nothing(written):
    written.begin(0)
    written.start(1, 0)
    written.report(2, 0, 1, 0.3)
    written.report(3, 0, 2, 0.2, extra=math.nan)
    written.end(4, 0)
    written.start(5, 1)
    written.end(6, 1, "DIVERGED", "loss is nan")
    found = load(written.folder)
    trials, history = found.trials, found.history
    assert trials["number"].tolist() == [0, 1]
    assert trials["best_nme"].isna().tolist() == [False, True]
    assert trials["reason"].isna().tolist() == [True, False]
    assert trials["epochs"].tolist() == [2, 0]
    assert history[["trial", "epoch"]].to_numpy().tolist() == [[0, 1], [0, 2]]
    assert list(history.columns) == ["trial", "epoch", "train/loss", "val/nme", "best_nme", "epoch_seconds", "extra"]
    assert history["extra"].isna().all()  # not there, and no number
    assert isinstance(found.trials, pd.DataFrame)
    assert found.trials is trials


BLANKS = {
    "config_hash": "",
    "data_hash": "",
    "overlap": None,
    "skipped": None,
    "threads": None,
    "device": "",
    "provenance": {},
}


def detail(nme: float) -> dict:
    """Of a final evaluation, as versions wrote it that noted less."""
    rates = {"fr10": 0.5, "auc10": 0.1}
    rest = {"trial": 0, "runs": ["final-0000-0"], "seeds": [0], "faces": 5, "interval": [0.1, 0.2], "std": math.nan}
    return {**rest, **rates, "nme": nme, "nme_of_seeds": [nme], "subsets": {}, "parts": {}}


def test_reruns_readings_and_findings(written):
    written.begin(0)
    written.start(1, 0)
    written.report(2, 0, 1, 0.3)
    written.end(3, 0)
    tree = written.config.best_config({"optim.lr": 1e-3}).replace({"run.seed": 1, "run.output": "x"}).tree()
    for second, state, nme in ((4, "FAILED", math.nan), (5, "COMPLETE", 0.25)):
        rest = {"reason": None, "params": {}, "started": 1.0, "history": [{"val/nme": nme}]}
        written.add(second, EventKind.RERUN, run="seed-0000-1", purpose="seed", of=0, state=state, config=tree, **rest)
    for reading in (1, 2):
        written.add(5 + reading, EventKind.TEST_READ, reading=reading, networks=1)
    for second, nme in ((8, 0.1), (9, math.inf)):
        written.add(second, EventKind.FINDING, about="final", metrics={"final/nme": nme}, detail=detail(nme))
    found = load(written.folder)
    (rerun,) = found.reruns.values()
    assert (rerun.run, rerun.purpose, rerun.of, rerun.state) == ("seed-0000-1", "seed", 0, State.COMPLETE)
    assert rerun.config == TrainConfig.from_tree(tree)
    assert rerun.history == ({"val/nme": 0.25},)
    assert found.test_readings == 2
    assert (found.findings.reproduction, found.findings.seed_study) == (None, None)
    final = found.findings.final_test
    assert (final.nme, final.rates) == (math.inf, {"fr10": 0.5, "auc10": 0.1})
    assert math.isnan(final.std)
    assert final.detail() == {**detail(math.inf), **BLANKS, "std": final.std}
    assert list(found.records) == [0]  # reruns are no trials
    assert found.epochs_spent == 1


@pytest.mark.parametrize("torn", ['{"event":"trial_ended","ti', "nonsense", '{"event":"report","time":1,"trial":0}'])
def test_a_line_that_is_being_written_is_not_read(written, torn):
    written.begin(0)
    written.start(1, 0)
    written.report(2, 0, 1, 0.3)
    before = load(written.folder)
    with written.path.open("a") as file:
        file.write(torn)
    found = load(written.folder)
    assert (found.records, found.run_intervals) == (before.records, before.run_intervals)
    assert written.path.read_text().endswith(torn)  # whoever reads cuts nothing off


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        '{"event":"lunch","time":1}',
        '{"event":"report","time":3,"trial":0,"step":1}',
        '{"event":"report","time":3,"trial":7,"step":1,"metrics":{"best_nme":0.1,"epoch_seconds":1.0}}',
        '{"event":"report","time":3,"trial":0,"step":1,"metrics":{}}',
        '{"event":"trial_ended","time":3,"trial":7,"state":"COMPLETE","reason":null,"best_nme":0.1}',
    ],
    ids=["no JSON", "unknown kind", "field missing", "report of no trial", "metric missing", "end of no trial"],
)
def test_a_damaged_log_is_an_error_that_names_it(written, line):
    written.begin(0)
    written.start(1, 0)
    with written.path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ConfigError, match=r"events\.jsonl"):
        load(written.folder)


def test_damaged_settings_are_an_error_that_names_them(written):
    written.begin(0)
    (written.folder / "sweep.yaml").write_text("trials: many\n")
    with pytest.raises(ConfigError, match=r"sweep\.yaml: .*trials = 'many'"):
        load(written.folder)
    (written.folder / "sweep.yaml").unlink()
    with pytest.raises(ConfigError, match=r"sweep\.yaml: cannot be read"):
        load(written.folder)


def test_an_unknown_name_is_told_with_those_that_are_there(written):
    written.begin(0)
    output = written.folder.parent
    with pytest.raises(ConfigError, match=r"fases: no sweep of this name in .*out, .*\(there: faces\)"):
        load("fases", output)
    with pytest.raises(ConfigError, match=r"nor a folder with events\.jsonl$"):
        load("faces", output / "nowhere")


def test_a_sweep_is_found_by_name_by_folder_and_after_it_was_moved(written, monkeypatch):
    written.begin(0)
    output = written.folder.parent
    monkeypatch.chdir(output.parent)
    for found in (load("faces", "out"), load("out/faces"), load(written.folder), load(written.folder, "elsewhere")):
        assert (found.name, found.folder) == ("faces", written.folder)
    (output / "other").mkdir()
    moved = written.folder.rename(output / "other" / "renamed")
    found = load(moved)
    assert (found.name, found.folder) == ("renamed", moved)
    assert load(moved, mlflow_uri="sqlite:///a.db").config.mlflow_uri == f"sqlite:///{output.parent / 'a.db'}"
    with pytest.raises(ConfigError, match=r"mlflow_url: unknown setting .*mlflow_uri"):
        load(moved, mlflow_url="sqlite:///a.db")


def test_a_path_may_be_a_setting(written, tmp_path):
    """From Python, an output folder is as likely a Path as a text."""
    from sweep import run_sweep

    with pytest.raises(ConfigError, match=r"trials = 0"):
        run_sweep(tmp_path / "faces.yaml", output=tmp_path / "out", trials=0)


def test_a_setting_that_does_not_fit_is_refused_from_python(tmp_path):
    from sweep import run_sweep

    for settings in ({"trails": 3}, {"trials": 0}, {"trials": None}, {"train.optim.lr": [1]}):
        with pytest.raises(ConfigError, match=next(iter(settings))):
            run_sweep(None, output=str(tmp_path), **settings)
    assert list(tmp_path.iterdir()) == []


# Validation faces judge trials, and are not trained on


def test_trials_are_not_trained_on_the_faces_that_judge_them(tmp_path):
    (tmp_path / "a.yaml").write_text("space: {optim.lr: {log_uniform: [0.001, 0.01]}}\n")
    with pytest.raises(ConfigError, match=r"train\.data\.train_on = 'train\+val': .*sweep\.rerun --final"):
        load_sweep(tmp_path / "a.yaml", {"train.data.train_on": "train+val"})
    space = {"space": '{"data.train_on": {"choice": ["train", "train+val"]}}'}
    with pytest.raises(ConfigError, match=r"space\.data\.train_on: trials are judged on the validation faces"):
        load_sweep(tmp_path / "a.yaml", space)
