"""The part of the MLflow projection without MLflow: the updates of runs that follow from events.

`fold` turns a stretch of the event log into one `RunUpdate` per run, so that a batch costs a few calls per run, however
many reports it contains. `sweep.tracking.projector` sends them.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from sweep.core.formatting import format_params
from sweep.core.trial import State, TrialRecord
from sweep.storage.event_log import Event, EventKind

logger = logging.getLogger(__name__)

PARENT = "parent"  # the key of the sweep's own run; a trial's key is its number as text
CHECKPOINT_FOLDER = "checkpoint"
KIND_TAG, STATE_TAG = "starsweep.kind", "starsweep.state"  # kind: sweep, trial or rerun
LOG10 = "log10/"  # before the key of a setting that is searched by its logarithm: MLflow's axes are linear
_MAX_TAG, _MAX_PARAM = 5000, 6000  # characters; longer ones are refused by some servers


@dataclass(frozen=True)
class Artifact:
    """A file of a run: a local path, or a text with a name; `folder` is its folder in the run."""

    path: str | None = None
    name: str = ""
    text: str = ""
    folder: str | None = None


@dataclass
class RunUpdate:
    """Changes of one run by a stretch of the log. `metrics` holds (key, value, milliseconds, step)."""

    started: int | None = None  # milliseconds, as all times here
    name: str | None = None
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    metrics: list[tuple[str, float, int, int]] = field(default_factory=list)
    status: str | None = None
    ended: int | None = None
    artifacts: list[Artifact] = field(default_factory=list)
    last_epoch: tuple[int, int] | None = None  # and when it was reported


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """{"optim": {"lr": 0.001}} -> {"optim.lr": "0.001"}; lists and empty sections as JSON."""
    flat: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            text = json.dumps(value) if isinstance(value, (list, tuple, Mapping)) else str(value)
            flat[f"{prefix}{key}"] = text[:_MAX_PARAM]
    return flat


def trial_name(trial: int | str, params: Mapping[str, Any]) -> str:
    """The name of a trial's run, such as "7 star_weight=1.2 lr=0.001"."""
    return f"{trial} {format_params(params)}".rstrip()


def fold(events: Iterable[Event], record: Callable[[int], TrialRecord]) -> dict[str, RunUpdate]:
    """One update for each run that the events mention, the parent first; of several states of a run the last counts.

    Args:
        events: a stretch of the log.
        record: gives a trial, whose events may lie before this stretch.
    """
    updates: dict[str, RunUpdate] = {PARENT: RunUpdate()}
    for event in events:
        update = updates.setdefault(PARENT if event.trial is None else str(event.trial), RunUpdate())
        if event.kind is EventKind.REPORT:
            when, step = _ms(event.time), int(event.data["step"])
            update.metrics += [(key, float(v), when, step) for key, v in event.data["metrics"].items() if v is not None]
            update.last_epoch = (step, when)
        elif event.kind is EventKind.SWEEP_STARTED:
            _start_sweep(update, event)
        elif event.kind is EventKind.TRIAL_STARTED:
            _start_trial(update, event)
        elif event.kind is EventKind.SWEEP_ENDED:
            _end_sweep(updates, event, record)
        elif event.kind is EventKind.RERUN:
            _add_rerun(updates.setdefault(rerun_key(event), RunUpdate()), event)
        elif event.kind is EventKind.TEST_READ:
            update.tags["test.readings"] = str(event.data["reading"])
        elif event.kind is EventKind.FINDING:
            update.metrics += [(key, float(value), _ms(event.time), 0) for key, value in event.data["metrics"].items()]
            update.tags |= {key: str(value)[:_MAX_TAG] for key, value in event.data.get("tags", {}).items()}
            update.artifacts += [Artifact(path=str(path)) for path in event.data.get("artifacts", [])]
        else:
            _end_trial(update, event)
    for update in updates.values():
        if update.last_epoch is not None:
            step, when = update.last_epoch
            update.metrics.append(("epoch", step, when, step))
    return updates


def _start_sweep(update: RunUpdate, event: Event) -> None:
    data = event.data
    update.started, update.name = update.started or _ms(event.time), str(data["name"])
    update.tags |= {str(key): str(value)[:_MAX_TAG] for key, value in data["tags"].items()} | {KIND_TAG: "sweep"}
    # Selecting this run in MLflow selects its trials, and Compare treats a param that one run lacks as different. So
    # searched settings are here, with "NaN": the plot draws no line for it, but one at the top for a missing param.
    update.params = flatten(data["config"].get("train", {})) | dict.fromkeys(data["config"].get("space", {}), "NaN")
    update.params.pop("run.output", None)
    update.status, update.ended = "RUNNING", None
    update.artifacts.append(Artifact(name="sweep.yaml", text=yaml.safe_dump(data["config"], sort_keys=False)))


