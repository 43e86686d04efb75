"""Repeats of the best configurations with other seeds; the winner has the lowest mean. Pure functions.

The lowest of many noisy NMEs is a lucky one. Repeats are trained only where they may change the winner: where the NME
varies between seeds by as much as between the best configurations.

Legend: a configuration is a set of parameters; its runs are the complete trials with them, each with its own seed.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from sweep.core.sections import RepeatsConfig
from sweep.core.student_t import margin
from sweep.core.trial import State, TrialRecord

CONFIDENCE = 0.95  # that a configuration is worse than another, one-sided


@dataclass(frozen=True)
class ConfigRuns:
    """A configuration: its first trial, and the NMEs of all its runs (fractions)."""

    trial: TrialRecord
    nmes: tuple[float, ...]

    @property
    def mean(self) -> float:
        return fmean(self.nmes)


def runs_by_config(records: Iterable[TrialRecord]) -> list[ConfigRuns]:
    """All configurations with a complete first run by mean NME, those with repeats first.

    A configuration without repeats that is better than the best repeated one by more than noise is ranked among those.
    """
    runs: dict[int, list[float]] = defaultdict(list)
    first: dict[int, TrialRecord] = {}
    for r in records:
        if r.state is State.COMPLETE and r.best_nme is not None:
            runs[r.number if r.replicate_of is None else r.replicate_of].append(r.best_nme)
            if r.replicate_of is None:
                first[r.number] = r
    found = [ConfigRuns(trial, tuple(runs[number])) for number, trial in first.items()]
    spread, freedom = pooled_spread(found)
    best = min((c for c in found if len(c.nmes) > 1), key=lambda c: c.mean, default=None)

    def key(c: ConfigRuns) -> tuple[bool, float, int]:
        sure = len(c.nmes) > 1 or (best is not None and _worse(best, c, spread, freedom))
        return not sure, c.mean, c.trial.number

    return sorted(found, key=key)


def pooled_spread(found: Iterable[ConfigRuns]) -> tuple[float, int]:
    """Relative standard deviation of a run about its configuration's mean, and its degrees of freedom (0: unknown)."""
    squares, freedom = 0.0, 0
    for c in found:
        squares += sum((value / c.mean - 1) ** 2 for value in c.nmes)
        freedom += len(c.nmes) - 1
    return (math.sqrt(squares / freedom), freedom) if freedom else (math.nan, 0)


def candidates(config: RepeatsConfig, records: Iterable[TrialRecord]) -> list[ConfigRuns]:
    """The configurations that may be repeated: those with the best first runs (repeats do not change them)."""
    return _first(config, runs_by_config(records))


def _first(config: RepeatsConfig, found: Iterable[ConfigRuns]) -> list[ConfigRuns]:
    return sorted(found, key=lambda c: (c.nmes[0], c.trial.number))[: config.candidates]


def knows_noise(records: Iterable[TrialRecord]) -> bool:
    """Whether a configuration has a complete repeat, so that the noise between seeds is known."""
    return any(r.replicate_of is not None and r.state is State.COMPLETE for r in records)


def next_replicate(config: RepeatsConfig, records: Sequence[TrialRecord], base_seed: int) -> tuple[int, int] | None:
    """Which trial to repeat next and with which seed; None if no repeat is expected to change the winner.

    The first repeat, of the best candidate, measures the noise; no other starts before it has ended. Then the
    candidates are repeated in turn, without those whose mean is worse than the best by more than noise.
    """
    found = runs_by_config(records)
    ordered = _first(config, found)
    if len(ordered) < 2:
        return None
    spread, freedom = pooled_spread(found)
    if not freedom and any(r.replicate_of is not None and not r.state.finished for r in records):
        return None
    best = min(ordered, key=lambda c: c.mean)
    alive = [c for c in ordered if not _worse(c, best, spread, freedom)] if freedom else ordered[:1]
    if freedom and len(alive) < 2:
        return None
    begun = Counter(r.replicate_of for r in records if r.replicate_of is not None)
    chosen = min(alive, key=lambda c: begun[c.trial.number])
    number = chosen.trial.number
    runs = 1 + begun[number]
    return None if runs >= (config.runs if freedom else 2) else (number, base_seed + runs)


def _worse(candidate: ConfigRuns, best: ConfigRuns, spread: float, freedom: int) -> bool:
    """Whether the candidate is worse than the best by more than noise (Student's t, one-sided)."""
    if not freedom or candidate is best:
        return False
    standard_error = spread * best.mean * math.sqrt(1 / len(candidate.nmes) + 1 / len(best.nmes))
    return candidate.mean - best.mean > margin(standard_error, freedom, CONFIDENCE)
