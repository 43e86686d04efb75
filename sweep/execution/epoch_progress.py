"""Progress of running trials within their epochs, through the key-value store of the Ray session.

It is for display only: no decision depends on it, nobody waits for it, and it ends with the session.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable
from dataclasses import astuple

import ray

from sweep.core.trial import Progress
from sweep.execution.ray_private import session_store
from trainer.pulse import Ticker

logger = logging.getLogger(__name__)

_NAMESPACE = b"starsweep"
_INTERVAL = 1.0  # seconds between two updates
_STORE_TIMEOUT = 5.0  # seconds


class ProgressReporter(Ticker):
    """The worker's side; as a context manager, it sends from a thread of its own, so that training never waits."""

    def __init__(self, trial: int) -> None:
        super().__init__("progress", self._tell, lambda: _INTERVAL, patient=False)
        self._trial = trial
        self._epoch, self._share, self._began = 0, 0.0, time.monotonic()
        self._told = (0, 0.0)

    def note(self, epoch: int, share: float) -> None:
        """Sets how much of an epoch is done; costs next to nothing."""
        if epoch != self._epoch:
            self._began = time.monotonic()
        self._epoch, self._share = epoch, share

    def _tell(self) -> None:
        now = Progress(self._epoch, round(self._share, 4), round(time.monotonic() - self._began, 1))
        if (now.epoch, now.share) == self._told:
            return
        self._told = now.epoch, now.share
        try:
            session_store().internal_kv_put(
                _key(self._trial), json.dumps(astuple(now)).encode(), True, _NAMESPACE, timeout=_STORE_TIMEOUT
            )
        except Exception:  # of many kinds while the head is unreachable; the next update may succeed
            logger.debug("progress not told", exc_info=True)


def read(trials: Iterable[int]) -> dict[int, Progress]:
    """The progress of trials by number; the driver's side. Empty while the store does not answer."""
    try:
        keys = {_key(number): number for number in trials}
        found = session_store().internal_kv_multi_get(list(keys), _NAMESPACE, timeout=_STORE_TIMEOUT) if keys else {}
    except Exception:  # of many kinds while the head is unreachable
        logger.debug("progress not read", exc_info=True)
        return {}
    return {keys[key]: Progress(*json.loads(text)) for key, text in found.items()}


def clear() -> None:
    """Deletes the progress of this session's trials; a cluster outlives a sweep."""
    try:
        session_store().internal_kv_del(_prefix(), True, _NAMESPACE, timeout=_STORE_TIMEOUT)
    except Exception:
        logger.debug("progress not cleared", exc_info=True)


def _prefix() -> bytes:
    if not ray.is_initialized():  # get_runtime_context would start a session
        raise ConnectionError("no Ray session")
    return f"progress/{ray.get_runtime_context().get_job_id()}/".encode()


def _key(trial: int) -> bytes:
    return _prefix() + str(trial).encode()
