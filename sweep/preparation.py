"""What a sweep needs before its first trial, all at the same time: faces in the crop cache, Ray, MLflow's tables."""

from __future__ import annotations

import contextlib
import threading

from rich.console import Console

from sweep.config import SweepConfig
from sweep.folder import make_projector


def make_ready(config: SweepConfig, stack: contextlib.ExitStack, console: Console) -> tuple[int, dict[str, str]]:
    """Prepares faces and MLflow while Ray starts, which `stack` will leave.

    Returns:
        The number of trials that fit at once, and the hashes of the faces by name.

    Raises:
        ConfigError, DataError, ModelError: as `sweep.session.run_sweep`.
    """
    with console.status("preparing faces, starting Ray") if console.is_terminal else contextlib.nullcontext():
        preparation = _Preparation(config)
        from sweep import executor  # imports ray, while the faces are prepared

        threading.Thread(target=_prepare_mlflow, args=(config, preparation), name="mlflow", daemon=True).start()
        stack.enter_context(executor.ray_session(config))
        slots = executor.count_slots(config)
        hashes = preparation.result()
    return slots, hashes


def _prepare_mlflow(config: SweepConfig, preparation: _Preparation) -> None:
    """Imports MLflow and has it make its tables, so that the first trials share the cores with neither."""
    with contextlib.suppress(Exception):  # the driver and the writer meet the same errors and say so
        preparation.result()  # no tables for a sweep that cannot start
        make_projector(config).check()


class _Preparation:
    """Builds the crop cache of the base config in the background, and tries its weights, so that no trial has to."""

    def __init__(self, config: SweepConfig) -> None:
        from trainer.crops import load_split  # in this thread, before Ray: importing OpenCV resets sys.path

        self._load_split, self._config = load_split, config.train
        self._hashes: dict[str, str] = {}
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="crops", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            for split in ("train", "val"):
                self._hashes[f"data.hash.{split}"] = self._load_split(self._config.data, split).fingerprint()
            if self._config.model.pretrained != "none":
                from trainer.model import build_model

                build_model(self._config)
        except Exception as error:
            self._error = error

    def result(self) -> dict[str, str]:
        """Waits until the crops are there and gives their hashes; raises what building them raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._hashes
