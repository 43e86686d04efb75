"""The search space as a unit cube, for designs, distances and moves.

Legend: N points, D dimensions, C coordinates (one for a range, one for each value of a choice).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from sweep.core.search_space import Dimension
from sweep.core.trial import Params, Value

Points = NDArray[np.float64]
_ONE_HOT = math.sqrt(0.5)  # so that two values of a choice are at distance 1, as the two ends of a range are


class UnitCube:
    """Points of a search space, (N, D): a number by its share of the range (of a logarithmic one: in the logarithm), a
    choice by the index of its value, and NaN where a condition does not hold, so that the setting is not searched.

    Args:
        dimensions: the search space.

    Attributes:
        owners: the dimension that each coordinate belongs to, (C,).
        choices: which dimensions are choices, (D,).
    """

    def __init__(self, dimensions: Sequence[Dimension]) -> None:
        self.dimensions = tuple(dimensions)
        self._sizes = np.array([len(d.choices) if d.kind == "choice" else 1 for d in self.dimensions])
        self.choices = np.array([d.kind == "choice" for d in self.dimensions])
        self.owners = np.repeat(np.arange(len(self.dimensions)), self._sizes)
        self._indices = [{repr(value): i for i, value in enumerate(d.choices)} for d in self.dimensions]
        columns = {d.key: i for i, d in enumerate(self.dimensions)}
        self._conditions = [
            [(columns[key], [self._indices[columns[key]][repr(v)] for v in values]) for key, values in d.when]
            for d in self.dimensions
        ]

    def points(self, params: Sequence[Mapping[str, Value]]) -> Points:
        """Encodes configurations, (N, D)."""
        found = np.full((len(params), len(self.dimensions)), np.nan)
        for i, d in enumerate(self.dimensions):
            for row, given in enumerate(params):
                if d.key in given:
                    value = given[d.key]
                    found[row, i] = self._indices[i][repr(value)] if self.choices[i] else d.share(value)  # type: ignore[arg-type]
        return found

    def from_uniform(self, shares: Points, *, conditions: bool = True) -> Points:
        """Points from uniform numbers in [0, 1), (N, D): all values of an integer or a choice are equally likely."""
        found = shares.copy()
        for i, d in enumerate(self.dimensions):
            if self.choices[i]:
                found[:, i] = np.floor(shares[:, i] * self._sizes[i])
            elif d.kind == "int":
                found[:, i] = _shares(d, d.low + np.floor(shares[:, i] * (d.high - d.low + 1)))
            elif d.kind == "log_int":
                low, high = math.log(d.low - 0.5), math.log(d.high + 0.5)
                values = np.rint(np.exp(low + shares[:, i] * (high - low)))
                found[:, i] = _shares(d, np.clip(values, d.low, d.high))
        return self._masked(found) if conditions else found

    def snap(self, points: Points) -> Points:
        """The nearest valid points: numbers are clipped to their range, integers rounded."""
        found = points.copy()
        for i, d in enumerate(self.dimensions):
            if not self.choices[i]:
                found[:, i] = np.clip(found[:, i], 0.0, 1.0)
                if "int" in d.kind:
                    found[:, i] = _shares(d, np.rint(_values(d, found[:, i])))
        return self._masked(found)

    def params(self, point: Points) -> Params:
        """Decodes one point, (D,); settings whose conditions do not hold are missing."""
        found: Params = {}
        for i, d in enumerate(self.dimensions):
            if math.isnan(point[i]):
                continue
            if self.choices[i]:
                found[d.key] = d.choices[int(point[i])]
            else:
                value = min(max(float(_values(d, point[i])), d.low), d.high)
                found[d.key] = round(value) if "int" in d.kind else value
        return found

    def coordinates(self, points: Points) -> Points:
        """Coordinates in which distances are measured, (N, C); a missing setting lies in the middle of its range."""
        columns: list[Points] = []
        for i, size in enumerate(self._sizes):
            column = points[:, i]
            if self.choices[i]:
                columns += [np.where(column == index, _ONE_HOT, 0.0) for index in range(size)]
            else:
                columns.append(np.where(np.isnan(column), 0.5, column))
        return np.stack(columns, axis=1)

    def _masked(self, points: Points) -> Points:
        """The same points, with NaN where a setting's conditions do not hold."""
        for i, conditions in enumerate(self._conditions):
            for column, indices in conditions:
                points[~np.isin(points[:, column], indices), i] = np.nan
        return points


def _shares(d: Dimension, values: Points) -> Points:
    return np.array([d.share(value) for value in values.tolist()])


def _values(d: Dimension, shares: Points) -> Points:
    if d.kind.startswith("log"):
        return d.low * (d.high / d.low) ** shares
    return d.low + (d.high - d.low) * shares
