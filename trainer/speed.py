"""How fast a config trains on this machine, from a few seconds of real steps."""

from __future__ import annotations

import io
import itertools
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from trainer.config import TrainConfig
from trainer.data.batches import training_batches
from trainer.data.crop_cache import load_split
from trainer.engine import backward, forward, optimizer_step
from trainer.evaluation import evaluate
from trainer.form_speed import resolve
from trainer.losses import LandmarkLoss
from trainer.run_state import start_run

_WARMUP = 3  # batches


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


def measure_speed(config: TrainConfig, seconds: float = 5.0, wait: Callable[[], object] = lambda: None) -> Speed:
    """Trains for some seconds and validates once; leaves nothing behind but the crop cache.

    Args:
        config: what to train.
        seconds: how long to measure, at least one batch.
        wait: called between warming up and measuring, so that several processes can measure at the same time.
    """
    config = resolve(config)
    split = load_split(config.data, "train")
    run = start_run(config)
    run.model.train()
    loss_of = LandmarkLoss(config.loss)
    batches = (b for epoch in itertools.count(1) for b in training_batches(split, config, epoch))
    faces = 0
    for number, batch in enumerate(batches, 1):
        loss = forward(run, batch, loss_of)
        backward(run, loss / config.optim.accumulate)
        if number % config.optim.accumulate == 0 or number <= _WARMUP:
            optimizer_step(run, config.optim.lr)
        loss.item()  # waits for the device
        if number == _WARMUP:
            wait()
            started = time.perf_counter()
        elif number > _WARMUP:
            faces += len(batch.pictures)
            if time.perf_counter() - started >= seconds:
                break
    trained = time.perf_counter()
    evaluate(run.evaluated, load_split(config.data, "val"), config)
    validated = time.perf_counter()
    buffer = io.BytesIO()
    torch.save(run.state_dict(), buffer)
    if run.device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(run.device)
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Speed(faces / (trained - started), validated - trained, peak, buffer.tell())
