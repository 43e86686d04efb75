"""A sweep of anything that has learning curves: its parameters need not be settings of this project's trainer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sweep.core.config import SweepConfig
from sweep.core.config_file import build_sweep, read_tree
from sweep.core.trial import TrialRecord, Value
from sweep.simulation.recorded_curves import RecordedCurves
from trainer.config import TrainConfig
from trainer.errors import ConfigError
from trainer.settings import apply_overrides

_WIDE = 100.0  # a range whose ends differ by so many times is searched in logarithms


class ForeignSweep(SweepConfig):
    """A sweep that can be simulated and not run. Of `train`, only the number of epochs means something."""

    @property
    def _searched(self) -> None:
        return None

    def trial_config(self, trial: TrialRecord) -> TrainConfig:
        """That of all trials: none is trained."""
        return self.train


def space_keys(path: str | Path | None, overrides: Mapping[str, str]) -> list[str] | None:
    """The parameters that a sweep file, or an override, says are searched; None where it says nothing of that."""
    tree: dict[str, Any] = read_tree(Path(path)) if path is not None else {}
    apply_overrides(ForeignSweep, tree, {key: text for key, text in overrides.items() if key == "space"})
    return list(tree["space"]) if isinstance(tree.get("space"), dict) else None


def load_foreign(path: str | Path | None, overrides: Mapping[str, str], curves: RecordedCurves) -> ForeignSweep:
    """Reads a sweep file, or only overrides; what they leave open is taken from the curves: space and epochs.

    Raises:
        ConfigError: one message that names field, value and what is allowed.
    """
    tree: dict[str, Any] = read_tree(Path(path)) if path is not None else {"name": "simulated"}
    tree.setdefault("space", space_of(curves))
    tree.setdefault("train", {}).setdefault("optim", {}).setdefault("epochs", curves.epochs)
    config = build_sweep(ForeignSweep, tree, overrides, "the sweep" if path is None else str(path))
    if config.warm_start or len(config.objectives) > 1 or config.limits.given:
        raise ConfigError("warm_start, objectives and limits: cannot be simulated on a table of curves")
    return config


def space_of(curves: RecordedCurves) -> dict[str, dict[str, list[Value]]]:
    """The smallest space that holds all recorded configurations, in the form of a sweep file.

    Numbers are ranges, in logarithms where they are wide; all else is choices. What never changes is left out.
    """
    values: dict[str, list[Value]] = {}
    for curve in curves.curves:
        for key, value in curve.params.items():
            values.setdefault(key, []).append(value)
    kinds = {key: (_kind(found), list(dict.fromkeys(found))) for key, found in values.items()}
    return {
        key: {kind: distinct if kind == "choice" else [min(distinct), max(distinct)]}  # type: ignore[type-var]
        for key, (kind, distinct) in kinds.items()
        if len(distinct) > 1
    }


def _kind(values: list[Value]) -> str:
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return "choice"
    low, high = float(min(values)), float(max(values))  # type: ignore[type-var, arg-type]
    log = low > 0 and high >= _WIDE * low
    if all(isinstance(value, int) for value in values):
        return "log_int" if log else "int"
    return "log_uniform" if log else "uniform"
