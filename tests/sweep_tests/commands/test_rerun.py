"""The winner again, with other seeds, on the test split: real commands on one small sweep; copies of it are spoilt."""

import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from filelock import FileLock
from harness import CALM, LOCKSTEP, MARK, TINY, Sweep, rows
from waiting import PATIENCE

from sweep import load, rerun
from sweep.analysis import rerun_evaluation
from sweep.storage.event_log import EventKind
from trainer import evaluate
from trainer.config import TrainConfig
from trainer.metrics import bootstrap_means, interval

pytestmark = pytest.mark.slow

SMALL = {"data": TINY["data"] | {"train_faces": 16, "test_faces": 12}}
SETTINGS = CALM | {
    "space": {"optim.lr": {"choice": [1e-3, 1e-5, 1e-6]}},
    "known": [{"optim.lr": 1e-5}, {"optim.lr": 1e-3}, {"optim.lr": 1e-6}],  # complete, complete, pruned
    "trials": 3,
    "train": TINY | SMALL,
}
WINNER, RUNNER_UP, PRUNED = 1, 0, 2
SEED_RUNS = ["seed-0001-1", "seed-0001-2", "seed-0000-1", "seed-0000-2"]
FINAL_RUN = "final-0001-0"
STEPS = [1, 2, 3]


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    sweep = Sweep(tmp_path_factory.mktemp("rerun") / "home", settings=SETTINGS)
    ended = sweep.run()
    assert ended.returncode == 0, ended.stderr
    assert sweep.states() == {WINNER: "COMPLETE", RUNNER_UP: "COMPLETE", PRUNED: "PRUNED"}
    assert int(sweep.leaderboard()[0]["number"]) == WINNER
    return sweep


