"""A thread that keeps MLflow up to date with the event log."""

from __future__ import annotations

import logging
import threading
import time
import traceback
from typing import Protocol

from sweep.core.errors import TrackingUnavailable
from sweep.core.redaction import redact

logger = logging.getLogger(__name__)


class Source(Protocol):
    """What the writer needs of a `sweep.tracking.projector.MlflowSync`."""

    def catch_up(self) -> int: ...

    @property
    def lag(self) -> int: ...

    @property
    def finished(self) -> bool: ...


class BackgroundWriter:
    """A daemon thread that keeps MLflow up to date with the event log and never blocks the driver.

    It sends about once a second when woken, retries after 1, 2, 4 ... `longest_pause` seconds while MLflow is
    unavailable, and logs one warning per outage.
    """

    def __init__(self, projector: Source, interval: float = 1.0, longest_pause: float = 30.0) -> None:
        self.last_error: Exception | None = None  # of the last attempt; None if it succeeded
        self._projector, self._interval, self._longest_pause = projector, interval, longest_pause
        self._woken, self._closing = threading.Event(), threading.Event()
        self._deadline = float("inf")
        self._thread = threading.Thread(target=self._run, name="mlflow-writer", daemon=True)

    @property
    def lag(self) -> int:
        """Number of events that MLflow lacks."""
        return self._projector.lag

    def start(self) -> None:
        """Starts the thread; events left by an earlier driver are sent first."""
        self._woken.set()
        self._thread.start()

    def wake(self) -> None:
        """Signals that the log has grown; returns at once."""
        self._woken.set()

    def close(self, timeout_seconds: float) -> bool:
        """Sends the rest for at most the given time; True if MLflow has everything."""
        self._deadline = time.monotonic() + timeout_seconds
        self._closing.set()
        self._woken.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_seconds)
        return not self._thread.is_alive() and self._projector.finished

    def _run(self) -> None:
        failures = 0
        while True:
            closing = self._closing.is_set()
            if not closing and self._woken.wait(2 * self._interval):
                self._woken.clear()
            self._attempt()
            failures = 0 if self.last_error is None else failures + 1
            if closing:
                left = self._deadline - time.monotonic()
                if not failures or left <= 0:
                    return
                time.sleep(min(self._interval, left))
            else:
                # also limits the rate to one batch per interval; close() interrupts it
                self._closing.wait(min(self._interval * 2 ** max(0, failures - 1), self._longest_pause))

    def _attempt(self) -> None:
        before = self.last_error
        try:
            sent = self._projector.catch_up()
        except Exception as error:  # an error of MLflow must not end the training
            self.last_error = error
            if isinstance(error, TrackingUnavailable):
                if not isinstance(before, TrackingUnavailable):
                    logger.warning("%s; the sweep goes on, MLflow catches up later", error)
            elif type(before) is not type(error):
                logger.error("MLflow could not be updated, trying again:\n%s", redact(traceback.format_exc()))
        else:
            self.last_error = None
            if before is not None:
                logger.info("MLflow is back, %d events sent", sent)
