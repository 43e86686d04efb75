"""What the report's figures have in common."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import plotly.graph_objects as go

from sweep.core.formatting import format_params
from sweep.core.trial import State, TrialRecord

_STATES = {state.value: state.traits.colour for state in State}
OUTCOME_COLOURS = _STATES | {"INTERRUPTED": "#8a8f98", "CRASHED": "#c0392b"}  # of the time a trial ran
LINES = ["#1f5fa8", "#d9622b", "#2a7f3f", "#8452a1", "#b8336a", "#5b6770", "#0f8b8d", "#a67c00"]


def figure(x: str, y: str, height: int = 420, **layout: Any) -> go.Figure:
    """An empty figure in the report's look."""
    made = go.Figure()
    made.update_layout(
        template="plotly_white",
        height=height,
        margin={"l": 70, "r": 20, "t": 20, "b": 55},
        xaxis_title=x,
        yaxis_title=y,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        font={"family": "system-ui, sans-serif", "size": 13},
        **layout,
    )
    return made


def log_axis(axis: Any, values: Sequence[float]) -> None:
    """Makes an axis of percentages logarithmic, with ticks where a person would put them."""
    ticks = nice_ticks(min(values), max(values))
    axis(type="log", tickvals=ticks, ticktext=[f"{tick:g}" for tick in ticks])


def nice_ticks(low: float, high: float) -> list[float]:
    """Ticks of a logarithmic axis: 1, 2, 5 a decade, more of them where the axis is short, powers of ten where long."""
    digits: tuple[float, ...] = (1, 1.5, 2, 3, 4, 5, 6, 7, 8)
    if high > low * 1000:
        digits = (1,)
    elif high > low * 12:
        digits = (1, 2, 5)
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    nice = [digit * 10.0**power for power in decades for digit in digits]
    return [tick for tick in nice if low * 0.9 <= tick <= high * 1.1]


def finite(records: Iterable[TrialRecord]) -> list[TrialRecord]:
    """Trials that have an NME which is a number."""
    return [r for r in records if r.best_nme is not None and math.isfinite(r.best_nme)]


def label(trial: TrialRecord) -> str:
    """Such as 'trial 9: star_weight=1.7 lr=0.004'."""
    return f"trial {trial.number}: {format_params(trial.params)}"
