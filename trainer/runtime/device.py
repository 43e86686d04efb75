"""The device that a network runs on, and its precision there."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from trainer.config import TrainConfig
from trainer.errors import ConfigError
from trainer.forms import form_of


def select_device(name: str) -> torch.device:
    """The device of run.device; auto takes cuda, else mps, else cpu.

    Raises:
        ConfigError: this machine has no such device.
    """
    there = ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available() + ["cpu"]
    if name not in ("auto", *there):
        raise ConfigError(f"run.device = {name!r}: this machine has none (allowed: auto, {', '.join(there)})")
    return torch.device(there[0] if name == "auto" else name)


def to_device(model: nn.Module, config: TrainConfig) -> nn.Module:
    """Moves a model to the config's device and memory layout, which must be chosen."""
    return model.to(select_device(config.run.device)).to(memory_format=_layout(config))


def lay_out(pictures: Tensor, config: TrainConfig) -> Tensor:
    """Pictures in the memory layout of the config's form: convolutions follow their input, not only their weights."""
    return pictures.contiguous(memory_format=_layout(config))


def _layout(config: TrainConfig) -> torch.memory_format:
    return torch.channels_last if form_of(config).channels_last else torch.contiguous_format


def autocast(config: TrainConfig, device: torch.device) -> AbstractContextManager[Any]:
    """The config's precision, which must be chosen; losses and moments are computed outside of it."""
    half = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(form_of(config).precision)
    return torch.autocast(device.type, half or torch.bfloat16, enabled=half is not None)
