"""One trial inside a Ray worker: takes a config, reports every epoch, and keeps its state in the trial's folder."""

from __future__ import annotations

import functools
import gc
import logging
import os
import tempfile
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import ray
from ray import tune

from sweep.core.sections import ResourcesConfig
from sweep.core.trial import State
from sweep.execution.epoch_progress import ProgressReporter
from sweep.execution.trial_messages import EpochReport, TrialEnd, TrialTask
from sweep.execution.trial_workspace import TrialWorkspace
from sweep.storage.remote_files import Storage
from trainer.config import TrainConfig
from trainer.errors import CheckpointError, ConfigError, DataError, DiskFullError, ModelError, NonFiniteError
from trainer.runtime.disk import writing

if TYPE_CHECKING:
    from trainer.data.crops import CropSplit
    from trainer.data.face_table import Split

logger = logging.getLogger(__name__)


def run_trial(task: dict[str, Any], storage: Storage | None = None, resources: ResourcesConfig | None = None) -> None:
    """Trains one trial, from its last checkpoint if there is one, and reports every epoch.

    Errors that a retry would meet again (data, weights, checkpoint) end the trial as failed, a non-finite loss or NME
    as diverged; a full disk stops the sweep; anything else is raised, and Ray retries the trial.

    Args:
        task: of a `TrialTask`.
        storage: where the trial's files go if the machines share no disk.
        resources: of the workers that train it together, if these are several; else it is trained in this process.
    """
    if resources is not None and resources.workers > 1:
        _train_distributed(TrialTask.from_mapping(task), storage, resources)
    else:
        _train(TrialTask.from_mapping(task), storage, tune.report)


def _train_distributed(task: TrialTask, storage: Storage | None, resources: ResourcesConfig) -> None:
    """Trains in workers of Ray Train, which form a process group: the trainer shards each batch over them."""
    from ray import train
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    def work() -> None:  # a closure: it travels in memory, while a config would also be displayed
        if resources.gpus:
            import torch
            from ray.train.torch import get_device

            torch.cuda.set_device(get_device())
        _train(task, storage, train.report, first=train.get_context().get_world_rank() == 0)

    with tempfile.TemporaryDirectory() as scratch:  # for Ray Train's own files, not needed afterwards
        TorchTrainer(
            work,
            scaling_config=train.ScalingConfig(
                num_workers=resources.workers, use_gpu=resources.gpus > 0, resources_per_worker=resources.bundle
            ),
            run_config=train.RunConfig(name="trial", storage_path=scratch, callbacks=[TuneReportCallback()]),
        ).fit()


def _train(
    task: TrialTask,
    storage: Storage | None,
    report_to_tune: Callable[[dict[str, Any]], None],
    *,
    first: bool = True,
) -> None:
    """Trains in this process; of several, only the `first` one writes into the trial's folder."""
    _import_trainer()
    from trainer import engine
    from trainer.data.survey import require_faces
    from trainer.runtime.process import release_memory

    release_memory()  # of the trial before; not at its end, where the frames of a stopped trial still hold its network
    workspace = TrialWorkspace(TrainConfig.from_tree(task.config), storage, task.timeout, first=first)

    def report(result: engine.EpochResult) -> None:
        workspace.save()
        report_to_tune(EpochReport(task.trial, result.epoch, result.metrics).mapping())
        workspace.heartbeat()

    def inspect(crops: Mapping[Split, CropSplit]) -> None:
        try:
            require_faces(workspace.config, crops, task.faces)
        except DataError as error:
            raise DataError(f"machine {ray.util.get_node_ip_address()}: {error}") from None

    def train() -> None:
        engine.train(
            workspace.config,
            report=report,
            progress=progress.note,
            inspect=inspect,
            resume_from=workspace.last if task.saved or workspace.last.exists() else None,
            save_after=frozenset(task.pauses),
        )

    try:
        with writing(workspace.folder), workspace, ProgressReporter(task.trial) as progress:
            logger.info("trial %d at %s, process %d", task.trial, ray.util.get_node_ip_address(), os.getpid())
            end = _outcome(train, task.trial)
            workspace.save(final=True)
    except DiskFullError as error:
        end = TrialEnd(task.trial, None, str(error))
    report_to_tune(end.mapping())


def _outcome(train: Callable[[], None], trial: int) -> TrialEnd:
    """Trains and returns how that ended; errors that a retry may not meet again are raised."""
    end = TrialEnd(trial, State.COMPLETE)
    try:
        train()
    except NonFiniteError as error:
        end = TrialEnd(trial, State.DIVERGED, str(error))
    except DiskFullError:
        raise
    except (ConfigError, DataError, ModelError, CheckpointError) as error:
        end = TrialEnd(trial, State.FAILED, f"{type(error).__name__}: {error}")
    except Exception:
        logger.exception("trial %d crashed", trial)
        raise
    logger.info("trial %d: %s", trial, ": ".join(filter(None, (end.state, end.reason))))
    return end


@functools.cache
def _import_trainer() -> None:
    """Imports torch, once per worker and never in the driver, and freezes it for the garbage collector."""
    import trainer.engine  # noqa: F401

    gc.freeze()  # else each collection between two trials scans a million objects, for 0.2 s
