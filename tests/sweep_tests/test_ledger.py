"""Study and event log agree after a kill at any moment: what a trial is, what it reported, how it ended."""

import json
import math
import shutil
from collections import Counter
from pathlib import Path

import optuna
import pytest
import sqlalchemy
import yaml

from sweep.config import SweepConfig, load_sweep
from sweep.events import Event, EventKind, EventLog, read_events
from sweep.ledger import Ledger
from sweep.records import State, TrialRecord
from sweep.study import Study

EPOCHS = 4
KNOWN = "[{optim.lr: 1e-3, loss.star_weight: 1.0}, {optim.lr: 1e-3, loss.star_weight: 90.0}]"


pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")


def make_config(folder: Path, **overrides: str) -> SweepConfig:
    sweep = {
        "space": {"optim.lr": {"log_uniform": [1e-4, 1e-2]}, "loss.star_weight": {"log_uniform": [0.01, 100]}},
        "known": [{"optim.lr": 1e-3, "loss.star_weight": 1.0}],
        "sampler": {"name": "tpe", "startup_trials": 3},
        "pruner": {"name": "successive_halving", "min_epochs": 1, "reduction": 2},
        "train": {"optim": {"epochs": EPOCHS}},
    }
    path = folder / "faces.yaml"
    path.write_text(yaml.safe_dump(sweep, sort_keys=False))
    keys = {key.replace("__", "."): value for key, value in overrides.items()}
    return load_sweep(path, {"output": str(folder), "name": "sweep", **keys})


class Driver:
    """A driver process: study, log and ledger of one folder, and what its workers left there."""

    def __init__(self, config: SweepConfig, listen=lambda event: None) -> None:
        self.config, self.folder = config, config.folder
        self.folder.mkdir(exist_ok=True)
        url = f"sqlite:///{self.folder / 'study.db'}"
        rest = (config.sampler, config.seed, config.decisive(), config.known)
        self.study = Study.open(url, config.name, config.dimensions, *rest)
        self.log = EventLog(self.folder / "events.jsonl")
        self.ledger = Ledger(config, self.study, self.log)
        self.ledger.listen(listen)

    def run(self) -> None:
        while (assignment := self.ledger.next_trial()) is not None:
            self.train(assignment.number)
        self.log.close()

    def train(self, number: int, until: int = EPOCHS) -> None:
        """As a worker does: what the checkpoint holds is reported again, then epoch after epoch."""
        params = self.study.record(number).params
        done = self.checkpoint(number)
        for epoch in range(1, until + 1):
            if epoch > done:
                if diverges(params, epoch):
                    self.ledger.end(number, State.DIVERGED, "loss is nan")
                    return
                self.save(number, epoch)
            if not self.ledger.report(number, epoch, metrics(params, epoch)):
                return
        if until == EPOCHS:
            self.ledger.end(number, State.COMPLETE)

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
    config = make_config(tmp_path, trials="12")
    driver = Driver(config, heard.append)
    driver.run()
    assert [r.number for r in driver.study.records] == list(range(12))
    assert driver.study.record(0).params == config.known[0]
    states = Counter(r.state for r in driver.study.records)
    assert states[State.COMPLETE] >= 1
    assert states[State.PRUNED] >= 1
    assert states[State.DIVERGED] >= 1
    assert driver.ledger.exhausted
    assert driver.ledger.live == 0
    assert heard == driver.events()  # everything that was noted was told, in that order
    check_log(config, driver.study.records)
    for record in driver.study.records:
        assert record.seconds == sum(2.0 + epoch for epoch in record.curve)


def test_trials_get_configs_of_their_own(tmp_path):
    config = make_config(tmp_path, trials="2")
    driver = Driver(config)
    one, two = driver.ledger.next_trial(), driver.ledger.next_trial()
    assert one is not None
    assert two is not None
    assert driver.ledger.next_trial() is None
    assert driver.ledger.live == 2
    assert one.config.run.output == str(config.folder / "trials" / "0000")
    assert (two.number, two.config) == (1, config.trial_config(1, driver.study.record(1).params))
    assert [event.data["config"] for event in driver.events()] == [one.config.tree(), two.config.tree()]


