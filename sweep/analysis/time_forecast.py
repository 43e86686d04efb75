"""Forecasts the remaining time of a sweep, from the expected epochs and the duration of an epoch."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Protocol

from sweep.core.config import SearchConfig
from sweep.core.formatting import format_seconds
from sweep.core.trial import Progress, State, TrialRecord, share_of_epoch
from sweep.search.budget import device_hours
from sweep.search.rehearsal import Extent, expected_extent

_PRIOR_WEIGHT = 0.5  # of the estimate before the sweep, in epochs
_MIN_SHARE = 0.02  # of an epoch, before its progress is extrapolated
_STARTING, _ENDING = 10.0, 10.0  # seconds to start the first workers; to write the report and close MLflow's runs
_MIN_RATIO = 50  # time between two rehearsals, in durations of one


class Slots(Protocol):
    """How many trials fit at once: counted now, or as last counted."""

    last: int

    def __call__(self) -> int: ...


class Outlook:
    """The remaining time of a sweep.

    Args:
        config: the sweep.
        slots: how many trials fit at once.
        epoch_seconds: estimated duration of an epoch; None: unknown.

    Attributes:
        running: progress of running trials within their epochs, as last updated.
    """

    def __init__(self, config: SearchConfig, slots: Slots, epoch_seconds: float | None) -> None:
        self.slots = slots
        self._config, self._prior = config, epoch_seconds
        self._began = time.monotonic()
        self._epochs, self._seconds = 0, 0.0  # of this call
        self.running: Mapping[int, Progress] = {}
        self._extent: Extent | None = None
        self._due = 0.0  # time of the next rehearsal

    def report(self, seconds: float) -> None:
        """Adds the duration of an epoch."""
        self._epochs += 1
        self._seconds += seconds

    def look(self, running: Mapping[int, Progress]) -> None:
        """Updates the progress of running trials."""
        self.running = running

    def at_start(self, records: Sequence[TrialRecord]) -> str:
        """The expected duration of the sweep, in words."""
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
        """The remaining time, in words."""
        left = self.left(records)
        if left is not None:
            return f"about {format_seconds(left)} left"
        return "time left unknown yet"

    def left(self, records: Sequence[TrialRecord]) -> float | None:
        """Seconds until the sweep is done; None while unknown."""
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
        """Mean duration of the finished epochs and of the parts of running ones; None while unknown."""
        begun = [p for p in self.running.values() if p.share >= _MIN_SHARE]
        epochs = self._epochs + sum(p.share for p in begun)
        seconds = self._seconds + sum(p.seconds for p in begun)
        if self._prior is not None:
            epochs, seconds = epochs + _PRIOR_WEIGHT, seconds + _PRIOR_WEIGHT * self._prior
        return seconds / epochs if epochs else None

    def _rest(self, records: Sequence[TrialRecord], slots: int) -> Extent | None:
        """The expected rest, rehearsed again as often as that costs little."""
        began = time.monotonic()
        if began >= self._due:
            shares = {r.number: share_of_epoch(r, self.running) for r in records if r.state is State.RUNNING}
            self._extent = expected_extent(self._config, slots, records, shares)
            now = time.monotonic()
            self._due = now + _MIN_RATIO * (now - began)
        return self._extent
