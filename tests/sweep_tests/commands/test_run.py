"""Whole sweeps through the command line: real Ray, Optuna, MLflow and signals. A few small sweeps serve all tests."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter

import pytest
import yaml
from filelock import FileLock
from harness import CALM, LOCKSTEP, TINY, Sweep, read_until, rows
from optuna.trial import TrialState
from waiting import PATIENCE, wait_for

from sweep import run
from sweep.storage.event_log import EventKind
from trainer.config import TrainConfig

pytestmark = pytest.mark.slow

# A sweep that nothing disturbs


def test_it_ends_well_and_everything_lies_in_its_folder(calm):
    sweep, ended = calm
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    expected = {"leaderboard.csv", "best.yaml", "sweep.yaml", "events.jsonl", "study.db", "trials"}
    assert expected <= {path.name for path in sweep.folder.iterdir()}
    assert (sweep.output / "mlflow.db").exists()
    assert not list(sweep.folder.glob("ray-*"))
    sweep.check(trials=5)


def test_it_says_what_happened_and_what_can_be_done_next(calm):
    sweep, ended = calm
    lines = ended.stdout.splitlines()
    best = sweep.leaderboard()[0]
    result = f"best val NME {float(best['best_nme']):.2%} (trial {best['number']})"
    assert "trial 0 started: lr=0.001 star_weight=1" in lines
    assert any(line.startswith("trial 0 epoch 1/3: loss ") for line in lines)
    assert any(line.startswith("trial 1 DIVERGED (loss is ") for line in lines)
    assert f"5 trials: {sweep.counts()}; {result}" in lines
    assert "everything lies in out/faces" in ended.stdout
    assert f"mlflow ui --backend-store-uri sqlite:///{sweep.output / 'mlflow.db'}" in ended.stdout
    assert "python -m sweep.rerun out/faces" in ended.stdout
    assert "go on with" not in ended.stdout
    assert "Traceback" not in ended.stdout


def test_known_configurations_were_first_and_states_are_told_truthfully(calm):
    sweep, _ = calm
    trials, states = sweep.study().trials, sweep.states()
    assert [t.params for t in trials[:3]] == CALM["known"]
    assert (states[0], states[1]) == ("COMPLETE", "DIVERGED")
    assert Counter(states.values())["PRUNED"] >= 1
    told = {"COMPLETE": TrialState.COMPLETE, "PRUNED": TrialState.PRUNED, "DIVERGED": TrialState.PRUNED}
    for trial in trials:
        assert trial.state is told[states[trial.number]]
        if states[trial.number] == "PRUNED":
            assert 1 <= len(trial.intermediate_values) < 3
            assert trial.value == trial.intermediate_values[max(trial.intermediate_values)]
        if states[trial.number] == "COMPLETE":
            assert list(trial.intermediate_values) == [1, 2, 3]


def test_a_trial_that_diverges_stops_at_once_with_the_reason(calm):
    sweep, _ = calm
    end = next(e for e in sweep.events() if e.kind is EventKind.TRIAL_ENDED and e.trial == 1)
    assert end.data["state"] == "DIVERGED"
    assert "learning rate" in end.data["reason"]
    assert "loss.star_weight 1" in end.data["reason"]
    assert not [e for e in sweep.events() if e.trial == 1 and "attempt" in e.data]


def test_the_leaderboard_agrees_with_the_study(calm):
    sweep, _ = calm
    rows, trials = sweep.leaderboard(), sweep.study().trials
    fixed, params = ["number", "state", "best_nme", "epochs", "seconds"], ["optim.lr", "loss.star_weight"]
    assert list(rows[0]) == [*fixed, *params, "seed", "repeats"]
    for row in rows:
        trial = trials[int(row["number"])]
        values = trial.intermediate_values
        assert row["best_nme"] == (repr(values[max(values)]) if values else "")
        assert int(row["epochs"]) == max(values, default=0)
        assert float(row["loss.star_weight"]) == trial.params["loss.star_weight"]
    best = [float(row["best_nme"]) for row in rows if row["state"] == "COMPLETE"]
    assert best == sorted(best)


def test_only_the_weights_that_someone_will_load_are_kept(calm):
    sweep, _ = calm
    assert list(sweep.folder.glob("trials/*/last.pt")) == []
    kept = {int(path.parent.name) for path in sweep.folder.glob("trials/*/best.pt")}
    ranked = [int(row["number"]) for row in sweep.leaderboard() if row["best_nme"]]
    assert kept == set(ranked[: CALM["keep"]])
    assert list(sweep.folder.glob("trials/*/worker.pid")) == []


def test_mlflow_shows_a_parent_with_a_child_a_trial(calm):
    sweep, _ = calm
    runs, states = sweep.runs(), sweep.states()
    parent, best = runs[None], int(sweep.leaderboard()[0]["number"])
    assert (parent.info.run_name, parent.info.status) == ("faces", "FINISHED")
    assert "5 trials" in parent.data.tags["mlflow.note.content"]
    assert parent.data.tags["best.trial"] == str(best)
    sampler = {"name": "rank_gp", "startup_trials": 3, "random_share": 0.15, "seed": 0}
    assert json.loads(parent.data.tags["sampler"]) == sampler
    assert {"version.torch", "version.ray", "git.commit", "config.hash", "command"} <= parent.data.tags.keys()
    assert (parent.data.tags["nme.norm"], parent.data.tags["nme.threshold"]) == ("inter_ocular", "0.1")
    assert {"leaderboard.csv", "best.yaml", "sweep.yaml"} <= sweep.artifacts(parent.info.run_id)
    status = {"COMPLETE": "FINISHED", "PRUNED": "FINISHED", "DIVERGED": "FAILED"}
    for number, state in states.items():
        child = runs[number]
        assert child.data.tags["starsweep.state"] == state
        assert child.info.status == status[state]
        assert child.info.run_name.startswith(f"{number} ")
        params = sweep.study().trials[number].params
        assert float(child.data.params["loss.star_weight"]) == params["loss.star_weight"]
        assert float(child.data.params["optim.lr"]) == params["optim.lr"]
        assert (child.data.params["optim.epochs"], child.data.params["run.threads"]) == ("3", "1")
        assert "config.yaml" in sweep.artifacts(child.info.run_id)
        assert ("ced.png" in sweep.artifacts(child.info.run_id)) is (state != "DIVERGED")
        assert ("checkpoint" in sweep.artifacts(child.info.run_id)) is (number == best)
    assert sweep.artifacts(runs[best].info.run_id, "checkpoint") == {"checkpoint/best.pt"}
    assert "learning rate" in runs[1].data.tags["starsweep.reason"]


def test_mlflow_holds_the_values_that_the_trainer_wrote(calm):
    sweep, _ = calm
    run_id = sweep.runs()[0].info.run_id
    written = rows(sweep.folder / "trials" / "0000")
    for key in LOCKSTEP:
        points = sweep.client().get_metric_history(run_id, key)
        assert sorted((p.step, p.value) for p in points) == [(row["epoch"], row[key]) for row in written]


def test_the_best_config_gives_the_same_numbers_without_ray(calm, tmp_path):
    sweep, _ = calm
    best = int(sweep.leaderboard()[0]["number"])
    command = ["-m", "trainer.train", str(sweep.folder / "best.yaml"), "--run.output", str(tmp_path / "again")]
    environment = os.environ | {"XDG_CACHE_HOME": str(sweep.cache)}
    subprocess.run([sys.executable, *command], check=True, env=environment, capture_output=True, timeout=PATIENCE)
    folders = sweep.folder / "trials" / f"{best:04d}", tmp_path / "again"
    measured = [
        [(row["epoch"], row["train/loss"], row["val/nme"], row["val/auc10"]) for row in rows(folder)]
        for folder in folders
    ]
    assert measured[0] == measured[1]
    assert len(measured[0]) == 3


# Refused, with nothing changed


def test_a_changed_base_config_is_refused_with_the_difference(calm, capsys):
    sweep, _ = calm
    before = (sweep.folder / "events.jsonl").read_bytes()
    with pytest.raises(SystemExit) as ended:
        run.main(sweep.words("--train.optim.epochs", "5", "--seed", "1"))
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert "train.optim.epochs: 3 -> 5" in error
    assert "seed: 0 -> 1" in error
    assert "--name NEW" in error
    assert (sweep.folder / "events.jsonl").read_bytes() == before
    assert yaml.safe_load((sweep.folder / "sweep.yaml").read_text())["train"]["optim"]["epochs"] == 3


def test_a_second_start_is_refused_while_the_first_runs(calm, capsys):
    sweep, _ = calm
    before = (sweep.folder / "events.jsonl").read_bytes()
    with FileLock(sweep.folder / ".lock"), pytest.raises(SystemExit) as ended:
        run.main(sweep.words())
    assert ended.value.code == 2
    assert "name = 'faces': this sweep is running already" in capsys.readouterr().err
    assert (sweep.folder / "events.jsonl").read_bytes() == before


def test_more_than_the_machine_has_is_refused_before_anything_is_made(tmp_path, capsys):
    sweep = Sweep(tmp_path)
    with pytest.raises(SystemExit) as ended:
        run.main(sweep.words("--resources.cpus", "1000"))
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert "resources.cpus = 1000" in error
    assert "a trial must fit on one machine, and there is: " in error
    assert "CPUs, 0 GPUs" in error
    assert not sweep.output.exists()


def test_missing_faces_are_told_with_the_tree_that_is_expected(tmp_path):
    train = TINY | {"data": {"kind": "w300", "root": str(tmp_path / "nowhere"), "image_size": 32}}
    sweep = Sweep(tmp_path / "home", settings=CALM | {"train": train}, as_new=True)
    ended = sweep.run()
    assert ended.returncode == 1
    assert "DataError: " in ended.stderr
    assert str(tmp_path / "nowhere") in ended.stderr
    assert ".pts" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (sweep.folder / "study.db").exists()  # or the mended command would be refused as another sweep
    assert not (sweep.output / "mlflow.db").exists()


# Going on, in a copy of the finished sweep


@pytest.fixture(scope="module")
def copied(calm, tmp_path_factory):
    sweep = Sweep(tmp_path_factory.mktemp("copied") / "home")
    shutil.copytree(calm[0].output, sweep.output)
    return sweep


def test_the_same_command_again_runs_nothing_and_ends_well(copied):
    before = copied.reports(), (copied.folder / "leaderboard.csv").read_text()
    ended = copied.run()
    assert ended.returncode == 0, ended.stderr
    assert (copied.reports(), (copied.folder / "leaderboard.csv").read_text()) == before
    assert "started" not in ended.stdout
    assert [e.kind for e in copied.events()].count(EventKind.SWEEP_STARTED) == 2
    copied.check(trials=5)


@pytest.fixture(scope="module")
def more(copied):
    """Two more trials: the worker of trial 5 is killed once, trial 6 meets the same error again and again."""
    old = {t.number: (t.params, t.intermediate_values, t.state) for t in copied.study().trials}
    owner = copied.folder / "trials" / "0005" / "worker.pid"
    (copied.folder / "trials" / "0006" / "config.yaml").mkdir(parents=True)  # cannot be written
    with copied.start("--trials", "7", "--retries", "1") as process:
        wait_for(lambda: owner.exists() and len(owner.read_text().split()) == 2, "a worker in trial 5")
        os.kill(int(owner.read_text().split()[1]), signal.SIGKILL)
        out, err = process.communicate(timeout=PATIENCE)
    return old, subprocess.CompletedProcess(process.args, process.returncode, out, err)


def test_more_trials_continue_a_finished_sweep(copied, more):
    old, ended = more
    assert ended.returncode == 0, ended.stderr
    copied.check(trials=7)
    trials = copied.study().trials
    assert {n: (trials[n].params, trials[n].intermediate_values, trials[n].state) for n in old} == old
    assert copied.runs()[None].info.status == "FINISHED"


def test_a_trial_whose_worker_was_killed_starts_again(copied, more):
    _, ended = more
    line = next(line for line in ended.stdout.splitlines() if line.startswith("trial 5 started") and "attempt" in line)
    assert line.endswith("attempt 2")
    assert copied.states()[5] in ("COMPLETE", "PRUNED")
    assert copied.study().trials[5].intermediate_values
    assert copied.runs()[5].data.tags["starsweep.attempt"] == "1"


def test_a_trial_that_crashes_every_time_fails_with_the_reason(copied, more):
    _, ended = more
    assert copied.states()[6] == "FAILED"
    starts = [e for e in copied.events() if e.trial == 6 and e.kind is EventKind.TRIAL_STARTED]
    assert [e.data.get("attempt") for e in starts] == [None, 1]
    run = copied.runs()[6]
    assert run.info.status == "FAILED"
    assert "IsADirectoryError" in run.data.tags["starsweep.reason"]
    assert "trial 6 FAILED (IsADirectoryError: " in ended.stdout
    assert "Traceback" not in ended.stdout + ended.stderr
    assert "IsADirectoryError" in (copied.folder / "trials" / "0006" / "trial.log").read_text()


# A sweep that is interrupted, then killed, then left in peace

TROUBLED = CALM | {
    "space": {"optim.lr": {"log_uniform": [1e-4, 1e-3]}, "loss.star_weight": {"log_uniform": [0.1, 10]}},
    "known": [],
    "trials": 4,
    "slots": 2,
    "resources": {"cpus": 0.5},
    "pruner": {"name": "none"},
    "train": TINY | {"optim": {"epochs": 4, "batch_size": 8}},
}


@pytest.fixture(scope="module")
def troubled(tmp_path_factory):
    return Sweep(tmp_path_factory.mktemp("troubled") / "home", settings=TROUBLED)


@pytest.fixture(scope="module")
def interrupted(troubled):
    with troubled.start() as process:
        lines = read_until(process, " epoch 1/4")
        os.killpg(process.pid, signal.SIGINT)  # to all of them, as a terminal does
        out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, "".join(lines) + out, err


def test_ctrl_c_ends_with_130_and_the_command_to_go_on(troubled, interrupted):
    code, out, err = interrupted
    assert code == 130, err
    told = out.split("interrupted; go on with:  ")[1].splitlines()[0]
    assert told.endswith(f"python -m sweep.run {' '.join(troubled.words())}")
    assert "trial 0 interrupted" in out
    assert "Traceback" not in out + err


def test_ctrl_c_leaves_no_run_open_and_no_process_behind(troubled, interrupted):
    runs = troubled.runs()
    assert {r.info.status for r in runs.values()} == {"KILLED"}
    assert troubled.events()[-1].kind is EventKind.SWEEP_ENDED
    assert troubled.events()[-1].data["state"] == "KILLED"
    assert all(t.state is TrialState.RUNNING for t in troubled.study().trials)
    troubled.wait_until_gone()


@pytest.fixture(scope="module")
def killed(troubled, interrupted):
    """Reports and parameters before, and at the moment of the kill."""
    with troubled.start() as process:
        read_until(process, " epoch 2/4")
        process.kill()
        process.wait()
    held = troubled.study().trials
    return troubled.reports(), {t.number: (t.params, dict(t.intermediate_values)) for t in held}


@pytest.fixture(scope="module")
def recovered(troubled, killed):
    return troubled.run()  # at once: workers of the killed driver may still be there


def test_a_killed_sweep_goes_on_with_nothing_lost_and_nothing_twice(troubled, killed, recovered):
    assert recovered.returncode == 0, recovered.stderr
    troubled.check(trials=4)
    assert all(state == "COMPLETE" for state in troubled.states().values())
    assert all(list(t.intermediate_values) == [1, 2, 3, 4] for t in troubled.study().trials)
    reports, held = killed
    assert reports
    assert set(reports) <= set(troubled.reports())
    for number, (params, values) in held.items():
        trial = troubled.study().trials[number]
        assert trial.params == params
        assert values.items() <= trial.intermediate_values.items()


def test_a_resumed_trial_has_the_numbers_of_one_that_was_never_stopped(troubled, recovered, tmp_path):
    config = TrainConfig.load(troubled.folder / "trials" / "0000" / "config.yaml")
    config.replace({"run.output": None}).dump(tmp_path / "config.yaml")
    command = ["-m", "trainer.train", str(tmp_path / "config.yaml"), "--run.output", str(tmp_path / "steady")]
    environment = os.environ | {"XDG_CACHE_HOME": str(troubled.cache)}
    subprocess.run([sys.executable, *command], check=True, env=environment, capture_output=True, timeout=PATIENCE)
    steady = [row["best_nme"] for row in rows(tmp_path / "steady")]
    assert steady == list(troubled.study().trials[0].intermediate_values.values())


def test_nothing_is_left_running_at_the_end(troubled, recovered):
    troubled.wait_until_gone()
