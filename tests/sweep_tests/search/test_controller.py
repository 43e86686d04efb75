"""Study and event log agree after a kill at any moment: what a trial is, what it reported, how it ended."""

import itertools
import json
import math
import shutil
from collections import Counter
from pathlib import Path

import optuna
import pytest
import sqlalchemy
import yaml

from sweep.core.config import SweepConfig
from sweep.core.config_file import load_sweep
from sweep.core.trial import State, TrialRecord
from sweep.search.controller import SweepController
from sweep.search.study import Study
from sweep.storage.event_log import Event, EventKind, EventLog, read_events

EPOCHS = 4
REPORT_PAUSE = (EventKind.REPORT, EventKind.TRIAL_PAUSED)
PAUSE_END = (EventKind.TRIAL_PAUSED, EventKind.TRIAL_ENDED)
KNOWN = "[{optim.lr: 1e-3, loss.star_weight: 1.0}, {optim.lr: 1e-3, loss.star_weight: 90.0}]"


pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")


def make_config(folder: Path, **overrides: str) -> SweepConfig:
    sweep = {
        "space": {"optim.lr": {"log_uniform": [1e-4, 1e-2]}, "loss.star_weight": {"log_uniform": [0.01, 100]}},
        "known": [{"optim.lr": 1e-3, "loss.star_weight": 1.0}],
        "sampler": {"startup_trials": 3},
        "pruner": {"name": "successive_halving", "min_epochs": 1, "reduction": 2},
        "repeats": {"share": 0},
        "seed": 4,  # with which trials of all states come about
        "train": {"optim": {"epochs": EPOCHS}},
    }
    path = folder / "faces.yaml"
    path.write_text(yaml.safe_dump(sweep, sort_keys=False))
    keys = {key.replace("__", "."): value for key, value in overrides.items()}
    return load_sweep(path, {"output": str(folder), "name": "sweep", **keys})


class Driver:
    """A driver process: study, log and controller of one folder, and what its workers left there."""

    def __init__(self, config: SweepConfig, listen=lambda event: None) -> None:
        self.config, self.folder = config, config.folder
        self.folder.mkdir(exist_ok=True)
        url = f"sqlite:///{self.folder / 'study.db'}"
        self.study = Study.open(url, config)
        self.log = EventLog(self.folder / "events.jsonl")
        self.controller = SweepController(config, self.study, self.log)
        self.controller.listen(listen)

    def run(self) -> None:
        while (assignment := self.controller.next_trial()) is not None:
            self.train(assignment.number)
        self.log.close()

    def train(self, number: int, until: int = EPOCHS) -> None:
        """As a worker does: what the checkpoint holds is reported again, then epoch after epoch."""
        params = self.study.record(number).params
        done = self.checkpoint(number)
        for epoch in range(1, until + 1):
            if epoch > done:
                if diverges(params, epoch):
                    self.controller.end(number, State.DIVERGED, "loss is nan")
                    return
                self.save(number, epoch)
            if not self.controller.report(number, epoch, metrics(params, epoch)):
                return
        if until == EPOCHS:
            self.controller.end(number, State.COMPLETE)

    def checkpoint(self, number: int) -> int:
        path = self.folder / f"last-{number}"
        return int(path.read_text()) if path.exists() else 0

    def save(self, number: int, epoch: int) -> None:
        (self.folder / f"last-{number}").write_text(str(epoch))

    def events(self) -> list[Event]:
        return [event for event, _ in read_events(self.folder / "events.jsonl")]


def metrics(params: dict, epoch: int) -> dict[str, float]:
    """Deterministic, best at star_weight 1 and lr 1e-3, falling with the epochs."""
    distance = math.log10(params["loss.star_weight"]) ** 2 + math.log10(params["optim.lr"] / 1e-3) ** 2
    nme = 0.05 + distance / 50 + 0.05 / epoch
    return {"train/loss": 10 * nme, "val/nme": nme, "best_nme": nme, "lr": 0.1, "epoch_seconds": 2.0 + epoch}


def diverges(params: dict, epoch: int) -> bool:
    return (params["optim.lr"] > 6e-3 and epoch == 1) or (params["loss.star_weight"] < 1 and epoch == 2)


