"""All trials of a sweep, indexed for the decisions of the search, so that none of them scans ten thousand records."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import overload

from sweep.core.config import SearchConfig
from sweep.core.trial import State, TrialRecord
from sweep.search.rungs import Rung, arrivals, ladder, next_rung


class TrialTable(Sequence[TrialRecord]):
    """The records of a sweep, by number.

    Attributes:
        epochs: of all trials together.
        complete: number of complete trials, without repeats.
        replicates: number of repeats.
        settled: number of trials that have reached the first rung or ended before it, without repeats.
        rungs: by epoch, ascending.
        leader: the trial with the lowest NME, complete or not.
        epochs_done: by number.
        next_rung: by number, the epoch that a trial is trained to without another decision, see `rungs.next_rung`.
    """

    def __init__(self, config: SearchConfig, records: Iterable[TrialRecord] = ()) -> None:
        self._config = config
        self._records: dict[int, TrialRecord] = {}
        self._paused: dict[int, TrialRecord] = {}
        self._early: dict[int, TrialRecord] = {}
        self._finalists: dict[int, TrialRecord] = {}
        self._microseconds = 0  # whole ones: a sum of floats would depend on the order of the reports
        self.epochs = self.complete = self.replicates = self.settled = 0
        self.rungs = {epoch: Rung() for epoch in ladder(config)}
        self.epochs_done: dict[int, int] = {}
        self.next_rung: dict[int, int] = {}
        self.leader: TrialRecord | None = None
        for record in records:
            self.upsert(record)

    @classmethod
    def of(cls, config: SearchConfig, records: Sequence[TrialRecord]) -> TrialTable:
        """A table of the records; the records themselves if they are one."""
        return records if isinstance(records, cls) else cls(config, records)

    def __len__(self) -> int:
        return len(self._records)

    @overload
    def __getitem__(self, number: int) -> TrialRecord: ...

    @overload
    def __getitem__(self, number: slice) -> Sequence[TrialRecord]: ...

    def __getitem__(self, number: int | slice) -> TrialRecord | Sequence[TrialRecord]:
        return list(self)[number] if isinstance(number, slice) else self._records[number]

    def __iter__(self) -> Iterator[TrialRecord]:
        return iter(list(self._records.values()))  # a copy, made in one step: the terminal reads it from another thread

    @property
    def paused(self) -> Collection[TrialRecord]:
        """The paused trials."""
        return self._paused.values()

    @property
    def early(self) -> list[int]:
        """Numbers of the trials on their way to the first rung, ascending, without repeats."""
        return sorted(self._early)

    @property
    def finalists(self) -> Sequence[TrialRecord]:
        """The complete trials and all repeats by number: all that the choice of the winner depends on."""
        return [self._finalists[number] for number in sorted(self._finalists)]

    @property
    def seconds(self) -> float:
        """Training time of all trials, to the microsecond."""
        return self._microseconds / 1e6

    def upsert(self, record: TrialRecord) -> None:
        """Adds a trial, or replaces its record by a newer one, whose curve may only be longer."""
        before = self._records.get(record.number)
        self._records[record.number] = record
        if before is not None:
            self._count(before, -1)
        self._count(record, 1)
        self._update_rungs(record, before)
        self.epochs_done[record.number], self.next_rung[record.number] = record.epochs, next_rung(self._config, record)
        _set_member(self._finalists, record, record.state is State.COMPLETE or record.replicate_of is not None)
        _set_member(self._paused, record, record.state is State.PAUSED)
        _set_member(self._early, record, record.replicate_of is None and not self._has_settled(record))
        self._update_leader(record)

    def _count(self, record: TrialRecord, sign: int) -> None:
        self.epochs += sign * record.epochs
        self.complete += sign * (record.state is State.COMPLETE and record.replicate_of is None)
        self.replicates += sign * (record.replicate_of is not None)
        self.settled += sign * self._has_settled(record)
        self._microseconds += sign * round(record.seconds * 1e6)

    def _has_settled(self, record: TrialRecord) -> bool:
        return record.replicate_of is None and (record.state.finished or record.epochs >= next(iter(self.rungs)))

    def _update_leader(self, record: TrialRecord) -> None:
        if self.leader is not None and self.leader.number == record.number and not _may_lead(record):
            self.leader = min(filter(_may_lead, self._records.values()), key=_order, default=None)
        elif _may_lead(record) and (self.leader is None or _order(record) <= _order(self.leader)):
            self.leader = record

    def _update_rungs(self, record: TrialRecord, before: TrialRecord | None) -> None:
        known = {} if before is None else arrivals(self._config, before)
        now = arrivals(self._config, record)
        if known != now:
            for epoch, value in known.items():
                self.rungs[epoch].remove(record.number, value)
            for epoch, value in now.items():
                self.rungs[epoch].add(record.number, value)
        if before is not None and before.state is State.PAUSED:
            self._rung_of(before).resume(before.number, _objective(before))
        if record.state is State.PAUSED:
            self._rung_of(record).pause(record.number, _objective(record))

    def _rung_of(self, record: TrialRecord) -> Rung:
        """The rung at which a trial is paused: the last one up to its epoch (older versions had other rungs)."""
        passed = [epoch for epoch in self.rungs if epoch <= record.epochs]
        return self.rungs[passed[-1]] if passed else next(iter(self.rungs.values()))


def _set_member(group: dict[int, TrialRecord], record: TrialRecord, belongs: bool) -> None:
    if belongs:
        group[record.number] = record
    else:
        group.pop(record.number, None)


def _objective(record: TrialRecord) -> float:
    return math.inf if record.best_nme is None else record.best_nme


def _order(record: TrialRecord) -> tuple[float, int]:
    return _objective(record), record.number


def _may_lead(record: TrialRecord) -> bool:
    return record.replicate_of is None and math.isfinite(_objective(record)) and record.state.usable
