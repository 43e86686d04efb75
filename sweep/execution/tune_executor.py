"""Ray Tune as the executor of trials: placement, slots, retries. It makes no decisions and keeps no state.

Tune asks `_TuneSearcher` for trials and `_TuneScheduler` what to do after each report, and tells `_TuneCallback` of
crashes; these three only pass calls on to the trial source. An error in them is the driver's, not the trial's: it stops
the sweep, which the next call resumes.
"""

from __future__ import annotations

import functools
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

os.environ.update(  # before ray.tune is imported
    TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1",
    TUNE_DISABLE_SIGINT_HANDLER="1",
    TUNE_GLOBAL_CHECKPOINT_S="100000",
    TUNE_RESULT_BUFFER_LENGTH="0",
    TUNE_MAX_PENDING_TRIALS_PG="1000000",  # no limit but the one of `_TuneSearcher`
    RAY_AIR_NEW_OUTPUT="0",
)

import sweep.execution.ray_session  # noqa: F401  # isort: skip  # sets what ray reads when it is imported

import ray
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from sweep.core.sections import ExecutionConfig
from sweep.core.stop_request import StopRequest
from sweep.core.trial import Assignment, State
from sweep.execution import ray_private, trial_worker
from sweep.execution.trial_messages import EpochReport, TrialTask, read_message
from sweep.storage.remote_files import CREDENTIALS, Storage
from sweep.storage.sweep_folder import HUNG_FILE
from trainer.data.face_table import Split
from trainer.errors import DiskFullError

logger = logging.getLogger(__name__)

ray_private.retry_all_crashes()
ray_private.keep_from_workers({*CREDENTIALS, "AWS_SECURITY_TOKEN"})  # they come with `Storage`, in memory


class TrialSource(Protocol):
    """Gives trials to train and decides about them: a `sweep.search.controller.SweepController`, or the reruns."""

    @property
    def live(self) -> int: ...

    def next_trial(self) -> Assignment | None: ...

    def report(self, number: int, epoch: int, metrics: dict[str, float]) -> bool: ...

    def end(self, number: int, state: State, reason: str | None = None) -> None: ...

    def note_retry(self, number: int, attempt: int) -> None: ...


def execute(
    config: ExecutionConfig,
    source: TrialSource,
    slots: Callable[[], int],
    stop: StopRequest,
    storage: Storage | None = None,
    faces: Mapping[Split, str] | None = None,
) -> None:
    """Trains the trials of a source until it has no more, or until asked to stop; raises the error that stopped it.

    Args:
        config: the sweep.
        source: gives trials and takes their reports.
        slots: how many fit at once, now.
        stop: the request to stop.
        storage: where trials keep their files; None: in the sweep's folder.
        faces: the hash that the faces of a split must have on every machine, by its name.
    """
    deadline = time.monotonic() + config.hours * 3600 if config.hours else None
    for stale in config.folder.glob("ray-*"):  # of a driver that was killed
        shutil.rmtree(stale, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(prefix="ray-", dir=config.folder))
    asked: dict[str, float] = {"cpu": config.resources.cpus, "gpu": config.resources.gpus}
    if config.resources.workers > 1:  # Ray Train asks for what they need; the trial itself only waits for them
        asked = {"memory": 1}
    # not in a trial's config, which Ray writes down: storage holds credentials
    run_trial = tune.with_parameters(trial_worker.run_trial, storage=storage, resources=config.resources)
    try:
        tune.Tuner(
            tune.with_resources(run_trial, asked),
            tune_config=tune.TuneConfig(
                search_alg=_TuneSearcher(source, slots, stop, config, faces or {}),
                scheduler=_TuneScheduler(source, stop),
                num_samples=-1,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: f"trial_{trial.trial_id}",
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(scratch),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=config.retries),
                stop=_Stopper(stop, deadline),
                callbacks=[_TuneCallback(source, stop, config)],
            ),
        ).fit()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if stop.error is not None:
        raise stop.error


class _NotPickled:
    """Base of the objects handed to Tune, which pickles them for its own resume; a sweep is resumed from its study."""

    _stop: StopRequest

    def __getstate__(self) -> dict[str, Any]:
        return {}