def picture(config: SweepConfig) -> list[tuple]:
    """All that must not depend on how often the driver was killed; checks that the log agrees with it."""
    records = Driver(config).study.records
    check_log(config, records)
    return [(r.number, r.params, r.state, dict(r.curve), r.reason, r.seconds) for r in records]


def check_log(config: SweepConfig, records: list[TrialRecord]) -> None:
    """Every trial: started, then its reports in order and once, then one end."""
    events = [event for event, _ in read_events(config.folder / "events.jsonl")]
    for record in records:
        mine = [event for event in events if event.trial == record.number]
        kinds = [event.kind for event in mine]
        assert kinds[0] is EventKind.TRIAL_STARTED
        assert Counter(kinds)[EventKind.TRIAL_ENDED] == 1
        assert kinds[-1] is EventKind.TRIAL_ENDED
        assert mine[-1].data["state"] == record.state
        assert mine[-1].data["best_nme"] == record.best_nme
        assert mine[-1].data["reason"] == record.reason
        reports = [event for event in mine if event.kind is EventKind.REPORT]
        assert [event.data["step"] for event in reports] == list(record.curve)
        assert {e.data["step"]: e.data["metrics"]["best_nme"] for e in reports} == record.curve


# An undisturbed sweep


def test_a_sweep_from_start_to_end(tmp_path):
    heard: list[Event] = []
    config = make_config(tmp_path, trials="12", pruner__reduction="3")
    driver = Driver(config, heard.append)
    driver.run()
    assert [r.number for r in driver.study.records] == list(range(12))
    assert driver.study.record(0).params == config.known[0]
    states = Counter(r.state for r in driver.study.records)
    assert states[State.COMPLETE] >= 1
    assert states[State.PRUNED] >= 1
    assert states[State.DIVERGED] >= 1
    assert driver.controller.next_trial() is None
    assert driver.study.is_finished()
    assert driver.controller.live == 0
    assert heard == driver.events()  # everything that was noted was told, in that order
    check_log(config, driver.study.records)
    for record in driver.study.records:
        assert record.seconds == sum(2.0 + epoch for epoch in record.curve)


def test_trials_get_configs_of_their_own(tmp_path):
    config = make_config(tmp_path, trials="2")
    driver = Driver(config)
    one, two = driver.controller.next_trial(), driver.controller.next_trial()
    assert one is not None
    assert two is not None
    assert driver.controller.next_trial() is None
    assert driver.controller.live == 2
    assert one.config.run.output == str(config.folder / "trials" / "0000")
    assert (two.number, two.config) == (1, config.trial_config(driver.study.record(1)))
    assert [event.data["config"] for event in driver.events()] == [one.config.tree(), two.config.tree()]


def test_a_report_is_in_the_file_and_in_the_study_when_it_is_answered(tmp_path):
    config = make_config(tmp_path, pruner__name="none")
    driver = Driver(config)
    number = driver.controller.next_trial().number
    for epoch in (1, 2, 3):
        assert driver.controller.report(number, epoch, metrics(config.known[0], epoch))
        line = json.loads((config.folder / "events.jsonl").read_text().splitlines()[-1])
        assert (line["event"], line["trial"], line["step"]) == ("report", number, epoch)
        assert line["metrics"] == metrics(config.known[0], epoch)
        held = optuna.load_study(study_name="sweep", storage=f"sqlite:///{config.folder / 'study.db'}")
        assert max(held.trials[number].intermediate_values) == epoch


def test_the_event_comes_before_the_study(tmp_path):
    """What the study holds must be in the log, since only that direction can be made good."""
    config = make_config(tmp_path)
    driver = Driver(config)
    number = driver.controller.next_trial().number
    driver.log.close()  # the disk is gone
    with pytest.raises(OSError):
        driver.controller.report(number, 1, metrics(config.known[0], 1))
    assert driver.study.record(number).curve == {}


def test_an_epoch_that_was_noted_before_changes_nothing(tmp_path):
    driver = Driver(make_config(tmp_path, pruner__min_epochs="2"))
    number = driver.controller.next_trial().number
    assert driver.controller.report(number, 1, metrics(driver.study.record(number).params, 1))
    before = driver.events()
    changed = metrics(driver.study.record(number).params, 1) | {"best_nme": 0.0001}
    assert driver.controller.report(number, 1, changed)
    assert driver.events() == before
    assert driver.study.record(number).curve[1] > 0.001


