"""Rules that pause trials or stop them early, against tables worked out by hand."""

import copy
import itertools
import math
import random

import pytest

from sweep.core.sections import PrunerConfig
from sweep.search.pruners import should_prune
from sweep.search.rungs import Rung, rung_epochs


def halving(min_epochs=1, reduction=2) -> PrunerConfig:
    return PrunerConfig(name="successive_halving", pause=False, min_epochs=min_epochs, reduction=reduction)


def prunes(config: PrunerConfig, number: int, epoch: int, curves: dict[int, dict[int, float]]) -> bool:
    """Whether a trial of a long training is stopped for good."""
    return should_prune(config, rung_epochs(config.min_epochs, config.reduction, 1000), number, epoch, curves)


def flat(values: dict[int, float], epochs: int) -> dict[int, dict[int, float]]:
    """Curves that keep one value for so many epochs."""
    return {number: dict.fromkeys(range(1, epochs + 1), value) for number, value in values.items()}


def stopped(config: PrunerConfig, epoch: int, curves: dict[int, dict[int, float]]) -> set[int]:
    return {number for number in curves if epoch in curves[number] and prunes(config, number, epoch, curves)}


@pytest.mark.parametrize(
    ("others", "own", "should_continue"),
    [
        # reduction 2: of n at a rung the best ceil(n / 2) go on
        ([], 0.9, True),  # 1 of 1
        ([0.5], 0.4, True),  # 1 of 2
        ([0.5], 0.6, False),
        ([0.5], 0.5, True),  # a tie goes on
        ([0.1, 0.2], 0.15, True),  # 2 of 3
        ([0.1, 0.2], 0.25, False),
        ([0.1, 0.2, 0.3], 0.15, True),  # 2 of 4
        ([0.1, 0.2, 0.3], 0.25, False),
        ([0.1, 0.2, 0.3, 0.4], 0.25, True),  # 3 of 5
        ([0.1, 0.2, 0.3, 0.4], 0.35, False),
    ],
)
def test_the_better_half_of_a_rung_goes_on(others, own, should_continue):
    curves = {number: {1: value} for number, value in enumerate(others)} | {9: {1: own}}
    assert prunes(halving(), 9, 1, curves) is not should_continue


@pytest.mark.parametrize(
    ("count", "go_on"), [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (6, 2), (7, 3), (8, 3), (9, 3), (10, 4)]
)
def test_one_third_rounded_up_goes_on(count, go_on):
    curves = flat({number: (number + 1) / 100 for number in range(count)}, epochs=2)
    assert stopped(halving(min_epochs=2, reduction=3), 2, curves) == set(range(go_on, count))


def test_nothing_stops_before_the_first_rung():
    curves = flat({0: 0.1, 1: 0.2, 2: 0.9}, epochs=2)
    assert stopped(halving(min_epochs=3), 1, curves) == set()
    assert stopped(halving(min_epochs=3), 2, curves) == set()


def test_the_value_at_the_rung_counts_not_the_last_one():
    curves = {0: {1: 0.5, 2: 0.4}, 1: {1: 0.4, 2: 0.39}, 2: {1: 0.6, 2: 0.5, 3: 0.01}}
    assert prunes(halving(min_epochs=2), 2, 3, curves)  # 0.5 at epoch 2 is the worst of three; two go on
    assert not prunes(halving(min_epochs=2), 0, 2, curves)


def test_the_first_at_a_rung_is_compared_again_when_others_have_come():
    curves = {0: {1: 0.8}}
    assert not prunes(halving(), 0, 1, curves)
    curves = {0: {1: 0.8, 2: 0.7, 3: 0.6}, 1: {1: 0.3}, 2: {1: 0.2}}
    assert not prunes(halving(), 0, 3, curves)  # alone at its last rung, epoch 2
    curves[1][2] = 0.2
    assert prunes(halving(), 0, 3, curves)  # now one of two goes on there


def test_a_table_of_four_trials_over_four_epochs():
    curves = {
        0: {1: 0.40, 2: 0.30, 3: 0.20, 4: 0.10},
        1: {1: 0.30, 2: 0.29, 3: 0.28, 4: 0.27},
        2: {1: 0.20, 2: 0.19, 3: 0.18, 4: 0.17},
        3: {1: 0.50, 2: 0.09, 3: 0.08, 4: 0.07},
    }
    assert stopped(halving(), 1, curves) == {0, 3}  # at epoch 1: 0.20 and 0.30 go on
    assert stopped(halving(), 2, curves) == {0, 1}  # at epoch 2: 0.09 and 0.19
    assert stopped(halving(), 3, curves) == {0, 1}  # still the rung of epoch 2
    assert stopped(halving(), 4, curves) == {1, 2}  # at epoch 4: 0.07 and 0.10


@pytest.mark.parametrize(
    ("others", "own", "stops"),
    [
        ([0.1, 0.2, 0.3], 0.9, False),  # three others, four are needed
        ([0.1, 0.2, 0.3, 0.4], 0.25, False),  # the median of an even number lies between two: 0.25
        ([0.1, 0.2, 0.3, 0.4], 0.26, True),
        ([0.1, 0.2, 0.3, 0.4, 0.5], 0.30, False),  # as good as the median goes on
        ([0.1, 0.2, 0.3, 0.4, 0.5], 0.31, True),
        ([0.1, 0.1, 0.1, 0.9, 0.9], 0.11, True),
    ],
)
def test_median_stops_what_is_worse_than_half_of_the_others(others, own, stops):
    config = PrunerConfig(name="median", min_epochs=2, startup_trials=4)
    curves = flat(dict(enumerate(others)) | {9: own}, epochs=3)
    assert [prunes(config, 9, epoch, curves) for epoch in (1, 2, 3)] == [False, stops, stops]


