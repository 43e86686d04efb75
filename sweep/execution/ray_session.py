"""The Ray session: local, or on a cluster, to whose machines this package is sent."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from sweep.core.errors import ClusterGoneError
from sweep.execution import head_watchdog

os.environ.update(  # before ray is imported
    RAY_TRAIN_V2_ENABLED="1",
    RAY_USAGE_STATS_ENABLED="0",
    RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0",
    RAY_prestart_worker_first_driver="false",  # none would be used: Tune's workers have an environment of their own
)
# Ray would end this process without a word
os.environ[head_watchdog.RECONNECT_TIMEOUT_VARIABLE] = str(int(head_watchdog.RECONNECT_TIMEOUT) + 120)

import ray
from ray.autoscaler.sdk import request_resources

from sweep.core.sections import ExecutionConfig
from sweep.core.stop_request import StopRequest
from sweep.execution import ray_private, ray_start
from trainer.errors import ConfigError

logger = logging.getLogger(__name__)
T = TypeVar("T")

_JOIN_TIMEOUT = 120.0  # seconds for this machine to join a cluster
_PACKAGES = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "trainer")]


@contextlib.contextmanager
def ray_session(config: ExecutionConfig) -> Iterator[None]:
    """Starts Ray on this machine, listening on loopback only, or joins the cluster of `ray_address`.

    This package is sent to the machines of the cluster. If this machine is no member of the cluster, it becomes one
    without slots until the end of the session.

    Raises:
        ConfigError: no cluster answers at that address.
        RayStartError: Ray does not start on this machine.
    """
    with contextlib.ExitStack() as stack:
        _join(config, stack)
        farewell = stack.enter_context(contextlib.ExitStack())
        farewell.callback(ray.shutdown)
        _to_log_file(logging.getLogger("ray"))
        if config.ray_address is not None and config.slots:
            _ask_for(config, config.slots)
            farewell.callback(_ask_for, config, 0)
        try:
            yield
        except ClusterGoneError:  # these calls would wait for the head
            farewell.pop_all()
            raise


def _join(config: ExecutionConfig, stack: contextlib.ExitStack) -> None:
    """Starts Ray, or joins the cluster; `stack` undoes the changes to this process."""
    ray_private.redirect_messages(_log_message)
    if config.ray_address is None:
        stack.enter_context(ray_start.local_ray())
        return
    stack.enter_context(_membership(config.ray_address))
    packages = {"py_modules": _PACKAGES, "excludes": ["**/__pycache__"]}
    try:
        ray_start.connect(address=config.ray_address, runtime_env=packages)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError(f"ray_address = {config.ray_address!r}: {str(error).splitlines()[0]}") from None


def run_while_head_alive(task: Callable[[], T], stop: StopRequest) -> T:
    """Runs a task that calls Ray; see `sweep.execution.head_watchdog.run_while_head_alive`."""
    return head_watchdog.run_while_head_alive(task, ray.get_runtime_context().gcs_address, stop)


@contextlib.contextmanager
def _membership(address: str) -> Iterator[None]:
    """Makes this machine a member of the cluster if it is none, as Ray requires of a driver."""
    host, _, port = address.partition(":")
    if not port.isdigit() or ray_private.is_member(address):
        yield
        return
    try:
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            own = connection.getsockname()[0]
    except OSError as error:
        raise ConfigError(f"ray_address = {address!r}: no cluster answers there ({error})") from None
    words = [
        "-P",  # a sweep.py in the user's folder is not meant
        "-m",
        "sweep.execution.join_cluster",
        "start",
        f"--address={address}",
        f"--node-ip-address={own}",
        "--num-cpus=0",
        "--num-gpus=0",
        "--block",
    ]
    words += ["--object-store-memory=100000000", "--disable-usage-stats"]
    with tempfile.TemporaryFile("w+") as output:
        command, pipe = [sys.executable, *words], subprocess.PIPE
        process = subprocess.Popen(command, stdin=pipe, stdout=output, stderr=output, start_new_session=True)
        try:
            deadline = time.monotonic() + _JOIN_TIMEOUT
            while not ray_private.is_member(address):
                if process.poll() is not None or time.monotonic() > deadline:
                    output.seek(0)
                    lines = output.read().strip().splitlines() or ["no answer"]
                    raise ConfigError(f"ray_address = {address!r}: this machine cannot join ({lines[-1]})")
                time.sleep(0.2)
            yield
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def _ask_for(config: ExecutionConfig, slots: int) -> None:
    """Requests resources for so many slots from the cluster's autoscaler, if it has one."""
    request_resources(bundles=[config.resources.bundle] * slots * config.resources.workers)


def _log_message(text: str) -> None:
    """Logs a message that Ray would print over the table."""
    logger.info("ray: %s", text)


def _to_log_file(chatter: logging.Logger) -> None:
    """Sends Ray's own messages, such as tracebacks of crashed trials, to the sweep's log file only."""
    chatter.handlers = [h for h in logging.getLogger().handlers if isinstance(h, logging.FileHandler)]
    chatter.propagate = False


def machines() -> list[tuple[dict[str, Any], float, float]]:
    """The machines that are alive, as (Ray's record of it, CPUs, GPUs)."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    return [(node, node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0)) for node in alive]