def test_a_trial_that_has_ended_is_not_heard_any_more(tmp_path):
    driver = Driver(make_config(tmp_path))
    number = driver.controller.next_trial().number
    driver.controller.end(number, State.FAILED, "lost a node")
    before = driver.events()
    assert not driver.controller.report(number, 1, metrics({"loss.star_weight": 1, "optim.lr": 1e-3}, 1))
    driver.controller.end(number, State.COMPLETE)
    assert driver.events() == before
    assert driver.study.record(number).state is State.FAILED


@pytest.mark.parametrize("nme", [None, math.inf])
def test_complete_without_an_nme_is_failed(nme, tmp_path):
    driver = Driver(make_config(tmp_path))
    number = driver.controller.next_trial().number
    if nme is not None:
        driver.controller.report(number, 1, metrics({"loss.star_weight": 1, "optim.lr": 1e-3}, 1) | {"best_nme": nme})
    driver.controller.end(number, State.COMPLETE)
    record = driver.study.record(number)
    assert (record.state, record.reason) == (State.FAILED, "finished without a validation NME")


def test_the_last_epoch_is_complete_even_if_it_is_the_worst(tmp_path):
    config = make_config(tmp_path, trials="2", pruner__min_epochs=str(EPOCHS), known=KNOWN)
    driver = Driver(config)
    driver.run()
    assert [r.state for r in driver.study.records] == [State.COMPLETE, State.COMPLETE]


def test_a_retry_is_noted_with_its_attempt(tmp_path):
    driver = Driver(make_config(tmp_path))
    number = driver.controller.next_trial().number
    driver.controller.note_retry(number, 1)
    started = driver.events()
    assert [event.kind for event in started] == [EventKind.TRIAL_STARTED] * 2
    assert "attempt" not in started[0].data
    assert started[1].data == {**started[0].data, "attempt": 1}


# Going on


def test_more_trials_continue_a_finished_sweep(tmp_path):
    for folder in ("once", "twice"):
        (tmp_path / folder).mkdir()
    whole = make_config(tmp_path / "once", trials="8", pruner__pause="false")
    Driver(whole).run()
    for trials in ("3", "3", "8", "5"):
        config = make_config(tmp_path / "twice", trials=trials, pruner__pause="false")
        driver = Driver(config)
        assert driver.study.is_finished() is (len(driver.study.records) >= int(trials))
        driver.run()
    assert picture(config) == picture(whole)


@pytest.mark.parametrize("reported", [0, 1, 2, EPOCHS])
def test_an_interrupted_trial_goes_on(reported, tmp_path):
    for folder in ("steady", "stopped"):
        (tmp_path / folder).mkdir()
    steady, config = (make_config(tmp_path / n, trials="3", pruner__pause="false") for n in ("steady", "stopped"))
    Driver(steady).run()
    driver = Driver(config)
    number = driver.controller.next_trial().number
    for epoch in range(1, reported + 1):
        driver.save(number, epoch)
        assert driver.controller.report(number, epoch, metrics(config.known[0], epoch))
    driver.controller.interrupt()
    assert driver.controller.live == 0
    assert driver.events()[-1].kind is EventKind.TRIAL_INTERRUPTED
    assert driver.study.record(number).state is State.RUNNING
    assert not driver.controller.report(number, reported + 1, metrics(config.known[0], reported + 1))
    driver.log.close()

    again = Driver(config)
    assert not again.study.is_finished()
    again.run()
    assert picture(config) == picture(steady)


def test_several_running_trials_are_all_handed_out_again(tmp_path):
    config = make_config(tmp_path, trials="4", pruner__name="none")
    driver = Driver(config)
    numbers = [driver.controller.next_trial().number for _ in range(3)]
    driver.train(numbers[0], until=2)
    params = [r.params for r in driver.study.records]
    again = Driver(config)
    assert [again.controller.next_trial().number for _ in range(4)] == [0, 1, 2, 3]
    assert [r.params for r in again.study.records[:3]] == params
    assert again.controller.next_trial() is None


