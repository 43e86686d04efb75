"""One trial inside a Ray worker: a config in, a report an epoch out; what is durable lies in the trial's folder."""

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

from sweep.core.config import ResourcesConfig
from sweep.execution.epoch_progress import ProgressReporter
from sweep.execution.trial_workspace import TrialWorkspace
from sweep.storage.remote_files import Storage
from trainer.config import TrainConfig
from trainer.errors import CheckpointError, ConfigError, DataError, DiskFullError, ModelError, NonFiniteError
from trainer.runtime.disk import writing

if TYPE_CHECKING:
    from trainer.data.crops import CropSplit
    from trainer.data.face_table import Split

logger = logging.getLogger(__name__)


# Keys of what a worker reports to the driver
TRIAL, EPOCH, METRICS, ENDED, REASON = "trial", "epoch", "metrics", "ended", "reason"
TIMEOUT, PAUSES, SAVED, FACES = "timeout", "pauses", "saved", "faces"  # of what it is given, besides TRIAL
DONE, DIVERGED, FAILED, DISK_FULL = "done", "diverged", "failed", "disk full"


def run_trial(
    assignment: dict[str, Any], storage: Storage | None = None, resources: ResourcesConfig | None = None
) -> None:
    """Trains one trial, from its last checkpoint if there is one, and reports every epoch.

    Errors that a repetition would meet again (data, weights, checkpoint) end the trial as failed, a loss or NME that is
    no number as diverged, a full disk the sweep; anything else is raised, for Ray to try again.

    Args:
        assignment: {"trial": number, "config": tree of the TrainConfig, "timeout": seconds without a report, or None,
            "pauses": epochs after which it may be paused, "saved": whether a checkpoint must be there,
            "faces": the hash that the faces of a split must have, by its name}.
        storage: where the trial's files go if the machines share no disk.
        resources: of the workers that train it together, where these are several; else it is trained in this process.
    """
    if resources is not None and resources.workers > 1:
        _train_distributed(assignment, storage, resources)
    else:
        _train(assignment, storage, tune.report)


def _train_distributed(assignment: dict[str, Any], storage: Storage | None, resources: ResourcesConfig) -> None:
    """Ray Train starts the workers and joins them into a process group, in which the trainer shares out each batch."""
    from ray import train
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    def work() -> None:  # a closure: what it holds goes through memory, while a config is also shown
        if resources.gpus:
            import torch
            from ray.train.torch import get_device

            torch.cuda.set_device(get_device())
        _train(assignment, storage, train.report, first=train.get_context().get_world_rank() == 0)

    with tempfile.TemporaryDirectory() as scratch:  # Ray Train's own notes, of no use afterwards
        TorchTrainer(
            work,
            scaling_config=train.ScalingConfig(
                num_workers=resources.workers, use_gpu=resources.gpus > 0, resources_per_worker=resources.bundle
            ),
            run_config=train.RunConfig(name="trial", storage_path=scratch, callbacks=[TuneReportCallback()]),
        ).fit()


def _train(
    assignment: dict[str, Any],
    storage: Storage | None,
    report_to_tune: Callable[[dict[str, Any]], None],
    *,
    first: bool = True,
) -> None:
    """The part of one process; of several, only the `first` one touches the trial's folder."""
    _import_trainer()
    from trainer import engine
    from trainer.data.survey import require_faces
    from trainer.runtime.process import release_memory

    release_memory()  # of the trial before; not at its end, where the frames of a stopped trial still hold its network
    number, config = assignment[TRIAL], TrainConfig.from_tree(assignment["config"])
    workspace = TrialWorkspace(config, storage, assignment[TIMEOUT], first=first)

    def report(result: engine.EpochResult) -> None:
        workspace.save()
        metrics = list(result.metrics.items())  # Ray flattens mappings
        report_to_tune({TRIAL: number, EPOCH: result.epoch, METRICS: metrics})
        workspace.heartbeat()

    def inspect(crops: Mapping[Split, CropSplit]) -> None:
        try:
            require_faces(workspace.config, crops, assignment[FACES])
        except DataError as error:
            raise DataError(f"machine {ray.util.get_node_ip_address()}: {error}") from None

    def train() -> None:
        begun = assignment[SAVED] or workspace.last.exists()
        pauses = frozenset(assignment[PAUSES])
        last = workspace.last if begun else None
        engine.train(
            workspace.config,
            report=report,
            progress=progress.note,
            inspect=inspect,
            resume_from=last,
            save_after=pauses,
        )

    try:
        with writing(workspace.folder), workspace, ProgressReporter(number) as progress:
            logger.info("trial %d at %s, process %d", number, ray.util.get_node_ip_address(), os.getpid())
            end = _outcome(train, number)
            workspace.save(final=True)
    except DiskFullError as error:
        end = {ENDED: DISK_FULL, REASON: str(error)}
    report_to_tune({TRIAL: number, **end})


def _outcome(train: Callable[[], None], number: int) -> dict[str, str]:
    """Trains, and says how that ended where a repetition would end alike; raises anything else."""
    end = {ENDED: DONE}
    try:
        train()
    except NonFiniteError as error:
        end = {ENDED: DIVERGED, REASON: str(error)}
    except DiskFullError:
        raise
    except (ConfigError, DataError, ModelError, CheckpointError) as error:
        end = {ENDED: FAILED, REASON: f"{type(error).__name__}: {error}"}
    except Exception:
        logger.exception("trial %d crashed", number)
        raise
    logger.info("trial %d: %s", number, ": ".join(end.values()))
    return end


@functools.cache
def _import_trainer() -> None:
    """Imports torch, once a worker and never in the driver, and tells the garbage collector that it stays."""
    import trainer.engine  # noqa: F401

    gc.freeze()  # else every collection between two trials looks at a million objects for a fifth of a second