def test_a_report_is_in_the_file_and_in_the_study_when_it_is_answered(tmp_path):
    config = make_config(tmp_path, pruner__name="none")
    driver = Driver(config)
    number = driver.ledger.next_trial().number
    for epoch in (1, 2, 3):
        assert driver.ledger.report(number, epoch, metrics(config.known[0], epoch))
        line = json.loads((config.folder / "events.jsonl").read_text().splitlines()[-1])
        assert (line["event"], line["trial"], line["step"]) == ("report", number, epoch)
        assert line["metrics"] == metrics(config.known[0], epoch)
        held = optuna.load_study(study_name="sweep", storage=f"sqlite:///{config.folder / 'study.db'}")
        assert max(held.trials[number].intermediate_values) == epoch


def test_the_event_comes_before_the_study(tmp_path):
    """What the study holds must be in the log, since only that direction can be made good."""
    config = make_config(tmp_path)
    driver = Driver(config)
    number = driver.ledger.next_trial().number
    driver.log.close()  # the disk is gone
    with pytest.raises(OSError):
        driver.ledger.report(number, 1, metrics(config.known[0], 1))
    assert driver.study.record(number).curve == {}


def test_an_epoch_that_was_noted_before_changes_nothing(tmp_path):
    driver = Driver(make_config(tmp_path))
    number = driver.ledger.next_trial().number
    assert driver.ledger.report(number, 1, metrics(driver.study.record(number).params, 1))
    before = driver.events()
    changed = metrics(driver.study.record(number).params, 1) | {"best_nme": 0.0001}
    assert driver.ledger.report(number, 1, changed)
    assert driver.events() == before
    assert driver.study.record(number).curve[1] > 0.001


def test_a_trial_that_has_ended_is_not_heard_any_more(tmp_path):
    driver = Driver(make_config(tmp_path))
    number = driver.ledger.next_trial().number
    driver.ledger.end(number, State.FAILED, "lost a node")
    before = driver.events()
    assert not driver.ledger.report(number, 1, metrics({"loss.star_weight": 1, "optim.lr": 1e-3}, 1))
    driver.ledger.end(number, State.COMPLETE)
    assert driver.events() == before
    assert driver.study.record(number).state is State.FAILED


@pytest.mark.parametrize("nme", [None, math.inf])
def test_complete_without_an_nme_is_failed(nme, tmp_path):
    driver = Driver(make_config(tmp_path))
    number = driver.ledger.next_trial().number
    if nme is not None:
        driver.ledger.report(number, 1, metrics({"loss.star_weight": 1, "optim.lr": 1e-3}, 1) | {"best_nme": nme})
    driver.ledger.end(number, State.COMPLETE)
    record = driver.study.record(number)
    assert (record.state, record.reason) == (State.FAILED, "finished without a validation NME")


def test_the_last_epoch_is_complete_even_if_it_is_the_worst(tmp_path):
    config = make_config(tmp_path, trials="2", pruner__min_epochs=str(EPOCHS), known=KNOWN)
    driver = Driver(config)
    driver.run()
    assert [r.state for r in driver.study.records] == [State.COMPLETE, State.COMPLETE]


def test_a_retry_is_noted_with_its_attempt(tmp_path):
    driver = Driver(make_config(tmp_path))
    number = driver.ledger.next_trial().number
    driver.ledger.note_retry(number, 1)
    started = driver.events()
    assert [event.kind for event in started] == [EventKind.TRIAL_STARTED] * 2
    assert "attempt" not in started[0].data
    assert started[1].data == {**started[0].data, "attempt": 1}


# Going on


