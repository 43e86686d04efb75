"""The live state of a training run: network, optimizer, and what has been measured."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from trainer.config import TrainConfig
from trainer.forms import form_of
from trainer.model import build_model
from trainer.optim import build_average, build_optimizer
from trainer.runtime import distributed
from trainer.runtime.batch_norm import synchronise
from trainer.runtime.device import to_device
from trainer.runtime.process import prepare_process


@dataclass
class Run:
    """The live state of a run; `state_dict` is all of it that a resumed run needs.

    `network` is the model as a training pass calls it, which on several ranks is wrapped for their exchange.
    """

    config: TrainConfig
    device: torch.device
    model: nn.Module
    network: nn.Module
    average: AveragedModel | None
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler  # of the loss, in float16 only
    faces: dict[str, str] = field(default_factory=dict)  # hashes of what is trained and measured on, by split
    history: list[dict[str, float]] = field(default_factory=list)
    best_nme: float = math.inf
    best_epoch: int = 0

    @property
    def evaluated(self) -> nn.Module:
        """The network that is validated and kept: the averaged one where there is an average."""
        return self.model if self.average is None else self.average.module

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs, for `checkpoint.save`."""
        scaler = {"scaler": self.scaler.state_dict()} if self.scaler.is_enabled() else {}
        return scaler | {
            "identity": self.config.identity(),
            "config": self.config.tree(),
            "faces": self.faces,
            "model": self.model.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "history": self.history,
            "best_nme": self.best_nme,
            "best_epoch": self.best_epoch,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what `state_dict` gave."""
        self.model.load_state_dict(state["model"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
        self.history = list(state["history"])
        self.best_nme, self.best_epoch = state["best_nme"], state["best_epoch"]


def start_run(config: TrainConfig) -> Run:
    """A run before its first step, with the config's threads, device and seed; the config must be resolved."""
    run = distributed.all_ranks_or_raise(lambda: _build_run(config))
    run.network = distributed.wrap_ddp(run.model)
    return run


def _build_run(config: TrainConfig) -> Run:
    prepare_process(config)
    model = to_device(build_model(config), config)
    synchronise(model)
    average = build_average(model, config.optim)
    if config.run.compile:
        model.compile()  # in place, the names of the weights stay
    device = next(model.parameters()).device
    scaler = torch.amp.GradScaler(device.type, enabled=form_of(config).precision == "float16")
    return Run(config, device, model, model, average, build_optimizer(model, config.optim), scaler)
