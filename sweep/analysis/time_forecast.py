"""When a sweep will be done: from the epochs that are expected to come, and from the time of an epoch."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Protocol

from sweep.core.config import SweepConfig
from sweep.core.formatting import format_seconds
from sweep.core.trial import Progress, State, TrialRecord, share_of_epoch
from sweep.search.budget import device_hours
from sweep.search.rehearsal import Extent, expected_extent

_PRIOR = 0.5  # epochs that what was known beforehand counts as much as
_LEAST = 0.02  # of an epoch, before its time tells anything
_STARTING, _ENDING = 10.0, 10.0  # seconds: of the first workers; of the report and of MLflow
_SHARE = 50  # how often the time of a rehearsal must have passed before the next one


class Slots(Protocol):
    """How many trials fit at once: now, and `last` as it was when that was last asked."""

    last: int

    def __call__(self) -> int: ...


class Outlook:
    """The time that is left of a sweep.

    Args:
        config: the sweep.
        slots: how many trials fit at the same time.
        epoch_seconds: how long an epoch takes, as far as that is known beforehand.

    Attributes:
        running: how far trials that run have come in their epochs, as last looked at.
    """

    def __init__(self, config: SweepConfig, slots: Slots, epoch_seconds: float | None) -> None:
        self.slots = slots
        self._config, self._prior = config, epoch_seconds
        self._began = time.monotonic()
        self._epochs, self._seconds = 0, 0.0  # of this call
        self.running: Mapping[int, Progress] = {}
        self._extent: Extent | None = None
        self._due = 0.0  # when the rest is played again

    def report(self, seconds: float) -> None:
        """Takes in that an epoch has taken so long."""
        self._epochs += 1
        self._seconds += seconds

    def look(self, running: Mapping[int, Progress]) -> None:
        """Takes in how far running trials have come in their epochs."""
        self.running = running

    def at_start(self, records: Sequence[TrialRecord]) -> str:
        """What the sweep will take, in words."""
        config = self._config
        work = f"{config.trials} trials" if config.trials else f"{config.epochs} epochs" if config.epochs else "trials"
        if records and config.trials:
            work += f", of which {len(records)} have begun"
        limits = [(config.hours, "hours"), (config.device_hours, "device hours")]
        text = "".join(f", at most {limit:g} {unit}" for limit, unit in limits if limit)
        left = self.left(records)
        if left is not None:
            return f"{work}{text}, about {format_seconds(left + _STARTING)} on this machine"
        return f"{work}{text}; how long they take is said when the first batches are through"

    def left_text(self, records: Sequence[TrialRecord]) -> str:
        """The time that is left, in words."""
        left = self.left(records)
        if left is not None:
            return f"about {format_seconds(left)} left"
        return "time left unknown yet"

    def left(self, records: Sequence[TrialRecord]) -> float | None:
        """Seconds until the sweep is done; None while that is not known."""
        each, config, slots = self.epoch_seconds, self._config, max(1, self.slots.last or self.slots())
        ends = []
        if config.hours is not None:
            ends.append(config.hours * 3600 - (time.monotonic() - self._began))
        if config.device_hours is not None:
            unspent = config.device_hours - device_hours(config, records)
            ends.append(unspent * 3600 / slots / (config.resources.gpus or 1.0))
        if each is not None and (extent := self._rest(records, slots)) is not None:
            ends.append(each * extent.rounds)
        return max(0.0, min(ends)) + _ENDING if ends else None

    @property
    def epoch_seconds(self) -> float | None:
        """Mean of the epochs that came and of the parts of those that run; None while nothing is known."""
        begun = [p for p in self.running.values() if p.share >= _LEAST]
        epochs = self._epochs + sum(p.share for p in begun)
        seconds = self._seconds + sum(p.seconds for p in begun)
        if self._prior is not None:
            epochs, seconds = epochs + _PRIOR, seconds + _PRIOR * self._prior
        return seconds / epochs if epochs else None

    def _rest(self, records: Sequence[TrialRecord], slots: int) -> Extent | None:
        """What is still to come; reckoned anew as often as that costs little."""
        began = time.monotonic()
        if began >= self._due:
            shares = {r.number: share_of_epoch(r, self.running) for r in records if r.state is State.RUNNING}
            self._extent = expected_extent(self._config, slots, records, shares)
            now = time.monotonic()
            self._due = now + _SHARE * (now - began)
        return self._extent
