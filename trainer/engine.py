"""The training loop, in the order things happen."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainer import checkpoint, run_folder
from trainer.config import TrainConfig
from trainer.data.batches import Batch, batches_per_epoch, training_batches
from trainer.data.crop_cache import load_splits
from trainer.data.crops import CropSplit
from trainer.data.face_table import Split
from trainer.errors import CheckpointError, NonFiniteError
from trainer.evaluation import evaluate
from trainer.form_speed import resolve
from trainer.forms import epoch_pictures
from trainer.losses import LandmarkLoss
from trainer.optim import learning_rate
from trainer.run_state import Run, start_run
from trainer.runtime import distributed
from trainer.runtime.device import autocast, lay_out
from trainer.runtime.disk import writing
from trainer.runtime.process import memory_in_use


@dataclass(frozen=True)
class EpochResult:
    """What one epoch gave: `epoch` from 1, and the metrics by their names in metrics.jsonl and MLflow."""

    epoch: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class TrainResult:
    """What a run gave: `best_nme` is the lowest validation NME of any epoch, a fraction; its weights are in best.pt.

    Where validation faces were trained on too (data.train_on), best.pt holds the last epoch and `best_nme` is infinite.
    """

    folder: Path
    best_nme: float
    best_epoch: int
    epochs: int


Report = Callable[[EpochResult], None]
Inspect = Callable[[Mapping[Split, CropSplit]], object]
Progress = Callable[[int, float], object]  # the epoch that runs, from 1, and the share of it that is done


def train(
    config: TrainConfig,
    *,
    report: Report | None = None,
    progress: Progress | None = None,
    inspect: Inspect | None = None,
    resume_from: Path | None = None,
    save_after: Collection[int] = (),
) -> TrainResult:
    """Trains one config and leaves config.yaml, metrics.jsonl, last.pt and best.pt in its run folder (run.output).

    In a process group of torch.distributed all ranks call this and train one run together, each on its current GPU:
    batch sizes, learning rates and epochs mean what they mean in one process. Rank 0 decides about config and
    checkpoint and writes the files, so the others need not see its disk; all get the same reports and results.

    Args:
        config: what to train; run.output must be set.
        report: called once an epoch, after the checkpoint where one is due. A resumed run first reports the epochs
            before the checkpoint again, since whoever listens may have died before hearing of the last of them.
        progress: called after every batch of training with the epoch and the share of it that is done; must be quick.
        inspect: called once before training, on every rank, with the crops of the splits that are trained and measured
            on; what it raises ends the run.
        resume_from: checkpoint (last.pt) of the same config to go on from, bit for bit as if never stopped (by another
            number of processes: up to rounding).
        save_after: epochs whose checkpoint is written in any case, before they are reported.

    Raises:
        DataError, ModelError, CheckpointError: what a run needs is missing or damaged.
        DiskFullError: there is no room for the run's files; its last checkpoint stays as it is.
        NonFiniteError: the loss or the validation NME is no number; names step, learning rate and STAR weight.
            All of these are raised on all ranks, on whichever they arise.
    """
    config = distributed.rank_zero_result(lambda: resolve(config))
    if config.run.output is None:
        raise ValueError("run.output = None: must be a folder")
    folder = Path(config.run.output)
    report, progress = report or (lambda result: None), progress or (lambda epoch, share: None)
    with writing(folder):
        crops = distributed.all_ranks_or_raise(lambda: _load_splits(config, inspect or (lambda splits: None)))
        distributed.rank_zero_result(lambda: _write_folder(config, crops, folder))
        return _train(config, crops, folder, report, progress, resume_from, save_after)


def _train(
    config: TrainConfig,
    crops: Mapping[Split, CropSplit],
    folder: Path,
    report: Report,
    progress: Progress,
    resume_from: Path | None,
    save_after: Collection[int],
) -> TrainResult:
    training, validation = crops[config.data.train_on], crops.get("val")
    run = start_run(config)
    run.faces = {split: of.fingerprint() for split, of in crops.items()}
    if state := distributed.rank_zero_result(lambda: _load_state(run, resume_from)):
        run.load_state_dict(state)
    distributed.rank_zero_result(lambda: run_folder.write_history(run.history, folder))
    for epoch, row in enumerate(run.history, 1):
        report(EpochResult(epoch, dict(row)))
    saved = monotonic()
    for epoch in range(len(run.history) + 1, config.optim.epochs + 1):
        row = _one_epoch(run, training, validation, epoch, folder, progress)
        run.history.append(row)
        due = monotonic() - saved >= config.run.checkpoint_seconds
        due = due or epoch in save_after or epoch == config.optim.epochs
        if distributed.rank_zero_result(functools.partial(_write_epoch, run, folder, due)):
            saved = monotonic()
        report(EpochResult(epoch, dict(row)))
    return TrainResult(folder, run.best_nme, run.best_epoch, len(run.history))


def _load_state(run: Run, path: Path | None) -> dict[str, Any] | None:
    if path is None:
        return None
    state = checkpoint.load(Path(path), run.config.identity())
    if (before := state.get("faces", run.faces)) != run.faces:  # those of before 2026-11-29 do not tell
        changed = ", ".join(f"{split} {before.get(split)} -> {now}" for split, now in run.faces.items())
        raise CheckpointError(f"{path}: has begun on other faces, its numbers would not go together ({changed})")
    return state


def _load_splits(config: TrainConfig, inspect: Inspect) -> dict[Split, CropSplit]:
    crops = load_splits(config)
    inspect(crops)
    return crops


def _write_folder(config: TrainConfig, crops: Mapping[Split, CropSplit], folder: Path) -> None:
    run_folder.write_config(config, folder)
    run_folder.write_skipped({split: of.skipped for split, of in crops.items()}, folder)


def _one_epoch(
    run: Run, training: CropSplit, validation: CropSplit | None, epoch: int, folder: Path, progress: Progress
) -> dict[str, float]:
    started = perf_counter()
    part = len(training) / epoch_pictures(run.config, len(training), len(validation or ()))
    loss, lr, faces = train_epoch(run, training, epoch, lambda share: progress(epoch, share * part))
    trained = perf_counter()
    found = _validate(run, validation, epoch, lr, folder) if validation is not None else {}
    if validation is None and epoch == run.config.optim.epochs:  # nothing tells which epoch is best
        run.best_epoch = epoch
        distributed.rank_zero_result(lambda: _keep(run, epoch, math.nan, folder))
    row = {
        **found,
        "train/loss": loss,
        "lr": lr,
        "images_per_second": faces / (trained - started),
        "epoch_seconds": perf_counter() - started,
        "memory_gb": memory_in_use(run.device),
    }
    return distributed.rank_zero_result(lambda: row)  # the times of one process


def _validate(run: Run, validation: CropSplit, epoch: int, lr: float, folder: Path) -> dict[str, float]:
    """Measures the network and keeps its weights if they are the best so far."""
    evaluation = evaluate(run.evaluated, validation, run.config, distributed.size() > 1)
    found = distributed.rank_zero_result(evaluation.summary)
    lost = int((~np.isfinite(evaluation.pred).all((1, 2))).sum())
    if lost or not math.isfinite(found["nme"]):  # the mean over the other faces would look like a score
        where = f"epoch {epoch} {_settings(run.config, lr)}"
        raise NonFiniteError(f"validation NME is no number for {lost} of {len(validation)} faces, {where}")
    if found["nme"] < run.best_nme:
        run.best_nme, run.best_epoch = found["nme"], epoch
        distributed.rank_zero_result(lambda: _keep(run, epoch, found["nme"], folder, evaluation.nme))
    return {"best_nme": run.best_nme, **{f"val/{name}": value for name, value in found.items()}}


def _keep(run: Run, epoch: int, nme: float, folder: Path, faces: NDArray[np.floating] | None = None) -> None:
    """Writes the weights that are evaluated and the NME of each face (N,), where it was measured."""
    best = {
        "config": run.config.tree(),
        "model": run.evaluated.state_dict(),
        "epoch": epoch,
        "val_nme": nme,
        "device": str(run.device),
    }
    checkpoint.save(best, folder / run_folder.BEST)
    if faces is not None:
        np.save(folder / run_folder.FACES_FILE, faces)


def train_epoch(
    run: Run, split: CropSplit, epoch: int, progress: Callable[[float], object] = lambda share: None
) -> tuple[float, float, int]:
    """Trains one epoch.

    Args:
        run: changed in place.
        split: the training faces.
        epoch: from 1; decides order, augmentation and learning rate.
        progress: called after every batch with the share of the epoch that is done.

    Returns:
        The mean loss, the last learning rate and the number of faces seen, by all ranks together.

    Raises:
        NonFiniteError: a loss is no number.
    """
    optim = run.config.optim
    batches = batches_per_epoch(len(split.images), optim.batch_size)
    steps = math.ceil(batches / optim.accumulate)
    loss_of = LandmarkLoss(run.config.loss)
    losses: list[Tensor] = []
    step, lr = (epoch - 1) * steps, 0.0
    run.model.train()
    for number, batch in enumerate(training_batches(split, run.config, epoch, pin=run.device.type == "cuda"), 1):
        lr = learning_rate(step, optim, steps)
        share = min(optim.accumulate, batches - (number - 1) // optim.accumulate * optim.accumulate)
        due = number % optim.accumulate == 0 or number == batches
        with distributed.averaging(run.network, due):
            loss, mean = distributed.over_batch(forward(run, batch, loss_of), batch.mask)
            backward(run, loss / share)
        losses.append(mean)
        if due:
            optimizer_step(run, lr)
            step += 1
        if run.device.type == "cpu" or number % 50 == 0 or number == batches:  # elsewhere a look would stall the device
            _check_finite(losses, run, epoch, lr)
        progress(number / batches)
    return float(torch.stack(losses).mean()), lr, min(batches * optim.batch_size, len(split.images))


def forward(run: Run, batch: Batch, loss_of: LandmarkLoss) -> Tensor:
    """The loss of one batch (of several ranks' batch: of this rank's share), a scalar with its graph."""
    pictures, target, mask = batch.on(run.device, run.config.data.image_size)
    with autocast(run.config, run.device):
        output = run.network(lay_out(pictures, run.config))
    return loss_of(output, target, mask)


def backward(run: Run, loss: Tensor) -> None:
    """Adds the gradients of a loss to those in the model; in float16 scaled, so that small ones do not vanish."""
    run.scaler.scale(loss).backward()


def optimizer_step(run: Run, lr: float) -> None:
    """One step with the gradients that lie in the model, which are cleared.

    In float16 it is left out where a scaled gradient has overflowed, and the scale is halved (Micikevicius et al.,
    Mixed Precision Training, ICLR 2018, section 3.2).
    """
    for group in run.optimizer.param_groups:
        group["lr"] = lr
    if run.config.optim.clip_norm is not None:
        run.scaler.unscale_(run.optimizer)
        nn.utils.clip_grad_norm_(run.model.parameters(), run.config.optim.clip_norm)
    run.scaler.step(run.optimizer)
    run.scaler.update()
    run.optimizer.zero_grad(set_to_none=True)
    if run.average is not None:
        run.average.update_parameters(run.model)


def _check_finite(losses: list[Tensor], run: Run, epoch: int, lr: float) -> None:
    recent = losses[-1:] if run.device.type == "cpu" else losses[-50:]
    values = torch.stack(recent).cpu()
    faulty = (~values.isfinite()).nonzero()
    if len(faulty):
        batch = len(losses) - len(recent) + int(faulty[0]) + 1
        value = float(values[faulty[0]])
        raise NonFiniteError(f"loss is {value} at batch {batch} of epoch {epoch} {_settings(run.config, lr)}")


def _settings(config: TrainConfig, lr: float) -> str:
    weight = f", loss.star_weight {config.loss.star_weight:g}" if config.loss.name == "star" else ""
    return f"(learning rate {lr:.3g}, optim.lr {config.optim.lr:g}{weight})"


def _write_epoch(run: Run, folder: Path, due: bool) -> bool:
    """Writes the last epoch's metrics, after the checkpoint where it is due; returns whether it was."""
    if due:
        checkpoint.save(run.state_dict(), folder / run_folder.LAST)
    run_folder.append_history(run.history[-1], len(run.history), folder)
    return due
