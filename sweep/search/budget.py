"""What is spent of a sweep's budget, and what it still has room for."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from functools import cached_property

from sweep.core.config import SweepConfig
from sweep.core.trial import State, TrialRecord
from sweep.search.rungs import next_stop
from sweep.search.trial_table import Trials

_ROUNDING = 1e-9  # of a share of trials


def _pays_repeats(config: SweepConfig) -> bool:
    """Whether a part of the budget is set aside for repeats: where it holds a run of each candidate, as measured."""
    share, candidates = config.repeats.share, config.repeats.candidates
    if len(config.objectives) > 1 or config.sampler.name == "grid":
        return False
    if config.epochs is not None and config.epochs * share < candidates * config.train.optim.epochs:
        return False
    return config.trials is None or math.floor(config.trials * share + _ROUNDING) >= candidates


class BudgetCheck:
    """What the budget still allows. A part of it, `repeats.share`, is not for the search, unless that ends with one.

    Attributes:
        share: of the budget, that is for the search.
        searching: whether time for the search is left.
    """

    def __init__(
        self, config: SweepConfig, trials: Trials, live: Collection[int], hours: float, share: float | None = None
    ) -> None:
        self._config, self._trials, self._live, self._hours = config, trials, live, hours
        reserved = _pays_repeats(config) and (trials.complete > 1 or len(live) > 0)
        self.share = share or 1 - (config.repeats.share if reserved else 0.0)
        self.searching = self.below(self.share)

    @cached_property
    def _epochs(self) -> int:
        """Spent, and promised to those that run."""
        stops, gone = self._trials.stops, self._trials.gone
        return self._trials.epochs + sum(stops[n] - gone[n] for n in self._live)

    def fits(self, record: TrialRecord) -> bool:
        """Whether a trial can run to its next stop, and the best trial be brought to its end after that.

        Until a trial is complete, the whole budget is for that, whichever it is.
        """
        if self._config.epochs is None:
            return True
        limit: float = self._config.epochs
        stop, full = next_stop(self._config, record), self._config.train.optim.epochs
        after = self._epochs + stop - record.epochs
        if not self._trials.complete:
            waiting = max((r.epochs for r in self._trials.paused), default=0)
            sure = max(stop, waiting, *(self._trials.stops[n] for n in self._live))
            return after + full - sure <= limit
        repeated = self._trials.repeats * full  # what they have taken of their part is not lacking in the search's
        limit = min(limit, limit * self.share + repeated)
        rest = self._rest_of_leader
        if self._epochs + rest > limit:  # it is too late for that
            rest = 0
        elif self._trials.leader is not None and self._trials.leader.number == record.number:
            rest = full - stop
        return after + rest <= limit

    @property
    def _rest_of_leader(self) -> int:
        """Epochs that the best trial needs to its end, beyond those that are promised to it."""
        leader = self._trials.leader
        if leader is None or leader.state.finished or len(self._config.objectives) > 1:
            return 0
        sure = self._trials.stops[leader.number] if leader.number in self._live else leader.epochs
        return self._config.train.optim.epochs - sure

    def takes_new(self) -> bool:
        """Whether another configuration may be started."""
        trials, count = self._config.trials, len(self._trials)
        begun = TrialRecord(count, {}, State.RUNNING)
        return (trials is None or count < trials - self._reserved(trials)) and self.fits(begun)

    def takes_repeat(self) -> bool:
        """Whether a configuration may be trained again."""
        trials, epochs, full = self._config.trials, self._config.epochs, self._config.train.optim.epochs
        room = epochs is None or self._epochs + full <= epochs
        return room and (trials is None or len(self._trials) < trials) and self.below(1.0)

    @property
    def ending(self) -> bool:
        """Whether so much is spent that it is time to know how large the noise is: what is left for the search is as
        much as is for repeats."""
        config, part = self._config, 2 * self.share - 1
        trials, epochs = config.trials, config.epochs
        counted = (trials is not None and len(self._trials) >= part * trials) or (
            epochs is not None and self._epochs >= part * epochs
        )
        return counted or not self.below(part)

    def _reserved(self, trials: int) -> int:
        return max(0, math.floor(trials * (1 - self.share) + _ROUNDING) - self._trials.repeats)

    def below(self, share: float) -> bool:
        """Whether less than this share of the hours and of the device hours is spent."""
        config = self._config
        if config.hours is not None and self._hours >= share * config.hours:
            return False
        return config.device_hours is None or device_hours(config, self._trials) < share * config.device_hours


def device_hours(config: SweepConfig, records: Sequence[TrialRecord]) -> float:
    """Training time of all trials, times the GPUs of each; without GPUs, times one."""
    return Trials.of(config, records).seconds / 3600 * (config.resources.gpus or 1.0)
