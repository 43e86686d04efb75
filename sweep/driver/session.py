"""One call of a sweep from start to end: opens study, log and MLflow, runs what is left, closes truthfully."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.console import Console

from sweep.analysis import leaderboard
from sweep.analysis.budget_forecast import doubling_text
from sweep.analysis.time_forecast import Outlook
from sweep.core.config import SweepConfig
from sweep.core.errors import StudyMismatchError, StudyStorageError
from sweep.core.mlflow_uri import resolve_uri
from sweep.core.provenance import expected_faces, provenance
from sweep.core.redaction import redact
from sweep.core.stop_request import INTERRUPTED, StopRequest
from sweep.core.trial import TrialRecord
from sweep.driver import end_hook
from sweep.driver.command_line import python_command
from sweep.driver.console import Board, doing, results_table
from sweep.driver.log_file import logging_into
from sweep.driver.outputs import SweepOutputs
from sweep.driver.preparation import make_ready
from sweep.execution.node_setup import Readiness
from sweep.execution.resources import check_local
from sweep.search import ranking
from sweep.search.controller import SweepController
from sweep.search.study import Study
from sweep.storage.event_log import Event, EventKind, EventLog
from sweep.storage.remote_files import Storage
from sweep.storage.sweep_folder import (
    BEST_FILE,
    CONFIG_FILE,
    EVENTS_FILE,
    LEADERBOARD_FILE,
    LOG_FILE,
    REPORT_FILE,
    locked,
)
from sweep.tracking.artifacts import make_mlflow_sync, mlflow_page
from sweep.tracking.background_writer import BackgroundWriter
from trainer import run_folder
from trainer.config import TrainConfig
from trainer.data.crops import HASH_VERSION
from trainer.errors import ConfigError
from trainer.forms import adopt, choose, form_of, is_open, slow_warning
from trainer.run_folder import BEST
from trainer.runtime.disk import writing
from trainer.settings import read_yaml

if TYPE_CHECKING:
    from sweep.execution.resources import Slots
    from trainer.data.face_table import Split

logger = logging.getLogger(__name__)

_CLOSING_SECONDS = 30.0  # how long the end of a sweep waits for MLflow


def run_sweep(config: SweepConfig, console: Console, command: str) -> int:
    """Runs a sweep, or goes on with the one of this name.

    Args:
        config: the sweep, with absolute paths (see `load_sweep`).
        console: where to show it.
        command: what the user typed, to be repeated for going on.

    Returns:
        The exit code: 0 done, 1 no trial came to its end, 130 interrupted.

    Raises:
        ConfigError: the sweep is running already, exists with other settings, or a trial asks for too much.
        DataError, ModelError: faces or pretrained weights are missing or faulty.
        DiskFullError, StudyStorageError, ClusterGoneError: the sweep had to stop; when there is room, or database or
            cluster are back, the same command goes on with it.
    """
    check_local(config)
    with contextlib.ExitStack() as stack:
        stack.enter_context(writing(config.folder))
        config.folder.mkdir(parents=True, exist_ok=True)
        stack.enter_context(locked(config))
        stack.enter_context(logging_into(config.folder / LOG_FILE, console))
        config = _as_before(config)
        # An old study tells what is left to run. A new one is made when nothing can be wrong any more with its config.
        study = _open_study(config) if (config.folder / EVENTS_FILE).exists() else None
        slots: Slots | None = None
        ready, stop = Readiness(), stack.enter_context(StopRequest())
        if study is None or not study.is_finished():
            slots, ready = make_ready(config, stack, console, stop)
            stop.listen()  # again: Ray has put handlers of its own in place
        if stop and study is None:
            text = f"interrupted before the first trial; start again with:  {redact(command)}"
            console.print(text, highlight=False, markup=False, soft_wrap=True)
            return INTERRUPTED
        _tell_of_faces(config, ready)
        config = _in_one_form(config, ready, console)
        started = _sweep_started(config, command, ready)
        outlook = None if slots is None else Outlook(config, slots, ready.epoch_seconds(config.train))
        records, sent = _run_opened(config, study or _open_study(config), outlook, stop, console, started)
    _conclude(config, records, console, command, sent, stop)
    if stop.by_user:
        return INTERRUPTED
    return 0 if stop or ranking.best(records) else 1


def _run_opened(
    config: SweepConfig, study: Study, outlook: Outlook | None, stop: StopRequest, console: Console, started: Event
) -> tuple[list[TrialRecord], bool]:
    """Runs what is left, with everything noted; gives the trials, and whether MLflow has everything."""
    state, storage = "FAILED", _storage(config, study)
    config.dump(config.folder / CONFIG_FILE)
    with EventLog(config.folder / EVENTS_FILE) as log:
        before = _tags_before(log)
        _check_faces(config, before, started.data["tags"])
        _warn_of_other_versions(before, started.data["tags"])
        log.append(started)
        writer = BackgroundWriter(make_mlflow_sync(config, storage))
        writer.start()
        controller, results = SweepController(config, study, log), SweepOutputs(config, storage)
        # each of these whatever becomes of the others
        with contextlib.ExitStack() as shown, contextlib.ExitStack() as closing:
            closing.callback(writer.close, _CLOSING_SECONDS)
            closing.callback(lambda: log.append(_sweep_ended(config, controller, state)))
            closing.callback(lambda: _write_report(config, stop, anew=outlook is not None))
            closing.callback(lambda: results.update(controller.records))
            closing.callback(lambda: shown.enter_context(doing(console, "writing the report, closing MLflow's runs")))
            if outlook and not stop:
                faces = expected_faces(config, started.data["tags"])
                _run_trials(config, controller, results, outlook, stop, writer, console, storage, faces)
            state = "KILLED" if stop.by_user else "FINISHED"
        return controller.records, writer.close(0)


def _run_trials(
    config: SweepConfig,
    controller: SweepController,
    results: SweepOutputs,
    outlook: Outlook,
    stop: StopRequest,
    writer: BackgroundWriter,
    console: Console,
    storage: Storage | None,
    faces: Mapping[Split, str],
) -> None:
    from sweep.driver.prometheus import Gauges
    from sweep.execution import epoch_progress, ray_session, tune_executor

    gauges = Gauges(config, controller, lambda: outlook.slots.last, lambda: writer.lag)
    board = Board(config, lambda: controller.records, lambda: writer.lag, epoch_progress.read, outlook, console)

    def heed(event: Event) -> None:
        writer.wake()
        if event.kind is EventKind.TRIAL_ENDED:
            results.update(controller.records, final=False)
        board.handle(event)
        gauges.handle(event)

    controller.listen(heed)

    def train() -> None:
        tune_executor.execute(config, controller, outlook.slots, stop, storage, faces)

    with board:
        try:
            ray_session.run_while_head_alive(train, stop)
            epoch_progress.forget()
        finally:
            controller.interrupt()  # whatever still ran, after a stop or an error; nothing at the regular end


def _as_before(config: SweepConfig) -> SweepConfig:
    """The config with the form in which the trials of its folder are computed, where it leaves that open."""
    if not is_open(config.train):
        return config
    try:
        earlier = TrainConfig.from_tree(read_yaml(config.folder / CONFIG_FILE)["train"])
    except (ConfigError, KeyError):  # a new sweep, or a file that does not tell
        return config
    return config.with_train(adopt(config.train, earlier))


def _tell_of_faces(config: SweepConfig, ready: Readiness) -> None:
    """Says what is odd about the faces, and lists those that are left out."""
    if ready.survey is not None:
        for line in ready.survey.warnings():
            logger.warning("%s", line)
        run_folder.write_skipped(ready.survey.skipped, config.folder)


def _check_faces(config: SweepConfig, before: Mapping[str, str], tags: Mapping[str, str]) -> None:
    """Raises ConfigError where the trials of this sweep were measured on other faces."""
    changed = []
    for key in (key for key in tags if key.startswith("data.hash.")):
        old, facts = before.get(key, tags[key]), key.replace("data.hash", "faces")
        if old.startswith(HASH_VERSION) and old != tags[key]:
            changed += [f"{key}: {old} -> {tags[key]}", f"  {before[facts]}", f"  {tags[facts]}"]
    if changed:
        lines = "\n  ".join(changed)
        raise ConfigError(
            f"sweep {config.name!r} has trials on other faces:\n  {lines}\nbring the old faces back, or go on in a "
            f"sweep of its own, which tries the best of this one first: --name NEW --warm_start '[{config.name}]'"
        )


def _in_one_form(config: SweepConfig, ready: Readiness, console: Console) -> SweepConfig:
    """The config with the form in which all its trials are computed, which is said; as it is if nothing is trained."""
    if not is_open(config.train) or not ready.speeds:
        for name, speeds in ready.speeds.items():
            if text := slow_warning(config.train, speeds):
                logger.warning("%s: %s", name, text)
        return config
    config = config.with_train(choose(config.train, ready.speeds))
    form = form_of(config.train)
    known = (f"{s.rates[form]:.1f} images/s, {s.source}" if s.measured else s.source for s in ready.speeds.values())
    console.print(
        f"networks are computed in {form}: {'; '.join(dict.fromkeys(known))}", highlight=False, soft_wrap=True
    )
    return config


def _storage(config: SweepConfig, study: Study) -> Storage | None:
    """Where trials keep their files: a place for this study alone, also among those of its name."""
    if config.storage is None:
        return None
    return Storage.of_sweep(config.storage, f"{config.name}-{study.id}", config.folder)


def _open_study(config: SweepConfig) -> Study:
    url = config.study or f"sqlite:///{config.folder / 'study.db'}"
    try:
        return Study.open(url, config)
    except (StudyMismatchError, StudyStorageError) as error:
        raise ConfigError(str(error)) from None


def _write_report(config: SweepConfig, stop: StopRequest, *, anew: bool) -> None:
    """The report of the sweep as its log is now, unless there is nothing new; who interrupts does not want to wait."""
    if not stop.by_user and (anew or not (config.folder / REPORT_FILE).exists()):
        from sweep.reporting.html_report import refresh_report  # imports Plotly and torch: not before training is over

        refresh_report(config)


def _sweep_started(config: SweepConfig, command: str, ready: Readiness) -> Event:
    form = "not chosen" if is_open(config.train) else str(form_of(config.train))
    tags = (
        provenance()
        | (ready.survey.tags() if ready.survey else {})
        | {
            "command": redact(end_hook.hidden(command)),
            "sampler": json.dumps(config.sampler.model_dump() | {"seed": config.seed}),
            "pruner": json.dumps(config.pruner.model_dump()),
            "config.hash": config.train.identity(),
            "threads": str(config.train.run.threads),
            "form": form,
            "nme.norm": config.train.data.norm.name,
            "nme.threshold": f"{config.train.data.threshold:g}",
        }
        | {f"form.speeds.{name}": speeds.text() for name, speeds in ready.speeds.items()}
    )
    return Event(EventKind.SWEEP_STARTED, None, {"name": config.name, "tags": tags, "config": config.tree()})


def _warn_of_other_versions(before: Mapping[str, str], tags: Mapping[str, str]) -> None:
    """A sweep goes on with other versions of its libraries, but its numbers may not be the same to the last bit."""
    versions = [key for key in tags if key.startswith("version.") and before.get(key, tags[key]) != tags[key]]
    if versions:
        changes = ", ".join(f"{key.removeprefix('version.')} {before[key]} -> {tags[key]}" for key in versions)
        logger.warning("goes on with other versions than before, numbers may differ in their last digits: %s", changes)


def _tags_before(log: EventLog) -> Mapping[str, str]:
    """What was noted when the sweep was last begun; of each tag the last, as a call that trains nothing knows few."""
    before: dict[str, str] = {}
    for event, _ in log.read():
        if event.kind is EventKind.SWEEP_STARTED:
            before |= event.data["tags"]
    return before


def _sweep_ended(config: SweepConfig, controller: SweepController, state: str) -> Event:
    records = controller.records
    winner = ranking.best(records)
    files = [LEADERBOARD_FILE] + ([BEST_FILE] if winner else [])
    files += [REPORT_FILE] if (config.folder / REPORT_FILE).exists() else []
    data = {
        "state": state,
        "summary": leaderboard.markdown(records, config.objectives),
        "best_trial": winner.number if winner else None,
        "artifacts": [str(config.folder / name) for name in files],
        "trial_artifacts": {str(winner.number): [str(config.trial_folder(winner.number) / BEST)]} if winner else {},
    }
    return Event(EventKind.SWEEP_ENDED, None, data)


def _conclude(
    config: SweepConfig, records: list[TrialRecord], console: Console, command: str, sent: bool, stop: StopRequest
) -> None:
    """Prints the leaderboard and what can be done next."""
    ranked = ranking.rank(records)
    console.print(results_table(config, ranked[:10], title=f"sweep {config.name}: best {min(10, len(ranked))}"))

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    say(leaderboard.summary_line(records))
    for line in leaderboard.notes(records, config.objectives):
        say(line)
    if not stop.by_user and (text := doubling_text(records)):
        say(text)
    folder, python = os.path.relpath(config.folder), python_command()
    say(f"everything lies in {folder}")
    if (config.folder / REPORT_FILE).exists():
        say(f"look at it:         {folder}/{REPORT_FILE}")
    uri, page = resolve_uri(config.mlflow_uri, config.folder.parent), mlflow_page(config)
    if uri.startswith("http"):
        say(f"compare in MLflow:  {redact(uri)}{page}")
    else:
        say(f"compare in MLflow:  {python} -m mlflow ui --backend-store-uri {shlex.quote(redact(uri))}")
        say(f"                    and open http://127.0.0.1:5000{page}")
    if not sent:
        again = "" if uri == redact(uri) else " --mlflow_uri URI"  # with its password, which is not kept
        say(f"MLflow has not got everything; send the rest:  {python} -m sweep.sync {shlex.quote(folder)}{again}")
    if ranking.best(records):
        say(f"rerun the best:     {python} -m sweep.rerun {shlex.quote(folder)}")
    if stop:
        say(f"{'interrupted' if stop.by_user else 'the time is up'}; go on with:  {redact(command)}")
