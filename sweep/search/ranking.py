"""Ranking of a sweep's trials."""

from __future__ import annotations

from collections.abc import Sequence

from sweep.core.trial import State, TrialRecord
from sweep.search.replicates import contenders

_ORDER = {
    State.COMPLETE: 0,
    State.PRUNED: 1,
    State.PAUSED: 1,
    State.RUNNING: 1,
    State.INFEASIBLE: 2,
    State.DIVERGED: 3,
    State.FAILED: 4,
}


def rank(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Best first: complete trials, then stopped, paused and running ones by NME, then those that cannot be used.

    Of the complete ones, configurations that were repeated with other seeds come first, by their mean NME, each with
    its repeats behind it; the others come by their NME. Ties keep the order of their numbers.
    """
    places = {c.trial.number: i for i, c in enumerate(contenders(records))}

    def key(r: TrialRecord) -> tuple[int, int, int, float, int]:
        first = r.number if r.repeats is None else r.repeats
        place = places.get(first, len(places)) if r.state is State.COMPLETE else 0
        return _ORDER[r.state], place, first if r.state is State.COMPLETE else 0, *standing(r)[1:]

    return sorted(records, key=key)


def standing(record: TrialRecord) -> tuple[int, float, int]:
    """What trials are compared by one by one: state, NME, number."""
    nme = record.best_nme if record.best_nme is not None else float("inf")
    return _ORDER[record.state], nme, record.number


def best(records: Sequence[TrialRecord]) -> TrialRecord | None:
    """The winner; None while no trial is complete.

    Of the configurations that were repeated, and those that are surely better, the one with the lowest mean NME, by its
    first trial; where none was repeated, the complete trial with the lowest NME.
    """
    complete = [r for r in records if r.state is State.COMPLETE and r.best_nme is not None]
    if any(r.repeats is not None for r in complete) and (found := contenders(complete)):
        return found[0].trial
    return min((r for r in complete if r.repeats is None), key=standing, default=None)
