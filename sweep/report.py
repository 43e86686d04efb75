"""python -m sweep.report NAME [NAME ...]: one self-contained report.html of a sweep, or of several side by side."""

from __future__ import annotations

import argparse
import base64
import html
import logging
import os
import string
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from sweep.command import add_sweep_argument, carry_out, load_all_given
from sweep.evidence import final_text, repeat_text, seeds_text
from sweep.faces import Measured, measure
from sweep.folder import REPORT_FILE
from sweep.leaderboard import summary_line
from sweep.loaded import Sweep
from sweep.records import State
from sweep.space import format_params, format_value, short_name
from trainer.settings import ArgumentParser, ConfigError

logger = logging.getLogger(__name__)
_TEMPLATE = Path(__file__).with_name("report.html")


def build_parser() -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(prog="python -m sweep.report", description=__doc__)
    add_sweep_argument(parser, several=True)
    parser.add_argument("--out", metavar="HTML", type=Path, help="file to write [default: report.html of the sweep]")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0 done, 1 failed, 2 bad input."""
    parser = build_parser()
    arguments = parser.parse(argv)
    return carry_out(parser, lambda: _report(arguments), "interrupted")


def _report(arguments: argparse.Namespace) -> int:
    sweeps = load_all_given(arguments)
    names = "-".join(sweep.name for sweep in sweeps)
    default = sweeps[0].folder / REPORT_FILE if len(sweeps) == 1 else Path(arguments.output) / f"report-{names}.html"
    path = arguments.out or default
    if not path.parent.is_dir():
        raise ConfigError(f"--out {path}: there is no folder {path.parent}")
    print(write_report(sweeps, path))
    return 0


def write_report(sweeps: Sequence[Sweep], path: Path) -> Path:
    """Writes one HTML file that needs no network; returns its path.

    Args:
        sweeps: one is shown with all its figures, several are compared.
        path: the file, which appears whole.
    """
    from plotly.offline import get_plotlyjs

    sections = _one(sweeps[0]) if len(sweeps) == 1 else _several(sweeps)
    title = f"sweep {sweeps[0].name}" if len(sweeps) == 1 else "sweeps " + ", ".join(s.name for s in sweeps)
    text = string.Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=html.escape(title),
        written=time.strftime("%Y-%m-%d %H:%M"),
        plotly=get_plotlyjs(),
        sections="\n".join(sections),
    )
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
    return path


def _one(sweep: Sweep) -> list[str]:
    from sweep import plot_runs, plots

    measured = _measured(sweep)
    params = ", ".join(short_name(d.key) for d in plots.numeric(sweep)[:2])
    return [
        _section("Result", _summary(sweep) + _leaderboard(sweep)),
        _section("What is known about the winner", _evidence(sweep)),
        _drawn(f"NME over {params}", _SURFACE, lambda: plots.response_surface(sweep)),
        _drawn("Parallel coordinates", _PARALLEL, lambda: plots.parallel_coordinates(sweep)),
        _drawn("Importance of the parameters", _IMPORTANCE, lambda: plots.importance(sweep)),
        _drawn("Learning curves", _CURVES, lambda: plot_runs.learning_curves(sweep)),
        _drawn("Error distribution", _CED, lambda: plot_runs.error_curves(plot_runs.curves_of(sweep))),
        _drawn("Optimisation history", _HISTORY, lambda: plot_runs.optimisation_history(sweep)),
        _drawn("Timeline of the slots", "Numbers are trials.", lambda: plot_runs.timeline(sweep)),
        _drawn("NME by part of the face", _PARTS, lambda: plot_runs.bars(_groups(sweep, measured, "parts"))),
        _drawn("NME by subset", _PARTS, lambda: plot_runs.bars(_groups(sweep, measured, "subsets"))),
        _section("Worst faces of the winner", _worst(measured)),
        _section("Where the numbers come from", _provenance(sweep, measured)),
    ]


def _several(sweeps: Sequence[Sweep]) -> list[str]:
    from sweep import plot_runs

    best = {s.name: curve for s in sweeps for curve in list(plot_runs.curves_of(s, most=1).values())[:1]}
    return [
        _section("Side by side", _comparison(sweeps) + _warnings(sweeps)),
        _drawn("Best NME against epochs", "", lambda: plot_runs.histories(sweeps)),
        _drawn("Error distribution of the winners", "On the validation faces.", lambda: plot_runs.error_curves(best)),
        _drawn("All trials", _STRIP, lambda: plot_runs.trials_of(sweeps)),
        *(_section(f"Sweep {s.name}", _summary(s) + _leaderboard(s) + _evidence(s)) for s in sweeps),
    ]


_SURFACE = (
    "Colours: a surface through the trials that have an NME; further parameters stand at the winner's values. Stopped "
    "trials count with what they had reached."
)
_PARALLEL = "All trials that have an NME; drag along an axis to choose among them."
_IMPORTANCE = (
    "Which parameter decides whether a trial is among the best tenth (PED-ANOVA). Lines: 80 % of resampled trials. "
    "Wide lines mean that these trials cannot tell."
)
_CURVES = "Triangles end trials that were stopped early, crosses those that diverged or failed."
_CED = "On the validation faces, at the best epoch of each trial; dotted: configurations that were known before."
_HISTORY = (
    "Random search is simulated, not run: 200 times, every trial trained to its end and worth what the surface above "
    "says there."
)
_PARTS = "The winner on the validation faces; after sweep.rerun --final also the final model on the test faces."
_STRIP = "Each dot is a trial at its best NME."


def _section(title: str, body: str) -> str:
    return f"<section><h2>{html.escape(title)}</h2>\n{body or '<p>There is nothing to show yet.</p>'}</section>"


def _drawn(title: str, note: str, draw: Callable[[], Any]) -> str:
    """A section with a figure, or with the reason why there is none."""
    made = draw()
    if made is None:
        return _section(title, "<p>Too few trials to draw this.</p>")
    settings = {"displaylogo": False, "responsive": True}
    body = made.to_html(full_html=False, include_plotlyjs=False, config=settings)
    return _section(title, f'<p class="note">{html.escape(note)}</p>\n{body}')


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    cells = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    lines = ["<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows]
    return f'<div class="wide"><table><tr>{cells}</tr>{"".join(lines)}</table></div>'


def _summary(sweep: Sweep) -> str:
    train = sweep.config.train
    data = "synthetic faces, drawn by this program" if train.data.kind == "synthetic" else f"{train.data.kind} faces"
    facts = [
        summary_line(list(sweep.records.values())),
        f"{train.model.backbone}, {train.model.head} head, {train.loss.name} loss, {train.data.image_size} px, {data}",
        f"{sweep.epochs_spent} epochs and {sweep.trial_hours:.2f} trial-hours spent; sampler "
        f"{sweep.config.sampler.name}, pruner {sweep.config.pruner.name}, seed {sweep.config.seed}",
    ]
    return "".join(f"<p>{html.escape(fact)}</p>" for fact in facts)


def _leaderboard(sweep: Sweep, most: int = 10) -> str:
    keys = [d.key for d in sweep.config.dimensions]
    rows = [
        [str(r.number), r.state.value, "-" if r.best_nme is None else f"{r.best_nme:.2%}", str(r.epochs)]
        + [format_value(r.params[key]) for key in keys]
        for r in sweep.ranked[:most]
    ]
    return _table(["trial", "state", "best val NME", "epochs", *map(short_name, keys)], rows)


def _evidence(sweep: Sweep) -> str:
    """What reruns have shown, and the seed noise beside the differences between trials."""
    found, lines = sweep.findings, []
    if "repeat" in found:
        lines.append(repeat_text(found["repeat"]))
    lines.append(_noise(sweep))
    if "final" in found:
        readings = sweep.test_readings
        text = final_text(found["final"]).partition("\n")[0]  # parts and subsets have figures of their own
        lines.append(f"{text}. The test split was read {readings} time{'s' * (readings != 1)}.")
    else:
        lines.append(f"Test: not read. Once, at the end:  python -m sweep.rerun {sweep.name} --final")
    return "".join(f'<p class="lines">{html.escape(line)}</p>' for line in lines)


def _noise(sweep: Sweep) -> str:
    found = sweep.findings.get("seeds")
    if found is None:
        return (
            "Seed noise: not measured, so small differences between trials may mean nothing. Measure it:  "
            f"python -m sweep.rerun {sweep.name} --seeds 5"
        )
    std, best = found["winner"]["std"], sweep.best
    text = seeds_text(found)
    if best is None or best.best_nme is None or not std > 0:
        return text
    others = [r for r in sweep.records.values() if r.state is State.COMPLETE and r.number != best.number]
    noise = 2 * 2**0.5 * std
    near = [r for r in others if r.best_nme is not None and r.best_nme - best.best_nme < noise]
    return (
        f"{text}.\nSeed noise: {std * 100:.2f} points (standard deviation); two runs of one config differ by less than "
        f"{noise * 100:.2f} points 19 times in 20. {len(near)} of {len(others)} other complete trials lie so near to "
        "the winner."
    )


def _measured(sweep: Sweep) -> Measured | None:
    if sweep.best is None:
        return None
    try:
        return measure(sweep.config, sweep.best.number)
    except (RuntimeError, OSError, ValueError) as error:  # weights or faces are gone
        logger.info("the report goes without faces: %s", error)
        return None


def _groups(sweep: Sweep, measured: Measured | None, name: str) -> dict[str, dict[str, float]]:
    groups: dict[str, dict[str, float]] = {}
    final = sweep.findings.get("final")
    for title, found in (("winner, val", measured and measured.report), ("final model, test", final)):
        if found:
            groups[title] = {key: v["nme"] if isinstance(v, dict) else v for key, v in found[name].items()}
    return groups


def _worst(measured: Measured | None) -> str:
    if measured is None:
        return "<p>The winner's weights or the faces are not here.</p>"
    note = "Validation faces. Green: predicted; ellipses: standard deviation of the heatmap; red: to the truth."
    figures = [
        f'<figure><img alt="face with landmarks" src="data:image/jpeg;base64,{base64.b64encode(face.jpeg).decode()}">'
        f"<figcaption>NME {face.nme:.1%}<br>{html.escape(face.name)}</figcaption></figure>"
        for face in measured.worst
    ]
    return f'<p class="note">{note}</p><div class="faces">{"".join(figures)}</div>'


def _provenance(sweep: Sweep, measured: Measured | None) -> str:
    facts = dict(sweep.tags) | {"seed of the trainings": str(sweep.config.train.run.seed)}
    if measured is not None:
        facts |= {"data.hash of the validation faces": measured.data_hash, "device of this report": measured.device}
    return _table(["what", "value"], sorted(facts.items()))


def _comparison(sweeps: Sequence[Sweep]) -> str:
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
    return _table(head, [_row(sweep) for sweep in sweeps])


def _row(sweep: Sweep) -> list[str]:
    train, best = sweep.config.train, sweep.best
    seeds, final = sweep.findings.get("seeds"), sweep.findings.get("final")
    return [
        sweep.name,
        train.loss.name,
        train.model.head,
        str(len(sweep.records)),
        str(sweep.epochs_spent),
        f"{sweep.trial_hours:.2f}",
        "-" if best is None or best.best_nme is None else f"{best.best_nme:.2%}",
        "-" if seeds is None else f"{seeds['winner']['mean']:.2%} +- {seeds['winner']['std']:.2%}",
        "-" if final is None else f"{final['nme']:.2%}",
        "-" if best is None else format_params(best.params),
    ]


def _warnings(sweeps: Sequence[Sweep]) -> str:
    """What makes these sweeps incomparable."""
    compared: dict[str, list[Any]] = {
        "data": [s.config.train.data.model_dump_json(exclude={"cache_dir", "workers", "augment"}) for s in sweeps],
        "epochs a trial": [s.config.train.optim.epochs for s in sweeps],
        "trials": [s.config.trials for s in sweeps],
        "backbone": [s.config.train.model.backbone for s in sweeps],
    }
    unequal = [name for name, values in compared.items() if len(set(values)) > 1]
    if not unequal:
        return "<p>Same data, backbone, number of trials and epochs a trial: the budgets are equal.</p>"
    return f'<p class="warning">Not on equal terms; these differ: {html.escape(", ".join(unequal))}.</p>'


if __name__ == "__main__":
    sys.exit(main())
