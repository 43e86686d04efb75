"""Ray Tune as the executor of a ledger: placement, slots, retries. It decides nothing and remembers nothing.

Ray asks `_Suggestions` for work and `_Decisions` what to do after each report; both only pass on to the ledger.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.update(  # before ray.tune is imported
    TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1",
    TUNE_DISABLE_SIGINT_HANDLER="1",
    TUNE_GLOBAL_CHECKPOINT_S="100000",
    TUNE_RESULT_BUFFER_LENGTH="0",
    RAY_AIR_NEW_OUTPUT="0",
    RAY_TRAIN_V2_ENABLED=os.environ.get("RAY_TRAIN_V2_ENABLED", "0"),
    RAY_USAGE_STATS_ENABLED="0",
    RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0",
    RAY_prestart_worker_first_driver="false",  # none of these would be used: Tune's workers have an own environment
)

import ray
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from sweep import trainable
from sweep.config import SweepConfig
from sweep.ledger import Ledger
from sweep.resources import limit_slots
from sweep.stop import StopRequest
from sweep.study import State

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def ray_session(config: SweepConfig) -> Iterator[None]:
    """Starts Ray on this machine, or joins the cluster of `ray_address`; leaves it at the end."""
    options: dict[str, Any] = {"address": config.ray_address or "local"}
    if config.ray_address is None:
        options.update(include_dashboard=False, object_store_memory=200_000_000)
    ray.init(logging_level=logging.ERROR, log_to_driver=False, configure_logging=True, **options)
    _to_log_file(logging.getLogger("ray"))
    try:
        yield
    finally:
        ray.shutdown()


def _to_log_file(chatter: logging.Logger) -> None:
    """Ray's own messages, tracebacks of crashed trials among them, go to the sweep's log file only."""
    chatter.handlers = [h for h in logging.getLogger().handlers if isinstance(h, logging.FileHandler)]
    chatter.propagate = False


def count_slots(config: SweepConfig) -> int:
    """How many trials fit at once on the machines of the Ray session; raises as `limit_slots`."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return limit_slots(config, [(node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in alive])


def execute(config: SweepConfig, ledger: Ledger, slots: int, stop: StopRequest) -> None:
    """Runs trials until the ledger has no more, or until asked to stop."""
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(slots)  # all slots start at once
    deadline = time.monotonic() + config.hours * 3600 if config.hours else None
    for stale in config.folder.glob("ray-*"):  # of a driver that was killed
        shutil.rmtree(stale, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(prefix="ray-", dir=config.folder))
    resources = {"cpu": config.resources.cpus, "gpu": config.resources.gpus}
    try:
        tune.Tuner(
            tune.with_resources(trainable.run_trial, resources),
            tune_config=tune.TuneConfig(
                search_alg=_Suggestions(ledger, slots, stop),
                scheduler=_Decisions(ledger),
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
                callbacks=[_Crashes(ledger)],
            ),
        ).fit()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


class _OfThisProcess:
    """Pickles to nothing: Ray saves the objects it is given, and a sweep is never continued from them."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Suggestions(_OfThisProcess, Searcher):
    """Hands the ledger's trials to Ray, never more than fit, so that each is suggested when it can start."""

    def __init__(self, ledger: Ledger, slots: int, stop: StopRequest) -> None:
        super().__init__(metric=None, mode=None)
        self._ledger, self._slots, self._stop = ledger, slots, stop

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if self._stop or self._ledger.live >= self._slots:
            return None
        assignment = self._ledger.next_trial()
        if assignment is None:
            return str(Searcher.FINISHED)
        return {trainable.TRIAL: assignment.number, "config": assignment.config.tree()}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The ledger hears of ends from `_Decisions`."""

    def save(self, checkpoint_path: str) -> None:
        """Saves nothing: a sweep is continued from the study."""

    def restore(self, checkpoint_path: str) -> None:
        """Restores nothing, see `save`."""


class _Decisions(_OfThisProcess, FIFOScheduler):
    """Asks the ledger after every report whether a trial goes on."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self._ledger = ledger

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        number = result[trainable.TRIAL]
        if trainable.ENDED in result:
            self._end(number, result)
            return str(TrialScheduler.CONTINUE)  # the function is about to return by itself
        goes_on = self._ledger.report(number, result[trainable.EPOCH], dict(result[trainable.METRICS]))
        return str(TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP)

    def _end(self, number: int, result: dict[str, Any]) -> None:
        states = {
            trainable.DONE: State.COMPLETE,
            trainable.DIVERGED: State.DIVERGED,
            trainable.FAILED: State.FAILED,
        }
        self._ledger.end(number, states[result[trainable.ENDED]], result.get(trainable.REASON))


class _Crashes(_OfThisProcess, tune.Callback):
    """Notes that Ray starts a crashed trial again, or has given it up."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        logger.warning("trial %d starts again: %s", trial.config[trainable.TRIAL], _reason(trial))
        self._ledger.note_retry(trial.config[trainable.TRIAL], trial.num_failures)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        # Not the scheduler's method of this name, which Ray also calls before a retry
        self._ledger.end(trial.config[trainable.TRIAL], State.FAILED, _reason(trial))


class _Stopper(_OfThisProcess, tune.Stopper):
    """Ends the run on request or when the time is up."""

    def __init__(self, stop: StopRequest, deadline: float | None) -> None:
        self._stop, self._deadline = stop, deadline

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        if self._deadline is not None and time.monotonic() > self._deadline:
            self._stop.set()
        return bool(self._stop)


def _reason(trial: Trial) -> str:
    """Last line of the error, which names the exception."""
    path = Path(trial.error_file or "")  # not get_error(), which looks where Ray has not synced it to yet
    lines = path.read_text(encoding="utf-8").split("\n") if path.is_file() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "the worker died")
