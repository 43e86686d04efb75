"""Trials as frozen records, apart from the live objects of the study."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from trainer.config import TrainConfig

Value = float | int | str | bool | None
Params = dict[str, Value]


class StateTraits(NamedTuple):
    """All that depends on the state of a trial.

    Attributes:
        rank: on the leaderboard: 0 complete, 1 stopped or unfinished, 2 and more unusable.
        finished: whether the trial is never resumed.
        optuna: name of Optuna's `TrialState`; None while the trial is unfinished.
        run_status: of its MLflow run.
        style: in the terminal, for rich.
        colour, symbol: in figures, for Plotly.
    """

    rank: int
    finished: bool
    optuna: str | None
    run_status: str
    style: str
    colour: str
    symbol: str


class State(StrEnum):
    """State of a trial. Optuna is told that DIVERGED and INFEASIBLE ones were pruned, with their values.

    A PAUSED trial may be resumed from its checkpoint; when the sweep ends, it is PRUNED.
    """

    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    COMPLETE = "COMPLETE"
    PRUNED = "PRUNED"
    DIVERGED = "DIVERGED"
    INFEASIBLE = "INFEASIBLE"
    FAILED = "FAILED"

    @property
    def traits(self) -> StateTraits:
        return _TRAITS[self]

    @property
    def finished(self) -> bool:
        return self.traits.finished

    @property
    def usable(self) -> bool:
        """Whether its NME may be compared with those of others."""
        return self.traits.rank < _UNUSABLE


_UNUSABLE = 2  # rank
_TRAITS = {
    State.RUNNING: StateTraits(1, False, None, "RUNNING", "cyan", "#2f7fb8", "circle-open"),
    State.PAUSED: StateTraits(1, False, None, "SCHEDULED", "yellow", "#e8c766", "triangle-down-open"),
    State.COMPLETE: StateTraits(0, True, "COMPLETE", "FINISHED", "green", "#2a7f3f", "circle"),
    State.PRUNED: StateTraits(1, True, "PRUNED", "FINISHED", "yellow", "#e0a100", "triangle-down"),
    State.INFEASIBLE: StateTraits(2, True, "PRUNED", "FAILED", "magenta", "#7d5a8c", "diamond-x"),
    State.DIVERGED: StateTraits(3, True, "PRUNED", "FAILED", "magenta", "#a03fa0", "x"),
    State.FAILED: StateTraits(4, True, "FAIL", "FAILED", "red", "#c0392b", "x-open"),
}


@dataclass(frozen=True)
class TrialRecord:
    """What the study knows of one trial.

    Attributes:
        curve: epoch -> best validation NME so far, a fraction.
        reason: why it failed, diverged or became infeasible.
        seconds: trained so far.
        seed: of a repeat; None: run.seed of the sweep.
        replicate_of: of a repeat, the number of the trial with the same parameters that came first.
        metrics: of its last epoch.
    """

    number: int
    params: Params
    state: State = State.RUNNING
    curve: Mapping[int, float] = field(default_factory=dict)
    reason: str | None = None
    seconds: float = 0.0
    seed: int | None = None
    replicate_of: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def best_nme(self) -> float | None:
        return self.curve[max(self.curve)] if self.curve else None

    @property
    def epochs(self) -> int:
        return max(self.curve, default=0)


@dataclass(frozen=True)
class Progress:
    """Progress of a running trial within its epoch.

    Attributes:
        epoch: the running one, from 1.
        share: of the epoch that is done, 0 to 1.
        seconds: since the epoch began.
    """

    epoch: int
    share: float
    seconds: float


def share_of_epoch(record: TrialRecord, running: Mapping[int, Progress]) -> float:
    """The share of its running epoch that a trial has done; 0 if the progress is that of an earlier attempt."""
    progress = running.get(record.number)
    return progress.share if progress is not None and progress.epoch == record.epochs + 1 else 0.0


@dataclass(frozen=True)
class Assignment:
    """A trial to train: from the start, or from its last checkpoint if its folder has one.

    Attributes:
        pause_epochs: epochs after which it may be paused; its whole state is saved before each.
        saved: whether it has reached one of them, so that without its checkpoint it must not start over.
    """

    number: int
    config: TrainConfig
    pause_epochs: tuple[int, ...] = ()
    saved: bool = False
