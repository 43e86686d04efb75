"""Makes a sweep's MlflowSync, and provides the files it uploads: draws error curves, fetches remote files."""

from __future__ import annotations

import contextlib
import functools
import logging
from pathlib import Path

import numpy as np

from sweep.core.errors import StorageError, TrackingUnavailable
from sweep.core.mlflow_uri import resolve_uri
from sweep.core.sections import TrackingConfig
from sweep.storage.remote_files import Storage
from sweep.storage.sweep_folder import CED_FILE, EVENTS_FILE, MLFLOW_STATE_FILE
from sweep.tracking.projector import MlflowSync
from trainer.atomic_file import replacing
from trainer.metric_names import rate_label, rate_names
from trainer.metrics import auc, ced, failure_rate
from trainer.run_folder import FACES_FILE
from trainer.user_folders import matplotlib_cache

logger = logging.getLogger(__name__)


def render(path: Path, threshold: float) -> None:
    """Draws a trial's error curve up to the NME `threshold`, if it does not exist yet and its data does."""
    errors = path.parent / FACES_FILE
    if path.name == CED_FILE and not path.exists() and errors.exists():
        draw_ced(np.load(errors), path, f"trial {int(path.parent.name)}", threshold)


def draw_ced(nme: np.ndarray, path: Path, title: str, limit: float) -> None:
    """Draws the cumulative error distribution of faces' NME (N,), fractions, up to `limit`, as a PNG."""
    matplotlib_cache()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    thresholds, shares = ced(nme, limit)
    figure = Figure(figsize=(5, 3.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(thresholds * 100, shares * 100, color="#1f5fa8", linewidth=2)
    axes.fill_between(thresholds * 100, shares * 100, color="#1f5fa8", alpha=0.12)
    axes.set(xlim=(0, limit * 100), ylim=(0, 100), xlabel="NME (%)", ylabel="faces at most that wrong (%)")
    failures, area = map(rate_label, rate_names(limit))
    rates = f"{failures} {failure_rate(nme, limit):.1%}, {area} {auc(nme, limit):.3f}"
    axes.set_title(f"{title}: NME {np.nanmean(nme):.2%}, {rates}", fontsize=10)
    axes.grid(alpha=0.3)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")


def make_mlflow_sync(config: TrackingConfig, threshold: float, storage: Storage | None = None) -> MlflowSync:
    """The projection of a sweep's event log into its MLflow store.

    Args:
        config: the sweep.
        threshold: NME (a fraction) up to which error distributions are drawn.
        storage: where files are fetched from that are not here.
    """
    output = config.folder.parent
    uri = resolve_uri(config.mlflow_uri, output)
    return MlflowSync(
        config.folder / EVENTS_FILE,
        uri,
        config.mlflow_experiment,
        config.folder / MLFLOW_STATE_FILE,
        output / "mlartifacts",
        functools.partial(_supply, storage, threshold),
    )


def _supply(storage: Storage | None, threshold: float, path: Path) -> None:
    """Fetches or draws a file that is about to be uploaded."""
    source = path.with_name(FACES_FILE) if path.name == CED_FILE else path
    if storage is not None and not source.exists():
        with contextlib.suppress(StorageError):
            storage.fetch(source)
    render(path, threshold)


def send(sync: MlflowSync) -> bool:
    """Sends the rest of a sweep to MLflow; False, with a warning logged, if that is not possible now."""
    try:
        sync.catch_up()
    except TrackingUnavailable as error:
        logger.warning("%s", error)
        return False
    return True
