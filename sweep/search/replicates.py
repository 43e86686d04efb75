"""Repeats with other seeds, and the winner by its mean: the lowest of many noisy NMEs is a lucky one. Pure.

They are paid for where they can change the choice: where seeds differ by as much as the best configurations do.

Legend: a configuration is a set of parameters; its runs are the complete trials that have them, each with its seed.
"""

from __future__ import annotations

import functools
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from sweep.core.config import RepeatsConfig
from sweep.core.trial import State, TrialRecord

CONFIDENCE = 0.95  # that one configuration is worse than another, before the other is preferred


@dataclass(frozen=True)
class Contender:
    """A configuration, by the first trial that had it, and the NMEs of its runs."""

    trial: TrialRecord
    nmes: tuple[float, ...]

    @property
    def mean(self) -> float:
        return fmean(self.nmes)


def contenders(records: Iterable[TrialRecord]) -> list[Contender]:
    """All configurations with a complete first run, each by its mean NME; those that were repeated come first.

    With them comes what was not repeated, but is better than the best of them by more than the noise of both explains.
    """
    runs: dict[int, list[float]] = defaultdict(list)
    first: dict[int, TrialRecord] = {}
    for r in records:
        if r.state is State.COMPLETE and r.best_nme is not None:
            runs[r.number if r.repeats is None else r.repeats].append(r.best_nme)
            if r.repeats is None:
                first[r.number] = r
    found = [Contender(trial, tuple(runs[number])) for number, trial in first.items()]
    spread, freedom = pooled_spread(found)
    best = min((c for c in found if len(c.nmes) > 1), key=lambda c: c.mean, default=None)

    def place(c: Contender) -> tuple[bool, float, int]:
        sure = len(c.nmes) > 1 or (best is not None and _worse(best, c, spread, freedom))
        return not sure, c.mean, c.trial.number

    return sorted(found, key=place)


def pooled_spread(found: Iterable[Contender]) -> tuple[float, int]:
    """Relative standard deviation of a run about its configuration's mean, and its degrees of freedom (0: unknown)."""
    squares, freedom = 0.0, 0
    for c in found:
        squares += sum((value / c.mean - 1) ** 2 for value in c.nmes)
        freedom += len(c.nmes) - 1
    return (math.sqrt(squares / freedom), freedom) if freedom else (math.nan, 0)


def candidates(config: RepeatsConfig, records: Iterable[TrialRecord]) -> list[Contender]:
    """The configurations that may be trained again: those whose first run was best; who is none will never be one."""
    return _first(config, contenders(records))


def _first(config: RepeatsConfig, found: Iterable[Contender]) -> list[Contender]:
    return sorted(found, key=lambda c: (c.nmes[0], c.trial.number))[: config.candidates]


def knows_noise(records: Iterable[TrialRecord]) -> bool:
    """Whether a configuration was trained twice."""
    return any(r.repeats is not None and r.state is State.COMPLETE for r in records)


def next_repeat(config: RepeatsConfig, records: Sequence[TrialRecord], base_seed: int) -> tuple[int, int] | None:
    """Which trial to repeat next and with which seed; None where no repeat would tell anything, as far as is known.

    The first one, of the best candidate, tells how large the noise is: until it has, there is no other. Then candidates
    get their runs in turn. One is left out when its mean is worse than the best by more than the noise explains.
    """
    found = contenders(records)
    ordered = _first(config, found)
    if len(ordered) < 2:
        return None
    spread, freedom = pooled_spread(found)
    if not freedom and any(r.repeats is not None and not r.state.finished for r in records):
        return None
    best = min(ordered, key=lambda c: c.mean)
    alive = [c for c in ordered if not _worse(c, best, spread, freedom)] if freedom else ordered[:1]
    if freedom and len(alive) < 2:
        return None
    begun = Counter(r.repeats for r in records if r.repeats is not None)
    chosen = min(alive, key=lambda c: begun[c.trial.number])
    number = chosen.trial.number
    runs = 1 + begun[number]
    return None if runs >= (config.runs if freedom else 2) else (number, base_seed + runs)


def _worse(candidate: Contender, best: Contender, spread: float, freedom: int) -> bool:
    """Whether it is by more than the noise of both explains (Student's t, one-sided)."""
    if not freedom or candidate is best:
        return False
    half = _quantile(freedom) * spread * best.mean
    return candidate.mean - best.mean > half * math.sqrt(1 / len(candidate.nmes) + 1 / len(best.nmes))


@functools.cache
def _quantile(freedom: int) -> float:
    from scipy.stats import t

    return float(t.ppf(CONFIDENCE, freedom))
