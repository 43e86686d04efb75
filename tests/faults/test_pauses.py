"""Drivers and workers that die, and checkpoints that vanish, while trials are paused or have just been resumed."""

import contextlib
import math
import os
import signal
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path

import pytest
from harness import CALM, TINY, Sweep, rows
from optuna.trial import TrialState
from waiting import wait_for

from sweep.storage.event_log import Event, EventKind

pytestmark = pytest.mark.slow

KILLER = str(Path(__file__).with_name("killed_at.py"))
EPOCHS = 4
SETTINGS = CALM | {
    "space": {"optim.lr": {"log_uniform": [1e-4, 1e-2]}, "loss.star_weight": {"log_uniform": [0.1, 10]}},
    "known": [{"optim.lr": 3e-3, "loss.star_weight": 1.0}],
    "trials": 10,
    "keep": 1,
    "pruner": {"name": "successive_halving", "min_epochs": 1, "reduction": 2},
    "repeats": {"share": 0.2, "candidates": 2},
    "train": TINY | {"optim": {"epochs": EPOCHS, "batch_size": 8}},
}
# The first two are paused, since nobody is there to be better than; the third is worse, so that one of them goes on.
WAITING = SETTINGS | {
    "space": {"optim.lr": {"log_uniform": [1e-7, 1e-2]}, "loss.star_weight": {"log_uniform": [0.1, 10]}},
    "known": [{"optim.lr": lr, "loss.star_weight": 1.0} for lr in (2e-3, 1.5e-3, 1e-7, 2e-7, 3e-7, 4e-7)],
    "trials": 7,
    "pruner": SETTINGS["pruner"] | {"reduction": 3},
    "repeats": {"share": 0},
}
STEADY = ("train/loss", "val/nme", "val/fr10", "val/auc10", "best_nme", "lr")  # what no clock has a part in
OWN = {EventKind.TRIAL_STARTED, EventKind.REPORT, EventKind.TRIAL_PAUSED, EventKind.TRIAL_ENDED}


def of_trials(events: Iterable[Event]) -> list[Event]:
    return [event for event in events if event.kind in OWN]


def now_paused(events: Iterable[Event]) -> set[int]:
    last = {event.trial: event.kind for event in of_trials(events)}
    return {trial for trial, kind in last.items() if kind is EventKind.TRIAL_PAUSED}


def resumed(events: list[Event], trial: int | None = None) -> list[Event]:
    """Starts of trials that were paused before."""
    found = []
    for number in {event.trial for event in of_trials(events)} if trial is None else {trial}:
        for before, event in pairwise(e for e in of_trials(events) if e.trial == number):
            if before.kind is EventKind.TRIAL_PAUSED and event.kind is EventKind.TRIAL_STARTED:
                found.append(event)
    return found


def decisions(events: Iterable[Event]) -> list[tuple]:
    """Everything that happened to trials, in order, but for the starts of those that were running already."""
    running, found = set(), []
    for event in of_trials(events):
        if event.kind is EventKind.TRIAL_STARTED:
            if event.trial not in running:
                found.append((event.kind, event.trial, event.data["params"], event.data.get("seed")))
            running.add(event.trial)
        elif event.kind is EventKind.REPORT:
            found.append((event.kind, event.trial, event.data["step"], [event.data["metrics"][key] for key in STEADY]))
        else:
            running.discard(event.trial)
            found.append((event.kind, event.trial, event.data.get("state"), event.data.get("best_nme")))
    return found


def check(sweep: Sweep) -> None:
    """Nothing lost, nothing twice; curves without a gap; what a pause has put on disk was never trained again."""
    sweep.check(sweep.settings["trials"])
    rungs = (1, sweep.settings["pruner"]["reduction"])
    trained = {}
    for event in sweep.events():
        if event.kind is EventKind.REPORT:
            trained[event.trial, event.data["step"]] = event.data["metrics"]["epoch_seconds"]
    for trial in sweep.study().trials:
        epochs = list(trial.intermediate_values)
        assert epochs == list(range(1, len(epochs) + 1))
        rung = max((rung for rung in rungs if rung <= len(epochs)), default=0)
        if trial.user_attrs.get("repeats") is None:  # a repeat has no rungs
            again = {row["epoch"]: row["epoch_seconds"] for row in rows(folder(sweep, trial.number))}
            assert [again[epoch] for epoch in range(1, rung + 1)] == [
                trained[trial.number, epoch] for epoch in range(1, rung + 1)
            ]
    assert not list(sweep.folder.glob("trials/*/last.pt"))
    sweep.wait_until_gone()


def folder(sweep: Sweep, trial: int) -> Path:
    return sweep.folder / "trials" / f"{trial:04d}"


def kill(sweep: Sweep, moment: str) -> None:
    ended = sweep.run(program=(KILLER,), MOMENT=moment, FOLDER=str(sweep.folder))
    assert ended.returncode == -signal.SIGKILL, f"{moment}: {ended.stdout[-2000:]}{ended.stderr}"
    assert "Traceback" not in ended.stdout + ended.stderr, moment


def kill_when(sweep: Sweep, condition: Callable[[list[Event]], object], what: str) -> None:
    """Kills the driver once the event log is so."""
    log = sweep.folder / "events.jsonl"
    with sweep.start() as process:
        wait_for(lambda: process.poll() is not None or (log.exists() and condition(sweep.events())), what)
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL, what


@pytest.fixture(scope="module")
def calm(tmp_path_factory) -> Sweep:
    sweep = Sweep(tmp_path_factory.mktemp("calm") / "home", settings=SETTINGS)
    ended = sweep.run()
    assert ended.returncode == 0, ended.stderr
    return sweep


