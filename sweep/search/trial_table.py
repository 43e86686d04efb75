"""All trials of a sweep with what decisions ask of them, kept up to date: none of them looks through ten thousand."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

from sweep.core.config import SweepConfig
from sweep.core.trial import State, TrialRecord, keep
from sweep.search.pruners import Rung, bracket, rungs


class Trials(Sequence[TrialRecord]):
    """The records of a sweep, by number.

    Attributes:
        epochs: of all trials together.
        complete: how many have come to their end, repeats apart.
        repeats: how many are repeats.
        rungs: who has come to each rung, by its epoch and the bracket.
        gone: epochs that each trial has behind it, by number.
        stops: the epoch up to which each trial runs for sure, once it runs, by number.
    """

    def __init__(self, config: SweepConfig, records: Iterable[TrialRecord] = ()) -> None:
        self._config = config
        self._records: dict[int, TrialRecord] = {}
        self._paused: dict[int, TrialRecord] = {}
        self._finalists: dict[int, TrialRecord] = {}
        self._microseconds = 0  # whole ones: the sum of floats would depend on the order in which they came
        self.epochs = self.complete = self.repeats = 0
        self.rungs: dict[tuple[int, int], Rung] = defaultdict(Rung)
        self.gone: dict[int, int] = {}
        self.stops: dict[int, int] = {}
        for record in records:
            self.put(record)

    @classmethod
    def of(cls, config: SweepConfig, records: Sequence[TrialRecord]) -> Trials:
        """The same records; at no cost where they are kept like this already."""
        return records if isinstance(records, cls) else cls(config, records)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, number: Any) -> Any:
        return self._records[number]

    def __iter__(self) -> Iterator[TrialRecord]:
        return iter(list(self._records.values()))  # copied in one step: the live table looks from another thread

    @property
    def paused(self) -> Collection[TrialRecord]:
        """Those that wait for others."""
        return self._paused.values()

    @property
    def finalists(self) -> Sequence[TrialRecord]:
        """The complete ones and all repeats, by number: what is known of winners."""
        return [self._finalists[number] for number in sorted(self._finalists)]

    @property
    def seconds(self) -> float:
        """Training time of all trials, to the microsecond."""
        return self._microseconds / 1e6

    def deserves(self, number: int) -> bool:
        """Whether a trial that stands at a rung is among the best of its bracket there."""
        rung = self.rungs[self.gone[number], bracket(self._config.pruner, number)]
        return rung.deserves(number, _stand(self._records[number]), self._config.pruner.reduction)

    def put(self, record: TrialRecord) -> None:
        """Takes in a new trial, or what is known of one by now. Curves only ever grow."""
        before = self._records.get(record.number)
        self._records[record.number] = record
        if before is not None:
            self._count(before, -1)
        self._count(record, 1)
        self._mark(record, before)
        self.gone[record.number], self.stops[record.number] = record.epochs, next_stop(self._config, record)
        keep(self._finalists, record, record.state is State.COMPLETE or record.repeats is not None)
        keep(self._paused, record, record.state is State.PAUSED)

    def _count(self, record: TrialRecord, sign: int) -> None:
        self.epochs += sign * record.epochs
        self.complete += sign * (record.state is State.COMPLETE and record.repeats is None)
        self.repeats += sign * (record.repeats is not None)
        self._microseconds += sign * round(record.seconds * 1e6)

    def _mark(self, record: TrialRecord, before: TrialRecord | None) -> None:
        """Notes the rungs to which a trial has come, and at which it waits."""
        known, place = (before.curve if before else {}), bracket(self._config.pruner, record.number)
        for epoch in pauses(self._config, record):
            if epoch in record.curve and epoch not in known:
                self.rungs[epoch, place].come(record.number, record.curve[epoch])
        if before is not None and before.state is State.PAUSED:
            self.rungs[before.epochs, place].leave(before.number, _stand(before))
        if record.state is State.PAUSED:
            self.rungs[record.epochs, place].wait(record.number, _stand(record))


def _stand(record: TrialRecord) -> float:
    return math.inf if record.best_nme is None else record.best_nme


def next_stop(config: SweepConfig, record: TrialRecord) -> int:
    """The epoch up to which a trial runs for sure, once it runs: its next rung or its last epoch."""
    gone = record.epochs
    return next((pause for pause in pauses(config, record) if pause > gone), config.train.optim.epochs)


def pauses(config: SweepConfig, record: TrialRecord) -> Sequence[int]:
    """The epochs after which a trial may have to wait for others, rising; a repeat never waits."""
    return () if record.repeats is not None else rungs(config.pruner, record.number, config.train.optim.epochs)
