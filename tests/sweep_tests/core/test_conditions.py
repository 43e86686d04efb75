"""Settings that are searched only where a choice above them says so, and spaces of finitely many points."""

import math
import random
from pathlib import Path

import pytest
import yaml
from harness import MemoryLog

from sweep.core.config import SweepConfig
from sweep.core.config_file import load_sweep
from sweep.core.search_space import active, all_points, filled, parse_space
from sweep.core.trial import State
from sweep.search.controller import SweepController
from sweep.search.study import Study
from trainer.config import TrainConfig
from trainer.errors import ConfigError

BASE = TrainConfig()
LOSS = {"choice": ["star", "wing"]}
CONDITIONAL = {
    "loss.name": LOSS,
    "loss.star_weight": {"log_uniform": [0.01, 100], "when": {"loss.name": "star"}},
    "optim.lr": {"log_uniform": [1e-4, 1e-2]},
}
NESTED = {
    "loss.name": LOSS,
    "loss.distance": {"choice": ["l1", "l2", "smooth_l1"], "when": {"loss.name": "star"}},
    "optim.lr": {"choice": [1e-4, 1e-3], "when": {"loss.distance": ["l1", "l2"]}},
    "optim.batch_size": {"int": [4, 5], "when": {"loss.name": ["star", "wing"], "optim.lr": 1e-3}},
}


def written(folder: Path, **changes) -> SweepConfig:
    """The config of a sweep file."""
    path = folder / "conditions.yaml"
    sweep = {"space": CONDITIONAL, "train": {"optim": {"epochs": 2}}, "pruner": {"name": "none"}}
    path.write_text(yaml.safe_dump({**sweep, **changes}, sort_keys=False))
    return load_sweep(path, {"output": str(folder)})


def run(config: SweepConfig, *, slots: int = 1) -> list:
    """All trials of a sweep of made-up ones."""
    controller, running = SweepController(config, Study.in_memory(config), MemoryLog()), []
    while True:
        while len(running) < slots and (assignment := controller.next_trial()) is not None:
            running.append(assignment.number)
        if not running:
            return controller.records
        number = running.pop(0)
        nme = random.Random(number).uniform(0.1, 0.2)
        epochs = range(1, config.train.optim.epochs + 1)
        if all(controller.report(number, epoch, {"best_nme": nme, "epoch_seconds": 1.0}) for epoch in epochs):
            controller.end(number, State.COMPLETE)


# Conditions


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        ({"loss.name": "star"}, (("loss.name", ("star",)),)),
        ({"loss.name": ["star"]}, (("loss.name", ("star",)),)),
        ({}, ()),
    ],
)
def test_a_condition_is_read_with_one_value_or_several(when, expected):
    space = {"loss.name": LOSS, "optim.lr": {"uniform": [1e-4, 1e-2], "when": when}}
    name, lr = parse_space(space, BASE)
    assert name.when == ()
    assert lr.when == expected
    assert (lr.kind, lr.low, lr.high) == ("uniform", 1e-4, 1e-2)