def test_a_sweep_pauses_resumes_and_repeats(calm):
    check(calm)
    kinds = [event.kind for event in calm.events()]
    assert kinds.count(EventKind.TRIAL_PAUSED) > 3
    assert resumed(calm.events())
    repeats = [row for row in calm.leaderboard() if row["repeats"]]
    assert 1 <= len(repeats) <= 2
    assert all(row["seed"] not in ("", "0") for row in repeats)
    assert set(calm.states().values()) == {"COMPLETE", "PRUNED"}


@pytest.mark.long
def test_a_driver_killed_around_pauses_and_resumptions_decides_as_one_that_nobody_disturbed(calm, tmp_path):
    sweep = Sweep(tmp_path / "home", settings=SETTINGS)
    kill(sweep, "before:sweep.search.controller:SweepController._pause:2")  # its report is in the log, its pause is not
    assert len(now_paused(sweep.events())) == 1
    kill(sweep, "after:sweep.search.controller:SweepController._pause:1")  # the same, which this call decides first
    assert len(now_paused(sweep.events())) >= 1
    assert {t.state for t in sweep.study().trials} == {TrialState.RUNNING}  # the study knows of no pauses
    before = len(resumed(sweep.events()))
    kill_when(sweep, lambda events: len(resumed(events)) > before and now_paused(events), "one resumed, one paused")
    kill(sweep, "after:sweep.search.study:Study.repeat:1")  # a repeat that only the study knows of
    ended = sweep.run()
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    check(sweep)
    assert decisions(sweep.events()) == decisions(calm.events())
    assert (sweep.folder / "best.yaml").read_text() == (calm.folder / "best.yaml").read_text()
    assert [row["number"] for row in sweep.leaderboard()] == [row["number"] for row in calm.leaderboard()]


def owner(sweep: Sweep, trial: int) -> int | None:
    """Process that trains the trial now."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int((folder(sweep, trial) / "worker.pid").read_text().split()[1])
    return None


@pytest.mark.long
def test_with_two_slots_a_worker_and_a_driver_that_die_after_a_resumption_lose_nothing(tmp_path):
    data = TINY["data"] | {"train_faces": 192}  # long enough to hit a worker between a resumption and its next report
    settings = WAITING | {"slots": 2, "resources": {"cpus": 0.5}, "train": SETTINGS["train"] | {"data": data}}
    sweep = Sweep(tmp_path / "home", settings=settings)
    log, victim = sweep.folder / "events.jsonl", None

    def hit() -> bool:
        """Kills the worker of a trial that was resumed and has not reported since."""
        nonlocal victim
        events = of_trials(sweep.events()) if log.exists() else []
        last = {event.trial: event for event in events}
        for event in resumed(events):
            if last[event.trial] is event and (pid := owner(sweep, event.trial)) is not None:
                os.kill(pid, signal.SIGKILL)
                victim = event.trial
                return True
        return False

    with sweep.start() as process:
        wait_for(lambda: process.poll() is not None or hit(), "a worker of a resumed trial")
        assert victim is not None
        retried = lambda: [e for e in sweep.events() if e.trial == victim and "attempt" in e.data]  # noqa: E731
        wait_for(retried, "the trial again")
        wait_for(lambda: of_trials(sweep.events())[-1].time > retried()[0].time, "something after that")
        process.kill()
        process.communicate()
    before = now_paused(sweep.events())
    ended = sweep.run()
    assert ended.returncode == 0, ended.stderr
    check(sweep)
    assert set(sweep.states().values()) == {"COMPLETE", "PRUNED"}
    mine = [event for event in of_trials(sweep.events()) if event.trial == victim]
    assert [e.data["attempt"] for e in mine if "attempt" in e.data] == [1]
    steps = [e.data["step"] for e in mine if e.kind is EventKind.REPORT]
    again = next(n for n, e in enumerate(mine) if "attempt" in e.data)
    assert any(e.kind is EventKind.REPORT for e in mine[again:])  # it came further than its last checkpoint
    assert steps == list(range(1, len(steps) + 1))
    assert all(sweep.states()[trial] in ("COMPLETE", "PRUNED") for trial in before)


def deleted(last: Path) -> None:
    last.unlink()


def damaged(last: Path) -> None:
    os.truncate(last, last.stat().st_size // 2)


@pytest.mark.long
def test_a_paused_trial_whose_checkpoint_is_gone_or_damaged_fails_by_name_and_the_sweep_goes_on(tmp_path):
    sweep = Sweep(tmp_path / "home", settings=WAITING)
    kill(sweep, "after:sweep.search.controller:SweepController._pause:2")
    assert now_paused(sweep.events()) == {0, 1}
    lasts = [folder(sweep, trial) / "last.pt" for trial in (0, 1)]
    for last, spoil in zip(lasts, (deleted, damaged), strict=True):
        spoil(last)
    ended = sweep.run()
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr
    ends = {e.trial: e.data for e in sweep.events() if e.kind is EventKind.TRIAL_ENDED}
    for trial, (last, reason) in enumerate(zip(lasts, ("no such checkpoint", "damaged"), strict=True)):
        assert ends[trial]["state"] == "FAILED"
        assert ends[trial]["reason"].startswith(f"CheckpointError: {last}: {reason}")
        assert {epoch for number, epoch in sweep.reports() if number == trial} == {1}  # no other epoch was trained
        assert not [e for e in sweep.events() if e.trial == trial and "attempt" in e.data]
    sweep.check(7)
    others = {state for trial, state in sweep.states().items() if trial > 1}
    assert others == {"COMPLETE", "PRUNED"}
    best = [row for row in sweep.leaderboard() if row["state"] == "COMPLETE"]
    assert best
    assert math.isfinite(float(best[0]["best_nme"]))
    assert (sweep.folder / "trials" / f"{int(best[0]['number']):04d}" / "best.pt").exists()