def _stop_sweep_on_error(answer: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator of methods that Tune calls: an error stops the sweep, resumable, and `answer` is returned instead."""

    def decorate(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def call(self: _NotPickled, *arguments: Any, **named: Any) -> Any:
            try:
                return method(self, *arguments, **named)
            except Exception as error:
                self._stop.fail(error)
                return answer

        return call

    return decorate


class _TuneSearcher(_NotPickled, Searcher):
    """Hands the source's trials to Tune, never more than fit, so that each is suggested when it can start."""

    def __init__(
        self,
        source: TrialSource,
        slots: Callable[[], int],
        stop: StopRequest,
        config: ExecutionConfig,
        faces: Mapping[Split, str],
    ) -> None:
        super().__init__(metric=None, mode=None)
        self._faces = faces
        self._source, self._slots, self._stop, self._config = source, slots, stop, config

    @_stop_sweep_on_error(None)
    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if self._stop:
            return str(Searcher.FINISHED)  # without a running trial, Tune would ask for ever
        if self._source.live >= self._slots():
            return None
        assignment = self._source.next_trial()
        if assignment is None:  # a running trial may lead to further ones
            return None if self._source.live else str(Searcher.FINISHED)
        timeout = self._config.timeout_minutes and self._config.timeout_minutes * 60
        number, tree, pauses = assignment.number, assignment.config.tree(), assignment.pause_epochs
        return TrialTask(number, tree, pauses, assignment.saved, dict(self._faces), timeout).mapping()

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Does nothing: `_TuneScheduler` tells the source of ends."""

    def save(self, checkpoint_path: str) -> None:
        """Saves nothing: a sweep is continued from the study."""

    def restore(self, checkpoint_path: str) -> None:
        """Restores nothing, see `save`."""


class _TuneScheduler(_NotPickled, FIFOScheduler):
    """Asks the source after every report whether a trial continues."""

    def __init__(self, source: TrialSource, stop: StopRequest) -> None:
        super().__init__()
        self._source, self._stop = source, stop

    @_stop_sweep_on_error(str(TrialScheduler.CONTINUE))
    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        message = read_message(result)
        if isinstance(message, EpochReport):
            should_continue = self._source.report(message.trial, message.epoch, dict(message.metrics))
            return str(TrialScheduler.CONTINUE if should_continue else TrialScheduler.STOP)
        if message.state is None:
            raise DiskFullError(message.reason)
        self._source.end(message.trial, message.state, message.reason)
        return str(TrialScheduler.CONTINUE)  # the function is about to return by itself


class _TuneCallback(_NotPickled, tune.Callback):
    """Records restarts and failures of crashed trials, and kills workers that have not reported for too long."""

    def __init__(self, source: TrialSource, stop: StopRequest, config: ExecutionConfig) -> None:
        self._source, self._stop, self._config = source, stop, config
        self._limit = config.timeout_minutes * 60 if config.timeout_minutes else float("inf")
        self._silence: dict[Trial, float] = {}  # seconds since its last report
        self._given_up: set[Trial] = set()
        self._looked = time.monotonic()

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._silence[trial] = 0.0

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        self._silence[trial] = 0.0

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._silence.pop(trial, None)

    @_stop_sweep_on_error(None)
    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        now = time.monotonic()
        # at most a second: while the driver waits, for a database say, it receives no reports
        passed = min(now - self._looked, 1.0)
        self._looked = now
        for trial in list(self._silence):
            self._silence[trial] += passed
            if self._silence[trial] > self._limit and (actor := ray_private.actor_of(trial)):
                del self._silence[trial]
                self._given_up.add(trial)
                ray.kill(actor)  # works also if it is stopped or holds the GIL; Ray takes it for crashed

    @_stop_sweep_on_error(None)
    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        logger.warning("trial %d starts again: %s", trial.config["trial"], self._reason(trial))
        self._source.note_retry(trial.config["trial"], trial.num_failures)

    @_stop_sweep_on_error(None)
    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        # Not the scheduler's method of this name, which Ray also calls before a retry
        self._source.end(trial.config["trial"], State.FAILED, self._reason(trial))

    def _reason(self, trial: Trial) -> str:
        self._silence.pop(trial, None)
        if trial not in self._given_up:
            return _crash_reason(trial)
        self._given_up.remove(trial)
        stacks = Path(trial.config["config"]["run"]["output"]) / HUNG_FILE
        known = stacks.exists() and stacks.stat().st_size > 0
        where = f"; {stacks} shows what it was doing" if known else ""
        return f"no report for {self._config.timeout_minutes:g} minutes (timeout_minutes){where}"


class _Stopper(_NotPickled, tune.Stopper):
    """Ends the run on request or when the time is up."""

    def __init__(self, stop: StopRequest, deadline: float | None) -> None:
        self._stop, self._deadline = stop, deadline

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        if self._deadline is not None and time.monotonic() > self._deadline:
            self._stop.set()
        return bool(self._stop)


def _crash_reason(trial: Trial) -> str:
    """Why a trial crashed, in one line; the traceback is in the sweep's log."""
    path = Path(trial.error_file or "")  # not get_error(): it reads a copy that Ray has not synced yet
    texts = path.read_text(encoding="utf-8").split("Failure # ") if path.is_file() else [""]
    if memory := re.search(r"running low on memory.* was (\S+ used / \S+) limit", texts[-1]):
        return f"out of memory: Ray ended its worker, before the whole machine ran out ({memory[1]})"
    if "its node has died" in texts[-1] or "is temporarily unavailable" in texts[-1]:
        return "the machine that it ran on died, or cannot be reached"
    if "its worker process has died" in texts[-1]:
        return "its worker died: killed by a signal or the kernel (out of memory?), or crashed in native code"
    lines = [line.strip() for line in texts[-1].splitlines() if line.strip()]
    return lines[-1] if lines else "its worker died"  # the last line of a traceback names the exception
