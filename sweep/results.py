"""The files that follow a sweep's trials: leaderboard.csv, best.yaml, and what of the trials' folders stays on disk."""

from __future__ import annotations

import csv
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path

from sweep.config import SweepConfig
from sweep.leaderboard import best, rank
from sweep.objectives import pareto_front, second_value
from sweep.records import TrialRecord
from sweep.repeats import candidates

LEADERBOARD_FILE, BEST_FILE = "leaderboard.csv", "best.yaml"


class Results:
    """Keeps these files up to date; remembers what it did, so that the last trial costs no more than the first."""

    def __init__(self, config: SweepConfig) -> None:
        self._config = config
        self._winner: int | None = None
        self._kept: set[int] = set()
        self._freed: set[int] = set()
        self._written = -math.inf  # when the leaderboard was, on the monotonic clock

    def update(self, records: Sequence[TrialRecord], *, final: bool = True) -> None:
        """Takes in trials that have ended; each file appears whole.

        Args:
            records: all trials.
            final: whether this is the last call for now; others may leave the leaderboard a second late.
        """
        if final or time.monotonic() - self._written >= 1:
            _write_leaderboard(self._config, records)
            self._written = time.monotonic()
        winner = best(records)
        if winner is not None and winner.number != self._winner:
            self._config.best_config(winner.params).dump(self._config.folder / BEST_FILE)
            self._winner = winner.number
        self._free_disk(records)

    def _free_disk(self, records: Sequence[TrialRecord]) -> None:
        """Deletes the whole state of finished trials, and the weights of those that nobody needs any more."""
        kept = kept_trials(self._config, records)
        finished = {r.number for r in records if r.state.finished}
        for number in finished - self._freed:
            folder = self._config.trial_folder(number)
            for unused in (folder / "last.pt", *folder.glob(".*.pt.*")):
                unused.unlink(missing_ok=True)
        for number in (finished - self._freed | self._kept) - kept:
            (self._config.trial_folder(number) / "best.pt").unlink(missing_ok=True)
        self._freed, self._kept = finished, kept & finished  # who goes on may come to need what it has


def kept_trials(config: SweepConfig, records: Sequence[TrialRecord]) -> set[int]:
    """Numbers of the trials whose weights stay on disk: the best `keep`, and those that repeats may make the winner."""
    leading = {r.number for r in rank(records)[: config.keep] if r.best_nme is not None}
    return leading | ({c.trial.number for c in candidates(config.repeats, records)} if config.repeats.share else set())


def _write_leaderboard(config: SweepConfig, records: Sequence[TrialRecord]) -> None:
    keys, second = [d.key for d in config.dimensions], config.objectives[1:]
    front = ["pareto"] if second else []
    on_front = {r.number for r in pareto_front(second[0], records)} if second else set()
    with _replacing(config.folder / LEADERBOARD_FILE) as path, path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["number", "state", "best_nme", "epochs", "seconds", *keys, "seed", "repeats", *second, *front])
        for r in rank(records):
            nme = "" if r.best_nme is None else repr(r.best_nme)
            params = [r.params.get(key, "") for key in keys]
            more = ["" if value is None else value for value in (r.seed, r.repeats)]
            if second:
                value = second_value(second[0], r)
                more += ["" if value is None else repr(value), int(r.number in on_front)]
            writer.writerow([r.number, r.state.value, nme, r.epochs, f"{r.seconds:.1f}", *params, *more])


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
