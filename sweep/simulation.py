"""A whole sweep in simulated time: the real study, sampler, pruner and allocation, on recorded learning curves.

Only what takes long is replaced: training by a `curves.Task`, Ray by a queue of events, the database and the event log
by memory. Slots have no start-up time.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sweep.config import SweepConfig
from sweep.curves import Task
from sweep.events import Event
from sweep.leaderboard import best, standing
from sweep.ledger import Ledger
from sweep.records import State, TrialRecord
from sweep.sampling import derived_seed
from sweep.space import Params
from sweep.study import Study

_NOISE = 7  # tells the seeds of noise from those of suggestions


@dataclass
class History:
    """What a simulated sweep had found after so many epochs and hours; rows are reports, in their order.

    Attributes:
        epochs: spent so far by all trials.
        hours: simulated.
        found: lowest validation NME seen so far.
        true: mean NME over seeds of the configuration that the sweep would have chosen then.
        records: the trials at the end.
    """

    epochs: list[int] = field(default_factory=list)
    hours: list[float] = field(default_factory=list)
    found: list[float] = field(default_factory=list)
    true: list[float] = field(default_factory=list)
    records: list[TrialRecord] = field(default_factory=list)

    def at_epochs(self, grid: NDArray[np.int64]) -> NDArray[np.float64]:
        """`true` after so many epochs; infinite before the first report."""
        return _last_before(self.epochs, self.true, grid)

    def at_hours(self, grid: NDArray[np.float64]) -> NDArray[np.float64]:
        """`true` after so many hours."""
        return _last_before(self.hours, self.true, grid)


def _last_before(xs: list[int] | list[float], ys: list[float], grid: NDArray) -> NDArray[np.float64]:
    places = np.searchsorted(np.array(xs), grid, side="right")
    return np.concatenate([[math.inf], ys])[places]


class _Memory:
    """An event log that nobody reads."""

    def append(self, event: Event) -> None:
        """Forgets it."""

    def read(self) -> Iterator[tuple[Event, int]]:
        """A new sweep has no past."""
        return iter(())


def simulate(config: SweepConfig, task: Task, slots: int, seed: int) -> History:
    """Runs a sweep to its end.

    Args:
        config: the sweep; its own seed is replaced, and its epochs must be those of the task.
        task: what is trained.
        slots: trials side by side.
        seed: of the suggestions and of the training noise.
    """
    config = config.model_copy(update={"seed": seed})
    vars(config).pop("trials_known", None)  # was remembered for the other seed
    now = 0.0
    ledger = Ledger(config, Study.in_memory(config), _Memory(), lambda: now * 3600)
    history, queue, curves = History(), list[tuple[float, int, int]](), dict[int, NDArray[np.float64]]()
    deadline = config.hours or math.inf
    spent, order, idle = 0, 0, slots
    choice: TrialRecord | None = None
    truth: dict[int, float] = {}
    while True:
        while idle and now < deadline and (assignment := ledger.next_trial()) is not None:
            number = assignment.number
            record = ledger.record(number)
            if number not in curves:
                curves[number] = best_so_far(task, record.params, seed, number)
            idle -= 1
            heapq.heappush(queue, (now + task.seconds(record.epochs + 1) / 3600, order, number))
            order += 1
        if not queue:
            break
        now, _, number = heapq.heappop(queue)
        if now > deadline:
            break
        curve, epoch = curves[number], ledger.record(number).epochs + 1
        if epoch > len(curve):  # the recorded training diverged here
            ledger.end(number, State.DIVERGED, "diverged")
            idle += 1
            continue
        nme, seconds = float(curve[epoch - 1]), task.seconds(epoch)
        goes_on = ledger.report(number, epoch, {"best_nme": nme, "epoch_seconds": seconds})
        spent += 1
        if epoch == task.epochs:
            ledger.end(number, State.COMPLETE)
        if goes_on and epoch < task.epochs:
            heapq.heappush(queue, (now + task.seconds(epoch + 1) / 3600, order, number))
            order += 1
        else:
            idle += 1
        choice = _choice(ledger, choice, number)
        if choice.number not in truth:
            truth[choice.number] = task.true_nme(choice.params)
        history.epochs.append(spent)
        history.hours.append(now)
        history.found.append(min(nme, history.found[-1]) if history.found else nme)
        history.true.append(truth[choice.number])
    history.records = ledger.records
    return history


def best_so_far(task: Task, params: Params, seed: int, number: int) -> NDArray[np.float64]:
    """The lowest NME by epoch of trial `number` of a simulation: (E,), or shorter where it diverges."""
    return np.minimum.accumulate(task.curve(params, derived_seed(seed, number, _NOISE)))


def _choice(ledger: Ledger, before: TrialRecord | None, number: int) -> TrialRecord:
    """What the sweep would choose now: its winner, or the best trial where none is complete."""
    record = ledger.record(number)
    if record.state is State.COMPLETE:
        return best(ledger.records) or record
    if before is None:
        return record
    before = ledger.record(before.number)
    if before.state is State.COMPLETE:
        return before
    return min(before, record, key=standing)
