"""What more budget is expected to bring: by hand, and against all halves counted one by one."""

import itertools
import math
import random
from statistics import fmean

import pytest

from sweep.analysis.budget_forecast import doubling_text, next_doubling
from sweep.core.trial import State, TrialRecord


def by_counting(nmes: list[float]) -> float:
    """The definition: half of the mean log gain of all over every half of them."""
    logs = [math.log(v) for v in nmes]
    halves = [min(half) for half in itertools.combinations(logs, len(logs) // 2)]
    return min(nmes) - min(nmes) * math.exp(-0.5 * (fmean(halves) - min(logs)))


@pytest.mark.parametrize("seed", range(20))
def test_half_of_what_all_bring_over_every_half(seed):
    draw = random.Random(seed)
    nmes = [draw.uniform(0.03, 0.5) for _ in range(draw.randint(2, 11))]
    assert next_doubling(nmes) == pytest.approx(by_counting(nmes), abs=1e-12)


def test_two_trials_by_hand():
    """The lower of two is a quarter of the other: a half has either, on average half of that in logarithms."""
    assert next_doubling([0.4, 0.1]) == pytest.approx(0.1 - 0.1 / math.sqrt(2))


@pytest.mark.parametrize("nmes", [[], [0.1]])
def test_fewer_than_two_trials_forecast_nothing(nmes):
    assert next_doubling(nmes) is None


@pytest.mark.parametrize("seed", range(20))
def test_the_order_does_not_matter_and_nothing_gets_worse(seed):
    draw = random.Random(seed)
    nmes = [draw.uniform(0.03, 0.5) for _ in range(draw.randint(2, 300))]
    gain = next_doubling(nmes)
    assert 0 < gain < min(nmes)
    assert next_doubling(draw.sample(nmes, len(nmes))) == gain
    assert next_doubling([value * 100 for value in nmes]) == pytest.approx(100 * gain)


def test_the_more_trials_are_as_good_the_less_is_expected():
    gains = [next_doubling([0.1] * n + [0.2] * (20 - n)) for n in range(1, 12)]
    assert gains == sorted(gains, reverse=True)
    assert gains[-1] == pytest.approx(0.0, abs=1e-9)  # every half has one of eleven


def test_thousands_of_trials_have_a_forecast():
    nmes = [0.05 + 0.1 * i / 4999 for i in range(5000)]
    gain = next_doubling(nmes)
    assert gain is not None
    assert 0 < gain < 0.0001  # the lowest of any half is among the first few


def records(*nmes: float) -> list[TrialRecord]:
    return [TrialRecord(i, {}, State.COMPLETE, {3: nme}) for i, nme in enumerate(nmes)]


def test_the_forecast_in_words():
    others = [
        TrialRecord(2, {}, State.PRUNED, {1: 0.01}),
        TrialRecord(3, {}, State.COMPLETE, {3: 0.01}, replicate_of=1),
    ]
    assert doubling_text([*records(0.4, 0.1), *others, TrialRecord(4, {})]) == (
        "2 trials are complete; as much budget again is expected to lower the best val NME by about 2.93 points"
    )
    assert doubling_text(records(0.4)) == ""


def test_a_plateau_is_forecast_without_a_sign():
    assert [v for v in range(100, 3000) if "-0.00" in doubling_text(records(*[v / 10_000] * 8))] == []
