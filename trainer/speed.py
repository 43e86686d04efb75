"""How fast a config trains on this machine, from a few real steps."""

from __future__ import annotations

import io
import itertools
import resource
import sys
import time
from dataclasses import dataclass

import torch

from trainer.config import TrainConfig
from trainer.crops import CropSplit
from trainer.dataset import training_batches
from trainer.engine import forward, optimizer_step, start_run
from trainer.inference import evaluate
from trainer.losses import LandmarkLoss


@dataclass(frozen=True)
class Speed:
    """Measured with the config's threads.

    Attributes:
        images_per_second: training faces a second.
        validation_seconds: one pass over the validation faces.
        memory_bytes: peak memory of the GPU, or without one, of this process.
        state_bytes: size of a checkpoint with the whole state.
    """

    images_per_second: float
    validation_seconds: float
    memory_bytes: int
    state_bytes: int


def measure_speed(config: TrainConfig, training: CropSplit, validation: CropSplit, steps: int = 6) -> Speed:
    """Trains `steps` batches (two more before, unmeasured) and validates once; leaves nothing behind."""
    config = config.resolved()
    run = start_run(config)
    run.model.train()
    loss_of = LandmarkLoss(config.loss)
    batches = (b for epoch in itertools.count(1) for b in training_batches(training, config, epoch))
    faces, started = 0, 0.0
    for number, batch in enumerate(itertools.islice(batches, steps + 2), 1):
        loss = forward(run, batch, loss_of)
        (loss / config.optim.accumulate).backward()
        if number % config.optim.accumulate == 0:
            optimizer_step(run, config.optim.lr)
        loss.item()  # waits for the device
        faces += len(batch.pictures)
        if number == 2:
            faces, started = 0, time.perf_counter()
    trained = time.perf_counter()
    evaluate(run.evaluated, validation, config)
    buffer = io.BytesIO()
    torch.save(run.state_dict(), buffer)
    if run.device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(run.device)
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Speed(faces / (trained - started), time.perf_counter() - trained, peak, buffer.tell())
