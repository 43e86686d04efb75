"""Starts Ray on this machine, whatever it is like: busy, with a long temporary folder, without a home."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray

from sweep.core.errors import RayStartError
from sweep.execution import ray_private
from trainer.cores import available_cores
from trainer.user_folders import home_folder, is_writable, user_number

logger = logging.getLogger(__name__)

_MAX_STARTS = 5  # on a busy machine, where Ray was not up within its own timeout of half a minute
_SOCKET = "ray/session_2026-12-01_00-00-00_000000_4194304/sockets/plasma_store.1"  # below the temporary folder
_MAX_FOLDER = 107 - len(f"/{_SOCKET}")  # bytes; a Unix socket's path has 107 at most, see unix(7)
_OBJECT_STORE = 200_000_000  # bytes; trials do not use it


@contextlib.contextmanager
def local_ray() -> Iterator[None]:
    """Starts Ray on this machine, listening on loopback only; it is shut down by the caller.

    Raises:
        RayStartError: it does not start; the message says why, and what can be done.
    """
    with ray_private.loopback_only(), _variables(**_short_folder(), **_token()):
        try:
            connect(
                address="local",
                num_cpus=available_cores(),  # Ray would count those of the machine
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE,
            )
        except Exception as error:  # of many types
            raise RayStartError(_explained(error)) from error
        yield


def connect(**options: Any) -> None:
    """Calls `ray.init`, and repeats it when a busy machine was not ready within Ray's own timeout of 30 s.

    Ray puts the working folder before all others on its workers' path, where a sweep.py of the user's own would be
    taken for this package; so it is called in the folder of the packages.
    """
    for left in reversed(range(_MAX_STARTS)):
        try:
            with contextlib.chdir(Path(__file__).parents[2]):
                ray.init(logging_level=logging.ERROR, log_to_driver=False, configure_logging=True, **options)
            return
        except Exception as error:  # Ray has no type for this
            if not left or "timed out during startup" not in str(error):
                raise
            logger.warning("Ray was not up within half a minute, as on a very busy machine; trying again")


@contextlib.contextmanager
def _variables(**values: str) -> Iterator[None]:
    """Sets environment variables for a while; Ray's processes inherit them."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _short_folder() -> dict[str, str]:
    """Another temporary folder for Ray, where its own choice is too long for its sockets or cannot be written to."""
    if "RAY_TMPDIR" in os.environ:  # the user has decided
        return {}
    chosen = _temporary_folder()
    if _is_usable(chosen):
        return {}
    others = [Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"), Path(tempfile.gettempdir())]
    own = [folder / f"ray-{user_number()}" for folder in (chosen, *others)]
    for folder in (*others, *own):
        with contextlib.suppress(OSError):
            if folder in own:
                folder.mkdir(mode=0o700, exist_ok=True)
            if _is_usable(folder):
                logger.info("Ray's files are in %s/ray: %s does not serve", folder, chosen)
                return {"RAY_TMPDIR": str(folder)}
    return {}


def _temporary_folder() -> Path:
    """The folder below which Ray puts its files, by its own rule."""
    return Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp")


def _is_usable(folder: Path) -> bool:
    """Whether Ray can put its sockets and log files below this folder."""
    return len(os.fsencode(folder)) <= _MAX_FOLDER and is_writable(folder / "ray")


def _token() -> dict[str, str]:
    """A token for this session, where Ray cannot keep one in the user's home."""
    if os.environ.keys() & {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"}:  # the user has decided
        return {}
    folder = home_folder(".ray")
    if folder is not None and (os.access(folder / "auth_token", os.R_OK) or is_writable(folder)):
        return {}
    return {"RAY_AUTH_TOKEN": secrets.token_hex(32)}


def _explained(error: Exception) -> str:
    """Why Ray did not start, and what can be done about it."""
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    text = f"Ray does not start on this machine: {reason.rstrip('.')}."
    if "timed out" in text:
        return f"{text} The machine may be too busy: try again when it is less so."
    folder = _temporary_folder()
    if not _is_usable(folder):
        return f"{text} Set RAY_TMPDIR to a folder that can be written to, with at most {_MAX_FOLDER} characters."
    return f"{text} Its log files: {folder / 'ray' / 'session_latest' / 'logs'}."
