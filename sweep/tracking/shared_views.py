"""Views of a sweep that MLflow's UI restores from an address: its leaderboard, and its charts.

The UI keeps a view in a tag of the experiment and reads its key from the address (`viewStateShareKey`). Neither is a
documented interface: the form is that of MLflow 3.13 to 3.18, and a UI that does not know it shows its plain page.
"""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any

from sweep.tracking.run_updates import KIND_TAG, LOG10, STATE_TAG
from sweep.tracking.sweep_facts import SweepFacts

LEADERBOARD, CHARTS = "leaderboard", "charts"
_BEST, _NME, _EPOCH = "best_nme", "val/nme", "epoch"
_SECTION = "charts"  # id of the one section of charts
_SHOWN = 200  # runs at most that have lines in a chart


def shared_views(facts: SweepFacts) -> dict[str, str]:
    """The tags of the experiment that hold the views of a sweep."""
    charts = _charts(facts)
    state = {
        "searchFilter": f"tags.`starsweep.id` = '{facts.sweep_id}' AND tags.`{KIND_TAG}` = 'trial'",
        "orderByKey": f"metrics.`{_BEST}`",
        "orderByAsc": True,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": _columns(facts),
        "columnOrder": [],
        "columnWidths": {column: _width(column) for column in _columns(facts)},
        "runsHiddenMode": "SHOW_ALL",  # else 10 of them have lines
        "groupBy": None,
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
        "compareRunSections": [{"uuid": _SECTION, "name": facts.name, "display": True, "isReordered": False}],
        "compareRunCharts": charts,
        "isAccordionReordered": False,
    }
    text = "deflate;" + base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()
    times = {"createdAt": facts.started, "updatedAt": facts.started}
    return {
        f"mlflow.sharedViewState.{view_key(facts.sweep_id, view)}": json.dumps(
            {"name": f"{facts.name}: {view}", **times, "state": text}
        )
        for view in (LEADERBOARD, CHARTS)
    }


def view_key(sweep_id: str, view: str) -> str:
    """The key of a view in the address."""
    return f"{sweep_id}-{view}"


def page(experiment_id: str, sweep_id: str | None, view: str) -> str:
    """Path of a sweep's view on an MLflow server; of its plain experiment where there are no views (no `sweep_id`)."""
    training = "workflowType=machine_learning"  # not the UI for language models, which is the default
    if sweep_id is None:
        return f"/#/experiments/{experiment_id}?{training}"
    mode = "&compareRunsMode=CHART" if view == CHARTS else ""
    return f"/#/experiments/{experiment_id}/runs?{training}&viewStateShareKey={view_key(sweep_id, view)}{mode}"


def _columns(facts: SweepFacts) -> list[str]:
    tags = [f"tags.`{STATE_TAG}`", "tags.`starsweep.reason`"]
    params = [f"params.`{key}`" for key in facts.space]
    return [f"metrics.`{_BEST}`", f"metrics.`{_EPOCH}`", *params, *tags]


def _width(column: str) -> int:
    """Pixels in which the name of a column can be read."""
    return max(100, 8 * len(column.split("`")[1]) + 40)


def _charts(facts: SweepFacts) -> list[dict[str, Any]]:
    """NME by epoch of all trials, their settings side by side, and NME over the first two settings in ranges."""
    charts = [
        _chart(
            "nme-by-epoch",
            "LINE",
            metricKey=_NME,
            selectedMetricKeys=[_NME],
            scaleType="log",
            xAxisKey="step",
            xAxisScaleType="linear",
            lineSmoothness=0,
            useGlobalLineSmoothing=False,
            displayPoints=True,
        ),
        _chart(
            "settings",
            "PARALLEL",
            selectedParams=[key for key in facts.space if key not in facts.logarithmic],
            selectedMetrics=[*(f"{LOG10}{key}" for key in facts.logarithmic), _BEST],
            showAllRuns=True,
        ),
    ]
    axes = [_axis(key, facts) for key in facts.numeric]
    if len(axes) >= 2:
        best = {"key": _BEST, "type": "METRIC"}
        charts.append(_chart("surface", "CONTOUR", xaxis=axes[0], yaxis=axes[1], zaxis=best))
    for number, axis in enumerate(axes[:6]):
        charts.append(_chart(f"scatter-{number}", "SCATTER", xaxis=axis, yaxis={"key": _BEST, "type": "METRIC"}))
    return charts


def _chart(uuid: str, kind: str, **options: Any) -> dict[str, Any]:
    common = {"metricSectionId": _SECTION, "runsCountToCompare": _SHOWN, "deleted": False, "isGenerated": False}
    return {"uuid": uuid, "type": kind, **common, **options}


def _axis(key: str, facts: SweepFacts) -> dict[str, str]:
    """An axis of a setting; its logarithm where that is searched, since the UI's axes are linear."""
    if key in facts.logarithmic:
        return {"key": f"{LOG10}{key}", "type": "METRIC"}
    return {"key": key, "type": "PARAM"}
