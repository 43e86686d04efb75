"""The parts of Ray that are not public and that nothing public replaces, each with the reason why it is needed.

No other file reaches into them. A test asks each whether it still is as it is used here, so that a new release of Ray
is found out by name, and not in the middle of a sweep.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterator
from typing import Any

from ray._private import ray_constants, services, worker
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayActorError
from ray.experimental import internal_kv


def redirect_messages(write: Callable[[str], None]) -> None:
    """Hands to `write` what Ray would print on this process's standard error; `ray.init` can only silence workers."""

    def write_lines(data: dict[str, Any], *_: Any, **__: Any) -> None:
        write(" ".join(data["lines"]))

    worker.print_to_stdstream = write_lines


@contextlib.contextmanager
def loopback_only() -> Iterator[None]:
    """Has a Ray that is started here listen on loopback, not on all network interfaces.

    `ray.init` has no option for it, and the environment variable for it is read only once, when ray is imported; a
    process that joins a cluster must not have it set. A user who has set it is obeyed.
    """
    name, before = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, ray_constants.ENABLE_RAY_CLUSTER
    if name in os.environ:
        yield
        return
    os.environ[name], ray_constants.ENABLE_RAY_CLUSTER = "0", False
    try:
        yield
    finally:
        del os.environ[name]
        ray_constants.ENABLE_RAY_CLUSTER = before


def is_member(address: str) -> bool:
    """Whether this machine is a member of the cluster at this address; in public, only `ray.init` knows, by failing."""
    return address in services.find_gcs_addresses()


def retry_all_crashes() -> None:
    """Has Tune retry trials also after two errors with which an actor can die, on which an assertion of Tune fails.

    That would end all trials. The two are no subclasses of the error that Tune expects.
    """
    from ray.air.execution._internal import actor_manager
    from ray.tune.execution import tune_controller

    for module in (actor_manager, tune_controller):
        module.RayActorError = (RayActorError, OutOfMemoryError, NodeDiedError)


def keep_from_workers(variables: Collection[str]) -> None:
    """Has Tune not copy these environment variables to its workers: Ray's agents write such copies into their logs."""
    from ray.tune.execution import class_cache

    class_cache.ENV_VARS_TO_PROPAGATE.difference_update(variables)


def actor_of(trial: Any) -> Any | None:
    """The actor that trains a trial of Tune, which its callbacks are not given; None while it has none."""
    return trial.temporary_state.ray_actor


def session_store() -> Any:
    """The key-value store of this process's Ray session; an actor in its place would need a slot and could die."""
    return internal_kv.internal_kv_get_gcs_client()
