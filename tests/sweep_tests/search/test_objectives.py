"""Two objectives, limits, and the order of trials at a rung."""

import math
import random

import pytest

from sweep.core.config import SweepConfig
from sweep.core.sections import LimitsConfig
from sweep.core.trial import State, TrialRecord
from sweep.search.objectives import broken_limit, costs, pareto_front, ranked_rungs, second_value
from sweep.search.sampling.sampler import Sampler
from sweep.search.trial_table import TrialTable
from trainer.config import TrainConfig

SPEED, FAILURES = "images_per_second", "fr10"
METRIC = {SPEED: "images_per_second", FAILURES: "val/fr10"}


def make_config(epochs: int = 4, **changes) -> SweepConfig:
    space = {"optim.lr": {"log_uniform": [1e-4, 1e-2]}}
    return SweepConfig(**{"space": space, "train": {"optim": {"epochs": epochs}}, **changes})


def trial(number: int, nmes: list[float], state: State = State.COMPLETE, **metrics: float) -> TrialRecord:
    curve = dict(enumerate(nmes, start=1))
    names = {"speed": "images_per_second", "fr10": "val/fr10"}
    known = {names[key]: value for key, value in metrics.items()}
    return TrialRecord(number, {"optim.lr": 1e-3 + number * 1e-6}, state, curve, metrics=known)


# The front


def dominated(a: TrialRecord, others: list[TrialRecord], objective: str) -> bool:
    """By definition: another one is as good in both and better in one, or the same and older."""

    def pair(r: TrialRecord) -> tuple[float, float]:
        value = r.metrics[METRIC[objective]]
        return r.curve[max(r.curve)], -value if objective == SPEED else value

    own = pair(a)
    return any(
        pair(b)[0] <= own[0] and pair(b)[1] <= own[1] and (pair(b) != own or b.number < a.number)
        for b in others
        if b is not a
    )


def random_records(seed: int, objective: str, *, ties: bool) -> list[TrialRecord]:
    draw_ = random.Random(seed)
    records = []
    for number in range(draw_.randint(1, 40)):
        nme, other = (draw_.randint(1, 6), draw_.randint(1, 6)) if ties else (draw_.random(), draw_.random())
        state = draw_.choice([State.COMPLETE] * 4 + [State.PRUNED, State.RUNNING, State.FAILED, State.INFEASIBLE])
        metrics = {METRIC[objective]: float(other)} if draw_.random() < 0.9 else {}
        records.append(TrialRecord(number, {}, state, {1: float(nme)}, metrics=metrics))
    return records


@pytest.mark.parametrize("ties", [False, True], ids=["no_ties", "ties"])
@pytest.mark.parametrize("objective", [SPEED, FAILURES])
def test_the_front_is_that_of_the_definition(objective, ties):
    for seed in range(60):
        records = random_records(seed, objective, ties=ties)
        done = [r for r in records if r.state is State.COMPLETE and r.metrics]
        expected = sorted(r.number for r in done if not dominated(r, done, objective))
        front = pareto_front(objective, records)
        assert sorted(r.number for r in front) == expected, seed
        assert [r.best_nme for r in front] == sorted(r.best_nme for r in front)


def test_the_front_of_four_trials_by_hand():
    records = [
        trial(0, [0.05], speed=10),
        trial(1, [0.06], speed=30),
        trial(2, [0.07], speed=20),  # 1 is better in both
        trial(3, [0.08], speed=40),
        trial(4, [0.04], State.PRUNED, speed=99),
    ]
    assert [r.number for r in pareto_front(SPEED, records)] == [0, 1, 3]
    assert [r.number for r in pareto_front(FAILURES, records)] == []


def test_of_two_equal_trials_the_older_is_on_the_front():
    records = [trial(0, [0.05], fr10=0.1), trial(1, [0.05], fr10=0.1), trial(2, [0.05], fr10=0.2)]
    assert [r.number for r in pareto_front(FAILURES, records)] == [0]


