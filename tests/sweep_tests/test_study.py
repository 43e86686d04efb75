"""One contract for every sampler and every kind of dimension: a study that is closed and opened forgets nothing."""

import itertools
import math
import shutil
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from sweep.config import SamplerConfig
from sweep.records import State
from sweep.space import Dimension, parse_space
from sweep.study import Study, StudyMismatchError
from trainer.config import TrainConfig

SAMPLERS = ["tpe", "random", "gp", "cmaes"]
SLOW_ONES = ["tpe", "random", *(pytest.param(name, marks=pytest.mark.slow) for name in ("gp", "cmaes"))]
KINDS = {
    "uniform": {"loss.star_weight": {"uniform": [0, 10]}},
    "log_uniform": {"optim.lr": {"log_uniform": [1e-4, 1e-2]}},
    "int": {"data.workers": {"int": [2, 9]}},
    "log_int": {"optim.batch_size": {"log_int": [1, 64]}},
    "choice": {"loss.distance": {"choice": ["l1", "l2", "wing"]}},
}
TWO = KINDS["log_uniform"] | KINDS["uniform"]
ALL = {key: spec for kind in KINDS.values() for key, spec in kind.items()}
STARTUP = 2  # random trials, so that the sampler's own suggestions are met too


pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")


def dimensions(space: dict) -> tuple[Dimension, ...]:
    return parse_space(space, TrainConfig())


class Maker:
    """Opens studies of one folder, as drivers one after the other would."""

    def __init__(self, path: Path, sampler: str = "random", space: dict = TWO, seed: int = 0, known=()) -> None:
        self.url = f"sqlite:///{path}"
        self.space, self.seed, self.known = dimensions(space), seed, list(known)
        self.sampler = SamplerConfig(name=sampler, startup_trials=STARTUP)

    def open(self, decisive=None) -> Study:
        old = decisive or {"seed": self.seed, "train": {"optim": {"epochs": 3}}}
        return Study.open(self.url, "faces", self.space, self.sampler, self.seed, old, self.known)

    def inside(self) -> optuna.Study:
        """The study as Optuna holds it."""
        return optuna.load_study(study_name="faces", storage=self.url)


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory):
    path = tmp_path_factory.mktemp("study") / "empty.db"
    optuna.storages.RDBStorage(f"sqlite:///{path}")  # the schema takes a while: once is enough
    return path


@pytest.fixture
def make(tmp_path, empty_database):
    counter = itertools.count()

    def make(*args, **more) -> Maker:
        path = tmp_path / f"{next(counter)}.db"
        shutil.copy(empty_database, path)
        return Maker(path, *args, **more)

    return make


def objective(params: dict, epoch: int) -> float:
    """Deterministic, with one best place, and falling with the epochs."""
    numbers = [math.log10(v + 1e-5) if isinstance(v, int | float) else len(v) for v in params.values()]
    return 0.05 + sum((n - 0.3) ** 2 for n in numbers) / 100 + 0.1 / epoch


def run_one(study: Study, state: State | None = None) -> dict:
    """One trial of three epochs; gives its parameters."""
    record = study.ask()
    finish(study, record.number, state)
    return record.params


def finish(study: Study, number: int, state: State | None = None) -> None:
    """Reports three epochs and ends; of four trials, one is pruned and one diverges unless a state is given."""
    for epoch in (1, 2, 3):
        study.report(number, epoch, objective(study.record(number).params, epoch))
    state = state or {3: State.PRUNED, 2: State.DIVERGED}.get(number % 4, State.COMPLETE)
    study.tell(number, state, seconds=1.5)


# Suggestions


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("kind", ["all", *(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS)])
def test_suggestions_lie_inside_and_do_not_depend_on_restarts(sampler, kind, make):
    space, count = ALL if kind == "all" else KINDS[kind], STARTUP + 2
    steady, restless = make(sampler, space), make(sampler, space)
    study = steady.open()
    expected = [run_one(study) for _ in range(count)]
    for params in expected:
        assert list(params) == list(space)
        for dimension in steady.space:
            assert dimension.contains(params[dimension.key])
            assert isinstance(params[dimension.key], int) or "int" not in dimension.kind
    assert [run_one(restless.open()) for _ in range(count)] == expected


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_another_seed_suggests_something_else(sampler, make):
    study, other = make(sampler, seed=0).open(), make(sampler, seed=1).open()
    pairs = [(run_one(study), run_one(other)) for _ in range(STARTUP + 2)]
    assert all(a != b for a, b in pairs)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_trials_of_a_study_differ_from_each_other(sampler, make):
    study = make(sampler).open()
    params = [tuple(run_one(study).values()) for _ in range(STARTUP + 3)]
    assert len(set(params)) == len(params)


def test_random_suggestions_depend_on_seed_and_number_alone(make):
    one, other = make("random").open(), make("random").open()
    started = [one.ask().params for _ in range(4)]  # all at once
    assert [run_one(other, State.FAILED) for _ in range(4)] == started  # one after the other, all failed


# Known configurations