@pytest.fixture(autouse=True)
def _same_faces(calm, monkeypatch):
    """Commands in this process draw no faces anew."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(calm.cache))


@pytest.fixture
def copy(calm, tmp_path) -> Callable[[], Sweep]:
    """Makes copies of the sweep as it is now, without its weights."""

    def make() -> Sweep:
        other = Sweep(tmp_path / "copy", settings=SETTINGS)
        shutil.copytree(calm.output, other.output, ignore=shutil.ignore_patterns("best.pt", "mlartifacts"))
        return other

    return make


def start(sweep: Sweep, *words: str) -> subprocess.Popen:
    """The command in a process group of its own, as from a terminal."""
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "sweep.rerun", sweep.name, "--output", "out", *words],
        cwd=sweep.home,
        env=os.environ | {"XDG_CACHE_HOME": str(sweep.cache), MARK: sweep.mark},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen) -> subprocess.CompletedProcess:
    with process:
        out, err = process.communicate(timeout=PATIENCE)
    assert "Traceback" not in out + err
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def here(sweep: Sweep, *words: str) -> int:
    """The command in this process, for what needs no Ray."""
    return rerun.main([str(sweep.folder), *words])


def of_kind(sweep: Sweep, kind: EventKind) -> list[dict]:
    return [dict(e.data) for e in sweep.events() if e.kind is kind]


def rewrite(sweep: Sweep, change: Callable[[dict], dict | None]) -> None:
    """Changes lines of the log, or drops them; the first, from which the sweep has its id, stays as it is."""
    log = sweep.folder / "events.jsonl"
    first, *rest = log.read_text().splitlines()
    changed = [change(json.loads(line)) for line in rest]
    log.write_text("".join(f"{line}\n" for line in [first, *(json.dumps(c) for c in changed if c is not None)]))


def runs(sweep: Sweep) -> dict:
    """MLflow runs by what they are of, the parent under None; fails when one is there twice."""
    client = sweep.client()
    found = client.search_runs([client.get_experiment_by_name("starsweep").experiment_id])
    keys = [run.data.tags.get("starsweep.trial") for run in found]
    assert len(set(keys)) == len(keys)
    return dict(zip(keys, found, strict=True))


def points(sweep: Sweep, run_id: str, key: str) -> list[tuple[int, float]]:
    return sorted((p.step, p.value) for p in sweep.client().get_metric_history(run_id, key))


# The winner again


def test_the_winner_again_is_identical(calm):
    ended = finish(start(calm))
    assert ended.returncode == 0, ended.stderr
    best = float(calm.leaderboard()[0]["best_nme"])
    text = f"trial {WINNER} again: val NME {best:.4%}, identical, and so is every loss and metric of 3 epochs"
    assert ended.stdout == f"{text}\n"
    assert [line.partition(":")[0] for line in ended.stderr.splitlines()] == [f"epoch {i}/3" for i in STEPS]
    (finding,) = of_kind(calm, EventKind.FINDING)
    assert finding["about"] == "repeat"
    assert finding["metrics"] == {"rerun/nme": best, "rerun/identical": 1.0}
    assert finding["detail"] | {"trial": WINNER, "identical": True, "first_difference": None} == finding["detail"]
    assert finding["detail"]["provenance"]["version.torch"]
    parent = runs(calm)[None]
    assert parent.data.metrics["rerun/identical"] == 1
    assert parent.data.metrics["rerun/nme"] == best
    assert parent.info.status == "FINISHED"
    folder = calm.folder / "reruns" / f"repeat-{WINNER:04d}"
    assert not (folder / "last.pt").exists()
    errors = [np.load(f / "best_val_nme.npy") for f in (folder, calm.folder / "trials" / f"{WINNER:04d}")]
    np.testing.assert_array_equal(*errors)
    assert load(calm.folder).findings.reproduction.again == best


def test_another_number_is_told_with_the_epoch_at_which_they_part(copy, capsys):
    spoilt = copy()

    def spoil(line: dict) -> dict:
        if line.get("trial") == WINNER and line["event"] == "report":
            for key in {2: ["train/loss"], 3: ["best_nme"]}.get(line["step"], []):
                line["metrics"][key] = math.nextafter(line["metrics"][key], 9)
        return line

    rewrite(spoilt, spoil)
    assert here(spoilt) == 1
    told = capsys.readouterr().out
    assert f"trial {WINNER} again: val NME " in told
    assert "identical" not in told
    assert "they part at epoch 2" in told
    found = load(spoilt.folder).findings.reproduction
    assert found.identical is False
    assert found.before == math.nextafter(found.again, 9)
    assert runs(spoilt)[None].data.metrics["rerun/identical"] == 0


def test_a_repetition_that_was_interrupted_goes_on(copy):
    sweep = load(copy().folder)
    often = sweep.config.train.replace({"run.checkpoint_seconds": 0.0})
    sweep.config = sweep.config.model_copy(update={"train": often})
    heard = []

    def stop(result):
        heard.append(result.epoch)
        if result.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rerun_evaluation.reproduce(sweep, sweep.best, stop)
    folder = sweep.folder / "reruns" / f"repeat-{WINNER:04d}"
    first = rows(folder)
    found = rerun_evaluation.reproduce(sweep, sweep.best)
    assert found.identical
    assert found.first_difference is None
    assert rows(folder)[:2] == first  # times and all: these epochs were not trained again
    assert heard == [1, 2]
    assert not (folder / "last.pt").exists()


# Other seeds


@pytest.fixture(scope="module")
def interrupted(calm):
    """SIGINT while the second of four runs trains."""
    with start(calm, "--seeds", "2") as process:
        for line in process.stderr:
            if f"{SEED_RUNS[1]} epoch 1/3" in line:
                break
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err, of_kind(calm, EventKind.RERUN)


@pytest.fixture(scope="module")
def seeds(calm, interrupted):
    return finish(start(calm, "--seeds", "2"))


def test_ctrl_c_keeps_the_runs_that_are_done(calm, interrupted):
    code, out, err, noted = interrupted
    assert code == 130, err
    assert "interrupted; the same command goes on" in err
    assert "Traceback" not in out + err
    assert out == ""
    assert [n["run"] for n in noted] == SEED_RUNS[:1]
    calm.wait_until_gone()


def test_the_same_command_trains_what_is_left(calm, seeds):
    assert seeds.returncode == 0, seeds.stderr
    assert "1 of 4 runs are there already" in seeds.stderr
    assert f"{SEED_RUNS[0]} epoch" not in seeds.stderr
    noted = of_kind(calm, EventKind.RERUN)
    assert sorted(n["run"] for n in noted) == sorted(SEED_RUNS)
    for n in noted:
        config = TrainConfig.from_tree(n["config"])
        assert (n["purpose"], n["state"], n["reason"]) == ("seed", "COMPLETE", None)
        assert n["run"] == f"seed-{n['of']:04d}-{config.run.seed}"
        assert config.run.seed != SETTINGS["train"].get("run", {}).get("seed", 0)
        assert n["params"] == {"optim.lr": config.optim.lr} == SETTINGS["known"][n["of"]]
        written = [{k: v for k, v in row.items() if k != "epoch"} for row in rows(calm.folder / "reruns" / n["run"])]
        assert n["history"] == written
        assert len(written) == 3
    assert not list(calm.folder.glob("reruns/seed-*/*.pt"))
    assert not list(calm.folder.glob("ray-*"))


def test_mean_and_spread_are_those_of_the_faces_on_disk(calm, seeds):
    finding = next(f for f in of_kind(calm, EventKind.FINDING) if f["about"] == "seeds")
    detail, found = finding["detail"], {}
    for role, trial in (("winner", WINNER), ("runner_up", RUNNER_UP)):
        folders = [calm.folder / "reruns" / f"seed-{trial:04d}-{seed}" for seed in (1, 2)]
        found[role] = np.stack([np.load(folder / "best_val_nme.npy") for folder in folders])
        means = found[role].mean(1)
        assert (detail[role]["trial"], detail[role]["seeds"]) == (trial, [1, 2])
        assert detail[role]["nme"] == pytest.approx(means.tolist())
        assert detail[role]["nme"] == pytest.approx([rows(folder)[-1]["best_nme"] for folder in folders])
        assert detail[role]["mean"] == pytest.approx(means.mean())
        assert detail[role]["std"] == pytest.approx(means.std(ddof=1))
    difference = found["runner_up"].mean() - found["winner"].mean()
    assert detail["difference"] == pytest.approx(difference)
    low, high = detail["interval"]
    assert low <= difference <= high
    assert detail["distinguishable"] == (low > 0 or high < 0)
    winner = detail["winner"]
    assert f"trial {WINNER} with 2 other seeds: val NME {winner['mean']:.2%} +- {winner['std']:.2%}" in seeds.stdout
    assert f"runner-up, trial {RUNNER_UP}: " in seeds.stdout
    metrics = runs(calm)[None].data.metrics
    assert metrics["seeds/nme_mean"] == winner["mean"]
    assert metrics["seeds/nme_std"] == winner["std"]
    assert metrics["seeds/runner_up_nme_mean"] == detail["runner_up"]["mean"]
    assert metrics["seeds/difference"] == detail["difference"]


def test_mlflow_shows_every_seed_as_a_run_beside_the_trials(calm, seeds):
    shown = runs(calm)
    assert set(shown) >= {None, "0", "1", "2", *SEED_RUNS}
    for name in SEED_RUNS:
        run, written = shown[name], rows(calm.folder / "reruns" / name)
        assert run.info.status == "FINISHED"
        assert run.info.run_name.startswith(f"{name} lr=")
        assert run.data.tags["mlflow.parentRunId"] == shown[None].info.run_id
        assert run.data.tags["starsweep.purpose"] == "seed"
        assert run.data.tags["starsweep.of"] == str(int(name.split("-")[1]))
        assert run.data.params["run.seed"] == name.split("-")[2]
        assert run.info.end_time >= run.info.start_time
        assert "config.yaml" in calm.artifacts(run.info.run_id)
        for key in LOCKSTEP:
            assert points(calm, run.info.run_id, key) == [(row["epoch"], row[key]) for row in written]


def test_the_same_command_again_trains_nothing(calm, seeds, capsys):
    assert here(calm, "--seeds", "2") == 0
    told = capsys.readouterr()
    assert "4 of 4 runs are there already" in told.err
    assert "epoch" not in told.err
    assert told.out == seeds.stdout
    assert len(of_kind(calm, EventKind.RERUN)) == 4
    assert set(load(calm.folder).reruns) == set(SEED_RUNS)


def test_mlflow_may_be_away(copy, seeds, capsys):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{probe.getsockname()[1]}"
    lonely = copy()
    assert here(lonely, "--seeds", "2", "--mlflow_uri", uri) == 0
    told = capsys.readouterr()
    assert told.out == seeds.stdout
    assert f"-m sweep.sync {lonely.folder}" in told.err
    assert [f["about"] for f in of_kind(lonely, EventKind.FINDING)].count("seeds") >= 2


# The test split


@pytest.fixture(scope="module")
def final(calm, seeds):
    return finish(start(calm, "--final"))


def test_the_final_network_is_trained_on_train_and_val(calm, final):
    assert final.returncode == 0, final.stderr
    (noted,) = [n for n in of_kind(calm, EventKind.RERUN) if n["purpose"] == "final"]
    assert (noted["run"], noted["of"], noted["state"]) == (FINAL_RUN, WINNER, "COMPLETE")
    assert noted["config"]["data"]["train_on"] == "train+val"
    assert noted["config"]["run"]["seed"] == 0
    assert len(noted["history"]) == 3
    assert not [key for row in noted["history"] for key in row if "val/" in key or key == "best_nme"]
    folder = calm.folder / "reruns" / FINAL_RUN
    assert {p.name for p in folder.iterdir()} >= {"best.pt", "test_nme.npy", "metrics.jsonl", "config.yaml"}
    assert not (folder / "last.pt").exists()
    assert "val NME" not in final.stderr
    run = runs(calm)[FINAL_RUN]
    assert run.data.params["data.train_on"] == "train+val"
    assert [step for step, _ in points(calm, run.info.run_id, "train/loss")] == STEPS
    assert not [key for key in run.data.metrics if "val/" in key]


def test_the_reading_is_noted_before_and_the_finding_is_what_evaluate_says(calm, final, capsys):
    kinds = [e.kind for e in calm.events()]
    assert kinds[-3:] == [EventKind.RERUN, EventKind.TEST_READ, EventKind.FINDING]
    assert of_kind(calm, EventKind.TEST_READ) == [{"reading": 1, "networks": 1}]
    folder = calm.folder / "reruns" / FINAL_RUN
    assert evaluate.main([str(folder), "--split", "test", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    finding = of_kind(calm, EventKind.FINDING)[-1]
    detail = finding["detail"]
    assert finding["about"] == "final"
    assert {key: detail[key] for key in ("nme", "fr10", "auc10", "faces")} == {
        key: report[key] for key in ("nme", "fr10", "auc10", "faces")
    }
    assert detail["faces"] == 12
    assert detail["subsets"] == report["subsets"]
    assert detail["subsets"]
    assert detail["parts"] == report["parts"]
    errors = np.load(folder / "test_nme.npy")
    assert errors.shape == (12,)
    assert detail["interval"] == list(interval(bootstrap_means(errors[None])))
    assert detail["interval"][0] < detail["nme"] < detail["interval"][1]
    assert (detail["std"], detail["seeds"], detail["runs"]) == (None, [0], [FINAL_RUN])
    assert f"trained on train + val: test NME {detail['nme']:.2%} (95 %: " in final.stdout
    assert "12 faces" in final.stdout
    for part in report["parts"]:
        assert f"  {part} " in final.stdout
    parent = runs(calm)[None]
    assert parent.data.tags["test.readings"] == "1"
    assert parent.data.metrics["final/nme"] == report["nme"]
    assert parent.data.metrics["final/part/nose"] == report["parts"]["nose"]
    assert parent.data.metrics["final/subset/blur"] == report["subsets"]["blur"]["nme"]


def test_a_second_reading_is_refused_then_counted(calm, final, capsys):
    before = (calm.folder / "events.jsonl").read_bytes()
    with pytest.raises(SystemExit) as ended:
        here(calm, "--final")
    told = capsys.readouterr().err
    assert ended.value.code == 2
    assert "the test split was read once for sweep faces" in told
    assert "--again" in told
    assert (calm.folder / "events.jsonl").read_bytes() == before

    assert here(calm, "--final", "--again") == 0
    told = capsys.readouterr()
    assert "1 of 1 runs are there already" in told.err
    assert told.out == final.stdout
    assert [e.kind for e in calm.events()][-2:] == [EventKind.TEST_READ, EventKind.FINDING]
    assert of_kind(calm, EventKind.TEST_READ)[-1]["reading"] == load(calm.folder).test_readings == 2
    assert runs(calm)[None].data.tags["test.readings"] == "2"


def test_a_reading_that_fails_is_counted_all_the_same(calm, final, copy, capsys):
    broken = copy()
    earlier = load(broken.folder).test_readings
    (broken.folder / "reruns" / FINAL_RUN / "best.pt").write_bytes(b"damaged")
    assert here(broken, "--final", "--again") == 1
    told = capsys.readouterr()
    assert "CheckpointError: " in told.err
    assert "Traceback" not in told.err
    assert told.out == ""
    assert load(broken.folder).test_readings == earlier + 1


# Refused, with nothing noted


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--trial", str(PRUNED)], f"--trial {PRUNED}: is PRUNED; only a complete trial can be compared"),
        (["--trial", "99"], "there is no trial 99, of 3"),
        (["--seeds", "0"], "'0': must be a number from 1 on"),
        (["--seeds", "-1"], "--seeds"),
        (["--seeds", "two"], "'two': must be a number from 1 on"),
        (["--again"], "--again: is for --final"),
        (["--finale"], "nearest valid key: final"),
    ],
)
def test_what_cannot_be_is_refused(calm, capsys, words, told):
    before = (calm.folder / "events.jsonl").read_bytes()
    with pytest.raises(SystemExit) as ended:
        here(calm, *words)
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert told in error
    assert "Traceback" not in error
    assert (calm.folder / "events.jsonl").read_bytes() == before


def test_a_sweep_that_runs_is_left_alone(calm, capsys):
    before = (calm.folder / "events.jsonl").read_bytes()
    with FileLock(calm.folder / ".lock"), pytest.raises(SystemExit) as ended:
        here(calm)
    assert ended.value.code == 2
    assert "name = 'faces': this sweep is running already" in capsys.readouterr().err
    assert (calm.folder / "events.jsonl").read_bytes() == before


def test_without_a_complete_trial_there_is_no_winner(copy, capsys):
    poor = copy()
    rewrite(poor, lambda line: line if line.get("trial", PRUNED) == PRUNED and line["event"] != "rerun" else None)
    for words in ([], ["--seeds", "2"], ["--final", "--again"]):
        with pytest.raises(SystemExit) as ended:
            here(poor, *words)
        assert ended.value.code == 2
        assert "sweep faces: no trial is complete, of 1" in capsys.readouterr().err


def test_an_unknown_name_is_told_with_those_that_are_there(calm, capsys):
    with pytest.raises(SystemExit) as ended:
        rerun.main(["fases", "--output", str(calm.output)])
    assert ended.value.code == 2
    assert f"fases: no sweep of this name in {calm.output}" in (told := capsys.readouterr().err)
    assert "(there: faces)" in told


def test_reruns_leave_the_sweep_itself_as_it_was(calm, final, copy):
    """What was noted since does not hinder the sweep from going on."""
    table = (calm.folder / "leaderboard.csv").read_text()
    other = copy()
    ended = other.run()
    assert ended.returncode == 0, ended.stderr
    assert (other.folder / "leaderboard.csv").read_text() == table
    assert yaml.safe_load((Path(other.folder) / "best.yaml").read_text())["data"]["train_on"] == "train"
    assert all(vars(load(other.folder).findings).values())
