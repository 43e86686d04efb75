"""Two objectives, limits, and what the sampler is shown of trials that did not come to their end."""

import math
import random

import pytest

from sweep.core.config import LimitsConfig, SweepConfig
from sweep.core.trial import State, TrialRecord
from sweep.search.objectives import broken_limit, costs, pareto_front, second_value
from sweep.search.samplers import draw, expected_ends, shown_values
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


# Where a trial is expected to end


def logs(values: dict[int, float]) -> dict[int, float]:
    return {number: pytest.approx(math.log(value)) for number, value in values.items()}


@pytest.mark.parametrize(
    ("curves", "ends"),
    [
        ([], {}),
        ([[0.4, 0.3, 0.2, 0.1]], {0: 0.1}),
        ([[0.4, 0.3]], {0: 0.3}),  # nobody has gone on: it stays
        ([[0.4, 0.3, 0.2, 0.1], [0.8]], {0: 0.1, 1: 0.2}),  # falls to a quarter, as the other did
        ([[0.4, 0.3, 0.2, 0.1], [0.8], [0.6, 0.6]], {0: 0.1, 1: 0.8 * math.sqrt(0.75) / 3, 2: 0.2}),
        # from 1 to 2 the median of 0.5, 0.8 and 1.0, from 2 to 4 of 0.5 and 0.5
        ([[0.4, 0.2, 0.2, 0.1], [0.5, 0.4, 0.3, 0.2], [0.3, 0.3], [0.9]], {0: 0.1, 1: 0.2, 2: 0.15, 3: 0.36}),
        # nobody came from 2 to 4, but from 1 to 2
        ([[0.4, 0.2], [0.9]], {0: 0.2, 1: 0.45}),
    ],
)
def test_expected_ends_of_small_tables(curves, ends):
    records = [trial(n, curve, State.PAUSED) for n, curve in enumerate(curves)]
    assert expected_ends(records, 4) == logs(ends)


def test_a_trial_without_a_usable_nme_is_expected_nowhere():
    records = [trial(0, []), trial(1, [math.inf]), trial(2, [0.0]), trial(3, [0.1])]
    assert expected_ends(records, 4) == logs({3: 0.1})


def test_the_order_of_trials_that_stand_at_the_same_epoch_is_kept():
    rng = random.Random(0)
    records = [trial(n, sorted((rng.random() for _ in range(rng.randint(1, 4))), reverse=True)) for n in range(30)]
    ends = expected_ends(records, 4)
    for epoch in range(1, 5):
        mine = [r for r in records if r.epochs == epoch]
        assert sorted(mine, key=lambda r: ends[r.number]) == sorted(mine, key=lambda r: r.best_nme)


# What the sampler is shown


def test_with_one_objective_the_expected_ends_are_shown():
    records = [trial(0, [0.4, 0.3, 0.2, 0.1]), trial(1, [0.8], State.PAUSED), trial(2, [], State.RUNNING)]
    assert shown_values(make_config(), records, 0.3) == logs({0: 0.1, 1: 0.2})


@pytest.mark.parametrize("state", [State.DIVERGED, State.INFEASIBLE])
def test_diverged_and_infeasible_trials_are_as_bad_as_the_worst(state):
    records = [trial(0, [0.1] * 4), trial(1, [0.2] * 4), trial(2, [0.001], state), trial(3, [], state)]
    shown = shown_values(make_config(), records, 0.3)
    assert shown == logs({0: 0.1, 1: 0.2, 2: 0.2, 3: 0.2})


@pytest.mark.parametrize("state", [State.DIVERGED, State.INFEASIBLE])
def test_only_bad_trials_are_shown_too(state):
    assert shown_values(make_config(), [trial(0, [0.001], state)], 0.3).keys() == {0}


def test_the_curve_of_a_diverged_trial_tells_nothing_of_the_others():
    good = [trial(0, [0.4, 0.3, 0.2, 0.1]), trial(1, [0.8], State.PAUSED)]
    bad = trial(2, [0.4, 0.001], State.DIVERGED)
    with_bad = shown_values(make_config(), [*good, bad], 0.3)
    assert {n: v for n, v in with_bad.items() if n < 2} == shown_values(make_config(), good, 0.3)


