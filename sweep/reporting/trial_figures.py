"""Figures of how the trials ran, with Plotly: curves, history, slots, errors. NME in per cent."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from sweep.analysis.surface import Surface, random_search
from sweep.analysis.sweep_result import RunInterval, SweepResult
from sweep.core.trial import State
from sweep.reporting.figure_style import LINES, OUTCOME_COLOURS, figure, finite, label, log_axis
from sweep.search.objectives import pareto_front, second_value
from trainer.metric_names import rate_label
from trainer.metrics import ced
from trainer.run_folder import FACES_FILE

KNOWN = " (known before)"  # how a baseline is named
_IDLE = 60.0  # seconds in which nothing ran that the timeline cuts out
_STEPS = {"width": 3, "shape": "hv"}


def learning_curves(sweep: SweepResult) -> go.Figure | None:
    """Validation NME of every trial by epoch, stopped ones marked where they ended; None without any report."""
    if not sweep.history_by_trial:
        return None
    made = figure("epoch", "val NME %", height=460)
    winner = sweep.best.number if sweep.best else None
    seen: set[str] = set()
    shown: list[float] = []
    for r in sweep.ranked[::-1]:  # the best on top
        if r.number not in sweep.history_by_trial:
            continue
        epochs = sorted(sweep.history_by_trial[r.number])
        values = [sweep.history_by_trial[r.number][e]["val/nme"] * 100 for e in epochs]
        shown += values
        colour, state = r.state.traits.colour, r.state.value
        name = f"winner, trial {r.number}" if r.number == winner else state.lower()
        ended_early = r.state.finished and r.state is not State.COMPLETE
        sizes = [5] * (len(epochs) - 1) + [12 if ended_early else 5]
        symbols = ["circle"] * (len(epochs) - 1) + [r.state.traits.symbol]
        made.add_trace(
            go.Scatter(
                x=epochs,
                y=values,
                mode="lines+markers",
                name=name,
                legendgroup=name,
                showlegend=name not in seen,
                line={"color": colour, "width": 3.5 if r.number == winner else 1.3},
                marker={"size": sizes, "symbol": symbols, "color": colour},
                opacity=1 if r.number == winner else 0.75,
                hovertemplate=f"{label(r)}<br>epoch %{{x}}: %{{y:.2f}} %<extra>{state.lower()}</extra>",
            )
        )
        seen.add(name)
    log_axis(made.update_yaxes, shown)
    made.update_xaxes(tickformat="d")
    return made


def error_curves(curves: Mapping[str, NDArray[np.floating]], limit: float) -> go.Figure | None:
    """Cumulative error distributions of faces' NME by name, up to `limit`; None where there is none."""
    if not curves:
        return None
    made = figure("NME %", "faces at most that wrong (%)", height=440)
    for (name, errors), colour in zip(curves.items(), itertools.cycle(LINES), strict=False):
        x, y = ced(errors, limit)
        line = {"color": colour, "width": 2.5, "dash": "dot" if name.endswith(KNOWN) else "solid"}
        hover = "%{y:.1f} % of the faces below %{x:.2f} %"
        made.add_trace(go.Scatter(x=x * 100, y=y * 100, name=name, line=line, hovertemplate=hover))
    made.update_yaxes(range=[0, 100])
    made.update_xaxes(range=[0, limit * 100])
    return made


def curves_of(sweep: SweepResult, most: int = 5) -> dict[str, NDArray[np.floating]]:
    """NME of the validation faces for the best trials, and for the known configurations as baselines."""
    ranked = [r for r in sweep.ranked if r.state is State.COMPLETE]
    known = [r for r in ranked if r.params in sweep.config.known]
    found: dict[str, NDArray[np.floating]] = {}
    for r in [*ranked[:most], *(r for r in known if r not in ranked[:most])]:
        path = sweep.config.trial_folder(r.number) / FACES_FILE
        with contextlib.suppress(OSError, ValueError, EOFError):  # missing, or damaged
            found[label(r) + (KNOWN if r in known else "")] = np.load(path)
    return found


