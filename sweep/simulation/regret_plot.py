"""The picture of simulated sweeps: NME regret against epochs and against time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sweep.simulation.simulator import History


def draw(sweeps: Mapping[str, Sequence[History]], best: float, path: Path) -> None:
    """Writes a PNG: the median of each kind of sweep as a line, its quartiles as a band.

    Args:
        sweeps: simulated sweeps by name.
        best: the lowest true NME there is, a fraction.
        path: the file.
    """
    from matplotlib.figure import Figure  # without a display, and without pyplot's global state

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for name, histories in sweeps.items():
        _line(left, name, histories, best, [h.epochs for h in histories], lambda h, grid: h.at_epochs(grid))
        _line(right, name, histories, best, [h.hours for h in histories], lambda h, grid: h.at_hours(grid))
    left.set_xlabel("epochs, all trials together")
    left.set_ylabel("NME regret of the choice (points)")
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
    histories: Sequence[History],
    best: float,
    spent: Sequence[Sequence[float]],
    at: Callable[[History, Any], Any],
) -> None:
    start, end = max(s[0] for s in spent), max(s[-1] for s in spent)
    grid = np.geomspace(start, end, 200)
    regret = (np.array([at(h, grid) for h in histories]) - best) * 100
    low, middle, high = np.quantile(np.maximum(regret, 1e-3), [0.25, 0.5, 0.75], axis=0, method="nearest")
    (line,) = axes.plot(grid, middle, label=name)
    axes.fill_between(grid, low, high, color=line.get_color(), alpha=0.18, linewidth=0)
