"""One call of a sweep, from start to end: opens study, log and MLflow, trains what is left, closes everything."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Console

from sweep.analysis import leaderboard
from sweep.analysis.time_forecast import Outlook
from sweep.core.config import SweepConfig
from sweep.core.errors import StudyMismatchError, StudyStorageError
from sweep.core.provenance import expected_faces, provenance
from sweep.core.redaction import redact
from sweep.core.stop_request import INTERRUPTED, StopRequest
from sweep.driver import comparability, end_hook
from sweep.driver.conclusion import print_conclusion
from sweep.driver.console import Board, doing
from sweep.driver.log_file import logging_into
from sweep.driver.outputs import SweepOutputs
from sweep.driver.preparation import make_ready
from sweep.execution.node_setup import Readiness
from sweep.execution.resources import check_local, describe_load
from sweep.search import ranking
from sweep.search.controller import SweepController
from sweep.search.study import Study
from sweep.storage.event_log import Event, EventKind, EventLog
from sweep.storage.log_state import LogState
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
from sweep.tracking.artifacts import make_mlflow_sync
from sweep.tracking.background_writer import BackgroundWriter
from trainer import run_folder
from trainer.errors import ConfigError
from trainer.forms import form_of, is_open
from trainer.run_folder import BEST
from trainer.runtime.disk import writing
from trainer.user_folders import check_output

if TYPE_CHECKING:
    from sweep.execution.resources import Slots

logger = logging.getLogger(__name__)

_CLOSING_SECONDS = 30.0  # how long the end of a sweep waits for MLflow


class SweepRun:
    """Runs a sweep, or continues the one of this name.

    Args:
        config: the sweep, with absolute paths (see `load_sweep`).
        console: where to show it.
        command: what the user typed, which continues it.
    """

    def __init__(self, config: SweepConfig, console: Console, command: str) -> None:
        self._config, self._console, self._command = config, console, command
        self._stop = StopRequest()
        self._study: Study | None = None
        self._slots: Slots | None = None  # None if nothing is left to train
        self._ready = Readiness()
        self._state = "FAILED"  # as MLflow shall show the sweep
        self._sent = False  # whether MLflow has everything

    def run(self) -> int:
        """Runs what is left of the sweep.

        Returns:
            The exit code: 0 done, 1 no trial is complete, 130 interrupted.

        Raises:
            ConfigError: the sweep is running already, exists with other settings, or a trial asks for too much.
            DataError, ModelError: faces or pretrained weights are missing or faulty.
            DiskFullError, StudyStorageError, RayStartError, ClusterGoneError: the sweep had to stop; once there is
                space again, or database, Ray or cluster are back, the same command continues it.
        """
        check_local(self._config)
        with contextlib.ExitStack() as stack:
            self._enter_folder(stack)
            self._prepare(stack)
            if self._stop and self._study is None:
                text = f"interrupted before the first trial; start again with:  {redact(self._command)}"
                self._console.print(text, highlight=False, markup=False, soft_wrap=True)
                return INTERRUPTED
            self._config = comparability.with_common_form(self._config, self._ready, self._console)
            with self._opened():
                if self._slots is not None and not self._stop:
                    self._train(self._slots)
        records = self._controller.records
        print_conclusion(self._config, records, self._console, self._command, self._stop, sent=self._sent)
        if self._stop.by_user:
            return INTERRUPTED
        return 0 if self._stop or ranking.best(records) else 1

    def _enter_folder(self, stack: contextlib.ExitStack) -> None:
        """Makes and locks the sweep's folder, and logs into it; raises ConfigError where nothing can be written."""
        folder = self._config.folder
        check_output(folder, "output")
        stack.enter_context(writing(folder))
        folder.mkdir(parents=True, exist_ok=True)
        stack.enter_context(locked(self._config))
        stack.enter_context(logging_into(folder / LOG_FILE, self._console))
        self._config = comparability.with_earlier_form(self._config)

    def _prepare(self, stack: contextlib.ExitStack) -> None:
        """Prepares faces, Ray and MLflow, unless the study shows that nothing is left to train.

        The study of a new sweep is created later, when nothing can be wrong with its config any more.
        """
        if (self._config.folder / EVENTS_FILE).exists():
            self._study = _open_study(self._config)
        stack.enter_context(self._stop)
        if self._study is None or not self._study.is_finished():
            if load := describe_load(self._config, check_local(self._config)):  # before this sweep adds to it
                logger.warning("%s", load)
            self._slots, self._ready = make_ready(self._config, stack, self._console, self._stop)
            self._stop.listen()  # again: Ray has put handlers of its own in place
        if (survey := self._ready.survey) is not None:
            for line in survey.warnings():
                logger.warning("%s", line)
            run_folder.write_skipped(survey.skipped, self._config.folder)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[None]:
        """Opens study, log and MLflow; at the end, whatever happened, files are written and MLflow is closed."""
        config, started = self._config, self._started()
        study = self._study or _open_study(config)
        self._storage = None
        if config.storage is not None:  # a prefix for this study alone, also among deleted ones of its name
            self._storage = Storage.of_sweep(config.storage, f"{config.name}-{study.id}", config.folder)
        config.dump(config.folder / CONFIG_FILE)
        with EventLog(config.folder / EVENTS_FILE) as self._log:
            earlier, self._tags = LogState.of(self._log.read()).tags, started.data["tags"]
            comparability.check_faces(config, earlier, self._tags)
            comparability.warn_of_other_versions(earlier, self._tags)
            self._log.append(started)
            self._writer = BackgroundWriter(make_mlflow_sync(config, config.train.data.threshold, self._storage))
            self._writer.start()
            self._controller = SweepController(config, study, self._log)
            self._outputs = SweepOutputs(config, self._storage)
            try:
                yield
                self._state = "KILLED" if self._stop.by_user else "FINISHED"
            finally:
                self._close()

    def _close(self) -> None:
        """Writes the last files and closes MLflow's runs; a step that fails does not keep the next from being done."""
        with (
            doing(self._console, "writing the report, closing MLflow's runs"),
            contextlib.ExitStack() as steps,  # the last one first
        ):
            steps.callback(self._close_writer)
            steps.callback(lambda: self._log.append(self._ended()))
            steps.callback(lambda: _write_report(self._config, self._stop, anew=self._slots is not None))
            steps.callback(lambda: self._outputs.update(self._controller.records))

    def _close_writer(self) -> None:
        self._sent = self._writer.close(_CLOSING_SECONDS)

    def _train(self, slots: Slots) -> None:
        """Trains trials until the controller has no more, or until asked to stop."""
        from sweep.driver.prometheus import Gauges
        from sweep.execution import epoch_progress, ray_session, tune_executor

        config, controller, writer = self._config, self._controller, self._writer
        outlook = Outlook(config, slots, self._ready.epoch_seconds(config.train))
        gauges = Gauges(config, controller, lambda: slots.last, lambda: writer.lag)
        board = Board(
            config, lambda: controller.records, lambda: writer.lag, epoch_progress.read, outlook, self._console
        )

        def on_event(event: Event) -> None:
            writer.wake()
            if event.kind is EventKind.TRIAL_ENDED:
                self._outputs.update(controller.records, final=False)
            board.handle(event)
            gauges.handle(event)

        def train() -> None:
            faces = expected_faces(config, self._tags)
            tune_executor.execute(config, controller, slots, self._stop, self._storage, faces)

        controller.listen(on_event)
        with board:
            try:
                ray_session.run_while_head_alive(train, self._stop)
                epoch_progress.clear()
            finally:
                controller.interrupt()  # what is still running after a stop or an error

    def _started(self) -> Event:
        """The event of the start of this call."""
        config, ready = self._config, self._ready
        tags = {
            **provenance(),
            **(ready.survey.tags() if ready.survey else {}),
            "command": redact(end_hook.hidden(self._command)),
            "sampler": json.dumps(config.sampler.model_dump() | {"seed": config.seed}),
            "pruner": json.dumps(config.pruner.model_dump()),
            "config.hash": config.train.identity(),
            "threads": str(config.train.run.threads),
            "form": "not chosen" if is_open(config.train) else str(form_of(config.train)),
            "nme.norm": config.train.data.norm.name,
            "nme.threshold": f"{config.train.data.threshold:g}",
            **{f"form.speeds.{name}": speeds.text() for name, speeds in ready.speeds.items()},
        }
        return Event(EventKind.SWEEP_STARTED, None, {"name": config.name, "tags": tags, "config": config.tree()})

    def _ended(self) -> Event:
        """The event of the end of this call."""
        config, records = self._config, self._controller.records
        winner = ranking.best(records)
        files = [LEADERBOARD_FILE] + ([BEST_FILE] if winner else [])
        files += [REPORT_FILE] if (config.folder / REPORT_FILE).exists() else []
        weights = {str(winner.number): [str(config.trial_folder(winner.number) / BEST)]} if winner else {}
        data = {
            "state": self._state,
            "summary": leaderboard.markdown(records, config.objectives),
            "best_trial": winner.number if winner else None,
            "artifacts": [str(config.folder / name) for name in files],
            "trial_artifacts": weights,
        }
        return Event(EventKind.SWEEP_ENDED, None, data)


def _open_study(config: SweepConfig) -> Study:
    url = config.study or f"sqlite:///{config.folder / 'study.db'}"
    try:
        return Study.open(url, config)
    except (StudyMismatchError, StudyStorageError) as error:
        raise ConfigError(str(error)) from None


def _write_report(config: SweepConfig, stop: StopRequest, *, anew: bool) -> None:
    """Writes the report if anything was trained or there is none yet; not after Ctrl-C, which should be quick."""
    if config.report and not stop.by_user and (anew or not (config.folder / REPORT_FILE).exists()):
        from sweep.reporting.html_report import refresh_report  # imports Plotly and torch: not before training is over

        refresh_report(config)
