"""Watches the head of the Ray session: while it is unreachable, calls of Ray block and ignore signals."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

from sweep.core.errors import ClusterGoneError
from sweep.core.stop_request import StopRequest

logger = logging.getLogger(__name__)
T = TypeVar("T")

# For so long the head may be unreachable; after it, Ray would end this process without a message.
RECONNECT_TIMEOUT_VARIABLE = "RAY_gcs_rpc_server_reconnect_timeout_s"
RECONNECT_TIMEOUT = float(os.environ.get(RECONNECT_TIMEOUT_VARIABLE, 60))  # seconds; the default is Ray's
_EVERY = 2.0  # seconds between two probes, and the timeout of one
_LEAVING = 5.0  # seconds that the task has to end by itself


def run_while_head_alive(task: Callable[[], T], address: str, stop: StopRequest) -> T:
    """Runs a task in a thread of its own, so that this one still handles signals and can leave a blocked call.

    Args:
        task: calls Ray.
        address: HOST:PORT of the head.
        stop: set when the head is gone, so that the task ends where it can.

    Raises:
        ClusterGoneError: the head is gone; the task may still be blocked.
    """
    done: Future[T] = Future()
    threading.Thread(target=_run, args=(task, done), name="ray-work", daemon=True).start()
    answered, missed = time.monotonic(), False
    while not wait([done], timeout=_EVERY).done:
        if _answers(address):
            answered, missed = time.monotonic(), False
        elif time.monotonic() - answered > RECONNECT_TIMEOUT:
            error = ClusterGoneError(f"the head of the cluster, {address}, is gone")
            stop.fail(error)
            wait([done], timeout=_LEAVING)
            raise error
        elif not missed:
            logger.warning(
                "the head of the cluster, %s, does not answer; waiting %g s for it", address, RECONNECT_TIMEOUT
            )
            missed = True
    return done.result()


def _run(task: Callable[[], T], done: Future[T]) -> None:
    try:
        done.set_result(task())
    except BaseException as error:
        done.set_exception(error)


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_EVERY).close()
    except OSError:
        return False
    return True