def test_nothing_complete_has_no_front():
    assert pareto_front(SPEED, []) == []
    assert pareto_front(SPEED, [trial(0, [0.1], State.RUNNING, speed=1)]) == []


# Costs


def test_more_speed_costs_less_in_logarithms():
    cost = costs(SPEED, [trial(0, [0.1], speed=10), trial(1, [0.1], speed=100), trial(2, [0.1], speed=1000)])
    assert cost[0] > cost[1] > cost[2]
    assert cost[0] - cost[1] == pytest.approx(cost[1] - cost[2]) == pytest.approx(math.log(10))


def test_a_failure_rate_is_its_own_cost():
    assert costs(FAILURES, [trial(0, [0.1], fr10=0.25), trial(1, [0.1], fr10=0.0)]) == {0: 0.25, 1: 0.0}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("objective", [SPEED, FAILURES])
def test_what_is_no_number_has_no_cost(objective, value):
    record = TrialRecord(0, {}, metrics={METRIC[objective]: value})
    assert costs(objective, [record, TrialRecord(1, {})]) == {}
    assert second_value(objective, TrialRecord(1, {})) is None


def test_a_speed_of_zero_costs_much_and_is_a_number():
    assert math.isfinite(costs(SPEED, [trial(0, [0.1], speed=0)])[0])


# Limits


@pytest.mark.parametrize(
    ("limits", "metrics", "broken"),
    [
        ({}, {"memory_gb": 1e9, "images_per_second": 1e-9}, None),
        ({"memory_gb": 4}, {"memory_gb": 4.0}, None),
        ({"memory_gb": 4}, {"memory_gb": 4.01}, "limits.memory_gb = 4: it takes 4.01"),
        ({"memory_gb": 4}, {}, None),
        ({"memory_gb": 4}, {"memory_gb": math.nan}, None),
        ({"step_seconds": 2}, {"images_per_second": 8.0}, None),  # 16 images in 2 seconds
        ({"step_seconds": 2}, {"images_per_second": 4.0}, "limits.step_seconds = 2: it takes 4"),
        ({"step_seconds": 2}, {"memory_gb": 99.0}, None),
        ({"step_seconds": 2}, {"images_per_second": math.nan}, None),
        ({"memory_gb": 1, "step_seconds": 2}, {"memory_gb": 0.5, "images_per_second": 4.0}, "limits.step_seconds"),
        ({"memory_gb": 1, "step_seconds": 9}, {"memory_gb": 2.0, "images_per_second": 4.0}, "limits.memory_gb"),
    ],
)
def test_a_broken_limit_is_named(limits, metrics, broken):
    config = TrainConfig().replace({"optim.batch_size": 16})
    found = broken_limit(LimitsConfig(**limits), metrics, config)
    assert found is None if broken is None else found.startswith(broken)


def test_a_larger_batch_takes_longer():
    limits, metrics = LimitsConfig(step_seconds=1.5), {"images_per_second": 16.0}
    assert broken_limit(limits, metrics, TrainConfig().replace({"optim.batch_size": 16})) is None
    assert broken_limit(limits, metrics, TrainConfig().replace({"optim.batch_size": 32}))


@pytest.mark.parametrize("limits", [{}, {"step_seconds": 1}], ids=["no_limit", "limit"])
def test_a_speed_of_zero_is_no_error(limits):
    found = broken_limit(LimitsConfig(**limits), {"images_per_second": 0.0}, TrainConfig())
    assert (found is not None) is bool(limits)


# In which order trials stand at a rung


def order(config: SweepConfig, records: list[TrialRecord], rung: int) -> list[int]:
    """Numbers of those that came to a rung, the best first."""
    return [number for _, number in dict(ranked_rungs(config, TrialTable(config, records)))[rung].reached]


def two(objective: str) -> SweepConfig:
    return make_config(objectives=["nme", objective])


