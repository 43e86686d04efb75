"""Optimizer, learning-rate schedule and averaged weights."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from trainer.config import OptimConfig


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """Adam or AdamW in one fused pass; weight decay spares norms and biases (parameters of one dimension)."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    kind = torch.optim.Adam if config.name == "adam" else torch.optim.AdamW
    return kind(groups, lr=config.lr, fused=parameters[0].device.type in ("cpu", "cuda"))


def learning_rate(step: int, config: OptimConfig, steps_per_epoch: int) -> float:
    """Learning rate of optimizer step `step` (from 0): linear warm-up, then cosine to 0, multistep or constant.

    The schedule is a pure function of the step and always spans all epochs, so that trials compare epoch by epoch.
    """
    if config.schedule == "cosine":
        total = config.epochs * steps_per_epoch
        progress = min(1.0, max(0, step - config.warmup_steps) / max(1, total - config.warmup_steps))
        factor = (1 + math.cos(math.pi * progress)) / 2
    elif config.schedule == "multistep":
        factor = config.gamma ** sum(step >= m * steps_per_epoch for m in config.milestones)
    else:
        factor = 1.0
    if step < config.warmup_steps:
        factor *= config.warmup_from + (1 - config.warmup_from) * step / config.warmup_steps
    return config.lr * factor


def build_average(model: nn.Module, config: OptimConfig) -> AveragedModel | None:
    """Exponential moving average of weights and of the norms' statistics; None when off."""
    if config.ema_decay == 0:
        return None
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay), use_buffers=True)
