"""The HTML report: one self-contained file about a sweep, or several side by side.

What it shows is put together here as sections; how they look is in report.html, a Jinja template.
"""

from __future__ import annotations

import base64
import logging
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from sweep.analysis.budget_forecast import doubling_text
from sweep.analysis.error_analysis import ErrorAnalysis, WorstFace, analyse_errors
from sweep.analysis.leaderboard import cells, columns, notes, summary_line
from sweep.analysis.sweep_result import SweepResult, load
from sweep.core.formatting import short_name
from sweep.core.sections import StorageConfig
from sweep.reporting.report_text import (
    CED,
    CURVES,
    FRONT,
    HISTORY,
    IMPORTANCE,
    PARALLEL,
    PARTS,
    STRIP,
    SURFACE,
    TOO_LITTLE,
    WORST,
    comparison_row,
    evidence_lines,
    unequal,
)
from sweep.storage.sweep_folder import LOG_FILE, REPORT_FILE
from trainer.atomic_file import replacing

logger = logging.getLogger(__name__)
_TEMPLATE = "report.html"  # beside this file


@dataclass(frozen=True)
class Table:
    """A table of texts."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Section:
    """A section of the page, shown in the order of these attributes; what is empty is left out.

    Attributes:
        title: its heading.
        lines: paragraphs.
        warning: a line that must not be missed.
        table: of texts.
        note: what to know to read what follows.
        figure: drawn with Plotly, as HTML.
        faces: pictures with their errors.
        evidence: paragraphs that keep their line breaks.
    """

    title: str
    lines: Sequence[str] = ()
    warning: str = ""
    table: Table | None = None
    note: str = ""
    figure: str = ""
    faces: Sequence[WorstFace] = ()
    evidence: Sequence[str] = ()


def write_report(sweeps: Sequence[SweepResult], path: Path) -> Path:
    """Writes one HTML file that needs no network; returns its path.

    Args:
        sweeps: one is shown with all its figures, several are compared.
        path: the file, which appears whole.
    """
    from plotly.offline import get_plotlyjs

    page = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page.filters["base64"] = lambda data: base64.b64encode(data).decode()
    text = page.get_template(_TEMPLATE).render(
        title=f"sweep {sweeps[0].name}" if len(sweeps) == 1 else "sweeps " + ", ".join(s.name for s in sweeps),
        written=time.strftime("%Y-%m-%d %H:%M"),
        norm=" or ".join(sorted({str(sweep.config.train.data.norm) for sweep in sweeps})),
        plotly=get_plotlyjs(),
        sections=_one(sweeps[0]) if len(sweeps) == 1 else _several(sweeps),
    )
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def refresh_report(config: StorageConfig) -> Path | None:
    """Writes a sweep's report anew; a fault of the display is only logged."""
    try:
        return write_report([load(config.folder)], config.folder / REPORT_FILE)
    except Exception:
        logger.warning("the report could not be written, see %s", config.folder / LOG_FILE)
        logger.info("what went wrong:\n%s", traceback.format_exc())
        return None


def _one(sweep: SweepResult) -> list[Section]:
    from sweep.reporting import search_figures, trial_figures

    measured, limit = _measured(sweep), sweep.config.train.data.threshold
    ranges = " and ".join(short_name(d.key) for d in search_figures.numeric(sweep)[:2])
    over = f"NME over {ranges}" if " and " in ranges else "NME over two ranges"
    return [
        Section("Result", lines=_summary(sweep), table=_leaderboard(sweep)),
        Section("What is known about the winner", evidence=evidence_lines(sweep)),
        _drawn(over, SURFACE, lambda: search_figures.response_surface(sweep)),
        *_front(sweep),
        _drawn("Parallel coordinates", PARALLEL, lambda: search_figures.parallel_coordinates(sweep)),
        _drawn("Importance of the parameters", IMPORTANCE, lambda: search_figures.importance(sweep)),
        _drawn("Learning curves", CURVES, lambda: trial_figures.learning_curves(sweep)),
        _drawn("Error distribution", CED, lambda: trial_figures.error_curves(trial_figures.curves_of(sweep), limit)),
        _drawn("Optimisation history", HISTORY, lambda: trial_figures.optimisation_history(sweep)),
        _drawn("Timeline of the slots", "Numbers are trials.", lambda: trial_figures.timeline(sweep)),
        _drawn("NME by part of the face", PARTS, lambda: trial_figures.bars(_groups(sweep, measured, "parts"))),
        _drawn("NME by subset", PARTS, lambda: trial_figures.bars(_groups(sweep, measured, "subsets"))),
        _worst(measured),
        Section("Where the numbers come from", table=_provenance(sweep, measured)),
    ]


