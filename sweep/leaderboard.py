"""Ranking of a sweep's trials."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from sweep.records import State, TrialRecord
from sweep.space import format_value, short_name

_ORDER = {State.COMPLETE: 0, State.PRUNED: 1, State.RUNNING: 1, State.DIVERGED: 2, State.FAILED: 3}


def rank(records: Iterable[TrialRecord]) -> list[TrialRecord]:
    """Best first: complete trials by NME, then stopped and running ones by NME, then diverged and failed ones.

    Ties keep the order of their numbers.
    """
    return sorted(records, key=rank_key)


def rank_key(record: TrialRecord) -> tuple[int, float, int]:
    """What `rank` sorts by."""
    nme = record.best_nme if record.best_nme is not None else float("inf")
    return _ORDER[record.state], nme, record.number


def best(records: Iterable[TrialRecord]) -> TrialRecord | None:
    """The winner: the complete trial with the lowest NME; None while no trial is complete."""
    return min((r for r in records if r.state is State.COMPLETE), key=rank_key, default=None)


def markdown(records: Sequence[TrialRecord], rows: int = 10) -> str:
    """The best trials as a Markdown table, under one line that sums the sweep up."""
    ranked = rank(records)
    keys = list(ranked[0].params) if ranked else []
    lines = [
        summary_line(records),
        "",
        "| trial | state | best val NME | epochs | " + " | ".join(short_name(k) for k in keys) + " |",
        "|" + "---|" * (4 + len(keys)),
    ]
    for r in ranked[:rows]:
        nme = "-" if r.best_nme is None else f"{r.best_nme:.2%}"
        values = " | ".join(format_value(r.params[k]) for k in keys)
        lines.append(f"| {r.number} | {r.state.value} | {nme} | {r.epochs} | {values} |")
    return "\n".join(lines)


def summary_line(records: Sequence[TrialRecord]) -> str:
    """Such as '16 trials: 5 complete, 10 pruned, 1 diverged; best val NME 5.92 % (trial 9)'."""
    counts = Counter(r.state for r in records)
    parts = ", ".join(f"{counts[s]} {s.value.lower()}" for s in State if counts[s])
    winner = best(records)
    found = f"; best val NME {winner.best_nme:.2%} (trial {winner.number})" if winner else ""
    return f"{len(records)} trial{'s' * (len(records) != 1)}: {parts or 'none'}{found}"
