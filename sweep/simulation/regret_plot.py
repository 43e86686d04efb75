"""The picture of simulated sweeps: NME regret against epochs and against time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sweep.simulation.recorded_curves import NME, Metric
from sweep.simulation.simulator import History
from trainer.user_folders import matplotlib_cache

_LEAST = 1e-5  # regret at which a sweep that has found the best is drawn


def draw(sweeps: Mapping[str, Sequence[History]], best: float, path: Path, metric: Metric = NME) -> None:
    """Writes a PNG: the median of each kind of sweep as a line, its quartiles as a band.

    Args:
        sweeps: simulated sweeps by name.
        best: the lowest true value there is.
        path: the file.
        metric: of the curves.
    """
    matplotlib_cache()
    from matplotlib.figure import Figure  # without a display, and without pyplot's global state

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    points = 100 if metric == NME else 1
    for name, histories in sweeps.items():
        by_epochs = [(h.epochs, h.at_epochs) for h in histories]
        by_hours = [(h.hours, h.at_hours) for h in histories]
        _line(left, name, by_epochs, best, points)
        _line(right, name, by_hours, best, points)
    left.set_xlabel("epochs, all trials together")
    left.set_ylabel(f"{metric.name} regret of the choice{' (points)' if metric == NME else ''}")
    right.set_xlabel("hours")
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.grid(alpha=0.3)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    figure.savefig(path, dpi=120)


def _line(
    axes: Any,
    name: str,
    sweeps: Sequence[tuple[Sequence[float], Callable[[Any], NDArray[np.float64]]]],
    best: float,
    points: float,
) -> None:
    """One kind of sweep: of each, how much it had spent at its reports, and what it chose after so much."""
    start, end = max(spent[0] for spent, _ in sweeps), max(spent[-1] for spent, _ in sweeps)
    grid = np.geomspace(start, end, 200)
    regret = (np.array([at(grid) for _, at in sweeps]) - best) * points
    low, middle, high = np.quantile(np.maximum(regret, _LEAST * points), [0.25, 0.5, 0.75], axis=0, method="nearest")
    (line,) = axes.plot(grid, middle, label=name)
    axes.fill_between(grid, low, high, color=line.get_color(), alpha=0.18, linewidth=0)