def _end_sweep(updates: dict[str, RunUpdate], event: Event, record: Callable[[int], TrialRecord]) -> None:
    data, update = event.data, updates[PARENT]
    update.status, update.ended = str(data["state"]), _ms(event.time)
    update.tags["mlflow.note.content"] = str(data["summary"])[:_MAX_TAG]
    update.artifacts += [Artifact(path=str(path)) for path in data["artifacts"]]
    for trial, paths in data.get("trial_artifacts", {}).items():
        artifacts = [Artifact(path=str(path), folder=CHECKPOINT_FOLDER) for path in paths]
        updates.setdefault(str(trial), RunUpdate()).artifacts += artifacts
    if data["best_trial"] is not None:
        # tags, as params cannot change, and the best trial may when the sweep is continued
        best = record(data["best_trial"])
        update.tags |= {f"best.{key}": str(value) for key, value in best.params.items()}
        update.tags["best.trial"] = str(best.number)
        if best.best_nme is not None:
            update.metrics.append(("best_nme", best.best_nme, _ms(event.time), 0))


def _start_trial(update: RunUpdate, event: Event) -> None:
    data = event.data
    assert event.trial is not None
    update.tags[KIND_TAG] = "trial"
    update.started, update.name = update.started or _ms(event.time), trial_name(event.trial, data["params"])
    update.params = flatten(data["config"]) | {key: str(value) for key, value in data["params"].items()}
    if "run.output" in update.params:  # a tag: as a param it would differ between all trials
        update.tags["starsweep.folder"] = update.params.pop("run.output")[:_MAX_TAG]
    update.tags[STATE_TAG] = "RUNNING"
    if data.get("hash") is not None:
        update.tags["config.hash"] = str(data["hash"])
    if data.get("repeats") is not None:
        update.tags["starsweep.repeats"] = str(data["repeats"])
    if data.get("attempt") is not None:
        update.tags["starsweep.attempt"] = str(data["attempt"])
    update.status, update.ended = "RUNNING", None
    update.artifacts.append(Artifact(name="config.yaml", text=yaml.safe_dump(data["config"], sort_keys=False)))


def _end_trial(update: RunUpdate, event: Event) -> None:
    other = "PAUSED" if event.kind is EventKind.TRIAL_PAUSED else "INTERRUPTED"
    state = str(event.data["state"]) if event.kind is EventKind.TRIAL_ENDED else other
    _end_as(update, state, event.data.get("reason"))
    update.ended = _ms(event.time)
    update.artifacts += [Artifact(path=str(path)) for path in event.data.get("artifacts", [])]
    if event.kind is EventKind.TRIAL_ENDED and event.data["best_nme"] is None:
        update.metrics.append(_no_nme(event))


def _no_nme(event: Event) -> tuple[str, float, int, int]:
    """The metric with NaN: MLflow's Compare draws by default only metrics that all selected runs have."""
    return "best_nme", math.nan, _ms(event.time), 0


def _end_as(update: RunUpdate, state: str, reason: str | None) -> None:
    update.tags[STATE_TAG] = state
    if reason:
        update.tags["starsweep.reason"] = reason[:_MAX_TAG]
    interrupted = state not in State.__members__
    update.status = "KILLED" if interrupted else State(state).traits.run_status


def rerun_key(event: Event) -> str:
    """The key of a rerun's run: its name; a failed one keeps a run of its own, as it may be trained again."""
    data = event.data
    return str(data["run"]) if data["state"] == "COMPLETE" else f"{data['run']} failed {_ms(event.time)}"


def _add_rerun(update: RunUpdate, event: Event) -> None:
    data, when = event.data, _ms(event.time)
    update.started, update.ended = _ms(data["started"]), when
    update.name = trial_name(data["run"], data["params"])
    update.params = flatten(data["config"]) | {key: str(value) for key, value in data["params"].items()}
    update.tags["starsweep.folder"] = update.params.pop("run.output", "")[:_MAX_TAG]
    update.tags |= {KIND_TAG: "rerun", "starsweep.purpose": data["purpose"], "starsweep.of": str(data["of"])}
    for step, row in enumerate(data["history"], 1):
        update.metrics += [(key, float(value), when, step) for key, value in row.items()]
    if not any("best_nme" in row for row in data["history"]):
        update.metrics.append(_no_nme(event))
    update.artifacts.append(Artifact(name="config.yaml", text=yaml.safe_dump(data["config"], sort_keys=False)))
    _end_as(update, data["state"], data["reason"])


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
