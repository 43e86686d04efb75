"""Learning curves of earlier sweeps, as one file."""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sweep.analysis.sweep_result import SweepResult, load
from sweep.core.trial import Params, State
from sweep.storage.sweep_folder import find_sweep
from trainer.errors import ConfigError

_FORMAT = 1
_ABSENT: list[Any] = []  # in a file, a parameter that a configuration does not have


_KEPT_TAGS = ("version.", "git.", "machine", "threads", "data.hash")


@dataclass(frozen=True)
class Metric:
    """What curves hold: positive numbers of which less is better, `sign` times what is meant, and `shift` more."""

    name: str = "NME"
    sign: float = 1.0
    shift: float = 0.0

    @property
    def regret(self) -> str:
        """The unit of a difference, as it stands in a heading."""
        return "regret, points" if self.name == "NME" else "regret"

    def shown(self, cost: float, digits: int = 2) -> str:
        """What is meant by a number of a curve, such as '5.12%' or '0.9312'; `digits` is that of the percentage."""
        if self.name == "NME":
            return f"{cost:.{digits}%}"
        return f"{self.sign * (cost - self.shift):.{digits + 2}g}"

    def difference(self, regret: float) -> str:
        """How far a cost lies above another."""
        return f"{regret * 100:.2f}" if self.name == "NME" else f"{regret:.3g}"


NME = Metric()


@dataclass(frozen=True)
class Curve:
    """One training: its parameters, its seed, validation NME (a fraction) and seconds of each epoch from the first.

    A curve shorter than the others is of a training that diverged. Of another metric, `nme` holds what a Metric says.
    """

    params: Params
    seed: int
    nme: tuple[float, ...]
    seconds: tuple[float, ...]


@dataclass(frozen=True)
class RecordedCurves:
    """Trainings of one task. `made` says how: versions, threads, data and config."""

    epochs: int
    curves: tuple[Curve, ...]
    made: Mapping[str, Any] = field(default_factory=dict)
    metric: Metric = NME

    @classmethod
    def load(cls, path: Path) -> RecordedCurves:
        """Reads what `save` wrote.

        Raises:
            ConfigError: there is no such file, or it holds something else.
        """
        try:
            tree = json.loads(gzip.decompress(path.read_bytes()))
            if tree["format"] != _FORMAT:
                raise ConfigError(f"{path}: has format {tree['format']!r}, this version reads {_FORMAT}")
            epochs, keys = int(tree["epochs"]), tree["params"]
            curves = tuple(_read(keys, epochs, *row) for row in tree["curves"])
            found = cls(epochs, curves, tree["made"])
        except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"{path}: cannot be read as recorded curves ({error})") from None
        if not any(len(curve.nme) == found.epochs for curve in curves):
            raise ConfigError(f"{path}: holds no training of {found.epochs} epochs")
        return found

    @classmethod
    def of_sweeps(cls, sweeps: Sequence[SweepResult]) -> RecordedCurves:
        """The complete and the diverged trials of sweeps of one task, whose seeds may differ.

        Raises:
            ConfigError: the sweeps have different numbers of epochs or parameters, or no complete trial.
        """
        if len({(s.config.train.optim.epochs, tuple(s.config.space)) for s in sweeps}) != 1:
            raise ConfigError("curves: the sweeps differ in their epochs or in what they search")
        curves = tuple(curve for sweep in sweeps for curve in _recorded(sweep))
        config = sweeps[0].config
        if not any(len(curve.nme) == config.train.optim.epochs for curve in curves):
            raise ConfigError("curves: the sweeps have no complete trial")
        base = config.train.tree()
        base["data"]["root"] = base["data"]["cache_dir"] = base["run"]["output"] = None
        return cls(config.train.optim.epochs, curves, {"config": base, "tags": _tags(sweeps[0])})

    def save(self, path: Path) -> None:
        """Writes one compact file: NME with six digits after the point, seconds with three."""
        keys = list(dict.fromkeys(key for c in self.curves for key in c.params))
        curves = [
            [
                [c.params.get(key, _ABSENT) for key in keys],
                c.seed,
                [round(v, 6) for v in c.nme],
                [round(v, 3) for v in c.seconds],
            ]
            for c in self.curves
        ]
        tree = {"format": _FORMAT, "made": self.made, "epochs": self.epochs, "params": keys, "curves": curves}
        path.write_bytes(gzip.compress(json.dumps(tree).encode(), mtime=0))


def _read(keys: list[str], epochs: int, values: list[Any], seed: int, nme: list[float], seconds: list[float]) -> Curve:
    """One curve as `save` wrote it; ValueError where it is none."""
    if not len(nme) == len(seconds) <= epochs or not all(0 < value < math.inf for value in nme):
        raise ValueError(f"a curve of {len(nme)} NMEs and {len(seconds)} times holds what is no NME, or too much")
    params = {key: value for key, value in zip(keys, values, strict=True) if value != _ABSENT}
    return Curve(params, seed, tuple(nme), tuple(seconds))


def _tags(sweep: SweepResult) -> dict[str, str]:
    return {key: value for key, value in sorted(sweep.tags.items()) if key.startswith(_KEPT_TAGS)}


def _recorded(sweep: SweepResult) -> Iterable[Curve]:
    for number, rows in sorted(sweep.history_by_trial.items()):
        record = sweep.records[number]
        if record.state in (State.COMPLETE, State.DIVERGED):
            ordered = [rows[epoch] for epoch in sorted(rows)]
            seed = sweep.config.train.run.seed if record.seed is None else record.seed
            nme = tuple(row["val/nme"] for row in ordered)
            yield Curve(dict(record.params), seed, nme, tuple(row["epoch_seconds"] for row in ordered))


def read_curves(names: Sequence[str], output: Path) -> RecordedCurves:
    """One file of recorded curves, or sweeps by name in the output folder or by folder.

    Raises:
        ConfigError: there is no such file or sweep, or it cannot be read.
    """
    if len(names) == 1 and Path(names[0]).is_file():
        return RecordedCurves.load(Path(names[0]))
    return RecordedCurves.of_sweeps([load(find_sweep(name, output)) for name in names])
