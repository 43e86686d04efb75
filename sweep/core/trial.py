"""What is known of a trial: frozen records, apart from the live objects of the study."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from trainer.config import TrainConfig

Value = float | int | str | bool | None
Params = dict[str, Value]


class State(StrEnum):
    """State of a trial. DIVERGED and INFEASIBLE are told to Optuna as pruned, with their values.

    PAUSED trials wait for others to come as far; they go on from their checkpoint, or are PRUNED in the end.
    """

    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    COMPLETE = "COMPLETE"
    PRUNED = "PRUNED"
    DIVERGED = "DIVERGED"
    INFEASIBLE = "INFEASIBLE"
    FAILED = "FAILED"

    @property
    def finished(self) -> bool:
        return self not in (State.RUNNING, State.PAUSED)


@dataclass(frozen=True)
class TrialRecord:
    """What the study knows of one trial.

    Attributes:
        curve: epoch -> best validation NME so far, a fraction.
        seed: of its training where that is not the sweep's (run.seed), for a repeat.
        repeats: number of the trial whose parameters it trains again; None for all others.
        metrics: of its last epoch.
    """

    number: int
    params: Params
    state: State = State.RUNNING
    curve: Mapping[int, float] = field(default_factory=dict)
    reason: str | None = None
    seconds: float = 0.0
    seed: int | None = None
    repeats: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def best_nme(self) -> float | None:
        return self.curve[max(self.curve)] if self.curve else None

    @property
    def epochs(self) -> int:
        return max(self.curve, default=0)


@dataclass(frozen=True)
class Progress:
    """How far a running trial has come in its epoch.

    Attributes:
        epoch: that runs, from 1.
        share: of it that is done, 0 to 1.
        seconds: that it has been running for.
    """

    epoch: int
    share: float
    seconds: float


def share_of_epoch(record: TrialRecord, running: Mapping[int, Progress]) -> float:
    """How much of its running epoch a trial has behind it; what was told of another attempt does not count."""
    progress = running.get(record.number)
    return progress.share if progress is not None and progress.epoch == record.epochs + 1 else 0.0


def keep(group: dict[int, TrialRecord], record: TrialRecord, belongs: bool) -> None:
    """Puts a trial into a group by number, or takes it out."""
    if belongs:
        group[record.number] = record
    else:
        group.pop(record.number, None)


@dataclass(frozen=True)
class Assignment:
    """A trial to run: from the start, or from its last checkpoint if its folder has one.

    `pauses` are epochs after which it may have to wait for others, so its whole state must be on disk before each.
    `saved` tells that it has come to one of them: without its checkpoint it must not begin anew.
    """

    number: int
    config: TrainConfig
    pauses: tuple[int, ...] = ()
    saved: bool = False
