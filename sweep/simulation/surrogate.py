"""Recorded learning curves of many configurations, and a surface through them that a simulation trains on.

Legend: C recorded configurations, E epochs, D coordinates of a point of the search space, each in [0, 1].
"""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sweep.loaded import Sweep
from sweep.records import State
from sweep.space import Dimension, Params, Value
from sweep.surface import place
from trainer.settings import ConfigError

_FORMAT = 1
_ABSENT: list[Any] = []  # in a file, a parameter that a configuration does not have
_DRAWS = 64  # of the noise, over which a true NME is the mean
_CLOSE = 1e-9  # to an end of the space, in its coordinates
_NEIGHBOURS = 4  # repeated configurations whose noise a point may get


@dataclass(frozen=True)
class Curve:
    """One training: its parameters, its seed, validation NME (a fraction) and seconds of each epoch from the first.

    A curve shorter than the others is of a training that diverged.
    """

    params: Params
    seed: int
    nme: tuple[float, ...]
    seconds: tuple[float, ...]


@dataclass(frozen=True)
class Curves:
    """Trainings of one task. `made` says how: versions, threads, data and config."""

    epochs: int
    curves: tuple[Curve, ...]
    made: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> Curves:
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
    def of_sweeps(cls, sweeps: Sequence[Sweep]) -> Curves:
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


_KEPT_TAGS = ("version.", "git.", "machine", "threads", "data.hash")


def _tags(sweep: Sweep) -> dict[str, str]:
    return {key: value for key, value in sorted(sweep.tags.items()) if key.startswith(_KEPT_TAGS)}


def _recorded(sweep: Sweep) -> Iterable[Curve]:
    for number, rows in sorted(sweep.rows.items()):
        record = sweep.records[number]
        if record.state in (State.COMPLETE, State.DIVERGED):
            ordered = [rows[epoch] for epoch in sorted(rows)]
            seed = sweep.config.train.run.seed if record.seed is None else record.seed
            nme = tuple(row["val/nme"] for row in ordered)
            yield Curve(dict(record.params), seed, nme, tuple(row["epoch_seconds"] for row in ordered))


