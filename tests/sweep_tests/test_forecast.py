"""What more budget is expected to bring, by hand."""

import math
import random

import pytest

from sweep.forecast import doubling_text, next_doubling

HALVED = [0.4, 0.3, 0.2, 0.3, 0.25, 0.1, 0.3, 0.3]  # best 0.2 after the first half, 0.1 after the second


@pytest.mark.parametrize(
    ("reported", "gain"),
    [
        (HALVED, 0.1 - 0.1 / math.sqrt(2)),  # the last doubling divided by 2, the next one divides by its root
        ([0.4] * 4 + [0.1] * 4, 0.1 - 0.1 / 2),
        ([0.09] * 8 + [0.04] * 8, 0.04 - 0.04 * 2 / 3),
        ([0.5, 0.4, 0.3, 0.2, 0.2, 0.3, 0.4, 0.5], 0.0),
        ([0.2] * 100, 0.0),
        ([0.4] * 4 + [0.1] + [0.4] * 4, 0.1 - 0.1 / 2),  # of nine the first half is four
    ],
)
def test_half_of_what_the_last_doubling_brought_in_logarithms(reported, gain):
    assert next_doubling(reported) == pytest.approx(gain, abs=1e-12)


@pytest.mark.parametrize("count", range(8))
def test_a_few_epochs_forecast_nothing(count):
    assert next_doubling(HALVED[:count]) is None
    assert doubling_text(HALVED[:count]) == ""


def test_eight_epochs_forecast_something():
    assert next_doubling(HALVED[:8]) is not None


def test_the_order_within_a_half_does_not_matter():
    assert next_doubling(HALVED[3::-1] + HALVED[:3:-1]) == next_doubling(HALVED)


@pytest.mark.parametrize("seed", range(20))
def test_a_doubling_brings_less_than_the_last_one_and_never_makes_it_worse(seed):
    draw = random.Random(seed)
    reported = [draw.uniform(0.03, 0.5) for _ in range(draw.randint(8, 60))]
    gain = next_doubling(reported)
    last = min(reported[: len(reported) // 2]) - min(reported)
    assert -1e-12 < gain < last + 1e-12
    assert gain < min(reported)
    assert (gain > 1e-12) is (last > 0)


def test_the_more_the_last_doubling_brought_the_more_is_expected():
    gains = [next_doubling([before] * 4 + [0.1] * 4) for before in (0.1, 0.11, 0.15, 0.3, 0.9)]
    assert gains == sorted(gains)
    assert len(set(gains)) == len(gains)


def test_the_forecast_does_not_depend_on_the_unit():
    assert next_doubling([value * 100 for value in HALVED]) == pytest.approx(100 * next_doubling(HALVED))


def test_the_forecast_in_words():
    assert doubling_text(HALVED) == (
        "8 epochs spent; the second half of them lowered the best val NME by 10.00 points, as many again are expected "
        "to bring about 2.93 points"
    )
    assert doubling_text([0.2] * 10) == (
        "10 epochs spent; the second half of them lowered the best val NME by 0.00 points, as many again are expected "
        "to bring about 0.00 points"
    )


def test_a_plateau_is_forecast_without_a_sign():
    wrong = [value for value in range(100, 3000) if "-0.00" in doubling_text([value / 10_000] * 8)]
    assert wrong == []
