"""Trains configs of a sweep again on Ray: with other seeds, or as the final model on train + val."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sweep.analysis.rerun_jobs import FINAL, Job
from sweep.analysis.sweep_result import SweepResult
from sweep.core.provenance import expected_faces
from sweep.core.trial import Assignment, State
from sweep.storage.event_log import Event, EventKind, EventLog
from sweep.storage.remote_files import Storage
from sweep.storage.sweep_folder import SMALL_FILES
from trainer.run_folder import BEST, LAST


@dataclass
class _Progress:
    started: float
    history: dict[int, dict[str, float]] = field(default_factory=dict)


class Reruns:
    """Hands jobs to the executor and records how each ended; an interrupted job resumes from its checkpoint.

    Args:
        jobs: those to train.
        log: the sweep's event log.
        show: called with a line per epoch.
        storage: of the jobs' files if the machines share no disk.
    """

    def __init__(
        self, jobs: Sequence[Job], log: EventLog, show: Callable[[str], None], storage: Storage | None = None
    ) -> None:
        self._jobs, self._log, self._show, self._storage = jobs, log, show, storage
        self._waiting = list(range(len(jobs)))
        self._live: dict[int, _Progress] = {}
        self.failures: dict[str, str] = {}  # run -> reason

    @property
    def live(self) -> int:
        """Jobs that are running now."""
        return len(self._live)

    def next_trial(self) -> Assignment | None:
        """The next job; its index takes the role of a trial's number."""
        if not self._waiting:
            return None
        number = self._waiting.pop(0)
        self._live[number] = _Progress(time.time())
        return Assignment(number, self._jobs[number].config)

    def report(self, number: int, epoch: int, metrics: dict[str, float]) -> bool:
        """Records an epoch; a job is never stopped early."""
        job = self._jobs[number]
        if epoch not in self._live[number].history:
            self._live[number].history[epoch] = metrics
            measured = f", val NME {metrics['val/nme']:.2%}" if "val/nme" in metrics else ""
            self._show(f"{job.run} epoch {epoch}/{job.config.optim.epochs}: loss {metrics['train/loss']:.4f}{measured}")
        return True

    def end(self, number: int, state: State, reason: str | None = None) -> None:
        """Records how a job ended."""
        if number not in self._live:
            return
        job, progress = self._jobs[number], self._live.pop(number)
        if state is not State.COMPLETE:
            self.failures[job.run] = reason or state.value
        self._collect(job)
        self._log.append(
            Event(
                EventKind.RERUN,
                None,
                {
                    "run": job.run,
                    "purpose": job.purpose,
                    "of": job.of.number,
                    "state": state.value,
                    "reason": reason,
                    "params": job.of.params,
                    "config": job.config.tree(),
                    "started": progress.started,
                    "history": [row for _, row in sorted(progress.history.items())],
                },
            )
        )

    def _collect(self, job: Job) -> None:
        """Fetches the files of a job from the storage, and deletes those that are not needed any more."""
        needed, unused = list(SMALL_FILES), [LAST]
        (needed if job.purpose == FINAL else unused).append(BEST)
        for name in unused:
            (job.folder / name).unlink(missing_ok=True)
        if self._storage is not None:
            for name in unused:
                self._storage.delete(job.folder / name)
            for name in needed:
                self._storage.fetch(job.folder / name)

    def note_retry(self, number: int, attempt: int) -> None:
        """Does nothing: a crashed job restarts from its checkpoint."""


def run_jobs(sweep: SweepResult, jobs: Sequence[Job], log: EventLog, show: Callable[[str], None]) -> dict[str, str]:
    """Trains jobs of a sweep on Ray, as many at once as trials would be.

    Returns:
        Why jobs failed, by run.

    Raises:
        KeyboardInterrupt: stopped by the user; the same call goes on.
        ConfigError, DiskFullError, StorageError, ClusterGoneError: as for a sweep.
    """
    from sweep.core.stop_request import StopRequest
    from sweep.execution import ray_session, resources, tune_executor  # imports ray

    config, storage = sweep.config, None
    if config.storage is not None:  # unique, also among deleted sweeps of this name
        begun = next(event.time for event, _ in log.read())
        storage = Storage.of_sweep(config.storage, f"{config.name}-reruns-{begun:.0f}", config.folder)
    reruns = Reruns(jobs, log, show, storage)
    with StopRequest() as stop, ray_session.ray_session(config):
        stop.listen()  # again: Ray has put handlers of its own in place
        slots = resources.Slots(config)

        def train() -> None:
            slots.wait(lambda: bool(stop))
            faces = expected_faces(config, sweep.tags)
            tune_executor.execute(config.model_copy(update={"hours": None}), reruns, slots, stop, storage, faces)

        ray_session.run_while_head_alive(train, stop)
    if stop.by_user:
        raise KeyboardInterrupt
    return reruns.failures