def test_an_orphan_whose_last_report_meant_its_end_is_ended_not_run(tmp_path):
    config = make_config(tmp_path, trials="3", pruner__pause="false")
    driver = Driver(config)
    good, bad = driver.controller.next_trial().number, driver.controller.next_trial().number
    driver.train(good)
    driver.study.report(bad, 1, 0.9)  # and then the driver was killed, before it told the study of the end
    driver.log.append(Event(EventKind.REPORT, bad, {"step": 1, "metrics": {"best_nme": 0.9, "epoch_seconds": 1.0}}))
    again = Driver(config)
    assert again.controller.next_trial().number == 2
    assert again.study.record(bad).state is State.PRUNED
    assert again.events()[-2].data["state"] == "PRUNED"


# Paused, and gone on with


def report(driver: Driver, number: int, epoch: int, nme: float) -> bool:
    return driver.controller.report(number, epoch, {"val/nme": nme, "best_nme": nme, "epoch_seconds": 1.0})


def paused(driver: Driver) -> set[int]:
    return {r.number for r in driver.study.records if r.state is State.PAUSED}


def test_a_trial_waits_at_a_rung_until_it_is_its_turn(tmp_path):
    driver = Driver(make_config(tmp_path, trials="3", sampler__startup_trials="1", pruner__reduction="3"))
    first = driver.controller.next_trial()
    assert (first.number, first.pause_epochs) == (0, (1, 3))
    assert not report(driver, 0, 1, 0.2)  # a new one is what is needed first
    assert (paused(driver), driver.controller.live) == ({0}, 0)
    assert driver.events()[-1].kind is EventKind.TRIAL_PAUSED
    assert not report(driver, 0, 2, 0.1)  # it does not run
    assert driver.study.record(0).curve == {1: 0.2}

    assert driver.controller.next_trial().number == 1
    assert not report(driver, 1, 1, 0.3)
    assert paused(driver) == {0, 1}
    again = driver.controller.next_trial()  # the better one of those that wait
    assert (again.number, again.config, paused(driver)) == (0, first.config, {1})
    for epoch in (2, 3, 4):  # at the second rung it is alone: on at once
        assert report(driver, 0, epoch, 0.15)
    driver.controller.end(0, State.COMPLETE)
    assert driver.controller.next_trial().number == 2
    for epoch in (1, 2, 3, 4):  # the best at the first rung, and of all
        assert report(driver, 2, epoch, 0.1)
    assert driver.controller.next_trial() is None  # all are begun, and it is nobody's turn
    assert paused(driver) == {1}  # but may yet be, as long as one runs
    driver.controller.end(2, State.COMPLETE)
    assert driver.controller.next_trial() is None
    assert [r.state for r in driver.study.records] == [State.COMPLETE, State.PRUNED, State.COMPLETE]
    assert driver.study.is_finished()
    check_log(driver.config, driver.study.records)


def test_where_none_came_to_the_end_the_best_that_waits_goes_on(tmp_path):
    driver = Driver(make_config(tmp_path, trials="2", pruner__reduction="9"))
    for number, nme in ((0, 0.2), (1, 0.3)):
        assert driver.controller.next_trial().number == number
        assert not report(driver, number, 1, nme)
    assert driver.controller.next_trial().number == 0
    assert all(report(driver, 0, epoch, 0.2) for epoch in (2, 3, 4))
    driver.controller.end(0, State.COMPLETE)
    assert driver.controller.next_trial() is None
    check_log(driver.config, driver.study.records)


def test_who_has_no_other_to_wait_for_goes_on_at_once(tmp_path):
    driver = Driver(make_config(tmp_path, trials="1"))
    assert driver.controller.next_trial().number == 0
    assert all(report(driver, 0, epoch, 0.2) for epoch in range(1, EPOCHS + 1))
    assert EventKind.TRIAL_PAUSED not in [event.kind for event in driver.events()]


