"""The driver dies of SIGKILL at twenty moments of a sweep; the same command goes on each time, and nothing shows."""

import os
import random
import signal
from pathlib import Path

import pytest
from harness import CALM, TINY, Sweep

from sweep.storage.event_log import EventKind

pytestmark = [pytest.mark.slow, pytest.mark.long]

KILLER = str(Path(__file__).with_name("killed_at.py"))
SEED, TRIALS = 20261124, 16
KILLS = int(os.environ.get("STARSWEEP_TEST_KILLS", "5"))  # of the sweep with two slots, 4 to 20
SETTINGS = CALM | {
    "space": {"optim.lr": {"log_uniform": [1e-4, 1e-2]}, "loss.star_weight": {"log_uniform": [0.1, 10]}},
    "known": [{"optim.lr": 1e-3, "loss.star_weight": 1.0}],
    "trials": TRIALS,
    "train": TINY
    | {
        "optim": {"epochs": 4, "batch_size": 8},
        "run": TINY["run"] | {"checkpoint_seconds": 0},
    },
}
ASK, TOLD = "sweep.search.study:Study.ask", "sweep.search.study:Study.tell"
STORED = "optuna.storages._rdb.storage:RDBStorage."
DURING = [
    "seconds:{start}",  # imports, faces, Ray
    "before:sweep.driver.session:_open_study:1",
    "after:sweep.driver.session:_open_study:1",
    f"before:{ASK}:1",
    f"after:{STORED}_set_trial_param_without_commit:1",  # a trial with one parameter of two, not committed
    f"after:{STORED}_create_new_trial:1",  # a whole one that nobody was told of
    f"after:{ASK}:1",
    "before:sweep.search.study:Study.report:{n}",  # in the event log, not in the study
    "after:sweep.search.study:Study.report:{n}",
    "before:sweep.storage.event_log:EventLog.append:{n}",
    "after:sweep.storage.event_log:EventLog.append:{n}",
    "file:trials/*/.last.pt.*",  # while a worker writes its whole state
    "file:trials/*/.best.pt.*",
    f"before:{TOLD}:1",
    f"after:{TOLD}:1",  # in the study, not in the event log
    "after:sweep.tracking.mlflow_client:MlflowRuns._create:2",  # MLflow has a run that nobody remembers
    "file:../.mlflow.db.new",  # while MLflow makes its tables
]
AT_THE_END = [
    "before:sweep.driver.outputs:SweepOutputs.update:{last}",
    "after:sweep.driver.session:SweepRun._ended:1",
    "before:sweep.tracking.background_writer:BackgroundWriter.close:1",
]
STEADY = ("train/loss", "val/nme", "val/fr10", "val/auc10", "best_nme", "lr")  # what no clock has a part in


def kill(sweep: Sweep, times: int) -> None:
    """Kills the sweep at so many of the moments, in random order; then has it end."""
    chance = random.Random(SEED)
    moments = chance.sample(DURING[:-1], times - len(AT_THE_END) - 1)
    for template in [DURING[-1], *moments]:  # MLflow makes its tables in the first call only
        moment = template.format(start=round(chance.uniform(0.1, 7), 2), n=chance.randint(2, 5))
        ended = sweep.run(program=(KILLER,), MOMENT=moment, FOLDER=str(sweep.folder))
        assert ended.returncode == -signal.SIGKILL, f"{moment}: {ended.stdout[-2000:]}{ended.stderr}"
        assert "Traceback" not in ended.stdout + ended.stderr, moment
    for number, template in enumerate(AT_THE_END):
        left = sweep.settings["trials"] - sum(t.state.is_finished() for t in sweep.study().trials)
        assert (left > 0) == (number == 0), "the kills before should leave something to do for the last run"
        moment = template.format(last=left + 1)
        ended = sweep.run(program=(KILLER,), MOMENT=moment, FOLDER=str(sweep.folder))
        assert ended.returncode == -signal.SIGKILL, f"{moment}: {ended.stdout[-2000:]}{ended.stderr}"
    ended = sweep.run()
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    assert "sweep.sync" not in ended.stdout  # MLflow has everything
    sweep.wait_until_gone()  # an agent of Ray whose driver died as it began looks for it that long


def told(sweep: Sweep) -> list[tuple]:
    return [(t.number, t.params, t.state, t.value, t.intermediate_values) for t in sweep.study().trials]


def reported(sweep: Sweep) -> dict[tuple, list[float]]:
    reports = [e for e in sweep.events() if e.kind is EventKind.REPORT]
    return {(e.trial, e.data["step"]): [e.data["metrics"][key] for key in STEADY] for e in reports}


def ranked(sweep: Sweep) -> list[dict[str, str]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in sweep.leaderboard()]


def test_with_one_slot_the_result_is_that_of_a_sweep_that_nobody_disturbed(tmp_path):
    calm, killed = (Sweep(tmp_path / name, settings=SETTINGS, as_new=True) for name in ("calm", "killed"))
    assert calm.run().returncode == 0
    kill(killed, times=len(DURING) + len(AT_THE_END))
    assert told(killed) == told(calm)
    assert reported(killed) == reported(calm)
    assert ranked(killed) == ranked(calm)
    assert (killed.folder / "best.yaml").read_text() == (calm.folder / "best.yaml").read_text()
    killed.check(TRIALS)


def test_with_two_slots_no_trial_is_lost_or_doubled(tmp_path):
    sweep = Sweep(tmp_path / "home", settings=SETTINGS | {"slots": 2, "resources": {"cpus": 0.5}}, as_new=True)
    kill(sweep, times=KILLS)
    sweep.check(TRIALS)
    assert set(sweep.states().values()) <= {"COMPLETE", "PRUNED"}
