"""Simulates a sweep with the real study, sampler and scheduler on recorded learning curves.

Training is replaced by a `SurrogateTask`, Ray by a queue of events, database and event log by memory. Slots have no
start-up time.
"""

from __future__ import annotations

import functools
import heapq
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sweep.core.config import SearchConfig
from sweep.core.trial import Params, State, TrialRecord
from sweep.search.controller import SweepController
from sweep.search.ranking import best
from sweep.search.sampling.sampler import derived_seed
from sweep.search.study import Study
from sweep.simulation.surrogate import SurrogateTask
from sweep.storage.event_log import Event

_NOISE_STREAM = 7  # separates the seeds of noise from those of suggestions


@dataclass
class History:
    """The progress of a simulated sweep; rows are reports, in order.

    Attributes:
        epochs: trained so far by all trials.
        hours: simulated.
        found: lowest validation NME so far.
        true: mean NME over seeds of the configuration that the sweep would choose then.
        records: the trials at the end.
    """

    epochs: list[int] = field(default_factory=list)
    hours: list[float] = field(default_factory=list)
    found: list[float] = field(default_factory=list)
    true: list[float] = field(default_factory=list)
    records: list[TrialRecord] = field(default_factory=list)

    def note(self, hours: float, nme: float, true: float) -> None:
        """Adds a report and the true NME of the configuration chosen after it."""
        self.epochs.append(len(self.epochs) + 1)
        self.hours.append(hours)
        self.found.append(min([nme, *self.found[-1:]]))
        self.true.append(true)

    def at_epochs(self, grid: NDArray[np.int64]) -> NDArray[np.float64]:
        """`true` after these epochs; infinite before the first report."""
        return _last_before(self.epochs, self.true, grid)

    def at_hours(self, grid: NDArray[np.float64]) -> NDArray[np.float64]:
        """`true` after these hours."""
        return _last_before(self.hours, self.true, grid)


def _last_before(xs: list[int] | list[float], ys: list[float], grid: NDArray) -> NDArray[np.float64]:
    indices = np.searchsorted(np.array(xs), grid, side="right")
    return np.concatenate([[math.inf], ys])[indices]


class _Memory:
    """An event log that keeps nothing."""

    def append(self, event: Event) -> None:
        """Does nothing."""

    def read(self) -> Iterator[tuple[Event, int]]:
        """No events."""
        return iter(())


class Searcher(Protocol):
    """What decides in a simulation: a `sweep.search.controller.SweepController`, or a peer that is compared with it."""

    def next_trial(self) -> Numbered | None: ...

    def record(self, number: int) -> TrialRecord: ...

    def report(self, number: int, epoch: int, metrics: dict[str, float]) -> bool: ...

    def end(self, number: int, state: State, reason: str | None = None) -> None: ...


class Numbered(Protocol):
    """A trial to run, by its number."""

    @property
    def number(self) -> int: ...


@dataclass
class Clock:
    """Simulated time."""

    hours: float = 0.0


Choose = Callable[[TrialRecord | None, TrialRecord], TrialRecord]  # chosen before, just reported -> chosen now


def simulate(config: SearchConfig, task: SurrogateTask, slots: int, seed: int) -> History:
    """Runs a sweep to its end.

    Args:
        config: the sweep; its own seed is replaced, and its epochs must be those of the task.
        task: what is trained.
        slots: trials side by side.
        seed: of the suggestions and of the training noise.
    """
    config = config.model_copy(update={"seed": seed})
    vars(config).pop("trials_known", None)  # a cached property that depends on the seed
    clock = Clock()
    controller = SweepController(config, Study.in_memory(config), _Memory(), lambda: clock.hours * 3600)
    history = play(controller, task, slots, seed, partial(_choice, controller), clock, hours=config.hours or math.inf)
    history.records = controller.records
    return history


def play(
    searcher: Searcher,
    task: SurrogateTask,
    slots: int,
    seed: int,
    choose: Choose,
    clock: Clock,
    *,
    hours: float = math.inf,
    epochs: float = math.inf,
) -> History:
    """Trains the trials of a searcher, event by event, until it has no more or hours or epochs are spent."""
    history, queue, curves = History(), list[tuple[float, int, int]](), dict[int, NDArray[np.float64]]()
    true_nme = functools.cache(lambda number: task.true_nme(searcher.record(number).params))
    order, idle, chosen = itertools.count(), slots, None

    def train(number: int) -> None:
        end = clock.hours + task.seconds(searcher.record(number).epochs + 1) / 3600
        heapq.heappush(queue, (end, next(order), number))

    while len(history.epochs) < epochs:
        while idle and clock.hours < hours and (trial := searcher.next_trial()) is not None:
            if trial.number not in curves:
                curves[trial.number] = best_so_far(task, searcher.record(trial.number).params, seed, trial.number)
            train(trial.number)
            idle -= 1
        if not queue or queue[0][0] > hours:
            break
        clock.hours, _, number = heapq.heappop(queue)
        epoch = searcher.record(number).epochs + 1
        if epoch > len(curves[number]):
            searcher.end(number, State.DIVERGED, "diverged")  # as the recorded training did
            idle += 1
            continue
        nme = float(curves[number][epoch - 1])
        should_continue = searcher.report(number, epoch, {"best_nme": nme, "epoch_seconds": task.seconds(epoch)})
        if epoch == task.epochs:
            searcher.end(number, State.COMPLETE)
        if should_continue and epoch < task.epochs:
            train(number)
        else:
            idle += 1
        chosen = choose(chosen, searcher.record(number))
        history.note(clock.hours, nme, true_nme(chosen.number))
    return history


def best_so_far(task: SurrogateTask, params: Params, seed: int, number: int) -> NDArray[np.float64]:
    """The lowest NME so far by epoch of a trial, (E,), or shorter if it diverges."""
    return np.minimum.accumulate(task.curve(params, derived_seed(seed, number, _NOISE_STREAM)))


def _choice(controller: SweepController, before: TrialRecord | None, reported: TrialRecord) -> TrialRecord:
    """The trial the sweep would choose now, if the leader, which will be completed, were complete."""
    leader = [] if controller.leader is None else [replace(controller.leader, state=State.COMPLETE)]
    others = [r for r in controller.finalists if not leader or r.number != leader[0].number]
    return best([*others, *leader]) or before or reported