def test_several_conditions_must_all_hold():
    space = {
        "loss.name": LOSS,
        "model.backbone": {"choice": ["resnet18", "resnet34"]},
        "optim.lr": {"uniform": [1e-4, 1e-2], "when": {"loss.name": ["star", "wing"], "model.backbone": "resnet18"}},
    }
    dimensions = parse_space(space, BASE)
    point = {"loss.name": "wing", "model.backbone": "resnet18", "optim.lr": 1e-3}
    assert active(dimensions, point) == point
    assert "optim.lr" not in active(dimensions, point | {"model.backbone": "resnet34"})


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"optim.lr": {"uniform": [0.1, 0.2], "when": "star"}}, "space.optim.lr.when = 'star': must be a mapping"),
        ({"optim.lr": {"uniform": [0.1, 0.2], "when": ["loss.name"]}}, "space.optim.lr.when = .*: must be a mapping"),
        ({"optim.lr": {"when": {"loss.name": "star"}}}, "space.optim.lr = .*: must be one of uniform"),
        (
            {"loss.name": LOSS, "optim.lr": {"uniform": [0.1, 0.2], "when": {"loss.nam": "star"}}},
            r"space.optim.lr.when: loss.nam is no choice above it in the space \(nearest valid key: loss.name\)",
        ),
        (
            {"optim.lr": {"uniform": [0.1, 0.2], "when": {"loss.name": "star"}}, "loss.name": LOSS},
            "space.optim.lr.when: loss.name is no choice above it",
        ),
        (
            {"loss.name": {**LOSS, "when": {"loss.name": "star"}}},
            "space.loss.name.when: loss.name is no choice above it",
        ),
        (
            {"optim.batch_size": {"int": [1, 4]}, "optim.lr": {"uniform": [0.1, 0.2], "when": {"optim.batch_size": 1}}},
            "space.optim.lr.when: optim.batch_size is no choice above it",
        ),
        (
            {"loss.name": LOSS, "optim.lr": {"uniform": [0.1, 0.2], "when": {"loss.name": "soft_wing"}}},
            "space.optim.lr.when.loss.name = 'soft_wing': must be one of 'star', 'wing'",
        ),
        (
            {"loss.name": LOSS, "optim.lr": {"uniform": [0.1, 0.2], "when": {"loss.name": ["star", "l1"]}}},
            "space.optim.lr.when.loss.name = 'l1': must be one of",
        ),
        (
            {"loss.name": LOSS, "loss.star_weight": {"uniform": [0.1, 10], "when": {"loss.name": "wing"}}},
            r"space.loss.* .*star_weight = .*: cannot apply",
        ),
        (
            {"loss.name": LOSS, "loss.star_weight": {"uniform": [-1, 10], "when": {"loss.name": "star"}}},
            r"space.loss.* .*star_weight = -1",
        ),
        ({"loss.name": LOSS, "loss.star_weight": {"uniform": [0.1, 10]}}, r"star_weight = .*: cannot apply"),
    ],
)
def test_a_bad_condition_is_refused_by_name(space, message):
    with pytest.raises(ConfigError, match=message):
        parse_space(space, BASE)


def test_what_the_trainer_refuses_elsewhere_is_allowed_under_its_condition():
    weight = parse_space(CONDITIONAL, BASE)[1]
    assert weight.when == (("loss.name", ("star",)),)


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"loss.name": "wing", "loss.distance": "l1", "optim.lr": 1e-3, "optim.batch_size": 4}, ["loss.name"]),
        (
            {"loss.name": "star", "loss.distance": "smooth_l1", "optim.lr": 1e-3, "optim.batch_size": 4},
            ["loss.name", "loss.distance"],
        ),
        (
            {"loss.name": "star", "loss.distance": "l1", "optim.lr": 1e-4, "optim.batch_size": 4},
            ["loss.name", "loss.distance", "optim.lr"],
        ),
        (
            {"optim.batch_size": 4, "optim.lr": 1e-3, "loss.distance": "l2", "loss.name": "star"},
            ["loss.name", "loss.distance", "optim.lr", "optim.batch_size"],
        ),
        ({"optim.lr": 1e-3, "loss.name": "star"}, ["loss.name"]),
        ({}, []),
    ],
)
def test_active_keeps_what_its_conditions_allow_in_the_order_of_the_space(params, expected):
    found = active(parse_space(NESTED, BASE), params)
    assert list(found) == expected
    assert found == {key: params[key] for key in expected}
    assert active(parse_space(NESTED, BASE), found) == found


def test_filled_gives_every_dimension_a_value():
    dimensions = parse_space(CONDITIONAL, BASE)
    assert filled(dimensions, {"loss.name": "wing", "optim.lr": 1e-3}) == {
        "loss.name": "wing",
        "loss.star_weight": 0.01,
        "optim.lr": 1e-3,
    }
    whole = {"loss.name": "star", "loss.star_weight": 2.0, "optim.lr": 1e-3}
    assert filled(dimensions, whole) == whole
    assert list(filled(dimensions, {})) == list(CONDITIONAL)
    assert active(dimensions, filled(dimensions, {"loss.name": "wing", "optim.lr": 1e-3})) == {
        "loss.name": "wing",
        "optim.lr": 1e-3,
    }


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_no_trial_holds_a_setting_whose_condition_fails(sampler, tmp_path):
    config = written(tmp_path, trials=14, sampler={"name": sampler, "startup_trials": 6}, repeats={"share": 0.0})
    records = run(config)
    assert len(records) == 14
    for record in records:
        assert ("loss.star_weight" in record.params) is (record.params["loss.name"] == "star")
        assert "optim.lr" in record.params
        assert config.trial_config(record).loss.name == record.params["loss.name"]
    assert {record.params["loss.name"] for record in records} == {"star", "wing"}


