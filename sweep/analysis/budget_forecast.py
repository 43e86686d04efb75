"""Forecasts the gain of doubling the budget, from the gain of all trials over half of them. Pure functions.

The lowest NME of n trials falls with every doubling of n, by less each time. The gain of the last doubling is the
expectation over all halves of the trials, whatever their order. Simulated on recorded curves (100 to 600 epochs, 40
sweeps each), the mean forecast was 0.8 to 1.6 times the gain of as many further epochs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from sweep.core.trial import State, TrialRecord

_PERSISTENCE = 0.5  # gain of a doubling over that of the one before, in logarithms; measured as above


def next_doubling(nmes: Sequence[float]) -> float | None:
    """Expected gain in the lowest NME (a fraction) by another doubling of the budget; None if there are too few trials.

    Args:
        nmes: of all complete trials, without repeats.
    """
    if len(nmes) < 2:
        return None
    logs = sorted(map(math.log, nmes))
    last = max(0.0, _lowest_of_half(logs) - logs[0])  # negative by rounding
    return math.exp(logs[0]) * -math.expm1(-_PERSISTENCE * last)


def _lowest_of_half(values: Sequence[float]) -> float:
    """Expected minimum of a random half of ascending values: value i, if all others of the half lie above it."""
    count, half = len(values), len(values) // 2
    expected, chance = 0.0, half / count  # probability of value 0; binomials overflow a float above 1000 values
    for i, value in enumerate(values[: count - half + 1]):
        expected += value * chance
        chance *= (count - half - i) / max(1, count - 1 - i)
    return expected


def doubling_text(records: Iterable[TrialRecord]) -> str:
    """The forecast in words; empty if there are too few trials."""
    ends = [r.best_nme for r in records if r.state is State.COMPLETE and r.replicate_of is None and r.best_nme]
    gain = next_doubling(ends)
    if gain is None:
        return ""
    return (
        f"{len(ends)} trials are complete; as much budget again is expected to lower the best val NME by about "
        f"{gain * 100:.2f} points"
    )
