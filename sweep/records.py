"""What is known of a trial: frozen records, apart from the live objects of the study."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from sweep.space import Params


class State(StrEnum):
    """State of a trial. DIVERGED is told to Optuna as pruned, so that the sampler learns from it."""

    RUNNING = "RUNNING"
    COMPLETE = "COMPLETE"
    PRUNED = "PRUNED"
    DIVERGED = "DIVERGED"
    FAILED = "FAILED"

    @property
    def finished(self) -> bool:
        return self is not State.RUNNING


@dataclass(frozen=True)
class TrialRecord:
    """What the study knows of one trial. `curve` is epoch -> best validation NME so far, a fraction."""

    number: int
    params: Params
    state: State
    curve: Mapping[int, float] = field(default_factory=dict)
    reason: str | None = None
    seconds: float = 0.0

    @property
    def best_nme(self) -> float | None:
        return self.curve[max(self.curve)] if self.curve else None

    @property
    def epochs(self) -> int:
        return max(self.curve, default=0)
