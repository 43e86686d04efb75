"""What driver and worker tell each other about a trial, as the plain mappings that Ray Tune passes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Self

from sweep.core.trial import State
from trainer.settings import Tree

if TYPE_CHECKING:
    from trainer.data.face_table import Split

_DISK_FULL = "DISK_FULL"


@dataclass(frozen=True)
class TrialTask:
    """From the driver: train a trial, from its last checkpoint if its folder has one.

    Attributes:
        trial: its number.
        config: tree of its TrainConfig.
        pauses: epochs after which it may be paused; its whole state is saved before each.
        saved: whether it has reached one of them, so that without its checkpoint it must not start over.
        faces: the hash that the faces of a split must have, by the name of the split.
        timeout: seconds without a report after which the driver gives it up; None: never.
    """

    trial: int
    config: Tree
    pauses: tuple[int, ...]
    saved: bool
    faces: Mapping[Split, str]
    timeout: float | None

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Self:
        """What `mapping` wrote; Tune may have added keys of its own."""
        return cls(**{f.name: mapping[f.name] for f in fields(cls)})

    def mapping(self) -> dict[str, Any]:
        """As the config of a Tune trial."""
        return asdict(self)


@dataclass(frozen=True)
class EpochReport:
    """From the worker: the metrics of one epoch of a trial."""

    trial: int
    epoch: int
    metrics: Mapping[str, float]

    def mapping(self) -> dict[str, Any]:
        """As a Tune result, which flattens mappings: metrics as pairs."""
        return {"trial": self.trial, "epoch": self.epoch, "metrics": list(self.metrics.items())}


@dataclass(frozen=True)
class TrialEnd:
    """From the worker: how a trial ended, and why; `state` is None for a full disk, which stops the whole sweep."""

    trial: int
    state: State | None
    reason: str | None = None

    def mapping(self) -> dict[str, Any]:
        """As a Tune result."""
        return {
            "trial": self.trial,
            "ended": _DISK_FULL if self.state is None else self.state.value,
            "reason": self.reason,
        }


def read_message(result: Mapping[str, Any]) -> EpochReport | TrialEnd:
    """The worker's message in a Tune result."""
    if "ended" not in result:
        return EpochReport(result["trial"], result["epoch"], dict(result["metrics"]))
    state = None if result["ended"] == _DISK_FULL else State(result["ended"])
    return TrialEnd(result["trial"], state, result["reason"])