def test_with_one_objective_the_lower_nme_is_better():
    records = [trial(0, [0.4, 0.3]), trial(1, [0.4, 0.2], State.PAUSED), trial(2, [0.4]), trial(3, [0.5, 0.2])]
    assert order(make_config(), records, 2) == [1, 3, 0]
    assert order(make_config(), records, 4) == []


@pytest.mark.parametrize("state", [State.DIVERGED, State.INFEASIBLE])
@pytest.mark.parametrize("config", [make_config(), two(SPEED)], ids=["one", "two"])
def test_diverged_and_infeasible_trials_are_the_worst(state, config):
    records = [trial(0, [0.1] * 4, speed=1), trial(1, [0.001] * 2, state, speed=9), trial(2, [0.2] * 4, speed=1)]
    assert order(config, [*records, trial(3, [], state)], 2) == [0, 2, 1, 3]
    assert order(config, [*records, trial(3, [], state)], 4) == [0, 2, 1]  # one rung beyond what it came to


def test_with_two_objectives_those_come_first_that_few_beat_in_both():
    records = [
        trial(0, [0.1] * 2, speed=50),
        trial(1, [0.2] * 2, speed=500),
        trial(2, [0.3] * 2, speed=40),
        trial(3, [0.05] * 2, speed=10),
        trial(4, [0.2] * 2),  # without a speed it is beaten by all that are no worse in NME
    ]
    assert order(two(SPEED), records, 2) == [3, 0, 1, 4, 2]
    records[2] = trial(2, [0.3] * 2, speed=400)
    assert order(two(SPEED), records, 2) == [3, 0, 1, 2, 4]


def test_a_lower_failure_rate_is_better():
    records = [trial(0, [0.1] * 2, fr10=0.5), trial(1, [0.2] * 2, fr10=0.0), trial(2, [0.2] * 2, fr10=0.6)]
    assert order(two(FAILURES), records, 2) == [0, 1, 2]


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("objective", [SPEED, FAILURES])
def test_who_is_on_the_front_is_beaten_by_none_at_a_rung_either(objective, seed):
    records = [r for r in random_records(seed, objective, ties=False) if r.state is State.COMPLETE and r.metrics]
    config = SweepConfig(
        space={"optim.lr": {"log_uniform": [1e-4, 1e-2]}},
        objectives=["nme", objective],
        train={"optim": {"epochs": 1}},
    )
    front = {r.number for r in pareto_front(objective, records)}
    assert set(order(config, records, 1)[: len(front)]) >= front


@pytest.mark.parametrize("objectives", [["nme"], ["nme", SPEED]], ids=["one", "two"])
@pytest.mark.parametrize("sampler", ["rank_gp", "tpe", "random"])
def test_a_suggestion_is_the_same_whenever_it_is_asked_and_in_the_space(objectives, sampler):
    config = make_config(objectives=objectives, sampler={"name": sampler, "startup_trials": 2, "random_share": 0.0})
    bad = [trial(3, [0.3], State.DIVERGED), trial(4, [], State.RUNNING), trial(5, [0.1], State.FAILED)]
    speeds = {0: (0.1, 1), 1: (0.2, 100), 2: (0.15, 10)}
    records = [trial(n, [nme] * 4, speed=speed) for n, (nme, speed) in speeds.items()] + bad

    def suggest(attempt: int = 0) -> dict:
        return Sampler(config, TrialTable(config, records)).suggest(6, {}, attempt)

    assert suggest() == suggest() != suggest(9)
    assert 1e-4 <= suggest()["optim.lr"] <= 1e-2


@pytest.mark.parametrize("sampler", ["rank_gp", "tpe"])
def test_what_a_failed_trial_had_reached_does_not_change_what_is_suggested(sampler):
    config = make_config(sampler={"name": sampler, "startup_trials": 2, "random_share": 0.0})
    records = [trial(n, [0.1 + n / 100] * 4) for n in range(4)]
    one, other = (
        Sampler(config, TrialTable(config, [*records, trial(4, curve, State.FAILED)])).suggest(5, {})
        for curve in ([], [0.05, 0.001])
    )
    assert one == other
