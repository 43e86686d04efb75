"""Files that are derived from the trials: leaderboard.csv and best.yaml; and which weights are kept on disk."""

from __future__ import annotations

import csv
import logging
import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sweep.core.config import SweepConfig
from sweep.core.errors import StorageError
from sweep.core.trial import TrialRecord
from sweep.search.objectives import pareto_front, second_value
from sweep.search.ranking import best, rank
from sweep.search.replicates import candidates
from sweep.storage.remote_files import Storage
from sweep.storage.sweep_folder import BEST_FILE, LEADERBOARD_FILE, SMALL_FILES
from trainer.atomic_file import replacing
from trainer.run_folder import BEST, LAST

logger = logging.getLogger(__name__)

_MIN_INTERVAL, _MIN_RATIO = 1.0, 20  # seconds between two updates; the same in durations of an update


class SweepOutputs:
    """Updates these files incrementally, so that the last trial costs no more than the first."""

    def __init__(self, config: SweepConfig, storage: Storage | None = None) -> None:
        self._config, self._storage = config, storage
        self._pool = ThreadPoolExecutor(8, thread_name_prefix="storage")  # its threads start when needed
        self._winner: int | None = None
        self._kept: set[int] = set()
        self._freed: set[int] = set()
        self._next = -math.inf  # earliest next update, on the monotonic clock

    def update(self, records: Sequence[TrialRecord], *, final: bool = True) -> None:
        """Updates all files, each atomically.

        Args:
            records: all trials.
            final: whether this is the last call for now. Others are skipped within a second of the last update, or
                within twenty times its duration.
        """
        began = time.monotonic()
        if not final and began < self._next:
            return
        _write_leaderboard(self._config, records)
        winner = best(records)
        if winner is not None and winner.number != self._winner:
            self._config.best_config(winner.params).dump(self._config.folder / BEST_FILE)
            self._winner = winner.number
        self._free_disk(records)
        now = time.monotonic()
        self._next = now + max(_MIN_INTERVAL, _MIN_RATIO * (now - began))
        if final and self._storage is not None:
            self._collect(self._storage, records)

    def _collect(self, storage: Storage, records: Sequence[TrialRecord]) -> None:
        """Fetches files from the storage: weights of the kept trials, small files of all finished ones.

        What cannot be fetched is logged; the sweep is complete without it.
        """
        paths = [
            self._config.trial_folder(r.number) / name for r in records if r.state.finished for name in SMALL_FILES
        ]
        paths += [self._config.trial_folder(number) / BEST for number in self._kept]
        try:
            list(self._pool.map(storage.fetch, [path for path in paths if not path.exists()]))
        except StorageError as error:
            logger.warning("not everything could be fetched: %s", error)

    def _delete(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        if self._storage is not None:
            self._pool.submit(_delete_in, self._storage, path)

    def _free_disk(self, records: Sequence[TrialRecord]) -> None:
        """Deletes the last checkpoints of finished trials, and the weights of those that are no longer kept."""
        kept = kept_trials(self._config, records)
        finished = {r.number for r in records if r.state.finished}
        for number in finished - self._freed:
            folder = self._config.trial_folder(number)
            for unused in (folder / LAST, *folder.glob(".*.pt.*")):
                self._delete(unused)
        for number in (finished - self._freed | self._kept) - kept:
            self._delete(self._config.trial_folder(number) / BEST)
        self._freed, self._kept = finished, kept & finished  # unfinished trials keep their weights


def _delete_in(storage: Storage, path: Path) -> None:
    try:
        storage.delete(path)
    except StorageError as error:
        logger.warning("%s is left behind: %s", path.name, error)


def kept_trials(config: SweepConfig, records: Sequence[TrialRecord]) -> set[int]:
    """Numbers of the trials whose weights are kept: the best `keep`, and the candidates for repeats."""
    leading = {r.number for r in rank(records)[: config.keep] if r.best_nme is not None}
    return leading | ({c.trial.number for c in candidates(config.repeats, records)} if config.repeats.share else set())


def _write_leaderboard(config: SweepConfig, records: Sequence[TrialRecord]) -> None:
    keys, second = [d.key for d in config.dimensions], config.objectives[1:]
    front = ["pareto"] if second else []
    on_front = {r.number for r in pareto_front(second[0], records)} if second else set()
    with replacing(config.folder / LEADERBOARD_FILE) as path, path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["number", "state", "best_nme", "epochs", "seconds", *keys, "seed", "repeats", *second, *front])
        for r in rank(records):
            nme = "" if r.best_nme is None else repr(r.best_nme)
            params = [r.params.get(key, "") for key in keys]
            more = ["" if value is None else value for value in (r.seed, r.replicate_of)]
            if second:
                value = second_value(second[0], r)
                more += ["" if value is None else repr(value), int(r.number in on_front)]
            writer.writerow([r.number, r.state.value, nme, r.epochs, f"{r.seconds:.1f}", *params, *more])
