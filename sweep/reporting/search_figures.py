"""Figures of what was searched, with Plotly and Optuna: surface, parallel coordinates, importance. NME in per cent."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
import plotly.graph_objects as go
from numpy.typing import NDArray
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from sweep.analysis.surface import Surface
from sweep.analysis.sweep_result import SweepResult
from sweep.core.formatting import short_name
from sweep.core.search_space import Dimension, filled
from sweep.core.trial import State, TrialRecord
from sweep.reporting.figure_style import LINES, figure, finite, label, nice_ticks
from sweep.search.sampling.sampler import distribution

_GRID = 60  # points a side of the response surface
_BOOTSTRAPS = 40


def numeric(sweep: SweepResult) -> list[Dimension]:
    """Dimensions that are ranges."""
    return [d for d in sweep.config.dimensions if d.kind != "choice"]


def response_surface(sweep: SweepResult) -> go.Figure | None:
    """NME over the first two ranges of the space, with every trial on it; None if there are fewer ranges or trials.

    What else is searched stands at the winner's values.
    """
    if len(numeric(sweep)) < 2 or sweep.best is None:
        return None
    a, b = numeric(sweep)[:2]
    try:
        surface = Surface(sweep.config.dimensions, list(sweep.records.values()))
    except ValueError:
        return None
    xs, ys = _steps(a), _steps(b)
    grid = surface([sweep.best.params | {a.key: x, b.key: y} for y in ys for x in xs]).reshape(_GRID, _GRID) * 100
    made = figure(short_name(a.key), short_name(b.key), height=520)
    low, high = float(np.log10(grid.min())), float(np.log10(grid.max()))
    ticks = np.linspace(low, high, 6)
    made.add_trace(
        go.Contour(
            x=xs,
            y=ys,
            z=np.log10(grid),
            customdata=grid,
            colorscale="Viridis",
            contours={"coloring": "heatmap"},
            line={"width": 0.5, "color": "rgba(255,255,255,.5)"},
            colorbar={"title": "NME %", "tickvals": ticks, "ticktext": [f"{10**t:.3g}" for t in ticks]},
            hovertemplate="%{x:.3g}, %{y:.3g}: about %{customdata:.2f} %<extra></extra>",
        )
    )
    for state in State:
        _add_points(made, [r for r in sweep.records.values() if r.state is state], a, b, state)
    _add_points(made, [sweep.best], a, b, None)
    for axis, d in ((made.update_xaxes, a), (made.update_yaxes, b)):
        _scale(axis, d)
    return made


def _steps(d: Dimension) -> NDArray[np.float64]:
    return np.geomspace(d.low, d.high, _GRID) if d.kind.startswith("log") else np.linspace(d.low, d.high, _GRID)


def _scale(axis: Any, d: Dimension) -> None:
    log = d.kind.startswith("log")
    margin = (math.log10(d.high / d.low) if log else d.high - d.low) * 0.02
    ends = (math.log10(d.low), math.log10(d.high)) if log else (d.low, d.high)
    axis(
        type="log" if log else "linear",
        range=[ends[0] - margin, ends[1] + margin],
        dtick=1 if log else None,
        tickformat="~g",
    )


def _add_points(made: go.Figure, trials: list[TrialRecord], a: Dimension, b: Dimension, state: State | None) -> None:
    if not trials:
        return
    if state is None:  # the winner's ring
        marker: dict[str, Any] = {"symbol": "star-open", "size": 22, "color": "#ff3b30", "line": {"width": 2}}
    else:
        edge = {"width": 1.2, "color": "white"}
        marker = {"symbol": state.traits.symbol, "size": 11, "color": state.traits.colour, "line": edge}
    made.add_trace(
        go.Scatter(
            x=[filled((a, b), r.params)[a.key] for r in trials],
            y=[filled((a, b), r.params)[b.key] for r in trials],
            mode="markers",
            name="winner" if state is None else state.value.lower(),
            marker=marker,
            text=[f"{label(r)}<br>{_nme(r)} after {r.epochs} epochs" for r in trials],
            hovertemplate="%{text}<extra></extra>",
        )
    )


def _nme(r: TrialRecord) -> str:
    return "no NME" if r.best_nme is None else f"best val NME {r.best_nme:.2%}"


def as_study(sweep: SweepResult, records: Sequence[TrialRecord]) -> optuna.Study:
    """An Optuna study in memory in which every trial with an NME counts as complete, for Optuna's own figures."""
    distributions = {d.key: distribution(d) for d in sweep.config.dimensions}
    study = optuna.create_study()
    study.add_trials([_frozen(sweep, r, distributions) for r in finite(records)])
    return study


