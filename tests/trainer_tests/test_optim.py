"""Learning rates computed by hand, where weight decay goes, averaged weights."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from trainer.config import OptimConfig
from trainer.optim import build_average, build_optimizer, learning_rate


def rates(config: OptimConfig, steps_per_epoch: int, count: int | None = None) -> list[float]:
    total = config.epochs * steps_per_epoch if count is None else count
    return [learning_rate(step, config, steps_per_epoch) for step in range(total)]


def net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2))


# --- schedules


def test_constant() -> None:
    config = OptimConfig(lr=0.3, epochs=2, schedule="constant")
    assert rates(config, 5) == [0.3] * 10


def test_cosine_by_hand() -> None:
    config = OptimConfig(lr=0.8, epochs=4, schedule="cosine")
    found = rates(config, 2)
    assert found == pytest.approx([0.4 * (1 + math.cos(math.pi * step / 8)) for step in range(8)])
    assert found[0] == 0.8
    assert found[4] == pytest.approx(0.4)
    assert found[-1] > 0
    assert all(a > b for a, b in pairwise(found))
    assert learning_rate(8, config, 2) == pytest.approx(0)
    assert learning_rate(100, config, 2) == pytest.approx(0)


def test_cosine_after_the_warm_up_spans_what_is_left() -> None:
    config = OptimConfig(lr=1.0, epochs=3, schedule="cosine", warmup_steps=4, warmup_from=0.2)
    found = rates(config, 4)
    assert found[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert found[8] == pytest.approx(0.5)
    assert found[11] == pytest.approx((1 + math.cos(math.pi * 7 / 8)) / 2)


def test_multistep_by_hand() -> None:
    config = OptimConfig(lr=1.0, epochs=5, schedule="multistep", milestones=(2, 4), gamma=0.5)
    assert rates(config, 3) == pytest.approx([1] * 6 + [0.5] * 6 + [0.25] * 3)
    assert rates(OptimConfig(lr=1.0, epochs=2, schedule="multistep"), 3) == [1.0] * 6


def test_the_published_schedule() -> None:
    config = OptimConfig(
        lr=5e-4, epochs=210, warmup_steps=500, warmup_from=0.001, schedule="multistep", milestones=(170, 200), gamma=0.1
    )
    at = {step: learning_rate(step, config, 15) for step in (0, 250, 499, 500, 2549, 2550, 2999, 3000, 3149)}
    expected = [5e-7, 2.5025e-4, 4.99001e-4, 5e-4, 5e-4, 5e-5, 5e-5, 5e-6, 5e-6]
    assert list(at.values()) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "multistep"])
def test_warm_up_rises_in_a_line(schedule: str) -> None:
    config = OptimConfig(lr=2.0, epochs=2, schedule=schedule, warmup_steps=10, warmup_from=0.1)
    found = rates(config, 20)
    assert found[:11] == pytest.approx([2 * (0.1 + 0.09 * step) for step in range(11)])
    assert max(found) == found[10] == 2.0


def test_a_warm_up_longer_than_the_run_never_reaches_the_top() -> None:
    config = OptimConfig(lr=1.0, epochs=1, warmup_steps=100, warmup_from=0)
    assert rates(config, 10) == pytest.approx([step / 100 for step in range(10)])


# --- optimizer


@pytest.mark.parametrize(("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
def test_optimizer_and_weight_decay(name: str, kind: type) -> None:
    model = net()
    optimizer = build_optimizer(model, OptimConfig(name=name, lr=0.01, weight_decay=0.3))
    assert type(optimizer) is kind
    weights, rest = optimizer.param_groups
    assert (weights["weight_decay"], rest["weight_decay"]) == (0.3, 0)
    assert weights["lr"] == rest["lr"] == 0.01
    assert {id(p) for p in weights["params"]} == {id(model[0].weight), id(model[4].weight)}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_weight_decay_shrinks_weights_and_spares_norms_and_biases(name: str) -> None:
    ends: list[dict[str, Any]] = []
    for decay in (0.0, 0.5):
        model = net()
        optimizer = build_optimizer(model, OptimConfig(name=name, lr=0.01, weight_decay=decay))
        for _ in range(3):
            model.train()(torch.ones(3, 1, 3, 3) * torch.arange(3).view(3, 1, 1, 1)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        ends.append({k: v.clone() for k, v in model.state_dict().items()})
    assert not torch.equal(ends[0]["0.weight"], ends[1]["0.weight"])
    assert not torch.equal(ends[0]["4.weight"], ends[1]["4.weight"])
    assert build_optimizer(net(), OptimConfig(weight_decay=0.5)).param_groups[1]["weight_decay"] == 0


def test_frozen_parameters_are_left_out() -> None:
    model = net()
    model[0].requires_grad_(False)
    optimizer = build_optimizer(model, OptimConfig())
    assert id(model[0].weight) not in {id(p) for group in optimizer.param_groups for p in group["params"]}


# --- averaged weights


def test_no_average_when_off() -> None:
    assert build_average(net(), OptimConfig()) is None


def test_the_average_follows_the_weights() -> None:
    model = net()
    average = build_average(model, OptimConfig(ema_decay=0.75))
    assert average is not None
    values = []
    for value in (1.0, 2.0, 4.0):
        with torch.no_grad():
            model[0].weight.fill_(value)
            model[1].running_mean.fill_(10 * value)
        average.update_parameters(model)
        values.append(average.module[0].weight.mean().item())
    assert values == pytest.approx([1, 1.25, 0.75 * 1.25 + 0.25 * 4])  # the first update takes the weights as they are
    assert average.module[1].running_mean.mean() == pytest.approx(10 * values[-1])  # the norms' statistics too
    assert model[0].weight.mean().item() == 4


def test_a_stronger_decay_follows_more_slowly() -> None:
    ends = []
    for decay in (0.5, 0.9):
        model = net()
        average = build_average(model, OptimConfig(ema_decay=decay))
        assert average is not None
        average.update_parameters(model)
        with torch.no_grad():
            model[4].bias.add_(1)
        average.update_parameters(model)
        ends.append((model[4].bias - average.module[4].bias).mean().item())
    assert ends == pytest.approx([0.5, 0.9])
