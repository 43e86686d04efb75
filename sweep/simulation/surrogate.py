"""Surrogate tasks for simulations: learning curves for any configuration, from recorded ones.

Legend: C recorded configurations, E epochs, D coordinates of a point of the search space, each in [0, 1].
"""

from __future__ import annotations

import itertools
import json
import math
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sweep.analysis.surface import encode_unit_cube
from sweep.core.search_space import Dimension
from sweep.core.trial import Params, Value
from sweep.search.sampling.unit_cube import UnitCube
from sweep.simulation.recorded_curves import Curve, RecordedCurves
from trainer.errors import ConfigError

_DRAWS = 64  # of the noise, over which a true NME is the mean
_CLOSE = 1e-9  # to an end of the space, in its coordinates
_NEIGHBOURS = 4  # repeated configurations whose noise a point may get


class SurrogateTask(ABC):
    """A task with a learning curve for any point of the space and any seed.

    Attributes:
        epochs: of a whole training.
    """

    epochs: int

    @abstractmethod
    def seconds(self, epoch: int) -> float:
        """Duration of an epoch."""

    @abstractmethod
    def curve(self, params: Params, seed: int) -> NDArray[np.float64]:
        """Validation NME by epoch, (E,), or shorter if the training diverges."""

    @abstractmethod
    def true_nme(self, params: Params) -> float:
        """The mean over seeds of the best validation NME of a whole training; infinite if it diverges."""

    @property
    @abstractmethod
    def best(self) -> float:
        """The lowest true NME there is."""


class RecordedTask(SurrogateTask):
    """A task made of recorded trainings.

    Args:
        curves: the recorded trainings.
        dimensions: the search space, all of whose parameters must be recorded.
        epochs: of a training; None: as recorded. Otherwise the curves are stretched, as if a schedule of another
            length went through the same stages; before the first recorded epoch they are constant.

    Raises:
        ConfigError: a parameter was not recorded, or with values that are not in the space.
    """

    def __init__(self, curves: RecordedCurves, dimensions: Sequence[Dimension], epochs: int | None = None) -> None:
        for d in dimensions:
            _check_recorded(d, [c.params[d.key] for c in curves.curves if d.key in c.params])
        self.epochs, self._recorded, self._dimensions = epochs or curves.epochs, curves.epochs, dimensions
        groups: dict[str, list[Curve]] = defaultdict(list)
        for curve in curves.curves:
            groups[json.dumps(curve.params, sort_keys=True)].append(curve)
        self._cells = list(groups.values())
        self._whole = [[c for c in cell if len(c.nme) == curves.epochs] for cell in self._cells]
        seconds = [_stretched(c.seconds, self.epochs) for cell in self._whole for c in cell]
        self._seconds = np.median(seconds, axis=0)  # (E,)

    def seconds(self, epoch: int) -> float:
        """The median duration of the epoch over the recorded trainings."""
        return float(self._seconds[epoch - 1])


class NearestTask(RecordedTask):
    """Replays the nearest recorded configuration, with one of its recorded seeds, and interpolates nothing."""

    def __init__(self, curves: RecordedCurves, dimensions: Sequence[Dimension], epochs: int | None = None) -> None:
        super().__init__(curves, dimensions, epochs)
        choices = {d.key: d.choices for d in dimensions if d.kind == "choice"}
        inside = [all(c[0].params.get(k, v[0]) in v for k, v in choices.items()) for c in self._cells]
        self._cells = list(itertools.compress(self._cells, inside))
        if not self._cells:
            raise ConfigError("space: holds no recorded configuration")
        self._cube = UnitCube(dimensions)
        self._points = self._at([cell[0].params for cell in self._cells])
        self._ends = [self._end(cell) for cell in self._cells]

    def curve(self, params: Params, seed: int) -> NDArray[np.float64]:
        """One of the recorded curves."""
        cell = self._cells[self._nearest(params)]
        nme = cell[int(np.random.default_rng(seed).integers(len(cell)))].nme
        rest = self._recorded - len(nme)
        stretched = _stretched([*nme, *nme[-1:] * rest] if nme else [1.0] * rest, self.epochs)
        return stretched[: math.ceil(len(nme) * self.epochs / self._recorded)]

    def true_nme(self, params: Params) -> float:
        """The mean over the recorded seeds."""
        return self._ends[self._nearest(params)]

    @cached_property
    def best(self) -> float:
        """The lowest of the table."""
        return min(self._ends)

    def _at(self, params: Sequence[Params]) -> NDArray[np.float64]:
        return self._cube.coordinates(self._cube.points(params))

    def _nearest(self, params: Params) -> int:
        return int(((self._points - self._at([params])) ** 2).sum(1).argmin())

    def _end(self, cell: Sequence[Curve]) -> float:
        return float(np.mean([min(c.nme) if len(c.nme) == self._recorded else math.inf for c in cell]))