KNOWN = [{"optim.lr": 1e-3, "loss.star_weight": 1.0}, {"optim.lr": 5e-4}, {"loss.star_weight": 2}]


@pytest.mark.parametrize("sampler", SLOW_ONES)
@pytest.mark.parametrize("restarts", [False, True])
def test_known_configurations_come_first_and_once(sampler, restarts, make):
    maker = make(sampler, known=KNOWN)
    study = maker.open()
    params = []
    for _ in range(6):
        study = maker.open() if restarts else study
        params.append(run_one(study))
    assert params[0] == KNOWN[0]
    assert params[1]["optim.lr"] == 5e-4
    assert params[2]["loss.star_weight"] == 2.0
    assert all(set(p) == set(TWO) for p in params)
    assert [p["optim.lr"] for p in params].count(1e-3) == 1
    assert [p["optim.lr"] for p in params].count(5e-4) == 1
    assert [r.number for r in maker.open().records] == list(range(6))


def test_known_configurations_wait_without_being_trials(make):
    maker = make(known=KNOWN)
    assert maker.open().records == []
    assert maker.open().records == []
    assert len(maker.inside().get_trials(states=(TrialState.WAITING,))) == 3


def test_a_driver_that_died_while_it_noted_the_known_ones_is_made_good(make):
    maker = make(known=KNOWN)
    storage = optuna.storages.RDBStorage(maker.url)
    optuna.create_study(storage=storage, study_name="faces").enqueue_trial(KNOWN[0])  # as far as it came
    study = maker.open()
    assert run_one(study) == KNOWN[0]
    assert all(run_one(study) != KNOWN[0] for _ in range(3))
    assert sum(r.params == KNOWN[0] for r in study.records) == 1


# What is remembered


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_running_trials_are_adopted_as_they_were(sampler, make):
    maker = make(sampler)
    study = maker.open()
    for _ in range(STARTUP):
        run_one(study)
    first, second = study.ask(), study.ask()
    study.report(second.number, 1, 0.5)
    study.report(second.number, 2, 0.4)
    again = maker.open()
    assert again.records == study.records
    assert (again.record(first.number), again.record(second.number).curve) == (first, {1: 0.5, 2: 0.4})
    assert again.record(second.number).params == second.params
    assert again.report(second.number, 3, 0.3)
    again.tell(second.number, State.COMPLETE, seconds=7.0)
    again.tell(first.number, State.FAILED, seconds=0.0, reason="lost a node")
    assert again.ask().number == second.number + 1
    kept = maker.inside().trials[second.number]
    assert (kept.state, kept.value, kept.intermediate_values) == (TrialState.COMPLETE, 0.3, {1: 0.5, 2: 0.4, 3: 0.3})
    assert maker.open().record(first.number).reason == "lost a node"


@pytest.mark.parametrize(
    ("state", "told", "value"),
    [
        (State.COMPLETE, TrialState.COMPLETE, 0.25),
        (State.PRUNED, TrialState.PRUNED, 0.25),
        (State.DIVERGED, TrialState.PRUNED, 0.25),
        (State.FAILED, TrialState.FAIL, None),
    ],
)
def test_ends_are_told_truthfully(state, told, value, make):
    maker = make()
    study = maker.open()
    record = study.ask()
    study.report(record.number, 1, 0.5)
    study.report(record.number, 2, 0.25)
    study.tell(record.number, state, seconds=12.3456, reason=None if state is State.COMPLETE else "because")
    kept = maker.inside().trials[0]
    assert (kept.state, kept.value) == (told, value)
    assert kept.intermediate_values == {1: 0.5, 2: 0.25}
    again = maker.open().record(0)
    assert (again.state, again.curve, again.seconds) == (state, {1: 0.5, 2: 0.25}, 12.346)
    assert again.reason == (None if state is State.COMPLETE else "because")
    assert (again.best_nme, again.epochs) == (0.25, 2)
    assert (study.record(0).state, study.record(0).seconds) == (state, again.seconds)


@pytest.mark.parametrize("state", [State.PRUNED, State.DIVERGED, State.FAILED])
def test_a_trial_may_end_before_its_first_report(state, make):
    maker = make()
    study = maker.open()
    study.tell(study.ask().number, state, seconds=0.0)
    again = maker.open().record(0)
    assert (again.state, again.best_nme, again.epochs, again.curve) == (state, None, 0, {})


@pytest.mark.parametrize("nme", [None, math.inf, math.nan])
def test_complete_needs_a_finite_nme(nme, make):
    study = make().open()
    record = study.ask()
    if nme is not None:
        study.report(record.number, 1, nme)
    with pytest.raises(ValueError, match="trial 0: COMPLETE needs a finite NME"):
        study.tell(record.number, State.COMPLETE, seconds=0.0)


def test_a_known_epoch_is_dropped(make):
    maker = make()
    study = maker.open()
    record = study.ask()
    assert study.report(record.number, 1, 0.5)
    assert not study.report(record.number, 1, 0.1)
    assert study.report(record.number, 2, 0.4)
    again = maker.open()
    assert not again.report(record.number, 2, 0.1)
    assert again.record(0).curve == {1: 0.5, 2: 0.4}
    again.tell(0, State.COMPLETE, seconds=1.0)
    assert not again.report(0, 3, 0.01)  # a late report of a trial that has ended
    assert maker.inside().trials[0].intermediate_values == {1: 0.5, 2: 0.4}