class Task:
    """What a simulation trains on: any point of the space has a learning curve, for any seed.

    The logarithm of the NME is averaged over the recorded configurations around the point, by a Gaussian of the
    distance whose width is that to the nearest neighbour. Noise comes on top: how the real trainings of the nearest
    repeated configurations lay about their means, whole curves, mixed two and two. Where the nearest recorded training
    diverged, so does the simulated one.

    Args:
        curves: what was recorded.
        dimensions: the search space; all of it must be recorded.
        epochs: of a training; None: as many as were recorded. Else the curves are stretched to it, as if a schedule
            of another length went through the same stages; before the first recorded epoch they are flat.

    Raises:
        ConfigError: a parameter was not recorded, or with values that the space cannot have.
    """

    def __init__(self, curves: Curves, dimensions: Sequence[Dimension], epochs: int | None = None) -> None:
        for d in dimensions:
            _check_recorded(d, [c.params[d.key] for c in curves.curves if d.key in c.params])
        self.epochs, self._dimensions = epochs or curves.epochs, dimensions
        groups: dict[str, list[Curve]] = defaultdict(list)
        for curve in curves.curves:
            groups[json.dumps(curve.params, sort_keys=True)].append(curve)
        cells = list(groups.values())
        self._points = np.array([place(dimensions, cell[0].params) for cell in cells])  # (C, D)
        shortest = [min(len(curve.nme) for curve in cell) for cell in cells]
        self._dies = [math.ceil(length * self.epochs / curves.epochs) for length in shortest]
        whole = [[c for c in cell if len(c.nme) == curves.epochs] for cell in cells]
        logs = [np.log([_stretched(c.nme, self.epochs) for c in cell]) if cell else None for cell in whole]
        self._known = np.array([log is not None for log in logs])
        blank = np.full(self.epochs, np.nan)
        self._means = np.stack([blank if log is None else log.mean(0) for log in logs])  # (C, E)
        self._noise = {i: _residuals(log) for i, log in enumerate(logs) if log is not None and len(log) > 1}
        seconds = [_stretched(c.seconds, self.epochs) for cell in whole for c in cell]
        self._seconds = np.median(seconds, axis=0)  # (E,)
        distances = np.linalg.norm(self._points[:, None] - self._points[None], axis=2)
        distances[np.diag_indices(len(cells))] = np.inf
        self._width = float(np.median(distances.min(1))) if len(cells) > 1 else 1.0

    def seconds(self, epoch: int) -> float:
        """How long an epoch takes: the median of the recorded trainings."""
        return float(self._seconds[epoch - 1])

    def curve(self, params: Params, seed: int) -> NDArray[np.float64]:
        """Validation NME by epoch, (E,) or shorter where the training diverges."""
        distance = self._distance(params)
        length = self._dies[int(distance.argmin())]
        noise = _mixed(self._noise_around(distance), np.random.default_rng(seed), 1)[0]
        return np.exp(self._mean(distance) + noise)[:length]

    def true_nme(self, params: Params) -> float:
        """The mean over seeds of the best validation NME of a whole training; infinite where it diverges."""
        return self._true(self._distance(params))

    @cached_property
    def best(self) -> float:
        """The lowest true NME of any recorded configuration in the space; of all where none lies in it."""
        inside = self._points[((self._points > -_CLOSE) & (self._points < 1 + _CLOSE)).all(1)]
        points = inside if len(inside) else self._points
        return min(map(self._true, np.linalg.norm(points[:, None] - self._points[None], axis=2)))

    def _true(self, distance: NDArray[np.float64]) -> float:
        if self._dies[int(distance.argmin())] < self.epochs:
            return math.inf
        noise = _mixed(self._noise_around(distance), np.random.default_rng(0), _DRAWS)
        return float(np.exp(self._mean(distance) + noise).min(1).mean())

    def _distance(self, params: Params) -> NDArray[np.float64]:
        return np.linalg.norm(self._points - np.array(place(self._dimensions, params)), axis=1)

    def _mean(self, distance: NDArray[np.float64]) -> NDArray[np.float64]:
        scaled = (distance - distance[self._known].min()) * (distance + distance[self._known].min()) / self._width**2
        weights = np.where(self._known, np.exp(-2 * scaled), 0.0)  # of a neighbour on a grid 0.14, of a diagonal 0.02
        return weights[self._known] @ self._means[self._known] / weights.sum()

    def _noise_around(self, distance: NDArray[np.float64]) -> NDArray[np.float64]:
        """Residuals of log NME, (runs, E), of the nearest repeated configurations; none where nothing was repeated."""
        near = sorted(self._noise, key=lambda i: (float(distance[i]), i))[:_NEIGHBOURS]
        return np.concatenate([self._noise[i] for i in near]) if near else np.zeros((1, self.epochs))


def _check_recorded(d: Dimension, values: Sequence[Value]) -> None:
    if not values:
        raise ConfigError(f"space.{d.key}: the recorded curves have no such parameter")
    if d.kind == "choice":
        return
    for value in values:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or ("log" in d.kind and not float(value) > 0):  # type: ignore[arg-type]
            raise ConfigError(f"space.{d.key}: was recorded with {value!r}, which is no value of a {d.kind} range")


def _stretched(values: Sequence[float], epochs: int) -> NDArray[np.float64]:
    """What was recorded by epoch, (R,), at the same parts of a training of another length, (E,)."""
    recorded = len(values)
    if recorded == epochs:
        return np.array(values)
    return np.interp(np.arange(1, epochs + 1) * recorded / epochs, np.arange(1, recorded + 1), values)


def _residuals(logs: NDArray[np.float64]) -> NDArray[np.float64]:
    """About the mean of each epoch, enlarged for the mean being one of these few runs."""
    return (logs - logs.mean(0)) * math.sqrt(len(logs) / (len(logs) - 1))


def _mixed(residuals: NDArray[np.float64], rng: np.random.Generator, draws: int) -> NDArray[np.float64]:
    """Noise curves, (draws, E): two residuals each, weighed by cosine and sine of a random angle.

    So they have the covariance of the residuals, but are as many different ones as are drawn.
    """
    first, second = rng.integers(len(residuals), size=(2, draws))
    angle = rng.uniform(0, 2 * math.pi, (draws, 1))
    return np.cos(angle) * residuals[first] + np.sin(angle) * residuals[second]