def test_a_study_reads_conditional_trials_back(tmp_path):
    config = written(tmp_path, trials=6)
    url = f"sqlite:///{tmp_path / 'study.db'}"
    study = Study.open(url, config)
    for _ in range(6):
        study.ask()
    again = Study.open(url, config)
    assert [r.params for r in again.records] == [r.params for r in study.records]
    assert again.ask().params == study.ask().params


def test_known_configurations_may_leave_out_what_does_not_apply(tmp_path):
    known = [{"loss.name": "wing", "optim.lr": 1e-3}, {"loss.name": "star", "optim.lr": 1e-3}]
    one, two, *_ = run(written(tmp_path, trials=4, known=known))
    assert one.params == known[0]
    assert two.params.items() > known[1].items()
    assert two.params.keys() == {"loss.name", "loss.star_weight", "optim.lr"}


def test_a_known_configuration_that_the_trainer_refuses_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"known\[0\]: .*star_weight = 2.0: cannot apply"):
        written(tmp_path, known=[{"loss.name": "wing", "loss.star_weight": 2.0}])


def test_a_known_configuration_holds_no_setting_whose_condition_fails(tmp_path):
    """The trainer takes this one, as the weight is its default, but the space does not have it."""
    known = {"loss.name": "wing", "loss.star_weight": 1.0, "optim.lr": 1e-3}
    try:
        config = written(tmp_path, trials=1, known=[known])
    except ConfigError:  # may be refused as well
        return
    assert run(config)[0].params == {"loss.name": "wing", "optim.lr": 1e-3}


def test_all_known_configurations_that_are_partly_given_get_a_trial_or_are_passed_over(tmp_path):
    """Three times the same half of a configuration, whose other half has two values: the third cannot be new."""
    space = {"optim.batch_size": {"choice": [4, 8]}, "loss.distance": {"choice": ["l1", "l2"]}}
    config = written(tmp_path, space=space, trials=4, repeats={"share": 0.0}, known=[{"optim.batch_size": 4}] * 3)
    assert len({repr(sorted(r.params.items())) for r in run(config)}) == 4


def test_gp_does_not_take_a_space_of_ranges_for_full(tmp_path):
    """Where a corner is best, it suggests that corner again, whatever its seed."""
    config = written(
        tmp_path,
        space={"loss.star_weight": {"log_uniform": [0.01, 100]}, "optim.lr": {"log_uniform": [1e-4, 1e-2]}},
        sampler={"name": "gp", "startup_trials": 6},
    )
    study = Study.in_memory(config)
    for number in range(9):
        record = study.ask()
        assert record is not None, f"full after {number} trials"
        nme = 0.3 + 0.02 * math.log10(record.params["optim.lr"]) + 0.01 * math.log10(record.params["loss.star_weight"])
        for epoch in (1, 2):
            study.report(number, epoch, nme)
        study.tell(number, State.COMPLETE, seconds=1.0)


# Grids


def test_all_points_are_the_product_of_the_values():
    dimensions = parse_space({"loss.name": LOSS, "optim.batch_size": {"int": [4, 6]}}, BASE)
    points = all_points(dimensions)
    assert points == [{"loss.name": n, "optim.batch_size": b} for n in ("star", "wing") for b in (4, 5, 6)]


def test_all_points_of_a_conditional_space_are_each_there_once():
    points = all_points(parse_space(NESTED, BASE))
    # wing; star and smooth_l1; star, l1 or l2 with lr 1e-4; the same with lr 1e-3 and two batch sizes
    assert len(points) == 1 + 1 + 2 + 4
    assert len({repr(point) for point in points}) == len(points)
    assert {"loss.name": "wing"} in points
    assert all(active(parse_space(NESTED, BASE), point) == point for point in points)