def test_curves_are_of_the_trials_that_have_reported(make):
    study = make().open()
    numbers = [study.ask().number for _ in range(3)]
    study.report(numbers[0], 1, 0.5)
    study.report(numbers[2], 1, 0.4)
    study.tell(numbers[2], State.PRUNED, seconds=1.0)
    assert study.curves == {0: {1: 0.5}, 2: {1: 0.4}}


# A study is not continued under other settings


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"seed": 1, "train": {"optim": {"epochs": 3}}}, "seed: 0 -> 1"),
        ({"seed": 0, "train": {"optim": {"epochs": 4}}}, "train.optim.epochs: 3 -> 4"),
        ({"seed": 0, "train": {"optim": {"epochs": 3}}, "space": {"optim.lr": {}}}, "space: None -> {'optim.lr': {}}"),
    ],
)
def test_other_settings_are_refused_with_the_difference(changed, line, make):
    maker = make()
    run_one(maker.open())
    with pytest.raises(StudyMismatchError) as raised:
        maker.open(changed)
    assert "sweep 'faces' exists with other settings" in str(raised.value)
    assert line in [text.strip() for text in str(raised.value).splitlines()]
    assert "--name NEW" in str(raised.value)
    assert len(maker.open().records) == 1  # the old ones still go on


def test_the_same_settings_as_tuples_or_lists_are_the_same(make):
    maker = make()
    maker.open({"a": (1, 2), "b": {"c": None}})
    assert maker.open({"b": {"c": None}, "a": [1, 2]}).records == []


# Another process


def test_a_lock_of_another_process_is_waited_for(make, tmp_path):
    maker = make()
    study = maker.open()
    record = study.ask()
    code = (
        "import sqlite3, sys, time; c = sqlite3.connect(sys.argv[1]); c.execute('BEGIN EXCLUSIVE');"
        "print('held', flush=True); time.sleep(3)"
    )
    path = maker.url.removeprefix("sqlite:///")
    with subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        started = time.monotonic()
        assert study.report(record.number, 1, 0.5)
        waited = time.monotonic() - started
    study.tell(record.number, State.COMPLETE, seconds=1.0)
    assert waited > 2
    assert maker.open().record(0).curve == {1: 0.5}


# A driver that died while a trial was drawn


@pytest.mark.parametrize("sampler", SLOW_ONES)
@pytest.mark.parametrize("before", [0, STARTUP + 1])
@pytest.mark.parametrize("drawn", [0, 1])
def test_a_trial_that_was_half_drawn_is_the_one_of_an_undisturbed_study(sampler, before, drawn, make, monkeypatch):
    steady, struck = make(sampler), make(sampler)
    study = steady.open()
    expected = [run_one(study) for _ in range(before + 2)]
    study = struck.open()
    assert [run_one(study) for _ in range(before)] == expected[:before]
    draw, done = optuna.trial.Trial._suggest, []

    def dying(self, *arguments):
        if len(done) == drawn:
            raise KeyboardInterrupt
        done.append(arguments)
        return draw(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(optuna.trial.Trial, "_suggest", dying)
        with pytest.raises(KeyboardInterrupt):
            study.ask()
    half = struck.inside().trials[before]
    assert (half.state, len(half.params)) == (TrialState.RUNNING, drawn)

    study = struck.open()
    assert study.record(before).params == expected[before]
    assert struck.open().record(before).params == expected[before]
    study = struck.open()
    finish(study, before)
    assert run_one(study) == expected[before + 1]


@pytest.mark.parametrize("sampler", ["tpe", "gp", "cmaes"])
@pytest.mark.parametrize("reported", [0, 3], ids=["at once", "after three good epochs"])
def test_samplers_stay_away_from_where_trials_diverge(sampler, reported):
    """Everything above a learning rate of 0.012 diverges, a third of the range; the best lies at 0.001."""
    space = dimensions({"optim.lr": {"log_uniform": [1e-4, 1e-1]}, "loss.star_weight": {"log_uniform": [0.01, 100]}})
    late = []
    for seed in range(2 if sampler == "gp" else 3):  # it takes ten seconds a study
        study = Study.open("sqlite://", f"faces{seed}", space, SamplerConfig(name=sampler), seed, {}, [])
        for number in range(40):
            params = study.ask().params
            diverges = params["optim.lr"] > 0.012
            nme = (
                0.05
                + 0.01 * abs(math.log10(params["optim.lr"]) + 3)
                + 0.01 * abs(math.log10(params["loss.star_weight"]))
            )
            for epoch in range(1, 1 + (reported if diverges else 4)):
                study.report(number, epoch, 0.01 if diverges else nme)
            study.tell(number, State.DIVERGED if diverges else State.COMPLETE, seconds=1.0)
            if number >= 20:
                late.append(diverges)
    assert sum(late) / len(late) <= 0.15  # a third, if they did not care