def _frozen(sweep: SweepResult, r: TrialRecord, distributions: Mapping[str, Any]) -> FrozenTrial:
    assert r.best_nme is not None
    return optuna.trial.create_trial(
        state=TrialState.COMPLETE,
        value=r.best_nme * 100,
        params=filled(sweep.config.dimensions, r.params),
        distributions=dict(distributions),
    )


def parallel_coordinates(sweep: SweepResult) -> go.Figure | None:
    """A line a trial through its parameters to its NME, for all that have one; None for fewer than two of them."""
    trials = finite(sweep.records.values())
    if len(trials) < 2:
        return None
    nme = [r.best_nme * 100 for r in trials if r.best_nme is not None]
    last = _axis("best val NME %", nme, log=True)  # or bad trials would squeeze the good ones
    axes = [
        _axis_of(d, [filled(sweep.config.dimensions, r.params)[d.key] for r in trials]) for d in sweep.config.dimensions
    ]
    colours = {"color": np.log10(nme), "colorscale": "Viridis"}
    made = figure("", "", height=420)
    made.add_trace(go.Parcoords(dimensions=[*axes, last], line=colours, labelfont={"size": 15}))
    made.update_layout(margin={"l": 70, "r": 70, "t": 60, "b": 30})
    return made


def _axis_of(d: Dimension, values: Sequence[Any]) -> dict[str, Any]:
    if d.kind != "choice":
        return _axis(short_name(d.key), values, log=d.kind.startswith("log"))
    codes = {choice: i for i, choice in enumerate(d.choices)}
    texts = [str(choice) for choice in d.choices]
    return {
        "label": short_name(d.key),
        "values": [codes[value] for value in values],
        "tickvals": list(codes.values()),
        "ticktext": texts,
    }


def _axis(name: str, values: Sequence[float], *, log: bool) -> dict[str, Any]:
    low, high = min(values), max(values)
    ticks = [t for t in nice_ticks(low, high) if low <= t <= high] if log else list(np.linspace(low, high, 6))
    ticks = [low, *ticks, high] if log and len(ticks) < 3 else ticks
    ticks = list(dict.fromkeys(ticks))
    shown = (np.log10(values), np.log10(ticks)) if log else (list(values), ticks)
    return {"label": name, "values": shown[0], "tickvals": shown[1], "ticktext": [f"{tick:.2g}" for tick in ticks]}


def importance(sweep: SweepResult) -> go.Figure | None:
    """How much each parameter decides whether a trial is among the best (PED-ANOVA, Watanabe et al., IJCAI 2023).

    The bars are means over resampled trials, the lines their middle 80 %; None where there is too little to say.
    """
    trials, keys = finite(sweep.records.values()), [d.key for d in sweep.config.dimensions]
    if len(trials) < 8 or len(keys) < 2 or len({r.best_nme for r in trials}) < 2:
        return None
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(_BOOTSTRAPS):
        chosen = [trials[i] for i in rng.integers(0, len(trials), len(trials))]
        try:
            evaluator = PedAnovaImportanceEvaluator()
            shares.append(get_param_importances(as_study(sweep, chosen), evaluator=evaluator, params=keys))
        except (ValueError, RuntimeError):  # all drawn trials are one
            continue
    if len(shares) < _BOOTSTRAPS // 2:
        return None
    table = np.array([[share.get(key, 0.0) for key in keys] for share in shares])  # (draws, D)
    table = np.nan_to_num(table / table.sum(1, keepdims=True))
    order = np.argsort(table.mean(0))
    means = table.mean(0)
    low, high = np.quantile(table, [0.1, 0.9], axis=0)
    made = figure("importance (share)", "", height=140 + 40 * len(keys), showlegend=False)
    made.add_trace(
        go.Bar(
            x=means[order],
            y=[short_name(keys[i]) for i in order],
            orientation="h",
            marker={"color": LINES[0]},
            error_x={"array": (high - means).clip(0)[order], "arrayminus": (means - low).clip(0)[order]},
        )
    )
    made.update_xaxes(range=[0, 1.05])
    return made