def test_more_trials_continue_a_finished_sweep(tmp_path):
    for folder in ("once", "twice"):
        (tmp_path / folder).mkdir()
    whole = make_config(tmp_path / "once", trials="8")
    Driver(whole).run()
    for trials in ("3", "3", "8", "5"):
        config = make_config(tmp_path / "twice", trials=trials)
        driver = Driver(config)
        assert driver.ledger.exhausted is (len(driver.study.records) >= int(trials))
        driver.run()
    assert picture(config) == picture(whole)


@pytest.mark.parametrize("reported", [0, 1, 2, EPOCHS])
def test_an_interrupted_trial_goes_on(reported, tmp_path):
    for folder in ("steady", "stopped"):
        (tmp_path / folder).mkdir()
    steady, config = (make_config(tmp_path / name, trials="3") for name in ("steady", "stopped"))
    Driver(steady).run()
    driver = Driver(config)
    number = driver.ledger.next_trial().number
    for epoch in range(1, reported + 1):
        driver.save(number, epoch)
        assert driver.ledger.report(number, epoch, metrics(config.known[0], epoch))
    driver.ledger.interrupt()
    assert driver.ledger.live == 0
    assert driver.events()[-1].kind is EventKind.TRIAL_INTERRUPTED
    assert driver.study.record(number).state is State.RUNNING
    assert not driver.ledger.report(number, reported + 1, metrics(config.known[0], reported + 1))
    driver.log.close()

    again = Driver(config)
    assert not again.ledger.exhausted
    again.run()
    assert picture(config) == picture(steady)


def test_several_running_trials_are_all_handed_out_again(tmp_path):
    config = make_config(tmp_path, trials="4", pruner__name="none")
    driver = Driver(config)
    numbers = [driver.ledger.next_trial().number for _ in range(3)]
    driver.train(numbers[0], until=2)
    params = [r.params for r in driver.study.records]
    again = Driver(config)
    assert [again.ledger.next_trial().number for _ in range(4)] == [0, 1, 2, 3]
    assert [r.params for r in again.study.records[:3]] == params
    assert again.ledger.next_trial() is None


def test_an_orphan_whose_last_report_meant_its_end_is_ended_not_run(tmp_path):
    config = make_config(tmp_path, trials="3")
    driver = Driver(config)
    good, bad = driver.ledger.next_trial().number, driver.ledger.next_trial().number
    driver.train(good)
    driver.study.report(bad, 1, 0.9)  # and then the driver was killed, before it told the study of the end
    driver.log.append(Event(EventKind.REPORT, bad, {"step": 1, "metrics": {"best_nme": 0.9, "epoch_seconds": 1.0}}))
    again = Driver(config)
    assert again.ledger.next_trial().number == 2
    assert again.study.record(bad).state is State.PRUNED
    assert again.events()[-2].data["state"] == "PRUNED"


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


@pytest.mark.parametrize("trials", [4, pytest.param(8, marks=pytest.mark.slow)])
def test_a_sweep_that_is_killed_at_any_moment_ends_as_if_it_never_was(trials, tmp_path, monkeypatch):
    (tmp_path / "steady").mkdir()
    steady = make_config(tmp_path / "steady", trials=str(trials))
    moments = every_moment_of(steady, tmp_path / "killed", monkeypatch)
    expected = picture(steady)
    assert len(moments) > 8 * trials
    assert {state for _, _, state, *_ in expected} >= {State.COMPLETE, State.PRUNED}
    for moment in moments:
        config = make_config(moment, trials=str(trials))
        Driver(config).run()
        assert picture(config) == expected, moment


def test_a_sweep_that_is_killed_again_and_again_ends_too(tmp_path, monkeypatch):
    """Each call gets to its second new event, which it writes without living to tell the study."""
    (tmp_path / "steady").mkdir()
    (tmp_path / "killed").mkdir()
    steady, config = (make_config(tmp_path / name, trials="4") for name in ("steady", "killed"))
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
