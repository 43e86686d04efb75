"""The head of the Ray session, watched: whatever asks Ray while it is gone waits for it, deaf to signals."""

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

RAYS_PATIENCE = "RAY_gcs_rpc_server_reconnect_timeout_s"  # after which Ray ends a process without a word
PATIENCE = float(os.environ.get(RAYS_PATIENCE, 60))  # seconds that the head may be away, as Ray has it
_EVERY = 2.0  # seconds between two looks, and the longest that one takes
_LEAVING = 5.0  # seconds that the work has to end by itself


def attended(work: Callable[[], T], address: str, stop: StopRequest) -> T:
    """Does the work in a thread of its own, so that this one still hears signals, and can leave without it.

    Args:
        work: what calls Ray.
        address: HOST:PORT of the head.
        stop: told when the head is gone, so that the work ends where it can.

    Raises:
        ClusterGoneError: the head is gone; the work may still wait for it.
    """
    done: Future[T] = Future()
    threading.Thread(target=_carry_out, args=(work, done), name="ray-work", daemon=True).start()
    answered, missed = time.monotonic(), False
    while not wait([done], timeout=_EVERY).done:
        if _answers(address):
            answered, missed = time.monotonic(), False
        elif time.monotonic() - answered > PATIENCE:
            error = ClusterGoneError(f"the head of the cluster, {address}, is gone")
            stop.fail(error)
            wait([done], timeout=_LEAVING)
            raise error
        elif not missed:
            logger.warning("the head of the cluster, %s, does not answer; waiting %g s for it", address, PATIENCE)
            missed = True
    return done.result()


def _carry_out(work: Callable[[], T], done: Future[T]) -> None:
    try:
        done.set_result(work())
    except BaseException as error:
        done.set_exception(error)


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_EVERY).close()
    except OSError:
        return False
    return True
