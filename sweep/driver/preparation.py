"""What a sweep needs before its first trial, all at the same time: faces in the crop cache, Ray, MLflow's tables."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

from rich.console import Console

from sweep.core.config import SweepConfig
from sweep.core.stop_request import StopRequest
from sweep.execution.node_setup import prepare_faces
from sweep.storage.remote_files import Storage
from sweep.tracking.artifacts import make_projector

if TYPE_CHECKING:
    from sweep.execution.resources import Slots


def make_ready(
    config: SweepConfig, stack: contextlib.ExitStack, console: Console, stop: StopRequest
) -> tuple[Slots, dict[str, str]]:
    """Prepares faces and MLflow while Ray starts, which `stack` will leave.

    Returns:
        How many trials fit at once, and the hashes of the faces by name.

    Raises:
        ConfigError, DataError, ModelError: as `sweep.driver.session.run_sweep`.
    """
    with console.status("preparing faces, starting Ray") if console.is_terminal else contextlib.nullcontext():
        preparation = _Preparation(config) if config.ray_address is None else None
        from sweep.execution import node_setup, ray_session, resources  # imports ray, while the faces are prepared

        threading.Thread(target=_prepare_mlflow, args=(config, preparation), name="mlflow", daemon=True).start()
        stack.enter_context(ray_session.ray_session(config))
        slots = resources.Slots(config)

        def prepare() -> dict[str, str]:
            slots.wait(lambda: bool(stop))
            if preparation is not None:
                return preparation.result()
            storage = Storage.of_sweep(config.storage, config.name, config.folder) if config.storage else None
            return {} if stop else node_setup.prepare_nodes(config, storage)

        return slots, ray_session.attended(prepare, stop)


def _prepare_mlflow(config: SweepConfig, preparation: _Preparation | None) -> None:
    """Imports MLflow and has it make its tables, so that the first trials share the cores with neither."""
    with contextlib.suppress(Exception):  # the driver and the writer meet the same errors and say so
        if preparation is not None:
            preparation.result()  # no tables for a sweep that cannot start
        make_projector(config).check()


class _Preparation:
    """Builds the crop cache of the base config in the background, and tries its weights, so that no trial has to."""

    def __init__(self, config: SweepConfig) -> None:
        import trainer.data.crop_cache  # noqa: F401  # in this thread, before Ray: importing OpenCV resets sys.path

        self._config = config.train
        self._hashes: dict[str, str] = {}
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="crops", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._hashes = prepare_faces(self._config)
        except Exception as error:
            self._error = error

    def result(self) -> dict[str, str]:
        """Waits until the crops are there and gives their hashes; raises what building them raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._hashes
