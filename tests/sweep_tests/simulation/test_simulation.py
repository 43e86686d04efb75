"""Simulated sweeps on made-up learning curves: they must decide as the real study, controller and log do."""

import gzip
import itertools
import json
import math
import zlib

import numpy as np
import pytest
from made_up_curves import CORNER, EPOCHS, LRS, SPACE, WEIGHTS, analytic, make_curves

from sweep.core.config import SweepConfig
from sweep.core.trial import State
from sweep.search.controller import SweepController
from sweep.search.sampling.sampler import derived_seed
from sweep.search.study import Study
from sweep.simulation.recorded_curves import Curve, RecordedCurves
from sweep.simulation.simulator import History, simulate
from sweep.simulation.surrogate import SmoothTask, SurrogateTask
from sweep.storage.event_log import EventLog, read_events
from trainer.errors import ConfigError

pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")


def make_config(**changes) -> SweepConfig:
    tree = {
        "space": SPACE,
        "sampler": {"name": "random"},
        "pruner": {"min_epochs": 1, "reduction": 3},
        "train": {"optim": {"epochs": EPOCHS}},
        "trials": None,
        "epochs": 200,
    }
    return SweepConfig(**{**tree, **changes})


def make_task(**changes) -> SurrogateTask:
    return SmoothTask(make_curves(**changes), make_config().dimensions)


@pytest.fixture(scope="module")
def task() -> SurrogateTask:
    return make_task()


@pytest.fixture(scope="module")
def deadly() -> SurrogateTask:
    return make_task(dying=4)


# Recorded curves


def test_curves_are_read_back_as_they_were_written(tmp_path):
    curves = make_curves(dying=4)
    curves.save(tmp_path / "curves.json.gz")
    assert RecordedCurves.load(tmp_path / "curves.json.gz") == curves


def test_the_same_curves_give_the_same_file(tmp_path):
    for name in ("one", "two"):
        make_curves().save(tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_numbers_are_written_with_enough_digits(tmp_path):
    params = {"optim.lr": 1.23456789e-4, "loss.name": "star", "optim.nesterov": None}
    RecordedCurves(1, (Curve(params, 5, (0.123456789,), (1.23456,)),)).save(tmp_path / "curves")
    (curve,) = RecordedCurves.load(tmp_path / "curves").curves
    assert curve == Curve(params, 5, (0.123457,), (1.235,))


def content(**changes) -> bytes:
    tree = {"format": 1, "made": {}, "epochs": 2, "params": ["optim.lr"], "curves": [[[1e-3], 0, [0.2, 0.1], [1, 1]]]}
    return gzip.compress(json.dumps({**tree, **changes}).encode())


def test_the_smallest_file_is_read(tmp_path):
    (tmp_path / "curves").write_bytes(content())
    assert RecordedCurves.load(tmp_path / "curves") == RecordedCurves(
        2, (Curve({"optim.lr": 1e-3}, 0, (0.2, 0.1), (1, 1)),)
    )


def flipped(data: bytes) -> bytes:
    return data[:30] + bytes([data[30] ^ 255]) + data[31:]


@pytest.mark.parametrize(
    "damaged",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"not compressed", id="text"),
        pytest.param(content()[:40], id="cut"),
        pytest.param(content()[:-4], id="cut_at_the_end"),
        pytest.param(flipped(content()), id="flipped"),
        pytest.param(gzip.compress(b"{"), id="no_json"),
        pytest.param(gzip.compress(b"[1, 2]"), id="a_list"),
        pytest.param(gzip.compress(b"{}"), id="no_format"),
        pytest.param(gzip.compress(b"\xff\xfe"), id="no_text"),
        pytest.param(content(format=2), id="another_format"),
        pytest.param(content(params=["optim.lr", "loss.name"]), id="too_few_values"),
        pytest.param(content(curves=[]), id="no_curves"),
        pytest.param(content(curves=[[1, 2]]), id="no_curve"),
        pytest.param(content(epochs=3), id="no_whole_training"),
        pytest.param(content(epochs="many"), id="no_number"),
    ],
)
def test_a_damaged_file_is_refused_by_its_name(damaged, tmp_path):
    path = tmp_path / "curves.json.gz"
    path.write_bytes(damaged)
    with pytest.raises(ConfigError, match=r"curves\.json\.gz: "):
        RecordedCurves.load(path)


