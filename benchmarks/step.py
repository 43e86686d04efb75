"""Training speed: the trainer against a bare loop of the same network, and against the plain way to train it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from benchmarks.kernel import landmark_logits, published_star
from benchmarks.measuring import Table, medians_in_turn, run_alone, time_in_turn
from trainer.config import TrainConfig
from trainer.data.crop_cache import load_split
from trainer.engine import train_epoch
from trainer.form_speed import resolve
from trainer.losses import star_loss
from trainer.model import build_model
from trainer.run_state import start_run
from trainer.runtime.device import autocast, lay_out
from trainer.runtime.process import prepare_process

SETUPS = {
    "ResNet-50, 256 px, batch 8": {
        "model.backbone": "resnet50",
        "data.image_size": "256",
        "optim.batch_size": "8",
        "data.train_faces": "24",
    },
    "ResNet-18, 64 px, batch 32": {
        "model.backbone": "resnet18",
        "data.image_size": "64",
        "optim.batch_size": "32",
        "data.train_faces": "320",
    },
}
ROUNDS, EPOCHS = 3, 2


def measure() -> Table:
    """Runs every variant in processes of its own, in turn, and compares the medians."""
    rows, star = [], []
    for setup in SETUPS:
        median = medians_in_turn({name: partial(_time_alone, setup, name) for name in VARIANTS}, ROUNDS)
        star.append(f"{median['trainer'] / median.pop(STAR):.1%}")
        for name, rate in median.items():
            rows.append([setup, name, f"{rate:.1f}", *(f"{rate / median[base]:.2f}" for base in BASES)])
    return Table(
        "Training speed",
        ["network", "loop", "images/s", *(f"of the {name}" for name in BASES)],
        rows,
        "Trainer: trainer.train in steady state, with augmentation, STAR loss and checks. Bare loop: the same "
        "network, precision, layout, optimizer and memory settings on one fixed batch; forward, mean, backward, step. "
        "Plain loop: the same in float32 and NCHW with torch's default Adam and memory settings; the last one with the "
        "STAR loss in its published form instead of the mean. "
        f"Of the trainer's step, the STAR loss forward and backward takes {' and '.join(star)}. "
        f"All cores, synthetic faces; {ROUNDS} processes each, in turn, median.",
    )


def _time_alone(setup: str, name: str) -> float:
    return float(run_alone("benchmarks.step", setup, name))


def time_trainer(config: TrainConfig) -> float:
    """Images a second of the trainer's own loop."""
    run, split = start_run(config), load_split(config.data, "train")
    return _rate(lambda epoch: train_epoch(run, split, epoch)[2])


def time_bare_loop(config: TrainConfig) -> float:
    """Images a second of the network alone, as the trainer sets it up."""
    run = start_run(config)
    pictures = lay_out(_pictures(config), config)
    return _rate(lambda epoch: _steps(run.model, run.optimizer, pictures, config, _mean))


def time_plain_loop(config: TrainConfig) -> float:
    """Images a second of the network in float32 and NCHW, trained with what torch gives by default."""
    return _time_plain(config, _mean)


def time_plain_recipe(config: TrainConfig) -> float:
    """The plain loop with the STAR loss in its published form, as others train this recipe."""
    target = torch.rand(config.optim.batch_size, config.data.landmarks.count, 2) * 1.6 - 0.8
    return _time_plain(config, lambda output: published_star(output, target))


def time_star(config: TrainConfig) -> float:
    """Images a second that the STAR loss alone could do, from logits as the network gives them."""
    prepare_process(config)
    batch, side = config.optim.batch_size, config.data.image_size // 4
    logits, target = landmark_logits((batch, config.data.landmarks.count, side, side), spread=0.1)
    given = lay_out(logits.to(getattr(torch, config.run.precision)), config).requires_grad_()
    mask = torch.ones(target.shape[:2], dtype=torch.bool)
    seconds = time_in_turn({"": lambda: star_loss(given, target, mask=mask).backward()}, rounds=30, warmup=5)
    return batch / seconds[""]


def _time_plain(config: TrainConfig, loss: Callable[[torch.Tensor], torch.Tensor]) -> float:
    model = build_model(config)
    plain = config.replace({"run.precision": "float32", "run.channels_last": False})
    pictures = _pictures(config)
    optimizer = torch.optim.Adam(model.parameters())
    return _rate(lambda epoch: _steps(model, optimizer, pictures, plain, loss))


VARIANTS: dict[str, Callable[[TrainConfig], float]] = {
    "trainer": time_trainer,
    "bare loop": time_bare_loop,
    "plain loop": time_plain_loop,
    "plain loop, published STAR": time_plain_recipe,
    "STAR alone": time_star,
}
STAR, BASES = "STAR alone", ["bare loop", "plain loop", "plain loop, published STAR"]


def _pictures(config: TrainConfig) -> torch.Tensor:
    torch.manual_seed(0)
    size = config.data.image_size
    return torch.randint(0, 256, (config.optim.batch_size, 3, size, size), dtype=torch.uint8)


def _mean(output: torch.Tensor) -> torch.Tensor:
    return output.float().mean()


def _steps(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    pictures: torch.Tensor,
    config: TrainConfig,
    loss: Callable[[torch.Tensor], torch.Tensor],
) -> int:
    """As many steps as an epoch of the trainer has; gives the number of faces."""
    model.train()
    steps = (config.data.train_faces or 0) // len(pictures)
    for _ in range(steps):
        with autocast(config, pictures.device):
            output = model(pictures)
        loss(output).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return steps * len(pictures)


def _rate(epoch_of: Callable[[int], int]) -> float:
    """Images a second of the epochs after the first, which warms up."""
    epoch_of(1)
    started = time.perf_counter()
    faces = sum(epoch_of(epoch) for epoch in range(2, 2 + EPOCHS))
    return faces / (time.perf_counter() - started)


if __name__ == "__main__":
    print(VARIANTS[sys.argv[2]](resolve(TrainConfig.load(None, SETUPS[sys.argv[1]]))))
