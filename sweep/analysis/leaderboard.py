"""The trials of a sweep as lines and tables of text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from sweep.analysis.statistics import mean_interval
from sweep.core.formatting import format_value, short_name
from sweep.core.trial import State, TrialRecord
from sweep.search.objectives import pareto_front, second_value
from sweep.search.ranking import best, rank
from sweep.search.replicates import pooled_spread, runs_by_config
from trainer.metric_names import rate_label


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
    repeated = [c for c in runs_by_config(records) if len(c.nmes) > 1]
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
    return f"{value:.1f} images/s" if objective == "images_per_second" else f"{rate_label(objective)} {value:.2%}"
