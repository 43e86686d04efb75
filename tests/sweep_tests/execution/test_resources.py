"""What a sweep takes of a machine that others work on, too."""

from __future__ import annotations

import os

import pytest

from sweep.core.config import SweepConfig
from sweep.execution import resources

SPACE = {"optim.lr": {"log_uniform": [1e-4, 1e-2]}}


@pytest.fixture
def machine(monkeypatch):
    """Gives a machine with 8 cores, all of which this process may use, the load that a test asks for."""

    def give(load: float, available: int = 8) -> None:
        monkeypatch.setattr(os, "cpu_count", lambda: 8)
        monkeypatch.setattr(resources, "available_cores", lambda: available)
        monkeypatch.setattr(os, "getloadavg", lambda: (load, 99.0, 99.0), raising=False)

    return give


def config(**settings: object) -> SweepConfig:
    return SweepConfig.model_validate({"space": SPACE, "trials": 20} | settings)


@pytest.mark.parametrize(
    ("load", "settings", "advice"),
    [
        (0.3, {}, None),
        (2.0, {}, None),
        (3.0, {}, "--slots 5"),
        (7.9, {}, "--slots 1"),
        (60.0, {}, "--slots 1"),
        (3.0, {"slots": 4}, None),
        (7.0, {"slots": 4}, "--slots 1"),
        (3.0, {"resources": {"cpus": 4}}, "--slots 1"),
        (3.0, {"resources": {"cpus": 8}}, "slow"),
        (60.0, {"ray_address": "auto"}, None),
    ],
)
def test_a_machine_that_is_busy_is_said_with_the_slots_that_are_left(machine, load, settings, advice) -> None:
    machine(load)
    given = config(**settings)
    text = resources.describe_load(given, given.slots or resources.limit_slots(given, [(8, 0)]))
    if advice is None:
        assert text is None
    else:
        assert text is not None
        assert f"{load:.1f} on 8 cores" in text
        assert advice in text


def test_the_load_of_the_machine_says_nothing_to_who_may_use_a_part_of_it(machine) -> None:
    machine(60.0, available=4)
    assert resources.describe_load(config(), 8) is None


def test_a_system_without_load_average_says_nothing(machine, monkeypatch) -> None:
    machine(60.0)
    monkeypatch.delattr(os, "getloadavg")
    assert resources.describe_load(config(), 8) is None
