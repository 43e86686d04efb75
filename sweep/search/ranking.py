"""Ranking of a sweep's trials."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from sweep.objectives import pareto_front, second_value
from sweep.records import State, TrialRecord
from sweep.repeats import contenders, mean_interval, pooled_spread
from sweep.space import format_value, short_name

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

    The configuration with the lowest mean NME of those that were repeated, by its first trial; where none was repeated,
    the complete trial with the lowest NME.
    """
    complete = [r for r in records if r.state is State.COMPLETE and r.best_nme is not None]
    again = {r.repeats for r in complete if r.repeats is not None}
    if again and (found := contenders(r for r in complete if r.number in again or r.repeats in again)):
        return found[0].trial
    return min((r for r in complete if r.repeats is None), key=standing, default=None)


def markdown(records: Sequence[TrialRecord], objectives: Sequence[str] = ("nme",), rows: int = 10) -> str:
    """The best trials as a Markdown table, under one line that sums the sweep up and what else there is to say."""
    ranked = rank(records)
    keys = list(dict.fromkeys(key for r in ranked for key in r.params))
    lines = [
        summary_line(records),
        *notes(records, objectives),
        "",
        "| trial | state | best val NME | epochs | " + " | ".join(short_name(k) for k in keys) + " |",
        "|" + "---|" * (4 + len(keys)),
    ]
    for r in ranked[:rows]:
        nme = "-" if r.best_nme is None else f"{r.best_nme:.2%}"
        values = " | ".join(format_value(r.params[k]) if k in r.params else "-" for k in keys)
        lines.append(f"| {r.number} | {r.state.value} | {nme} | {r.epochs} | {values} |")
    return "\n".join(lines)


def summary_line(records: Sequence[TrialRecord]) -> str:
    """Such as '16 trials: 5 complete, 10 pruned, 1 diverged; best val NME 5.92 % (trial 9)'."""
    counts = Counter(r.state for r in records)
    parts = ", ".join(f"{counts[s]} {s.value.lower()}" for s in State if counts[s])
    winner = best(records)
    found = f"; best val NME {winner.best_nme:.2%} (trial {winner.number})" if winner else ""
    return f"{len(records)} trial{'s' * (len(records) != 1)}: {parts or 'none'}{found}"


def notes(records: Sequence[TrialRecord], objectives: Sequence[str]) -> list[str]:
    """What the ranking rests on: the mean of repeats, and the front where there are two objectives."""
    lines: list[str] = []
    repeated = [c for c in contenders(records) if len(c.nmes) > 1]
    if repeated:
        spread, freedom = pooled_spread(repeated)
        texts = []
        for c in repeated:
            low, high = mean_interval(c.nmes, spread * c.mean, freedom)
            texts.append(f"trial {c.trial.number} {c.mean:.2%} ({low:.2%} to {high:.2%}, {len(c.nmes)} runs)")
        lines.append(f"chosen by the mean over seeds (95 % interval): {', '.join(texts)}")
    if len(objectives) > 1:
        front = pareto_front(objectives[1], records)
        points = [f"trial {r.number} {r.best_nme:.2%}, {_shown(objectives[1], r)}" for r in front]
        lines.append(f"Pareto front of NME and {objectives[1]}: {'; '.join(points) or 'no complete trial'}")
    return lines


def _shown(objective: str, record: TrialRecord) -> str:
    value = second_value(objective, record) or 0.0
    return f"{value:.1f} images/s" if objective == "images_per_second" else f"FR@0.10 {value:.2%}"
