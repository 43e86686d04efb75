"""Measured speeds belong to real steps."""

from __future__ import annotations

import math

import pytest

from trainer import speed

from .conftest import Tiny


def test_a_measured_speed(tiny: Tiny) -> None:
    waited = []
    found = speed.measure_speed(tiny({"optim.accumulate": 2}), seconds=0.3, wait=lambda: waited.append(1))
    assert waited == [1]
    assert 0 < found.images_per_second < math.inf
    assert 0 < found.validation_seconds < math.inf
    assert found.memory_bytes > 1e8
    assert found.state_bytes > 3 * 11e6 * 4  # weights of a ResNet-18 and the two moments of Adam


def test_only_what_lies_after_the_waiting_is_measured(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([100.0, 101.0, 102.0, 104.0, 105.0, 106.0])
    monkeypatch.setattr(speed.time, "perf_counter", lambda: next(ticks))
    found = speed.measure_speed(tiny(), seconds=4)
    assert (
        found.images_per_second == 3 * 8 / 5
    )  # three batches of 8 until 4 s have passed; over when the clock says 105
    assert found.validation_seconds == 1
