"""The peers of the benchmark of searches decide as Ray and Optuna do, and its figures are what they are called."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable
from types import SimpleNamespace

import optuna
import pytest
from optuna.pruners import HyperbandPruner
from optuna.samplers import RandomSampler, TPESampler

from benchmarks.peers import Never, OptunasHyperband, OptunasMedian, RaysHalving, run_peer
from benchmarks.search import _SEARCH, CONFIG, CURVES, OURS, VARIANTS, reached_after
from sweep.core.config_file import load_sweep
from sweep.core.search_space import Dimension
from sweep.search.sampling.sampler import distribution
from sweep.simulation.recorded_curves import Curve, RecordedCurves
from sweep.simulation.simulator import History, best_so_far, simulate
from sweep.simulation.surrogate import SmoothTask, SurrogateTask

LR = Dimension("optim.lr", "log_uniform", 1e-4, 1e-2)
WEIGHT = Dimension("loss.star_weight", "log_uniform", 0.01, 100)
SPACE = (WEIGHT, LR)
EPOCHS = 18


def nobody() -> optuna.Trial:
    """A trial for rules that do not look at it."""
    return optuna.create_study().ask()


@pytest.fixture(scope="module")
def task() -> SurrogateTask:
    return SmoothTask(RecordedCurves.load(CURVES), SPACE)


# Ray's halving


def rays(epochs: int) -> Callable[[int, int, float], bool]:
    """Whether Ray's scheduler with its defaults stops a trial at an epoch with an NME."""
    from ray.tune.schedulers import ASHAScheduler

    scheduler = ASHAScheduler(time_attr="epoch", metric="nme", mode="min", max_t=epochs)
    trials: dict[int, SimpleNamespace] = {}

    def stops(number: int, epoch: int, nme: float) -> bool:
        if number not in trials:
            trials[number] = SimpleNamespace(trial_id=str(number))
            scheduler.on_trial_add(None, trials[number])
        return scheduler.on_trial_result(None, trials[number], {"epoch": epoch, "nme": nme}) == "STOP"

    return stops


@pytest.mark.parametrize("ties", [False, True], ids=["no_ties", "ties"])
@pytest.mark.parametrize("epochs", [EPOCHS, 100, 300])
def test_a_trial_is_stopped_where_rays_own_scheduler_stops_it(epochs, ties):
    decided: list[bool] = []
    for seed in range(12):
        draw, theirs, ours, trial = random.Random(seed), rays(epochs), RaysHalving(), nobody()
        live, best, count = dict.fromkeys(range(6), 0), dict.fromkeys(range(6), math.inf), 6
        for _ in range(1500):
            number = draw.choice(sorted(live))
            live[number] += 1
            best[number] = min(best[number], draw.choice([0.1, 0.2, 0.3, 0.4]) if ties else draw.random())
            ended = live[number] == epochs
            if not ended:
                decided.append(ours.stops(trial, live[number], best[number]))
                assert decided[-1] is theirs(number, live[number], best[number]), (seed, number, live[number])
            if ended or decided[-1]:
                del live[number]
                live[count], best[count], count = 0, math.inf, count + 1
    assert 50 < sum(decided) < len(decided) - 50


def test_it_decides_at_powers_of_four_only():
    rule, trial = RaysHalving(), nobody()
    assert not any(rule.stops(trial, epoch, 0.1) for epoch in range(1, 5000))
    assert [epoch for epoch in range(1, 5000) if rule.stops(trial, epoch, 0.9)] == [4**i for i in range(7)]


@pytest.mark.parametrize(
    ("seen", "nme", "stops"),
    [
        ([], 9.0, False),
        ([0.5], 0.5, False),
        ([0.5], 0.51, True),
        ([0.1, 0.2, 0.3, 0.4, 0.5], 0.2, False),
        ([0.5, 0.4, 0.3, 0.2, 0.1], 0.21, True),
        ([0.1, 0.2], 0.12, False),  # a quarter of the way from 0.1 to 0.2
        ([0.1, 0.2], 0.13, True),
    ],
)
def test_worse_than_the_best_quarter_of_those_before_is_stopped(seen, nme, stops):
    rule, trial = RaysHalving(), nobody()
    for value in seen:
        rule.stops(trial, 4, value)
    assert rule.stops(trial, 4, nme) is stops


# Whole searches, against Optuna's own loop