def test_a_file_that_is_damaged_anywhere_is_refused_by_its_name(tmp_path):
    path, whole = tmp_path / "curves.json.gz", content()
    for place in range(10, len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            RecordedCurves.load(path)
        except ConfigError:
            pass
        except (EOFError, zlib.error) as error:
            pytest.fail(f"byte {place}: {error!r}")


def test_a_missing_file_is_refused_by_its_name(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere.gz: cannot be read"):
        RecordedCurves.load(tmp_path / "nowhere.gz")


# A task


def test_a_curve_is_near_the_recorded_ones_at_their_points(task):
    for lr, weight in itertools.product(LRS, WEIGHTS):
        params = {"optim.lr": lr, "loss.star_weight": weight}
        recorded = [c.nme for c in make_curves().curves if c.params == params]
        simulated = [task.curve(params, seed) for seed in range(12)]
        assert np.mean(simulated, axis=0) == pytest.approx(np.mean(recorded, axis=0), rel=0.06)
        assert np.array(simulated).shape == (12, EPOCHS)


def test_between_recorded_points_a_curve_is_near_the_truth(task):
    for lr, weight in [(2e-4, 0.5), (1e-3, 1.0), (5e-3, 20.0)]:
        mean = np.mean([task.curve({"optim.lr": lr, "loss.star_weight": weight}, s) for s in range(12)], axis=0)
        assert mean == pytest.approx([analytic(lr, weight, e) for e in range(1, EPOCHS + 1)], rel=0.06)


def test_the_same_seed_gives_the_same_curve(task):
    params = {"optim.lr": 3e-3, "loss.star_weight": 7.0}
    again = make_task()
    for seed in (0, 1, 2**32 - 1):
        assert task.curve(params, seed).tolist() == task.curve(params, seed).tolist()
        assert task.curve(params, seed).tolist() == again.curve(params, seed).tolist()
    assert len({tuple(task.curve(params, seed)) for seed in range(12)}) == 12  # 4 neighbours with 3 seeds each


def test_the_noise_of_a_curve_is_as_large_as_that_of_the_recorded(task):
    ends = np.log([task.curve({"optim.lr": 1e-3, "loss.star_weight": 1.0}, s)[-1] for s in range(12)])
    assert 0.003 < ends.std() < 0.03  # 0.011 was put in


def test_without_repeats_there_is_no_noise():
    single = make_task(seeds=1)
    params = {"optim.lr": 3e-3, "loss.star_weight": 7.0}
    assert single.curve(params, 1).tolist() == single.curve(params, 2).tolist()
    assert single.true_nme(params) == pytest.approx(single.curve(params, 0).min())


def test_the_true_nme_is_the_mean_of_the_best_of_many_seeds(task):
    for params in ({"optim.lr": 1e-3, "loss.star_weight": 1.0}, {"optim.lr": 2e-4, "loss.star_weight": 50.0}):
        assert task.true_nme(params) == pytest.approx(
            np.mean([task.curve(params, s).min() for s in range(800)]), rel=0.01
        )


def test_the_best_is_the_lowest_true_nme_of_the_recorded(task, deadly):
    for each in (task, deadly):
        every = [each.true_nme({"optim.lr": a, "loss.star_weight": b}) for a, b in itertools.product(LRS, WEIGHTS)]
        assert each.best == pytest.approx(min(every))
    assert task.best == pytest.approx(analytic(1e-3, 1.0, EPOCHS), rel=0.06)


def test_near_a_training_that_diverged_all_diverge(deadly):
    near = {"optim.lr": 9e-3, "loss.star_weight": 80.0}
    for params in (CORNER, near):
        assert [len(deadly.curve(params, seed)) for seed in range(5)] == [4] * 5
        assert deadly.true_nme(params) == math.inf
    away = {"optim.lr": 5e-3, "loss.star_weight": 10.0}
    assert len(deadly.curve(away, 0)) == EPOCHS
    assert math.isfinite(deadly.true_nme(away))
    assert np.isfinite(deadly.curve(CORNER, 0)).all()


def test_epochs_take_as_long_as_the_recorded(task):
    assert [task.seconds(epoch) for epoch in range(1, EPOCHS + 1)] == [2.0] * EPOCHS


CONDITIONAL = {
    "loss.name": {"choice": ["star", "wing"]},
    "loss.star_weight": {"log_uniform": [0.01, 100], "when": {"loss.name": "star"}},
    "optim.lr": {"log_uniform": [1e-4, 1e-2]},
}


def conditional(first: str) -> RecordedCurves:
    star = Curve({"loss.name": "star", "loss.star_weight": 1.0, "optim.lr": 1e-3}, 0, (0.2, 0.1), (1.0, 1.0))
    wing = Curve({"loss.name": "wing", "optim.lr": 1e-3}, 0, (0.3, 0.2), (1.0, 1.0))
    return RecordedCurves(2, (star, wing) if first == "star" else (wing, star))


def test_curves_of_another_length_are_stretched_to_the_sweeps():
    curves = make_curves(noise=0.0, dying=4)
    short, long = SmoothTask(curves, make_config().dimensions), SmoothTask(curves, make_config().dimensions, 4 * EPOCHS)
    params = {"optim.lr": LRS[2], "loss.star_weight": WEIGHTS[3]}
    assert long.curve(params, 0)[3::4] == pytest.approx(short.curve(params, 0))
    between = long.curve(params, 0)[4:7]
    assert short.curve(params, 0)[0] > between[0] > between[1] > between[2] > short.curve(params, 0)[1]
    assert list(long.curve(params, 0)[:4]) == [long.curve(params, 0)[3]] * 4  # before the first there is nothing
    assert len(long.curve(CORNER, 0)) == 16
    assert long.true_nme(params) == pytest.approx(short.true_nme(params))
    assert (long.epochs, long.seconds(1), long.seconds(4 * EPOCHS)) == (4 * EPOCHS, 2.0, 2.0)


@pytest.mark.parametrize("first", ["star", "wing"])
def test_curves_of_a_space_with_conditions_are_saved_and_read_back(first, tmp_path):
    curves = conditional(first)
    curves.save(tmp_path / "curves.json.gz")
    assert RecordedCurves.load(tmp_path / "curves.json.gz").curves == curves.curves


@pytest.mark.parametrize("first", ["star", "wing"])
def test_curves_of_a_space_with_conditions_are_a_task_whichever_is_first(first):
    SmoothTask(conditional(first), make_config(space=CONDITIONAL).dimensions)


def test_the_best_there_is_lies_in_the_space_that_is_searched():
    narrow = {"optim.lr": {"log_uniform": [5e-3, 1e-2]}, "loss.star_weight": {"log_uniform": [10, 100]}}
    config = make_config(space=narrow)
    task = SmoothTask(make_curves(), config.dimensions)
    inside = [
        task.true_nme(c.params)
        for c in make_curves().curves
        if c.params["optim.lr"] >= 3e-3 and c.params["loss.star_weight"] >= 3
    ]
    assert task.best >= 0.98 * min(inside)


def test_a_parameter_that_was_not_recorded_is_refused_by_name():
    space = {**SPACE, "optim.batch_size": {"int": [1, 8]}}
    with pytest.raises(ConfigError, match=r"space.optim.batch_size: the recorded curves have no such parameter"):
        SmoothTask(make_curves(), make_config(space=space).dimensions)


# Simulated sweeps


@pytest.mark.parametrize("slots", [1, 50])
@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_simulated_sweep_ends_with_its_budget(sampler, slots, task):
    history = simulate(make_config(sampler={"name": sampler}), task, slots, 3)
    lengths = {len(rows) for rows in (history.epochs, history.hours, history.found, history.true)}
    assert lengths == {history.epochs[-1]}
    assert history.epochs == list(range(1, history.epochs[-1] + 1))
    assert sum(r.epochs for r in history.records) == history.epochs[-1]
    assert 0.8 * 200 - EPOCHS < history.epochs[-1] <= 200  # without two to compare, the share of the repeats is left
    assert all(r.state.finished for r in history.records)
    assert any(r.state is State.COMPLETE for r in history.records)
    assert history.hours == sorted(history.hours)
    assert history.found == sorted(history.found, reverse=True)
    assert all(math.isfinite(value) for value in history.true)
    assert history.true[-1] >= 0.98 * task.best


def test_with_more_slots_it_takes_less_time(task):
    hours = [simulate(make_config(), task, slots, 0).hours[-1] for slots in (1, 4, 50)]
    assert hours[0] == pytest.approx(200 * 2.0 / 3600, rel=0.1)
    assert hours[0] > 2 * hours[1] > 2 * hours[2]


def test_a_budget_of_trials_ends_a_simulated_sweep(task):
    history = simulate(make_config(trials=12, epochs=None, repeats={"share": 0.0}), task, 3, 0)
    assert len(history.records) == 12


def test_a_budget_of_hours_ends_a_simulated_sweep(task):
    history = simulate(make_config(epochs=None, hours=0.05), task, 4, 0)
    assert history.hours[-1] <= 0.05
    assert history.hours[-1] > 0.04


def test_the_same_seed_gives_the_same_history_and_another_gives_another(task):
    config = make_config(sampler={"name": "tpe", "startup_trials": 4}, epochs=80)
    one, two, other = (simulate(config, task, 4, seed) for seed in (1, 1, 2))
    assert one == two
    assert one != other
    assert config.seed == 0


def test_the_order_of_a_grid_depends_on_the_seed_of_the_simulation(task):
    space = {"optim.lr": {"choice": LRS}, "loss.star_weight": {"choice": WEIGHTS}}
    config = make_config(space=space, sampler={"name": "grid"}, epochs=40)
    grid = SmoothTask(make_curves(seeds=1), config.dimensions)
    assert len(config.trials_known) == 36  # whoever has asked before
    orders = [[r.params for r in simulate(config, grid, 1, seed).records] for seed in (1, 2)]
    assert orders[0] != orders[1]


def test_a_simulated_trial_diverges_where_the_recorded_did(deadly):
    config = make_config(pruner={"name": "none"}, known=[CORNER])
    first, *_ = simulate(config, deadly, 2, 0).records
    assert first.params == CORNER
    assert (first.state, first.epochs, first.reason) == (State.DIVERGED, 4, "diverged")


def test_a_diverging_trial_does_not_end_the_sweep_and_is_never_chosen(deadly):
    history = simulate(make_config(pruner={"name": "none"}, known=[CORNER]), deadly, 1, 0)
    assert math.isinf(history.true[0])  # nothing else is known yet
    assert history.true[-1] < 2 * deadly.best
    assert any(r.state is State.COMPLETE for r in history.records)


def test_repeats_of_a_simulated_sweep_have_curves_of_their_own(task):
    history = simulate(make_config(pruner={"name": "none"}, repeats={"share": 0.4}), task, 1, 0)
    repeats = [r for r in history.records if r.replicate_of is not None]
    assert repeats
    for repeat in repeats:
        first = history.records[repeat.replicate_of]
        assert repeat.params == first.params
        assert repeat.curve != first.curve


def test_a_history_is_read_at_any_budget():
    history = History(epochs=[1, 2, 3], hours=[0.5, 0.5, 2.0], found=[0.3, 0.2, 0.1], true=[0.4, 0.3, 0.2])
    assert history.at_epochs(np.array([0, 1, 2, 3, 99])).tolist() == [math.inf, 0.4, 0.3, 0.2, 0.2]
    assert history.at_hours(np.array([0.0, 0.49, 0.5, 1.9, 2.0])).tolist() == [math.inf, math.inf, 0.3, 0.3, 0.2]


# Against the real code


def replay(config: SweepConfig, task: SurrogateTask, seed: int, folder) -> list:
    """One slot, with a real database and event log: what the executor does, without training."""
    config = config.model_copy(update={"seed": seed})
    study = Study.open(f"sqlite:///{folder / 'study.db'}", config)
    with EventLog(folder / "events.jsonl") as log:
        controller = SweepController(config, study, log)
        while (assignment := controller.next_trial()) is not None:
            number = assignment.number
            curve = task.curve(controller.record(number).params, derived_seed(seed, number, 7))
            train(controller, number, np.minimum.accumulate(curve).tolist(), task)
    return controller.records


def train(controller: SweepController, number: int, curve: list[float], task: SurrogateTask) -> None:
    for epoch in range(controller.record(number).epochs + 1, task.epochs + 1):
        if epoch > len(curve):
            controller.end(number, State.DIVERGED, "diverged")
            return
        metrics = {"best_nme": curve[epoch - 1], "epoch_seconds": task.seconds(epoch)}
        if not controller.report(number, epoch, metrics):
            return
    controller.end(number, State.COMPLETE)


def decisions(records: list) -> list[tuple]:
    return [(r.number, r.params, r.state, r.epochs) for r in records]


@pytest.mark.parametrize(
    ("seed", "changes"),
    [
        pytest.param(0, {}, id="halving"),
        pytest.param(1, {"sampler": {"name": "tpe", "startup_trials": 4}}, id="tpe"),
        pytest.param(2, {"pruner": {"min_epochs": 1, "reduction": 2}}, id="all_rungs"),
        pytest.param(3, {"sampler": {"startup_trials": 4}}, id="few_first"),
        pytest.param(3, {"pruner": {"min_epochs": 1, "reduction": 2, "paused": 2}}, id="few_paused"),
        pytest.param(4, {"pruner": {"name": "median", "min_epochs": 2}}, id="median"),
        pytest.param(5, {"pruner": {"name": "none"}, "known": [CORNER], "epochs": 50}, id="diverging"),
        pytest.param(6, {"device_hours": 0.02, "epochs": None}, id="device_hours"),
    ],
)
def test_the_simulator_decides_as_study_controller_and_log_do(seed, changes, deadly, tmp_path):
    config = make_config(**{"epochs": 40, **changes})
    simulated = simulate(config, deadly, 1, seed).records
    real = replay(config, deadly, seed, tmp_path)
    assert decisions(real) == decisions(simulated)
    assert [(r.curve, r.seed, r.replicate_of) for r in real] == [(r.curve, r.seed, r.replicate_of) for r in simulated]
    started = [event.trial for event, _ in read_events(tmp_path / "events.jsonl") if event.kind == "trial_started"]
    assert set(started) == {r.number for r in real}
    stored = Study.open(f"sqlite:///{tmp_path / 'study.db'}", config.model_copy(update={"seed": seed})).records
    assert decisions(stored) == decisions(simulated)
