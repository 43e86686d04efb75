"""Prepares the first trial, all in parallel: faces in the crop cache, Ray, MLflow's tables."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.console import Console

from sweep.core.config import SweepConfig
from sweep.core.stop_request import StopRequest
from sweep.driver.console import doing
from sweep.execution.node_setup import Readiness, prepare_faces
from sweep.storage.remote_files import Storage
from sweep.tracking.artifacts import make_mlflow_sync
from trainer.config import TrainConfig
from trainer.errors import ConfigError
from trainer.forms import FormSpeeds, recall

if TYPE_CHECKING:
    from sweep.execution.resources import Slots


def make_ready(
    config: SweepConfig, stack: contextlib.ExitStack, console: Console, stop: StopRequest
) -> tuple[Slots, Readiness]:
    """Prepares faces and MLflow while Ray starts; `stack` closes the Ray session.

    Returns:
        The slots, and faces and speeds of the machines.

    Raises:
        ConfigError, DataError, ModelError: as `sweep.driver.session.SweepRun.run`.
    """
    with doing(console, "preparing faces, starting Ray"):
        preparation = _Preparation(config) if config.ray_address is None else None
        from sweep.execution import node_setup, ray_session, resources  # imports ray, while the faces are prepared

        threading.Thread(target=_prepare_mlflow, args=(config, preparation), name="mlflow", daemon=True).start()
        stack.enter_context(ray_session.ray_session(config))
        slots = resources.Slots(config)

        def prepare() -> Readiness:
            slots.wait(lambda: bool(stop))
            if preparation is not None:
                return preparation.result()
            storage = Storage.of_sweep(config.storage, config.name, config.folder) if config.storage else None
            return Readiness() if stop else node_setup.prepare_nodes(config, config.train, storage)

        return slots, ray_session.run_while_head_alive(prepare, stop)


def _prepare_mlflow(config: SweepConfig, preparation: _Preparation | None) -> None:
    """Imports MLflow and creates its tables, so that neither slows down the first trials."""
    with contextlib.suppress(Exception):  # driver and writer meet the same errors, and report them
        if preparation is not None:
            preparation.result()  # no tables for a sweep that cannot start
        make_mlflow_sync(config, config.train.data.threshold).check()


class _Preparation:
    """Builds the crop cache of the base config in the background, loads its weights, and measures its speed."""

    def __init__(self, config: SweepConfig) -> None:
        import trainer.data.crop_cache  # noqa: F401  # in this thread, before Ray: importing OpenCV resets sys.path

        self._config = config.train
        self._ready = Readiness()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="crops", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            speeds = speeds_apart(self._config)
            self._ready = replace(prepare_faces(self._config), speeds={"this machine": speeds})
        except Exception as error:
            self._error = error

    def result(self) -> Readiness:
        """Waits for the preparation; raises its error."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._ready


def speeds_apart(config: TrainConfig) -> FormSpeeds:
    """Speed of a config in each form on this machine, measured in another process, since the driver has no torch.

    Raises:
        ConfigError: the device is not there.
        RuntimeError: the network cannot be computed here.
    """
    if (known := recall(config)) is not None:
        return known
    done = subprocess.run(
        [sys.executable, "-P", "-m", "trainer.form_speed"],
        input=json.dumps(config.tree()),
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        start_new_session=True,  # Ctrl-C is for this process
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise RuntimeError(f"no pass of the network succeeds on this machine: {reason}")
    found = json.loads(done.stdout.splitlines()[-1])
    if "error" in found:
        raise ConfigError(found["error"])
    return FormSpeeds.from_tree(found)