def test_more_than_shall_be_kept_do_not_wait(tmp_path):
    driver = Driver(make_config(tmp_path, trials="9", pruner__paused="2", sampler__startup_trials="9"))
    for number, nme in enumerate((0.3, 0.5, 0.4, 0.2)):
        assert driver.controller.next_trial().number == number
        assert not report(driver, number, 1, nme)
    assert paused(driver) == {0, 3}
    assert [driver.study.record(n).state for n in (1, 2)] == [State.PRUNED] * 2


def test_an_orphan_whose_last_report_meant_a_pause_is_paused_not_run(tmp_path):
    config = make_config(tmp_path, trials="3")
    driver = Driver(config)
    driver.controller.next_trial()
    driver.study.report(0, 1, 0.9)  # and then the driver was killed, before it noted the pause
    driver.log.append(Event(EventKind.REPORT, 0, {"step": 1, "metrics": {"best_nme": 0.9, "epoch_seconds": 1.0}}))
    again = Driver(config)
    assert again.controller.next_trial().number == 1
    assert paused(again) == {0}
    assert EventKind.TRIAL_PAUSED in [event.kind for event in again.events() if event.trial == 0]


def test_more_trials_wake_no_trial_that_was_stopped_for_good(tmp_path):
    config = make_config(tmp_path, trials="4")
    Driver(config).run()
    before = picture(config)
    assert State.PRUNED in {state for _, _, state, *_ in before}
    more = make_config(tmp_path, trials="8")
    assert not Driver(more).study.is_finished()
    Driver(more).run()
    assert picture(more)[:4] == before
    assert len(picture(more)) == 8


# Limits


def test_a_trial_that_breaks_a_limit_is_stopped_with_its_reason(tmp_path):
    driver = Driver(make_config(tmp_path, trials="2", limits__memory_gb="2"))
    number = driver.controller.next_trial().number
    told = {"val/nme": 0.1, "best_nme": 0.1, "epoch_seconds": 1.0, "images_per_second": 10.0}
    assert not driver.controller.report(number, 1, told | {"memory_gb": 2.5})
    record = driver.study.record(number)
    assert (record.state, record.reason) == (State.INFEASIBLE, "limits.memory_gb = 2: it takes 2.5")
    assert driver.events()[-1].data["state"] == "INFEASIBLE"
    assert driver.controller.next_trial().number == 1


# Repeats


def test_the_best_are_repeated_with_other_seeds(tmp_path):
    config = make_config(tmp_path, trials="10", pruner__name="none", repeats__share="0.3")
    driver = Driver(config)
    driver.run()
    records = driver.study.records
    again = [r for r in records if r.replicate_of is not None]
    assert again[0].number == 4  # early, to tell how large the noise is
    best = sorted((r for r in records if r.state is State.COMPLETE and r not in again), key=lambda r: r.best_nme)
    assert {r.replicate_of for r in again} <= {r.number for r in best[:3]}
    for r in again:
        assert r.params == driver.study.record(r.replicate_of).params
        assert config.trial_config(r).run.seed == r.seed != config.train.run.seed
    started = [e.data for e in driver.events() if e.kind is EventKind.TRIAL_STARTED and "repeats" in e.data]
    assert [(data["seed"], data["repeats"]) for data in started] == [(r.seed, r.replicate_of) for r in again]
    check_log(config, records)


# Killed at any moment


class Snapshots:
    """Copies of all that is on disk at every moment at which that may have changed: what a kill would have left."""

    def __init__(self, folder: Path, target: Path) -> None:
        self.folder, self.target = folder, target
        self.seen: set[tuple] = set()
        self.taken: list[Path] = []

    def take(self, *_: object) -> None:
        files = sorted(path for path in self.folder.iterdir() if not path.name.endswith("-journal"))
        content = tuple((path.name, path.read_bytes()) for path in files)
        if content not in self.seen:
            self.seen.add(content)
            copy = self.target / f"{len(self.taken):04d}"
            shutil.copytree(self.folder, copy / "sweep", ignore=shutil.ignore_patterns("*-journal"))
            self.taken.append(copy)


def around(patch: pytest.MonkeyPatch, owner: type, name: str, take) -> None:
    """Calls `take` before and after a method."""
    method = getattr(owner, name)

    def wrapped(self, *arguments, **named):
        take()
        try:
            return method(self, *arguments, **named)
        finally:
            take()

    patch.setattr(owner, name, wrapped)


