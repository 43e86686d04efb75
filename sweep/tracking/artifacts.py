"""Pictures of trials, drawn from what their folders hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from trainer.metrics import FACES_FILE, auc, ced, failure_rate

CED_FILE = "ced.png"  # in a trial's folder; drawn when MLflow gets it


def render(path: Path) -> None:
    """Draws a trial's picture that does not exist yet, if its folder holds what it is drawn from."""
    errors = path.parent / FACES_FILE
    if path.name == CED_FILE and not path.exists() and errors.exists():
        draw_ced(np.load(errors), path, title=f"trial {int(path.parent.name)}")


def draw_ced(nme: np.ndarray, path: Path, title: str, limit: float = 0.10) -> None:
    """Draws the cumulative error distribution of faces' NME (N,), fractions, up to `limit`, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    thresholds, shares = ced(nme, limit)
    figure = Figure(figsize=(5, 3.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(thresholds * 100, shares * 100, color="#1f5fa8", linewidth=2)
    axes.fill_between(thresholds * 100, shares * 100, color="#1f5fa8", alpha=0.12)
    axes.set(xlim=(0, limit * 100), ylim=(0, 100), xlabel="NME (%)", ylabel="faces at most that wrong (%)")
    axes.set_title(
        f"{title}: NME {np.nanmean(nme):.2%}, FR {failure_rate(nme, limit):.1%}, AUC {auc(nme, limit):.3f}", fontsize=10
    )
    axes.grid(alpha=0.3)
    temporary = path.with_name(f".{path.name}")
    figure.savefig(temporary, format="png")
    temporary.replace(path)
