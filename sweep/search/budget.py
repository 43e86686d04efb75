"""What is spent of a sweep's budget, and what the rest allows.

Legend: an epoch is *committed* when it was trained, or when a running trial will train it before the next decision
about it is made. The *search share* of the budget is for search trials, the rest for repeats of the best with other
seeds.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from functools import cached_property

from sweep.core.config import SearchConfig
from sweep.core.trial import State, TrialRecord
from sweep.search.rungs import next_rung
from sweep.search.trial_table import TrialTable

_ROUNDING = 1e-9  # of a share of trials


def _reserves_repeats(config: SearchConfig) -> bool:
    """Whether a part of the budget is set aside for repeats: only where it pays for a repeat of each candidate."""
    share, candidates = config.repeats.share, config.repeats.candidates
    if len(config.objectives) > 1 or config.sampler.name == "grid":
        return False
    if config.epochs is not None and config.epochs * share < candidates * config.train.optim.epochs:
        return False
    return config.trials is None or math.floor(config.trials * share + _ROUNDING) >= candidates


class BudgetCheck:
    """What the budget still allows.

    Args:
        config: the sweep.
        trials: all of its trials.
        live: numbers of those that are running.
        hours: for which this call of the sweep has been running.
        search_share: of the budget; None: all but `repeats.share`, where the budget pays for repeats.
    """

    def __init__(
        self,
        config: SearchConfig,
        trials: TrialTable,
        live: Collection[int],
        hours: float,
        search_share: float | None = None,
    ) -> None:
        self._config, self._trials, self._live, self._hours = config, trials, live, hours
        reserved = _reserves_repeats(config) and (trials.complete > 1 or len(live) > 0)
        self.search_share = search_share or 1 - (config.repeats.share if reserved else 0.0)

    @cached_property
    def _committed(self) -> int:
        """Epochs trained, and those that running trials train before their next rung."""
        trials = self._trials
        return trials.epochs + sum(trials.next_rung[n] - trials.epochs_done[n] for n in self._live)

    @property
    def _search_epochs(self) -> float:
        """The epochs that search and repeats so far may add up to: what repeats took is not taken from the search."""
        total = self._config.epochs or math.inf
        repeated = self._trials.replicates * self._config.train.optim.epochs
        return min(total, total * self.search_share + repeated)

    @property
    def _to_complete_leader(self) -> int:
        """Epochs that the best trial needs to its end, beyond the committed ones; 0 where the budget lacks them."""
        leader = self._trials.leader
        if leader is None or leader.state.finished or len(self._config.objectives) > 1:
            return 0
        committed = self._trials.next_rung[leader.number] if leader.number in self._live else leader.epochs
        missing = self._config.train.optim.epochs - committed
        return missing if self._committed + missing <= self._search_epochs else 0

    def fits(self, record: TrialRecord) -> bool:
        """Whether a trial can be trained to its next rung, and a winner still be trained to its end after that.

        While no trial is complete, the whole budget may be used for the one that is furthest; later, the search's part
        for the best one.
        """
        if self._config.epochs is None:
            return True
        rung, full, trials = next_rung(self._config, record), self._config.train.optim.epochs, self._trials
        after = self._committed + rung - record.epochs
        if not trials.complete:
            paused = max((r.epochs for r in trials.paused), default=0)
            furthest = max(rung, paused, *(trials.next_rung[n] for n in self._live))
            return after + full - furthest <= self._config.epochs
        missing = self._to_complete_leader
        if missing and trials.leader is not None and trials.leader.number == record.number:
            missing = full - rung
        return after + missing <= self._search_epochs

    def allows_new(self) -> bool:
        """Whether another configuration may be started."""
        limit, count = self._config.trials, len(self._trials)
        if limit is not None:
            for_repeats = math.floor(limit * (1 - self.search_share) + _ROUNDING) - self._trials.replicates
            if count >= limit - max(0, for_repeats):
                return False
        return self.fits(TrialRecord(count, {}, State.RUNNING))

    def allows_repeat(self) -> bool:
        """Whether a configuration may be trained again."""
        trials, epochs, full = self._config.trials, self._config.epochs, self._config.train.optim.epochs
        enough = epochs is None or self._committed + full <= epochs
        return enough and (trials is None or len(self._trials) < trials) and self.time_below(1.0)

    @property
    def allows_search(self) -> bool:
        """Whether time is left for the search."""
        return self.time_below(self.search_share)

    @property
    def search_ends_soon(self) -> bool:
        """Whether the search has no more left than is reserved for repeats: time to know how large the noise is."""
        config, share = self._config, 2 * self.search_share - 1
        trials, epochs = config.trials, config.epochs
        counted = (trials is not None and len(self._trials) >= share * trials) or (
            epochs is not None and self._committed >= share * epochs
        )
        return counted or not self.time_below(share)

    def time_below(self, share: float) -> bool:
        """Whether less than this share of the hours and of the device hours is spent."""
        config = self._config
        if config.hours is not None and self._hours >= share * config.hours:
            return False
        return config.device_hours is None or device_hours(config, self._trials) < share * config.device_hours


def device_hours(config: SearchConfig, records: Sequence[TrialRecord]) -> float:
    """Training time of all trials, times the GPUs of each; without GPUs, times one."""
    return TrialTable.of(config, records).seconds / 3600 * (config.resources.gpus or 1.0)
