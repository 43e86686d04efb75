"""The trials of a sweep as text: summary, notes and tables."""

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
    """Summary line, notes, and the best trials as a Markdown table."""
    ranked = rank(records)
    keys = list(dict.fromkeys(key for r in ranked for key in r.params))
    head, *table = [f"| {' | '.join(row)} |" for row in (columns(keys), *(cells(r, keys) for r in ranked[:rows]))]
    rule = "|" + "---|" * len(columns(keys))
    return "\n".join([summary_line(records), *notes(records, objectives), "", head, rule, *table])


def columns(keys: Sequence[str]) -> list[str]:
    """Headings of a table of trials with these searched parameters."""
    return ["trial", "state", "best val NME", "epochs", *map(short_name, keys)]


def cells(record: TrialRecord, keys: Sequence[str]) -> list[str]:
    """A trial as texts under these headings."""
    return [str(record.number), record.state.value, nme_text(record), str(record.epochs), *value_texts(record, keys)]


def nme_text(record: TrialRecord) -> str:
    """The best NME of a trial, such as '5.92%'."""
    return "-" if record.best_nme is None else f"{record.best_nme:.2%}"


def value_texts(record: TrialRecord, keys: Sequence[str]) -> list[str]:
    """The values of these parameters; '-' for those that the trial does not have."""
    return [format_value(record.params[key]) if key in record.params else "-" for key in keys]


def summary_line(records: Sequence[TrialRecord]) -> str:
    """Such as '16 trials: 5 complete, 10 pruned, 1 diverged; best val NME 5.92 % (trial 9)'."""
    counts = Counter(r.state for r in records)
    parts = ", ".join(f"{counts[s]} {s.value.lower()}" for s in State if counts[s])
    winner = best(records)
    found = f"; best val NME {winner.best_nme:.2%} (trial {winner.number})" if winner else ""
    return f"{len(records)} trial{'s' * (len(records) != 1)}: {parts or 'none'}{found}"


def notes(records: Sequence[TrialRecord], objectives: Sequence[str]) -> list[str]:
    """What the ranking is based on: means over repeats, and the Pareto front of two objectives."""
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