def every_moment_of(config: SweepConfig, target: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    shots = Snapshots(config.folder, target)
    with monkeypatch.context() as patch:
        for owner, name in [(EventLog, "append"), (Study, "ask"), (Study, "report"), (Study, "tell")]:
            around(patch, owner, name, shots.take)
        around(patch, Driver, "save", shots.take)
        sqlalchemy.event.listen(sqlalchemy.engine.Engine, "commit", shots.take)  # also between two writes of a method
        Driver(config).run()
        sqlalchemy.event.remove(sqlalchemy.engine.Engine, "commit", shots.take)
    return shots.taken


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trials", "pause", "share"), [pytest.param(5, "false", "0", marks=pytest.mark.long), (6, "true", "0.2")]
)
def test_a_sweep_that_is_killed_at_any_moment_ends_as_if_it_never_was(trials, pause, share, tmp_path, monkeypatch):
    (tmp_path / "steady").mkdir()
    settings = {"trials": str(trials), "pruner__pause": pause, "repeats__share": share}
    steady = make_config(tmp_path / "steady", **settings)
    moments = every_moment_of(steady, tmp_path / "killed", monkeypatch)
    expected = picture(steady)
    assert len(moments) > 8 * trials
    assert {state for _, _, state, *_ in expected} >= {State.COMPLETE, State.PRUNED}
    for moment in moments[trials % 2 :: 2]:  # of two neighbours one: each takes half a second
        config = make_config(moment, **settings)
        Driver(config).run()
        assert picture(config) == expected, moment


@pytest.mark.parametrize(
    "settings",
    [
        {"trials": "null", "epochs": "17"},  # at the end it is the budget that lets nobody go on
        {"trials": "8", "pruner__paused": "1", "pruner__reduction": "3"},  # who pauses takes the place of another
    ],
)
def test_what_a_kill_left_undecided_is_decided_as_it_would_have_been(settings, tmp_path, monkeypatch):
    """Killed after each report that leads to a pause, and after each pause that leads to another trial's end."""
    (tmp_path / "steady").mkdir()
    steady = make_config(tmp_path / "steady", **settings)
    driver = Driver(steady)
    driver.run()
    events, expected = driver.events(), picture(steady)
    following = itertools.pairwise(event.kind for event in events)
    moments = [n for n, kinds in enumerate(following) if kinds in (REPORT_PAUSE, PAUSE_END)]
    assert len(moments) > 4

    class Killed(BaseException):
        pass

    append = EventLog.append
    for moment in moments:
        (tmp_path / str(moment)).mkdir()
        config, left = make_config(tmp_path / str(moment), **settings), iter(range(moment, -1, -1))

        def deadly(self, event, left=left):
            append(self, event)
            if next(left) == 0:
                raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(EventLog, "append", deadly)
            with pytest.raises(Killed):
                Driver(config).run()
        again = Driver(config)
        again.run()
        assert picture(config) == expected, moment
        assert decided(again.events()) == decided(events), moment


def decided(events: list[Event]) -> list[tuple]:
    """What happened to which trial, in order, but for the starts, which are more after a kill."""
    return [(event.kind, event.trial) for event in events if event.kind is not EventKind.TRIAL_STARTED]


@pytest.mark.parametrize("pause", ["false", "true"])
def test_a_sweep_that_is_killed_again_and_again_ends_too(pause, tmp_path, monkeypatch):
    """Each call gets to its second new event, which it writes without living to tell the study."""
    (tmp_path / "steady").mkdir()
    (tmp_path / "killed").mkdir()
    steady, config = (make_config(tmp_path / n, trials="4", pruner__pause=pause) for n in ("steady", "killed"))
    Driver(steady).run()

    class Killed(BaseException):
        pass

    append = EventLog.append

    def deadly(self, event):
        append(self, event)
        written.append(event)
        if len(written) == 2:
            raise Killed

    kills = 0
    while kills < 100:
        written: list[Event] = []
        with monkeypatch.context() as patch:
            patch.setattr(EventLog, "append", deadly)
            try:
                Driver(config).run()
                break
            except Killed:
                kills += 1
    assert 5 < kills < 100
    assert picture(config) == picture(steady)