def test_median_counts_only_who_came_as_far():
    config = PrunerConfig(name="median", min_epochs=1, startup_trials=2)
    curves = {0: {1: 0.1, 2: 0.1}, 1: {1: 0.1}, 2: {1: 0.5, 2: 0.4}}
    assert prunes(config, 2, 1, curves)
    assert not prunes(config, 2, 2, curves)  # one other at epoch 2, two are needed


def test_none_stops_nothing():
    curves = flat({0: 0.1, 1: 0.2, 2: math.inf}, epochs=9)
    for epoch in range(1, 10):
        assert stopped(PrunerConfig(name="none"), epoch, curves) == set()


ALL = [
    halving(),
    halving(2, 3),
    PrunerConfig(name="median", min_epochs=1, startup_trials=2),
    PrunerConfig(name="none"),
]


def random_curves(seed: int) -> dict[int, dict[int, float]]:
    draw = random.Random(seed)
    curves: dict[int, dict[int, float]] = {}
    for number in range(8):
        best, curves[number] = 1.0, {}
        for epoch in range(1, draw.randint(2, 9)):
            best = min(best, draw.random())
            curves[number][epoch] = best
    return curves


@pytest.mark.parametrize("config", ALL, ids=lambda config: config.name)
@pytest.mark.parametrize("seed", range(5))
def test_asking_again_gives_the_same_and_changes_nothing(config, seed):
    curves = random_curves(seed)
    before = copy.deepcopy(curves)
    questions = [(number, epoch) for number, curve in curves.items() for epoch in curve]
    answers = [prunes(config, *question, curves) for question in questions]
    assert [prunes(config, *question, curves) for question in questions] == answers
    assert [prunes(config, *question, curves) for question in reversed(questions)] == answers[::-1]
    assert curves == before


@pytest.mark.parametrize("config", ALL, ids=lambda config: config.name)
def test_the_order_in_which_trials_reported_does_not_matter(config):
    curves = {number: curve for number, curve in random_curves(3).items() if number < 5}
    expected = {n: prunes(config, n, max(curves[n]), curves) for n in curves}
    for order in itertools.permutations(curves):
        shuffled = {number: curves[number] for number in order}
        assert {n: prunes(config, n, max(curves[n]), shuffled) for n in curves} == expected


@pytest.mark.parametrize("config", ALL, ids=lambda config: config.name)
def test_the_best_of_all_is_never_stopped(config):
    for seed in range(20):
        curves = random_curves(seed) | {8: dict.fromkeys(range(1, 10), 1e-9)}
        assert not any(prunes(config, 8, epoch, curves) for epoch in range(1, 10))


def test_an_infinite_value_is_the_worst():
    curves = {0: {1: 0.5}, 1: {1: math.inf}}
    assert stopped(halving(), 1, curves) == {1}


# Pausing


def pausing(**changes) -> PrunerConfig:
    return PrunerConfig(pause=True, **{"min_epochs": 1, "reduction": 3, **changes})


@pytest.mark.parametrize("config", [pausing(), pausing(reduction=2)])
def test_who_pauses_never_stops_a_trial_for_good(config):
    curves = flat({number: number / 10 for number in range(1, 10)}, epochs=9)
    assert all(stopped(config, epoch, curves) == set() for epoch in range(1, 10))


def promotable(values: dict[int, float], reduction: int = 3) -> set[int]:
    """Of trials that all wait at a rung, those that deserve to go on."""
    return {number for _, number in Rung.of(values, values).promotable(reduction)}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, set()),
        ({0: 0.1}, set()),
        ({0: 0.1, 1: 0.2}, set()),  # a third of two, rounded down
        ({0: 0.3, 1: 0.1, 2: 0.2}, {1}),
        ({4: 0.3, 9: 0.1, 2: 0.2, 7: 0.4, 5: 0.5}, {9}),
        ({0: 0.6, 1: 0.5, 2: 0.4, 3: 0.3, 4: 0.2, 5: 0.1}, {4, 5}),
        ({0: 0.1, 1: 0.1, 2: 0.1}, {0}),  # of equal ones the oldest
        ({8: 0.1, 3: 0.1, 5: 0.1, 1: 0.2, 2: 0.2, 4: 0.2}, {3, 5}),
        ({0: math.inf, 1: math.inf, 2: 0.9}, {2}),
        ({0: math.inf, 1: math.inf, 2: math.inf}, {0}),
    ],
)
def test_the_best_third_of_a_rung_is_promoted(values, expected):
    assert promotable(values) == expected


@pytest.mark.parametrize(("reduction", "count"), [(2, 6), (3, 4), (4, 3), (5, 2), (12, 1), (13, 0)])
def test_the_reduction_says_how_many_are_promoted(reduction, count):
    assert promotable({number: number / 100 for number in range(12)}, reduction) == set(range(count))


@pytest.mark.parametrize("seed", range(30))
def test_promoted_are_the_first_whatever_the_order(seed):
    draw = random.Random(seed)
    reduction = draw.randint(2, 5)
    values = {n: draw.choice([0.1, 0.2, draw.random()]) for n in draw.sample(range(100), draw.randint(0, 40))}
    promoted = promotable(values, reduction)
    assert promotable(dict(draw.sample(list(values.items()), len(values))), reduction) == promoted
    ordered = sorted(values, key=lambda n: (values[n], n))
    assert promoted == set(ordered[: len(values) // reduction])