def spent(sweep: SweepResult) -> tuple[list[int], list[float]]:
    """Epochs that all trials together had trained, and the best NME (%) of any of them until then."""
    best, epochs, values = math.inf, [], []
    for count, nme in enumerate(sweep.best_nme_by_report, 1):
        if nme < best:
            best = nme
            epochs.append(count)
            values.append(best * 100)
    if values:
        epochs.append(len(sweep.best_nme_by_report))
        values.append(values[-1])
    return epochs, values


def optimisation_history(sweep: SweepResult) -> go.Figure | None:
    """Best NME against epochs spent, beside random search without stopping as the surface simulates it."""
    epochs, values = spent(sweep)
    if not epochs:
        return None
    made = figure("epochs trained, all trials together", "best val NME % so far", height=420)
    shown = list(values)
    length = sweep.config.train.optim.epochs
    try:
        surface = Surface(sweep.config.dimensions, list(sweep.records.values()))
    except ValueError:
        surface = None
    trials = max(1, epochs[-1] // length)
    if surface is not None and len(finite(sweep.records.values())) >= 5:
        low, middle, high = (
            np.quantile(random_search(sweep.config.dimensions, surface, trials), [0.25, 0.5, 0.75], 0) * 100
        )
        shown += [*low, *high]
        x = [length * (i + 1) for i in range(trials)]
        band = go.Scatter(x=x, y=high, mode="lines", line=_STEPS | {"width": 0}, hoverinfo="skip", showlegend=False)
        made.add_traces([band, go.Scatter(band, y=low, fill="tonexty", fillcolor="rgba(91,103,112,.18)")])
        line = _STEPS | {"color": "#5b6770", "dash": "dash"}
        name = "random search, simulated (median, quartiles)"
        made.add_trace(go.Scatter(x=x, y=middle, mode="lines", name=name, line=line))
    line = _STEPS | {"color": LINES[0]}
    made.add_trace(go.Scatter(x=epochs, y=values, mode="lines", name=f"sweep {sweep.name}", line=line))
    log_axis(made.update_yaxes, shown)
    return made


def histories(sweeps: Sequence[SweepResult]) -> go.Figure | None:
    """Best NME against epochs spent, of several sweeps; None without any report."""
    if not any(sweep.best_nme_by_report for sweep in sweeps):
        return None
    made = figure("epochs trained, all trials together", "best val NME % so far", height=420)
    for sweep, colour in zip(sweeps, itertools.cycle(LINES), strict=False):
        epochs, values = spent(sweep)
        made.add_trace(
            go.Scatter(
                x=epochs, y=values, mode="lines", name=sweep.name, line={"color": colour, "width": 3, "shape": "hv"}
            )
        )
    log_axis(made.update_yaxes, [value for sweep in sweeps for value in spent(sweep)[1]])
    return made


@dataclass(frozen=True)
class _Placed:
    span: RunInterval
    slot: int


def timeline(sweep: SweepResult) -> go.Figure | None:
    """Which slot trained which trial when; pauses in which nothing ran are cut out. None if nothing ever ran."""
    if not sweep.run_intervals:
        return None
    made = figure("minutes in which the sweep ran", "slot", barmode="overlay")
    placed = _into_slots(sorted(sweep.run_intervals, key=lambda s: s.start))
    slots = max(p.slot for p in placed) + 1
    seen: set[str] = set()
    for p in placed:
        start, end = (_active(sweep.run_intervals, t) / 60 for t in (p.span.start, p.span.end))
        outcome, what = p.span.outcome, label(sweep.records[p.span.trial])
        made.add_trace(
            go.Bar(
                x=[max(end - start, 1e-3)],
                base=[start],
                y=[str(p.slot)],
                orientation="h",
                name=outcome.lower(),
                legendgroup=outcome,
                showlegend=outcome not in seen,
                marker={"color": OUTCOME_COLOURS[outcome], "line": {"color": "white", "width": 1}},
                text=str(p.span.trial),
                textposition="inside",
                insidetextanchor="middle",
                hovertemplate=f"{what}<br>{end - start:.1f} min<extra>{outcome.lower()}</extra>",
            )
        )
        seen.add(outcome)
    made.update_layout(height=170 + 44 * slots)
    made.update_yaxes(autorange="reversed", type="category")
    return made


def _into_slots(spans: list[RunInterval]) -> list[_Placed]:
    """Each span into the first slot that is free when it starts."""
    free: list[float] = []
    placed = []
    for span in spans:
        slot = next((i for i, until in enumerate(free) if until <= span.start + 0.5), len(free))
        free[slot : slot + 1] = [span.end]
        placed.append(_Placed(span, slot))
    return placed


def _active(spans: Sequence[RunInterval], when: float) -> float:
    """Seconds from the start of the sweep until `when`, without the pauses."""
    active, until = 0.0, None
    for span in sorted(spans, key=lambda s: s.start):
        if span.start > when:
            break
        if until is None or span.start - until > _IDLE:
            until = span.start
        step = max(0.0, min(span.end, when) - until)
        active, until = active + step, until + step
    return active


def bars(groups: Mapping[str, Mapping[str, float]]) -> go.Figure | None:
    """NME (fractions) of parts or subsets, one colour a group; None where there is nothing."""
    if not any(groups.values()):
        return None
    made = figure("", "NME %", height=340, barmode="group")
    for (name, values), colour in zip(groups.items(), itertools.cycle(LINES), strict=False):
        heights = [value * 100 for value in values.values()]
        texts = [f"{value:.2f}" for value in heights]
        made.add_trace(go.Bar(x=list(values), y=heights, name=name, marker={"color": colour}, text=texts))
    return made


def trials_of(sweeps: Sequence[SweepResult]) -> go.Figure | None:
    """The best NME of every trial, a column a sweep; None where no trial has one."""
    if not any(finite(sweep.ranked) for sweep in sweeps):
        return None
    made = figure("", "best val NME %", showlegend=False)
    for sweep, colour in zip(sweeps, itertools.cycle(LINES), strict=False):
        trials = finite(sweep.ranked)
        made.add_trace(
            go.Box(
                y=[r.best_nme * 100 for r in trials if r.best_nme is not None],
                name=sweep.name,
                boxpoints="all",
                pointpos=0,
                jitter=0.6,
                fillcolor="rgba(0,0,0,0)",
                line={"color": "rgba(0,0,0,0)"},
                marker={"color": colour, "size": 8},
                text=[f"{label(r)}<br>{r.state.value.lower()}" for r in trials],
                hovertemplate="%{text}<br>%{y:.2f} %<extra></extra>",
            )
        )
    log_axis(made.update_yaxes, [nme * 100 for s in sweeps for r in finite(s.ranked) if (nme := r.best_nme)])
    return made


def pareto(sweep: SweepResult) -> go.Figure | None:
    """Trials by NME and the second objective, with the front; None without a complete trial."""
    second, records = sweep.config.objectives[1], list(sweep.records.values())
    front = pareto_front(second, records)
    if not front:
        return None
    scale = 1 if second == "images_per_second" else 100
    made = figure("images a second" if scale == 1 else f"{rate_label(second)} %", "best val NME %", height=440)
    for state in State:
        shown = [r for r in finite(records) if r.state is state and second_value(second, r) is not None]
        if shown:
            x, y = [(second_value(second, r) or 0.0) * scale for r in shown], [(r.best_nme or 0.0) * 100 for r in shown]
            marker = {"color": state.traits.colour, "symbol": state.traits.symbol, "size": 9}
            texts = list(map(label, shown))
            hover = "%{text}<extra></extra>"
            made.add_trace(
                go.Scatter(x=x, y=y, mode="markers", name=state.value, marker=marker, text=texts, hovertemplate=hover)
            )
    x, y = [(second_value(second, r) or 0.0) * scale for r in front], [(r.best_nme or 0.0) * 100 for r in front]
    made.add_trace(go.Scatter(x=x, y=y, mode="lines", name="front", line={"color": LINES[0], "shape": "vh"}))
    return made
