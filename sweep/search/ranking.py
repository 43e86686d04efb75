"""Ranking of a sweep's trials."""

from __future__ import annotations

from collections.abc import Sequence

from sweep.core.trial import State, TrialRecord
from sweep.search.replicates import runs_by_config


def rank(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Best first: complete trials; pruned, paused and running ones by NME; then infeasible, diverged and failed ones.

    Of the complete ones, configurations that were repeated with other seeds come first, by their mean NME, each with
    its repeats behind it; the others come by their NME. Ties keep the order of their numbers.
    """
    position = {c.trial.number: i for i, c in enumerate(runs_by_config(records))}

    def key(r: TrialRecord) -> tuple[int, int, int, float, int]:
        first = r.number if r.replicate_of is None else r.replicate_of
        if r.state is not State.COMPLETE:
            return r.state.traits.rank, 0, 0, *sort_key(r)[1:]
        return r.state.traits.rank, position.get(first, len(position)), first, *sort_key(r)[1:]

    return sorted(records, key=key)


def sort_key(record: TrialRecord) -> tuple[int, float, int]:
    """Orders single trials: by state, NME, number."""
    nme = record.best_nme if record.best_nme is not None else float("inf")
    return record.state.traits.rank, nme, record.number


def best(records: Sequence[TrialRecord]) -> TrialRecord | None:
    """The winner; None while no trial is complete.

    Among the configurations with repeats, and those better than them beyond noise, the one with the lowest mean NME,
    named by its first trial; without repeats, the complete trial with the lowest NME.
    """
    complete = [r for r in records if r.state is State.COMPLETE and r.best_nme is not None]
    if any(r.replicate_of is not None for r in complete) and (found := runs_by_config(complete)):
        return found[0].trial
    return min((r for r in complete if r.replicate_of is None), key=sort_key, default=None)
