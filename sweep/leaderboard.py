"""Ranking of a sweep's trials, and the files made from it: leaderboard.csv and best.yaml."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from sweep.config import SweepConfig
from sweep.space import format_value, short_name
from sweep.study import State, TrialRecord

LEADERBOARD_FILE, BEST_FILE = "leaderboard.csv", "best.yaml"
_ORDER = {State.COMPLETE: 0, State.PRUNED: 1, State.RUNNING: 1, State.DIVERGED: 2, State.FAILED: 3}


def rank(records: Iterable[TrialRecord]) -> list[TrialRecord]:
    """Best first: complete trials by NME, then stopped and running ones by NME, then diverged and failed ones.

    Ties keep the order of their numbers.
    """

    def key(record: TrialRecord) -> tuple[int, float, int]:
        nme = record.best_nme if record.best_nme is not None else float("inf")
        return _ORDER[record.state], nme, record.number

    return sorted(records, key=key)


def best(records: Iterable[TrialRecord]) -> TrialRecord | None:
    """The winner: the complete trial with the lowest NME; None while no trial is complete."""
    ranked = rank(records)
    return ranked[0] if ranked and ranked[0].state is State.COMPLETE else None


def write_results(config: SweepConfig, records: Sequence[TrialRecord]) -> None:
    """Writes leaderboard.csv and, once there is a winner, best.yaml into the sweep's folder; each appears whole."""
    keys = [d.key for d in config.dimensions]
    with _replacing(config.folder / LEADERBOARD_FILE) as path, path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["number", "state", "best_nme", "epochs", "seconds", *keys])
        for r in rank(records):
            nme = "" if r.best_nme is None else repr(r.best_nme)
            params = [r.params.get(key, "") for key in keys]
            writer.writerow([r.number, r.state.value, nme, r.epochs, f"{r.seconds:.1f}", *params])
    winner = best(records)
    if winner is not None:
        with _replacing(config.folder / BEST_FILE) as path:
            config.best_config(winner.params).dump(path)


def kept_trials(config: SweepConfig, records: Iterable[TrialRecord]) -> set[int]:
    """Numbers of the trials whose weights stay on disk: the best `keep`."""
    return {r.number for r in rank(records)[: config.keep] if r.best_nme is not None}


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
    return f"{len(records)} trials: {parts or 'none'}{found}"


class _replacing:
    """A temporary path beside `path` that takes its place at the end."""

    def __init__(self, path: Path) -> None:
        self._path, self._temporary = path, path.with_name(f".{path.name}.{os.getpid()}")

    def __enter__(self) -> Path:
        return self._temporary

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._temporary.replace(self._path)
        else:
            self._temporary.unlink(missing_ok=True)
