"""What a sweep is expected to take, against the real search that is played in simulated time."""

from statistics import fmean

import pytest
from made_up_curves import EPOCHS, SPACE, make_curves
from told_trials import record

from sweep.core.config import SweepConfig
from sweep.core.config_file import load_sweep
from sweep.search.rehearsal import Extent, expected_extent
from sweep.simulation.simulator import simulate
from sweep.simulation.surrogate import SmoothTask


def sweep(**settings: object) -> SweepConfig:
    return load_sweep(None, {key.replace("__", "."): str(value) for key, value in settings.items()})


def test_without_a_pruner_all_is_known() -> None:
    config = sweep(trials=12, pruner__name="none", repeats__share=0, train__optim__epochs=10)
    assert expected_extent(config, 2) == Extent(120, 60)
    assert expected_extent(config, 5) == Extent(120, 30)
    half = [record(n, "COMPLETE", *[0.1] * 10) for n in range(6)]
    assert expected_extent(config, 2, half) == Extent(60, 30)
    begun = [*half, record(6, "RUNNING", *[0.1] * 4), record(7, "RUNNING")]
    assert expected_extent(config, 2, begun, {6: 0.5, 7: 0.25}) == Extent(pytest.approx(55.25), pytest.approx(29.75))
    assert expected_extent(config, 2, [record(n, "COMPLETE", *[0.1] * 10) for n in range(12)]) == Extent(0, 0)


def test_other_budgets_bound_it() -> None:
    assert expected_extent(sweep(trials="null", epochs=40), 4) == Extent(40, 10)
    assert expected_extent(sweep(trials="null", hours=1), 4) is None
    plain = {"pruner__name": "none", "repeats__share": 0, "train__optim__epochs": 10}
    assert expected_extent(sweep(trials=12, epochs=60, **plain), 2) == Extent(pytest.approx(60), pytest.approx(30))
    assert expected_extent(sweep(trials=12, epochs=60, **plain), 2, [record(0, "PRUNED", *[0.1] * 10)]) == Extent(
        pytest.approx(50),
        pytest.approx(60 * 50 / 110),  # eleven on two slots, cut short
    )


def test_many_trials_are_reckoned_like_the_first() -> None:
    few, many = (expected_extent(sweep(trials=n), 2) for n in (100, 1000))
    assert few is not None
    assert many is not None
    assert many.epochs == pytest.approx(10 * few.epochs)


@pytest.mark.parametrize(
    "pruner",
    [
        {},
        {"min_epochs": 3},
        {"name": "successive_halving", "reduction": 2},
        {"name": "successive_halving", "reduction": 2, "pause": False},
        {"name": "median"},
    ],
    ids=str,
)
def test_the_real_search_takes_as_many_epochs(pruner: dict[str, object]) -> None:
    tree = {"space": SPACE, "trials": 16, "pruner": pruner, "train": {"optim": {"epochs": EPOCHS}}}
    config = SweepConfig(**tree)
    task = SmoothTask(make_curves(), config.dimensions)
    took = fmean(len(simulate(config, task, 2, seed).epochs) for seed in range(6))
    extent = expected_extent(config, 2)
    assert extent is not None
    assert extent.epochs == pytest.approx(took, rel=1 / 3)
