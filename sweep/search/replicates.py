"""Repeats with other seeds, and the winner by its mean: the lowest of many noisy NMEs is a lucky one. Pure.

Legend: a configuration is a set of parameters; its runs are the complete trials that have them, each with its seed.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from sweep.core.config import RepeatsConfig
from sweep.core.trial import State, TrialRecord

CONFIDENCE = 0.95  # that a candidate is worse, before it is left out


@dataclass(frozen=True)
class Contender:
    """A configuration, by the first trial that had it, and the NMEs of its runs."""

    trial: TrialRecord
    nmes: tuple[float, ...]

    @property
    def mean(self) -> float:
        return fmean(self.nmes)


def contenders(records: Iterable[TrialRecord]) -> list[Contender]:
    """All configurations with a complete first run: those that were repeated first, each by its mean NME."""
    runs: dict[int, list[float]] = defaultdict(list)
    first: dict[int, TrialRecord] = {}
    for r in records:
        if r.state is State.COMPLETE and r.best_nme is not None:
            runs[r.number if r.repeats is None else r.repeats].append(r.best_nme)
            if r.repeats is None:
                first[r.number] = r
    found = [Contender(trial, tuple(runs[number])) for number, trial in first.items()]
    return sorted(found, key=lambda c: (len(c.nmes) < 2, c.mean, c.trial.number))


def pooled_spread(found: Iterable[Contender]) -> tuple[float, int]:
    """Relative standard deviation of a run about its configuration's mean, and its degrees of freedom (0: unknown)."""
    squares, freedom = 0.0, 0
    for c in found:
        squares += sum((value / c.mean - 1) ** 2 for value in c.nmes)
        freedom += len(c.nmes) - 1
    return (math.sqrt(squares / freedom), freedom) if freedom else (math.nan, 0)


def candidates(config: RepeatsConfig, records: Iterable[TrialRecord]) -> list[Contender]:
    """The configurations that may be trained again: those whose first run was best; who is none will never be one."""
    return sorted(contenders(records), key=lambda c: (c.nmes[0], c.trial.number))[: config.candidates]


def next_repeat(config: RepeatsConfig, records: Sequence[TrialRecord], base_seed: int) -> tuple[int, int] | None:
    """Which trial to repeat next and with which seed; None where no more repeats would tell anything.

    The candidates get their runs in turn. One is left out when its mean is worse than the best mean by more than the
    noise of both explains.
    """
    ordered = candidates(config, records)
    spread, freedom = pooled_spread(ordered)
    best = min((c for c in ordered if len(c.nmes) > 1), key=lambda c: c.mean, default=None)
    alive = [c for c in ordered if best is None or not _worse(c, best, spread, freedom)]
    if len(alive) < 2:
        return None
    begun: dict[int, int] = defaultdict(lambda: 1)
    for r in records:
        if r.repeats is not None:
            begun[r.repeats] += 1
    chosen = min(alive, key=lambda c: begun[c.trial.number])
    number = chosen.trial.number
    return None if begun[number] >= config.runs else (number, base_seed + begun[number])


def _worse(candidate: Contender, best: Contender, spread: float, freedom: int) -> bool:
    from scipy.stats import t

    if freedom < 2 or candidate is best or len(candidate.nmes) < 2:
        return False
    half = float(t.ppf(CONFIDENCE, freedom)) * spread * best.mean
    return candidate.mean - best.mean > half * math.sqrt(1 / len(candidate.nmes) + 1 / len(best.nmes))
