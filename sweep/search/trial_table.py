"""All trials of a sweep with what decisions ask of them, kept up to date: none of them looks through ten thousand."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

from sweep.core.config import SweepConfig
from sweep.core.trial import State, TrialRecord, keep
from sweep.search.rungs import USELESS, Rung, arrivals, ladder, next_stop

_LOST = (*USELESS, State.FAILED)


class Trials(Sequence[TrialRecord]):
    """The records of a sweep, by number.

    Attributes:
        epochs: of all trials together.
        complete: how many have come to their end, repeats apart.
        repeats: how many are repeats.
        settled: how many have come to the first rung or have ended before it, repeats apart.
        rungs: who has come to each rung, by its epoch, rising.
        leader: the trial with the lowest NME, whether it is complete or not.
        gone: epochs that each trial has behind it, by number.
        stops: the epoch up to which each trial runs for sure, once it runs, by number.
    """

    def __init__(self, config: SweepConfig, records: Iterable[TrialRecord] = ()) -> None:
        self._config = config
        self._records: dict[int, TrialRecord] = {}
        self._paused: dict[int, TrialRecord] = {}
        self._early: dict[int, TrialRecord] = {}
        self._finalists: dict[int, TrialRecord] = {}
        self._microseconds = 0  # whole ones: the sum of floats would depend on the order in which they came
        self.epochs = self.complete = self.repeats = self.settled = 0
        self.rungs = {epoch: Rung() for epoch in ladder(config)}
        self.gone: dict[int, int] = {}
        self.stops: dict[int, int] = {}
        self.leader: TrialRecord | None = None
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
    def early(self) -> list[int]:
        """Those that run and have not come to the first rung yet, repeats apart, by number."""
        return sorted(self._early)

    @property
    def finalists(self) -> Sequence[TrialRecord]:
        """The complete ones and all repeats, by number: what is known of winners."""
        return [self._finalists[number] for number in sorted(self._finalists)]

    @property
    def seconds(self) -> float:
        """Training time of all trials, to the microsecond."""
        return self._microseconds / 1e6

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
        keep(self._early, record, record.repeats is None and not self._has_settled(record))
        self._follow(record)

    def _count(self, record: TrialRecord, sign: int) -> None:
        self.epochs += sign * record.epochs
        self.complete += sign * (record.state is State.COMPLETE and record.repeats is None)
        self.repeats += sign * (record.repeats is not None)
        self.settled += sign * self._has_settled(record)
        self._microseconds += sign * round(record.seconds * 1e6)

    def _has_settled(self, record: TrialRecord) -> bool:
        return record.repeats is None and (record.state.finished or record.epochs >= next(iter(self.rungs)))

    def _follow(self, record: TrialRecord) -> None:
        """Finds the leader, now that this is known of a trial."""
        if self.leader is not None and self.leader.number == record.number and not _may_lead(record):
            self.leader = min(filter(_may_lead, self._records.values()), key=_standing, default=None)
        elif _may_lead(record) and (self.leader is None or _standing(record) <= _standing(self.leader)):
            self.leader = record

    def _mark(self, record: TrialRecord, before: TrialRecord | None) -> None:
        """Notes the rungs at which a trial counts, and at which it waits."""
        known = {} if before is None else arrivals(self._config, before)
        now = arrivals(self._config, record)
        if known != now:
            for epoch, value in known.items():
                self.rungs[epoch].forget(record.number, value)
            for epoch, value in now.items():
                self.rungs[epoch].come(record.number, value)
        if before is not None and before.state is State.PAUSED:
            self._rung_of(before).leave(before.number, _stand(before))
        if record.state is State.PAUSED:
            self._rung_of(record).wait(record.number, _stand(record))

    def _rung_of(self, record: TrialRecord) -> Rung:
        """Where a trial waits: at its epoch, or at the rung before it, if another version has paused it."""
        passed = [epoch for epoch in self.rungs if epoch <= record.epochs]
        return self.rungs[passed[-1]] if passed else next(iter(self.rungs.values()))


def _stand(record: TrialRecord) -> float:
    return math.inf if record.best_nme is None else record.best_nme


def _standing(record: TrialRecord) -> tuple[float, int]:
    return _stand(record), record.number


def _may_lead(record: TrialRecord) -> bool:
    return record.repeats is None and math.isfinite(_stand(record)) and record.state not in _LOST