def test_a_hopeless_trial_stands_no_further_than_a_factor_of_e_above_the_median():
    records = [trial(n, [nme] * 4) for n, nme in enumerate((0.10, 0.11, 0.12, 5.0, 0.105))]
    assert shown_values(make_config(), records, 0.3) == logs({0: 0.10, 1: 0.11, 2: 0.12, 3: 0.11 * math.e, 4: 0.105})


def two(objective: str) -> SweepConfig:
    return make_config(objectives=["nme", objective])


SPEEDS = [trial(0, [0.1] * 4, speed=1), trial(1, [0.2] * 4, speed=100), trial(2, [0.1 * math.sqrt(2)] * 4, speed=10)]


@pytest.mark.parametrize("weight", [0.0, 0.25, 0.5, 1.0])
def test_two_objectives_are_weighed_by_hand(weight):
    shown = shown_values(two(SPEED), SPEEDS, weight)
    units = {0: (0.0, 1.0), 1: (1.0, 0.0), 2: (0.5, 0.5)}  # in logarithms, each from 0 to 1
    for number, (first, second) in units.items():
        pair = weight * first, (1 - weight) * second
        assert shown[number] == pytest.approx(max(pair) + 0.05 * sum(pair))


def test_the_weight_decides_which_end_of_the_front_is_best():
    def favourite(weight: float) -> int:
        shown = shown_values(two(SPEED), SPEEDS, weight)
        return min(shown, key=shown.get)

    assert [favourite(w) for w in (0.05, 0.5, 0.95)] == [1, 2, 0]


def test_a_failure_rate_is_weighed_as_it_is():
    records = [trial(0, [0.1] * 4, fr10=0.5), trial(1, [0.2] * 4, fr10=0.0), trial(2, [0.2] * 4, fr10=0.25)]
    shown = shown_values(two(FAILURES), records, 0.0)
    assert shown == {0: pytest.approx(1.05), 1: pytest.approx(0.0), 2: pytest.approx(0.525)}


@pytest.mark.parametrize("state", [State.DIVERGED, State.INFEASIBLE])
def test_with_two_objectives_bad_trials_are_as_bad_as_the_worst_too(state):
    bad = trial(3, [0.001], state, speed=1e6)
    for weight in (0.0, 0.3, 1.0):
        shown = shown_values(two(SPEED), [*SPEEDS, bad], weight)
        assert shown[3] == max(shown[n] for n in range(3))
        assert {n: shown[n] for n in range(3)} == shown_values(two(SPEED), SPEEDS, weight)


def test_a_trial_without_the_second_value_counts_as_the_worst_in_it():
    shown = shown_values(two(SPEED), [*SPEEDS, trial(3, [0.1] * 4)], 0.5)
    assert shown[3] == pytest.approx(shown[0])


def test_two_objectives_with_few_trials():
    assert shown_values(two(SPEED), [], 0.5) == {}
    assert shown_values(two(SPEED), [trial(0, [], State.RUNNING)], 0.5) == {}
    assert shown_values(two(SPEED), SPEEDS[:1], 0.5) == {0: 0.0}


@pytest.mark.parametrize("objectives", [["nme"], ["nme", SPEED]], ids=["one", "two"])
@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_draw_is_the_same_whenever_it_is_asked_and_in_the_space(objectives, sampler):
    config = make_config(objectives=objectives, sampler={"name": sampler, "startup_trials": 2})
    bad = [trial(3, [0.3], State.DIVERGED), trial(4, [], State.RUNNING), trial(5, [0.1], State.FAILED)]
    records = [*SPEEDS, *bad]
    first = draw(config, records, 6)
    assert first == draw(config, records, 6)
    assert first != draw(config, records, 6, attempt=1)
    assert 1e-4 <= first["optim.lr"] <= 1e-2


def test_failed_trials_do_not_change_what_is_drawn():
    config = make_config(sampler={"name": "tpe", "startup_trials": 2})
    failed = trial(3, [0.05, 0.001], State.FAILED)
    paused = [*SPEEDS, trial(4, [0.3], State.PAUSED)]
    assert draw(config, [*paused, failed], 9) == draw(config, paused, 9)