def optunas_loop(
    task: SurrogateTask, seed: int, epochs: int, sampler: Callable, pruner: optuna.pruners.BasePruner | None
) -> tuple[list[float], optuna.Study]:
    """The lowest NME after each epoch of a plain study.optimize; `pruner` None: Optuna's default."""
    found: list[float] = []

    def objective(trial: optuna.Trial) -> float:
        params = {d.key: trial.suggest_float(d.key, d.low, d.high, log=True) for d in SPACE}
        curve = best_so_far(task, params, seed, trial.number)
        for epoch, nme in enumerate(curve, 1):
            trial.report(float(nme), epoch)
            found.append(min([float(nme), *found[-1:]]))
            if len(found) == epochs:
                trial.study.stop()
                raise optuna.TrialPruned
            if epoch < EPOCHS and trial.should_prune():
                raise optuna.TrialPruned
        if len(curve) < EPOCHS:
            raise ArithmeticError
        return float(curve[-1])

    study = optuna.create_study(study_name="peer", sampler=sampler(seed=seed), pruner=pruner)
    study.optimize(objective, catch=ArithmeticError)
    return found, study


@pytest.mark.parametrize(
    ("rule", "sampler", "pruner"),
    [
        pytest.param(OptunasMedian, TPESampler, None, id="tpe_and_median"),
        pytest.param(OptunasMedian, RandomSampler, None, id="random_and_median"),
        pytest.param(OptunasHyperband, TPESampler, HyperbandPruner(1, EPOCHS, 3), id="tpe_and_hyperband"),
        pytest.param(Never, TPESampler, optuna.pruners.NopPruner(), id="tpe"),
        pytest.param(Never, RandomSampler, optuna.pruners.NopPruner(), id="random"),
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_with_one_slot_a_peer_is_optunas_own_loop(rule, sampler, pruner, seed, task):
    found, study = optunas_loop(task, seed, 400, sampler, copy.deepcopy(pruner))
    history = run_peer(SPACE, task, 1, seed, 400, rule(), lambda seed: sampler(seed=seed))
    assert history.found == found
    pruned = sum(t.state is optuna.trial.TrialState.PRUNED for t in study.trials)
    assert (pruned > 5) is issubclass(rule, OptunasMedian)  # the last trial of every loop was cut off


def lookup() -> SurrogateTask:
    """Two learning rates, two epochs: 0.4 then 0.2 at the low one, 0.3 then 0.3 at the high one."""
    curves = [
        Curve({LR.key: 1e-4, WEIGHT.key: 1.0}, 0, (0.4, 0.2), (3600.0, 7200.0)),
        Curve({LR.key: 1e-2, WEIGHT.key: 1.0}, 0, (0.3, 0.3), (3600.0, 7200.0)),
    ]
    return SmoothTask(RecordedCurves(2, tuple(curves)), SPACE)


class Given(RandomSampler):
    """Suggests these learning rates in turn."""

    def __init__(self, rates: list[float]) -> None:
        super().__init__()
        self._rates = iter(rates)

    def sample_independent(self, study, trial, name, given):
        return next(self._rates) if name == LR.key else 1.0


class Spy:
    """Stops nothing and notes what it was asked."""

    told = optuna.trial.TrialState.COMPLETE

    def pruner(self, epochs: int) -> None:
        """Optuna's default."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int, float]] = []

    def stops(self, trial: optuna.Trial, epoch: int, nme: float) -> bool:
        self.asked.append((trial.number, epoch, round(nme, 6)))
        return False


def test_a_search_with_two_slots_by_hand():
    low, high = 1e-4, 1e-2
    spy = Spy()
    history = run_peer(SPACE, lookup(), 2, 0, 6, spy, lambda _: Given([low, high, high, low, low, low]))
    assert history.epochs == [1, 2, 3, 4, 5, 6]
    assert history.hours == [1, 1, 3, 3, 4, 4]
    assert history.found == pytest.approx([0.4, 0.3, 0.2, 0.2, 0.2, 0.2], rel=0.05)
    assert spy.asked == [
        (0, 1, pytest.approx(0.4, rel=0.05)),
        (1, 1, pytest.approx(0.3, rel=0.05)),
        (2, 1, pytest.approx(0.3, rel=0.05)),
        (3, 1, pytest.approx(0.4, rel=0.05)),
    ]
    task = lookup()
    assert history.true[:2] == [task.true_nme({LR.key: rate, WEIGHT.key: 1.0}) for rate in (low, high)]


@pytest.mark.parametrize(
    ("rule", "states"),
    [
        (RaysHalving, {optuna.trial.TrialState.COMPLETE}),
        (OptunasMedian, {optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED}),
    ],
    ids=["ray", "optuna"],
)
def test_stopped_trials_are_told_as_ray_and_optuna_tell_them(rule, states, task, monkeypatch):
    made: list[optuna.Study] = []
    create = optuna.create_study
    monkeypatch.setattr(optuna, "create_study", lambda **given: made.append(create(**given)) or made[-1])
    run_peer(SPACE, task, 2, 0, 300, rule(), lambda seed: RandomSampler(seed=seed))
    ended = [t for t in made[0].trials if t.state.is_finished() and t.state is not optuna.trial.TrialState.FAIL]
    assert {t.state for t in ended} == states
    assert any(max(t.intermediate_values) < EPOCHS for t in ended)
    for trial in ended:
        if trial.state is optuna.trial.TrialState.COMPLETE:
            assert trial.value == trial.intermediate_values[max(trial.intermediate_values)]


@pytest.mark.parametrize("rule", [Never, RaysHalving, OptunasMedian])
def test_a_peer_spends_its_epochs_and_never_gets_worse(rule, task):
    history = run_peer(SPACE, task, 3, 1, 200, rule(), lambda seed: RandomSampler(seed=seed))
    assert history.epochs == list(range(1, 201))
    assert history.hours == sorted(history.hours)
    assert history.found == sorted(history.found, reverse=True)
    assert min(history.true) >= 0.98 * task.best
    again = run_peer(SPACE, task, 3, 1, 200, rule(), lambda seed: RandomSampler(seed=seed))
    assert again == history


def test_a_training_that_diverges_takes_its_time_and_the_search_goes_on():
    curves = [
        Curve({LR.key: 1e-4, WEIGHT.key: 1.0}, 0, (0.4, 0.3, 0.2), (3600.0,) * 3),
        Curve({LR.key: 1e-2, WEIGHT.key: 1.0}, 0, (0.1,), (3600.0,)),
    ]
    task = SmoothTask(RecordedCurves(3, tuple(curves)), SPACE)
    history = run_peer(SPACE, task, 1, 0, 4, Never(), lambda _: Given([1e-2, 1e-4, 1e-4]))
    assert history.epochs == [1, 2, 3, 4]
    assert history.hours == [1, 3, 4, 5]
    assert history.found == pytest.approx([0.4, 0.4, 0.3, 0.2])  # the curve of its neighbour, up to there


# The figures


def told(*values: float) -> History:
    count = len(values)
    return History(list(range(1, count + 1)), [float(i) for i in range(count)], list(values), list(values))


@pytest.mark.parametrize(
    ("target", "epochs"),
    [(0.5, 1), (0.4, 1), (0.39, 2), (0.3, 2), (0.25, 4), (0.2, 4), (0.1, 5), (0.05, None)],
)
def test_a_target_is_reached_when_the_median_stays_below_it_for_good(target, epochs):
    assert reached_after([told(0.4, 0.2, 0.3, 0.2, 0.1)], target) == epochs


def test_the_median_of_the_sweeps_counts():
    histories = [told(0.4, 0.1, 0.1), told(0.4, 0.4, 0.2), told(0.4, 0.4, 0.4)]
    assert reached_after(histories, 0.2) == 3
    assert reached_after(histories, 0.1) is None
    assert reached_after(histories[:1], 0.1) == 2


def test_a_sweep_that_ended_keeps_what_it_had():
    assert reached_after([told(0.4, 0.1), told(0.4, 0.3, 0.2, 0.1, 0.1), told(0.1)], 0.1) == 2
    assert reached_after([told(0.4, 0.2), told(0.4, 0.3, 0.2, 0.1, 0.1)], 0.1) is None


def test_a_median_that_rises_again_at_the_end_has_not_reached_it():
    assert reached_after([told(0.4, 0.1, 0.1, 0.3)], 0.2) is None


def test_the_recorded_task_is_the_one_that_is_described():
    curves, config = RecordedCurves.load(CURVES), load_sweep(CONFIG, {**_SEARCH, "epochs": "120"})
    cells = {tuple(curve.params.values()) for curve in curves.curves}
    assert (len(curves.curves), len(cells), curves.epochs) == (216, 144, config.train.optim.epochs)
    assert {curve.seed for curve in curves.curves} == {0, 1, 2}
    assert tuple(config.dimensions) == SPACE
    assert all(isinstance(distribution(d), optuna.distributions.FloatDistribution) for d in SPACE)
    assert curves.made["config"]["data"]["root"] is None


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_is_a_sweep_that_spends_its_budget(name, task):
    config = load_sweep(CONFIG, {**_SEARCH, **VARIANTS[name], "epochs": "120"})
    history = simulate(config, task, 2, 0)
    assert 90 - EPOCHS < history.epochs[-1] <= 120
    assert (config == load_sweep(CONFIG, {**_SEARCH, "epochs": "120"})) is (name == OURS)
