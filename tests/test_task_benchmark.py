"""The benchmark of searches on several tasks: the tasks are those that are described, and its figures are by hand."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import tasks
from benchmarks.tasks import OURS, RANDOM, TASKS, Found, log_regrets, open_task, ranks, rows, won
from sweep.simulation.simulator import History

SIZES = {"ytf68": (2, 18), "lcb_189906": (7, 52), "ts_irnn": (8, 51), "digits": (7, 30)}


@pytest.mark.parametrize("name", TASKS)
def test_a_task_has_its_dimensions_and_epochs_and_a_sweep_with_our_defaults(name):
    config, task = open_task(name)
    assert (len(config.dimensions), task.epochs) == SIZES[name]
    assert config.epochs == 16 * task.epochs
    assert (config.sampler.name, config.pruner.name, config.repeats.share) == ("rank_gp", "successive_halving", 0)
    middle = {d.key: d.probes[0] for d in config.dimensions}
    assert task.true_nme(middle) >= task.best > 0
    assert len(task.curve(middle, 0)) <= task.epochs


def test_the_network_of_lcbench_says_what_another_reading_of_it_says():
    """The reference values are those of the code that came with the network's file."""
    _, task = open_task("lcb_189906")
    low = {"batch_size": 16, "learning_rate": 1e-4, "momentum": 0.1, "weight_decay": 1e-5}
    curve = task.curve(low | {"num_layers": 1, "max_units": 64, "max_dropout": 0.0}, 0)
    assert curve.shape == (52,)
    assert np.all(np.diff(curve) <= 0)
    assert curve[[0, -1]] == pytest.approx([0.639237, 0.577265], rel=1e-4)


def test_a_short_search_of_ours_spends_its_epochs_on_every_task():
    for name in TASKS:
        task = open_task(name)[1]
        history = tasks.search(name, {"epochs": str(2 * task.epochs)}, 0)
        assert task.epochs < history.epochs[-1] <= 2 * task.epochs
        assert min(history.true) >= 0.98 * task.best


def found(**ends: list[float]) -> dict[str, Found]:
    """One task of two epochs, on which searches find these values after eight trainings."""
    histories = {
        name: [History(list(range(1, 33)), list(range(32)), t, t) for e in values if (t := [1.0] * 15 + [e] * 17)]
        for name, values in ends.items()
    }
    return {"task": Found(histories, 0.1, 2)}


def test_ranks_and_repeats_that_are_won_by_hand():
    three = found(a=[0.2, 0.3, 0.4], b=[0.2, 0.2, 0.5], c=[0.9, 0.9, 0.9])
    assert won(three, "a", "b", 8) == (1, 1)
    assert won(three, "a", "c", 8) == (3, 0)
    assert won(three, "a", "c", 4) == (0, 0)
    assert ranks(three, 8)["a"] == pytest.approx((1.5 + 2 + 1) / 3)
    assert ranks(three, 16)["c"] == 3
    assert ranks(three, 2)["c"] == 2


def test_the_rows_hold_medians_and_what_ours_won():
    ours, other = rows(found(**{OURS: [0.2, 0.3, 0.4], RANDOM: [0.9, 0.9, 0.9]}))
    assert ours == [OURS, ".9000 .9000 .2000 .2000", ours[2], ours[3], "1.50 1.00 1.00", "-"]
    assert other[-1] == "0:0, 3:0, 3:0"
    assert float(ours[3]) < float(other[3])
    assert log_regrets(found(a=[0.2, 0.2]))["a"][0] == pytest.approx(float(ours[3]), abs=0.2)