class SmoothTask(RecordedTask):
    """A smooth surface through few parameters that were recorded on a grid, with realistic noise.

    The logarithm of the NME is a kernel average over recorded configurations, with a Gaussian of the distance to the
    nearest neighbour. The noise consists of residual curves of the nearest repeated configurations, mixed in pairs. The
    simulated training diverges if the nearest recorded one did.
    """

    def __init__(self, curves: RecordedCurves, dimensions: Sequence[Dimension], epochs: int | None = None) -> None:
        super().__init__(curves, dimensions, epochs)
        cells = self._cells
        self._points = np.array([encode_unit_cube(dimensions, cell[0].params) for cell in cells])  # (C, D)
        shortest = [min(len(curve.nme) for curve in cell) for cell in cells]
        self._dies = [math.ceil(length * self.epochs / curves.epochs) for length in shortest]
        logs = [np.log([_stretched(c.nme, self.epochs) for c in cell]) if cell else None for cell in self._whole]
        self._known = np.array([log is not None for log in logs])
        blank = np.full(self.epochs, np.nan)
        self._means = np.stack([blank if log is None else log.mean(0) for log in logs])  # (C, E)
        self._noise = {i: _residuals(log) for i, log in enumerate(logs) if log is not None and len(log) > 1}
        distances = np.linalg.norm(self._points[:, None] - self._points[None], axis=2)
        distances[np.diag_indices(len(cells))] = np.inf
        self._width = float(np.median(distances.min(1))) if len(cells) > 1 else 1.0

    def curve(self, params: Params, seed: int) -> NDArray[np.float64]:
        """The surface by epoch, with noise."""
        distance = self._distance(params)
        length = self._dies[int(distance.argmin())]
        noise = _mixed(self._noise_around(distance), np.random.default_rng(seed), 1)[0]
        return np.exp(self._mean(distance) + noise)[:length]

    def true_nme(self, params: Params) -> float:
        """The mean over many seeds."""
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
        return np.linalg.norm(self._points - np.array(encode_unit_cube(self._dimensions, params)), axis=1)

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
    """Stretches values by epoch, (R,), to a training of another length, (E,)."""
    recorded = len(values)
    if recorded == epochs:
        return np.array(values)
    return np.interp(np.arange(1, epochs + 1) * recorded / epochs, np.arange(1, recorded + 1), values)


def _residuals(logs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Deviations from the mean of each epoch, scaled to be unbiased for so few runs."""
    return (logs - logs.mean(0)) * math.sqrt(len(logs) / (len(logs) - 1))


def _mixed(residuals: NDArray[np.float64], rng: np.random.Generator, draws: int) -> NDArray[np.float64]:
    """Noise curves, (draws, E): two residuals each, weighed by cosine and sine of a random angle.

    So they have the covariance of the residuals, but are as many different ones as are drawn.
    """
    first, second = rng.integers(len(residuals), size=(2, draws))
    angle = rng.uniform(0, 2 * math.pi, (draws, 1))
    return np.cos(angle) * residuals[first] + np.sin(angle) * residuals[second]