def _front(sweep: SweepResult) -> list[Section]:
    """The figure of two objectives, where there are two."""
    from sweep.reporting import trial_figures

    if len(sweep.config.objectives) == 1:
        return []
    return [_drawn("Pareto front", FRONT, lambda: trial_figures.pareto(sweep))]


def _several(sweeps: Sequence[SweepResult]) -> list[Section]:
    from sweep.reporting import trial_figures

    limit = max(sweep.config.train.data.threshold for sweep in sweeps)
    best = {s.name: curve for s in sweeps for curve in list(trial_figures.curves_of(s, most=1).values())[:1]}
    return [
        _comparison(sweeps),
        _drawn("Best NME against epochs", "", lambda: trial_figures.histories(sweeps)),
        _drawn(
            "Error distribution of the winners",
            "On the validation faces.",
            lambda: trial_figures.error_curves(best, limit),
        ),
        _drawn("All trials", STRIP, lambda: trial_figures.trials_of(sweeps)),
        *(Section(f"Sweep {s.name}", _summary(s), table=_leaderboard(s), evidence=evidence_lines(s)) for s in sweeps),
    ]


def _drawn(title: str, note: str, draw: Callable[[], Any]) -> Section:
    """A section with a figure, or with the reason why there is none."""
    made = draw()
    if made is None:
        return Section(title, [TOO_LITTLE])
    settings = {"displaylogo": False, "responsive": True}
    return Section(title, note=note, figure=made.to_html(full_html=False, include_plotlyjs=False, config=settings))


def _summary(sweep: SweepResult) -> list[str]:
    train = sweep.config.train
    data = "synthetic faces, drawn by this program" if train.data.kind == "synthetic" else f"{train.data.kind} faces"
    facts = [
        summary_line(list(sweep.records.values())),
        f"{train.model.backbone}, {train.model.head} head, {train.loss.name} loss, {train.data.image_size} px, {data}",
        f"{sweep.epochs_spent} epochs and {sweep.trial_hours:.2f} trial-hours spent; sampler "
        f"{sweep.config.sampler.name}, pruner {sweep.config.pruner.name}, seed {sweep.config.seed}",
        *notes(list(sweep.records.values()), sweep.config.objectives),
        doubling_text(sweep.records.values()),
    ]
    return [fact for fact in facts if fact]


def _leaderboard(sweep: SweepResult, most: int = 10) -> Table:
    keys = [d.key for d in sweep.config.dimensions]
    return Table(columns(keys), [cells(r, keys) for r in sweep.ranked[:most]])


def _measured(sweep: SweepResult) -> ErrorAnalysis | None:
    if sweep.best is None:
        return None
    try:
        return analyse_errors(sweep.config, sweep.best.number)
    except (RuntimeError, OSError, ValueError) as error:  # weights or faces are gone
        logger.info("the report goes without faces: %s", error)
        return None


def _groups(sweep: SweepResult, measured: ErrorAnalysis | None, name: str) -> dict[str, dict[str, float]]:
    groups: dict[str, dict[str, float]] = {}
    final = sweep.findings.final_test
    tested: dict[str, Any] = {"subsets": final.subsets, "parts": final.parts} if final is not None else {}
    for title, found in (("winner, val", measured and measured.report), ("final model, test", tested)):
        if found:
            groups[title] = {key: v["nme"] if isinstance(v, dict) else v for key, v in found[name].items()}
    return groups


def _worst(measured: ErrorAnalysis | None) -> Section:
    title = "Worst faces of the winner"
    if measured is None:
        return Section(title, ["The winner's weights or the faces are not here."])
    return Section(title, note=WORST, faces=measured.worst)


def _provenance(sweep: SweepResult, measured: ErrorAnalysis | None) -> Table:
    facts = dict(sweep.tags) | {"seed of the trainings": str(sweep.config.train.run.seed)}
    if measured is not None:
        facts |= {"data.hash of the validation faces": measured.data_hash, "device of this report": measured.device}
    return Table(["what", "value"], sorted(facts.items()))


def _comparison(sweeps: Sequence[SweepResult]) -> Section:
    head = [
        "sweep",
        "loss",
        "head",
        "trials",
        "epochs",
        "trial-hours",
        "best val NME",
        "with other seeds",
        "test NME",
        "winner",
    ]
    table = Table(head, [comparison_row(sweep) for sweep in sweeps])
    if differing := unequal(sweeps):
        warning = f"Not on equal terms; these differ: {', '.join(differing)}."
        return Section("Side by side", warning=warning, table=table)
    equal = "Same data, backbone, number of trials and epochs a trial: the budgets are equal."
    return Section("Side by side", [equal], table=table)
