"""Learning curves of any trainings from a table: a row an epoch, in CSV or Parquet."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sweep.core.trial import Params, Value
from sweep.simulation.recorded_curves import Curve, Metric, RecordedCurves
from trainer.errors import ConfigError
from trainer.settings import nearest

TABLES = (".csv", ".csv.gz", ".parquet")
_EPOCH, _SEED, _SECONDS, _TRAINING = "epoch", "seed", "seconds", "trial"
_NO_PARAMETERS = (_EPOCH, _SEED, _SECONDS, _TRAINING)
_MARGIN = 1e-3  # of the range of a metric that is not positive, by which its lowest value is put above zero


def read_table(path: Path, metric: str, *, maximize: bool, keys: Sequence[str] | None) -> RecordedCurves:
    """Reads a table whose columns are parameters, `epoch`, metrics, and perhaps `trial`, `seed` and `seconds`.

    Epochs may be counted in any unit: the first that is in the table is 1, the next is 2. A training whose metric ends
    or is no number has diverged there. Without seconds, each epoch takes one.

    Args:
        path: a file that ends in one of TABLES.
        metric: the column that is searched by.
        maximize: whether more of it is better.
        keys: the columns that are parameters; None: all others, but where `trial` tells trainings apart, only those
            that are constant in each.

    Raises:
        ConfigError: the file cannot be read, or is no such table.
    """
    frame = _read(path)
    if _EPOCH not in frame:
        raise ConfigError(f"{path}: has no column {_EPOCH}")
    if metric not in frame:
        raise ConfigError(f"{path}: has no column {metric}{nearest(metric, list(map(str, frame)))} (see --metric)")
    if not pd.api.types.is_numeric_dtype(frame[metric]):
        raise ConfigError(f"{path}: column {metric} holds what is no number")
    for column in frame.columns[frame.isna().any()]:
        frame[column] = _whole(frame[column])
    given = [str(c) for c in frame if c not in (*_NO_PARAMETERS, metric)] if keys is None else list(keys)
    if missing := [key for key in given if key not in frame]:
        raise ConfigError(f"{path}: has no column {missing[0]}, which is a parameter of the space")
    if keys is None and _TRAINING in frame:
        changes = frame.groupby(_TRAINING)[given].nunique(dropna=False) > 1
        given = [key for key in given if not changes[key].any()]
    costs, shown = _as_costs(frame[metric].to_numpy(float), metric, maximize)
    steps, frame = sorted(frame[_EPOCH].unique()), frame.assign(**{metric: costs})
    curves = tuple(_curves(path, frame, metric, given, {step: i for i, step in enumerate(steps)}))
    if not any(len(curve.nme) == len(steps) for curve in curves):
        raise ConfigError(f"{path}: holds no training of all {len(steps)} epochs")
    return RecordedCurves(len(steps), curves, {"table": path.name}, shown)


def _read(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path) if path.name.endswith(".parquet") else pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as a table ({' '.join(str(error).split())[:200]})") from None


def _whole(column: pd.Series[Any]) -> pd.Series[Any]:
    """Integers again, where gaps have made them floats."""
    known = column.dropna()
    if not pd.api.types.is_float_dtype(column) or not (known == known.round()).all():
        return column
    return column.astype("Int64").astype(object).where(column.notna(), None)


def _as_costs(values: Any, name: str, maximize: bool) -> tuple[Any, Metric]:
    """Positive numbers of which less is better."""
    sign = -1.0 if maximize else 1.0
    finite = sign * values[np.isfinite(values)]
    if not len(finite):
        raise ConfigError(f"column {name}: holds no number")
    low, high = float(finite.min()), float(finite.max())
    shift = 0.0 if low > 0 else _MARGIN * (high - low or 1.0) - low
    return np.where(np.isfinite(values), sign * values + shift, np.nan), Metric(name, sign, shift)


def _curves(path: Path, frame: pd.DataFrame, metric: str, keys: list[str], index_of: dict[Any, int]) -> Iterator[Curve]:
    """One curve a training; ConfigError where an epoch is there twice, or one is missing in between."""
    own = [_TRAINING] if _TRAINING in frame else [*keys, *([_SEED] if _SEED in frame else [])]
    for name, rows in frame.groupby(own, sort=False, dropna=False):
        ordered = rows.sort_values(_EPOCH)
        indices = [index_of[step] for step in ordered[_EPOCH]]
        if indices != list(range(len(indices))):
            what = "twice or is missing" if len(set(indices)) < len(indices) else "missing"
            raise ConfigError(f"{path}: an epoch is {what} in {_named(own, name)} (a column `{_TRAINING}` may help)")
        params: Params = {key: value for key in keys if (value := _value(ordered[key].iloc[0])) is not None}
        costs = ordered[metric].to_numpy(float)
        length = int(np.isfinite(costs).argmin()) if not np.isfinite(costs).all() else len(costs)
        seconds = ordered[_SECONDS].to_numpy(float) if _SECONDS in frame else np.ones(len(costs))
        seed = int(ordered[_SEED].iloc[0]) if _SEED in frame else 0
        yield Curve(params, seed, tuple(costs[:length].tolist()), tuple(seconds[:length].tolist()))


def _named(columns: list[str], name: Hashable) -> str:
    values = name if isinstance(name, tuple) else (name,)
    return ", ".join(f"{column} = {value}" for column, value in zip(columns, values, strict=True))


def _value(cell: Any) -> Value | None:
    """A plain value; None where the configuration has no such parameter."""
    value = cell.item() if isinstance(cell, np.generic) else cell
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    return value