def test_choices_that_are_equal_in_python_are_points_of_their_own():
    dimensions = parse_space({"loss.star_weight": {"choice": [0.5, 1, 2.0]}}, BASE)
    assert [p["loss.star_weight"] for p in all_points(dimensions)] == [0.5, 1, 2.0]


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"optim.lr": {"uniform": [1e-4, 1e-3]}}, "'grid': space.optim.lr is a range; list its values as a choice"),
        (CONDITIONAL, "'grid': space.loss.star_weight is a range"),
        (
            {"optim.batch_size": {"int": [1, 200]}, "optim.warmup_steps": {"int": [1, 100]}},
            "'grid': the space has 20000 points, more than 10000",
        ),
    ],
    ids=["range", "conditional_range", "too_many"],
)
def test_a_grid_of_endlessly_many_points_is_refused(space, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        written(tmp_path, space=space, sampler={"name": "grid"})
    assert written(tmp_path, space=space, sampler={"name": "random"})


@pytest.mark.parametrize("slots", [1, 3, 20])
@pytest.mark.parametrize("space", [NESTED, {"optim.batch_size": {"log_int": [4, 8]}}], ids=["nested", "integers"])
def test_a_grid_tries_every_point_exactly_once_and_no_more(space, slots, tmp_path):
    config = written(tmp_path, space=space, sampler={"name": "grid"}, trials=50, repeats={"share": 0.0})
    tried = [repr(r.params) for r in run(config, slots=slots)]
    assert sorted(tried) == sorted(map(repr, all_points(config.dimensions)))


def test_a_grid_with_trials_left_repeats_its_best(tmp_path):
    config = written(tmp_path, space=NESTED, sampler={"name": "grid"}, trials=50)
    records = run(config)
    new = [repr(r.params) for r in records if r.replicate_of is None]
    assert sorted(new) == sorted(map(repr, all_points(config.dimensions)))
    assert 0 < len(records) - len(new) <= config.repeats.candidates * (config.repeats.runs - 1)


def test_the_order_of_a_grid_depends_on_the_seed_alone(tmp_path):
    def order(seed: int) -> list[dict]:
        config = written(tmp_path, space=NESTED, sampler={"name": "grid"}, seed=seed, repeats={"share": 0.0})
        return [r.params for r in run(config)]

    assert order(1) == order(1)
    assert order(1) != order(2)
    assert sorted(map(repr, order(1))) == sorted(map(repr, order(2)))


def test_a_grid_goes_on_in_a_new_process(tmp_path):
    config = written(tmp_path, space=NESTED, sampler={"name": "grid"})
    tried = []
    for _ in range(8):  # each opens the study anew
        tried.append(Study.open(f"sqlite:///{tmp_path / 'study.db'}", config).ask().params)
    assert sorted(map(repr, tried)) == sorted(map(repr, all_points(config.dimensions)))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_small_space_is_searched_without_trying_anything_twice(sampler, seed, tmp_path):
    space = {"optim.batch_size": {"choice": [4, 8]}, "loss.distance": {"choice": ["l1", "l2", "smooth_l1"]}}
    sampler = {"name": sampler, "startup_trials": 6}
    config = written(tmp_path, space=space, sampler=sampler, seed=seed, trials=30, repeats={"share": 0.0})
    tried = [repr(sorted(r.params.items())) for r in run(config)]
    assert len(tried) == len(set(tried)) == 6


def test_a_small_conditional_space_is_searched_without_trying_anything_twice(tmp_path):
    config = written(tmp_path, space=NESTED, sampler={"name": "random"}, trials=30, repeats={"share": 0.0})
    tried = [repr(r.params) for r in run(config)]
    assert len(tried) == len(set(tried)) == len(all_points(config.dimensions))


def test_a_sweep_whose_space_is_full_has_nothing_left_to_run(tmp_path):
    space = {"optim.batch_size": {"choice": [4, 8]}}
    config = written(tmp_path, space=space, sampler={"name": "grid"}, trials=20, repeats={"share": 0.0})
    study = Study.in_memory(config)
    controller = SweepController(config, study, MemoryLog())
    while (assignment := controller.next_trial()) is not None:
        for epoch in (1, 2):
            controller.report(assignment.number, epoch, {"best_nme": 0.1, "epoch_seconds": 1.0})
        controller.end(assignment.number, State.COMPLETE)
    assert len(study.records) == 2
    assert study.is_finished()
