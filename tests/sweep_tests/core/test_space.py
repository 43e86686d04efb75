"""The space refuses at the border what the trainer or the sampler would stumble over later."""

import re

import pytest

from sweep.core.formatting import format_params, format_value, short_name
from sweep.core.search_space import Dimension, check_params, parse_space
from trainer.config import TrainConfig
from trainer.errors import ConfigError
from trainer.settings import fields, not_searched

BASE = TrainConfig()
ALL_KINDS = {
    "optim.lr": {"log_uniform": [1e-4, 1e-2]},
    "loss.star_weight": {"uniform": [0, 10]},
    "optim.accumulate": {"int": [2, 8]},
    "optim.batch_size": {"log_int": [1, 64]},
    "model.backbone": {"choice": ["resnet18", "resnet34"]},
}


def test_every_kind_is_read_in_the_order_given():
    lr, weight, epochs, batch, backbone = parse_space(ALL_KINDS, BASE)
    assert (lr.key, lr.kind, lr.low, lr.high) == ("optim.lr", "log_uniform", 1e-4, 1e-2)
    assert (weight.kind, weight.low, weight.high) == ("uniform", 0, 10)
    assert (epochs.kind, epochs.low, epochs.high) == ("int", 2, 8)
    assert {2, 8} <= set(epochs.probes)
    assert (batch.kind, batch.low, batch.high) == ("log_int", 1, 64)
    assert (backbone.kind, backbone.choices) == ("choice", ("resnet18", "resnet34"))
    assert backbone.probes == backbone.choices


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "space: is empty; nothing to search"),
        ({"optim.lrr": {"uniform": [0.1, 0.2]}}, "space.optim.lrr: the trainer has no such setting .*: optim.lr"),
        ({"lr": {"uniform": [0.1, 0.2]}}, "space.lr: the trainer has no such setting .*nearest valid key: optim.lr"),
        ({"starweight": {"uniform": [0, 1]}}, "space.starweight: .*nearest valid key: loss.star_weight"),
        ({"optim": {"uniform": [0, 1]}}, "space.optim: the trainer has no such setting"),
        ({"run.seed": {"int": [0, 9]}}, "space.run.seed: settings of section run are not searched"),
        ({"run.sed": {"int": [0, 9]}}, "space.run.sed: settings of section run are not searched"),
        ({"optim.lr": {"normal": [0, 1]}}, "space.optim.lr = .*must be one of uniform, log_uniform, int, log_int, cho"),
        ({"optim.lr": {}}, "space.optim.lr = {}: must be one of"),
        ({"optim.lr": [0.1, 0.2]}, r"space.optim.lr = \[0.1, 0.2\]: must be one of"),
        ({"optim.lr": {"uniform": [0.1, 0.2], "choice": [1, 2]}}, "space.optim.lr = .*: must be one of"),
        ({"optim.lr": {"uniform": 0.1}}, "space.optim.lr.uniform = 0.1: must be a list of two or more values"),
        ({"optim.lr": {"uniform": [0.1]}}, r"space.optim.lr.uniform = \[0.1\]: must be a list of two or more"),
        ({"optim.lr": {"choice": [0.1]}}, r"space.optim.lr.choice = \[0.1\]: must be a list of two or more"),
        ({"optim.lr": {"uniform": [0.1, 0.2, 0.3]}}, "space.optim.lr.uniform = .*: must be two numbers"),
        ({"optim.lr": {"uniform": ["a", "b"]}}, "space.optim.lr.uniform = .*: must be two numbers"),
        ({"optim.lr": {"uniform": [False, True]}}, "space.optim.lr.uniform = .*: must be two numbers"),
        ({"model.width": {"int": [8.0, 9]}}, "space.model.width.int = .*: must be two integers"),
        ({"model.width": {"log_int": [8, 9.5]}}, "space.model.width.log_int = .*: must be two integers"),
        ({"optim.lr": {"uniform": [0.2, 0.1]}}, "space.optim.lr.uniform = .*: the first must be below the second"),
        ({"optim.lr": {"uniform": [0.1, 0.1]}}, "space.optim.lr.uniform = .*: the first must be below the second"),
        ({"optim.lr": {"uniform": [float("nan"), 1.0]}}, "space.optim.lr.uniform = .*: the first must be below"),
        ({"loss.star_weight": {"log_uniform": [0, 1]}}, "log_uniform = .*: a logarithmic range must lie above 0"),
        ({"loss.star_weight": {"log_uniform": [-1, 1]}}, "log_uniform = .*: a logarithmic range must lie above 0"),
        ({"optim.warmup_steps": {"log_int": [0, 9]}}, "log_int = .*: a logarithmic range must lie above 0"),
        ({"loss.distance": {"choice": ["l1", "l2", "l1"]}}, "space.loss.distance.choice = .*: must hold every choice"),
        ({"optim.lr": {"uniform": [0, 1]}}, r"space.optim.lr \(uniform 0 to 1\): .*optim.lr = 0"),
        ({"optim.lr": {"uniform": [0.1, float("inf")]}}, "space.optim.lr .*optim.lr = inf: input should be a finite"),
        ({"loss.star_weight": {"uniform": [-1, 1]}}, "space.loss.star_weight .*loss.star_weight = -1"),
        ({"optim.ema_decay": {"uniform": [0.9, 1.0]}}, "space.optim.ema_decay .*optim.ema_decay = 1.0"),
        ({"optim.batch_size": {"int": [0, 4]}}, r"space.optim.batch_size \(int 0 to 4\): .*optim.batch_size = 0"),
        ({"model.width": {"uniform": [8, 9]}}, "space.model.width .*model.width = "),
        ({"model.backbone": {"choice": ["resnet18", "vgg"]}}, "space.model.backbone .*one of 'resnet18', 'vgg'"),
        ({"model.deconv_layers": {"int": [3, 4]}}, "model.deconv_layers = 4: cannot apply, model.head pyramid has no"),
        ({"loss.name": {"choice": ["star", "awing"]}}, "space.loss.name .*loss.name = 'awing'"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(space, message):
    with pytest.raises(ConfigError, match=message):
        parse_space(space, BASE)


def test_the_base_config_decides_what_an_end_may_be():
    space = {"optim.schedule": {"choice": ["cosine", "constant"]}}
    base = TrainConfig().replace({"optim.schedule": "multistep", "optim.epochs": 9, "optim.milestones": [5]})
    assert parse_space(space, BASE)
    with pytest.raises(ConfigError, match=r"space.optim.schedule .*milestones = \(5,\): cannot apply"):
        parse_space(space, base)


@pytest.mark.parametrize("value", [None, True, "resnet18", 0.5])
def test_choices_hold_every_kind_of_value(value):
    dimension = Dimension("key", "choice", choices=(value, "other"))
    assert dimension.contains(value)
    assert dimension.contains("other")
    assert not dimension.contains("another")


@pytest.mark.parametrize(
    ("value", "inside"), [(1e-4, True), (1e-2, True), (9e-5, False), (1.1e-2, False), ("1", False), (None, False)]
)
def test_a_range_holds_its_ends(value, inside):
    assert Dimension("optim.lr", "log_uniform", 1e-4, 1e-2).contains(value) is inside


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"optim.lr": 1.0}, r"known\[2\]: optim.lr = 1.0 is outside of the space \(log_uniform 0.0001 to 0.01\)"),
        ({"optim.lr": "1e-3"}, r"known\[2\]: optim.lr = '1e-3' is outside"),
        ({"optim.lr": None}, r"known\[2\]: optim.lr = None is outside"),
        ({"optim.lr": float("nan")}, r"known\[2\]: optim.lr = nan is outside"),
        ({"optim.lrr": 1e-3}, r"known\[2\]: optim.lrr is not in the space \(nearest valid key: optim.lr\)"),
        ({"optim.gamma": 0.5}, r"known\[2\]: optim.gamma is not in the space"),
        ({"model.backbone": "resnet50"}, r"known\[2\]: model.backbone = 'resnet50' is outside .*one of 'resnet18', 'r"),
        ({"optim.accumulate": 9}, r"known\[2\]: optim.accumulate = 9 is outside of the space \(int 2 to 8\)"),
    ],
)
def test_a_known_config_outside_of_the_space_is_refused(params, message):
    with pytest.raises(ConfigError, match=message):
        check_params(params, parse_space(ALL_KINDS, BASE), BASE, "known[2]")


def test_a_known_config_may_leave_settings_to_the_sampler():
    check_params({}, parse_space(ALL_KINDS, BASE), BASE, "known[0]")
    check_params({"optim.lr": 1e-3, "optim.accumulate": 2}, parse_space(ALL_KINDS, BASE), BASE, "known[0]")


def test_texts_for_tables_and_names():
    assert short_name("loss.star_weight") == "star_weight"
    assert [format_value(v) for v in (0.00123456, 12, "l1", None, True)] == ["0.00123", "12", "l1", "None", "True"]
    params = {"loss.star_weight": 1.2345, "model.backbone": "resnet18"}
    assert format_params(params) == "star_weight=1.23 backbone=resnet18"


def test_values_between_the_ends_must_be_valid_too():
    with pytest.raises(ConfigError, match="multiple of 32"):
        parse_space({"data.image_size": {"int": [32, 128]}}, BASE)
    with pytest.raises(ConfigError, match="valid integer"):
        parse_space({"model.width": {"uniform": [8, 16]}}, BASE)


def test_combinations_must_be_valid_too():
    space = {"loss.name": {"choice": ["smooth_l1", "star"]}, "loss.star_weight": {"uniform": [0.1, 10]}}
    with pytest.raises(ConfigError, match=r"loss\.star_weight = .*: cannot apply"):
        parse_space(space, BASE)


def test_epochs_are_not_searched():
    with pytest.raises(ConfigError, match="compared epoch by epoch"):
        parse_space({"optim.epochs": {"int": [2, 8]}}, BASE)


@pytest.mark.parametrize(("kind", "value"), [("int", 8.5), ("log_int", 9.0), ("uniform", True)])
def test_a_known_value_is_of_the_dimensions_kind(kind, value):
    key, ends = ("optim.lr", [1, 8]) if kind == "uniform" else ("model.width", [8, 16])
    space = parse_space({key: {kind: ends}}, BASE)
    with pytest.raises(ConfigError, match="outside"):
        check_params({key: value}, space, BASE, "known[0]")


def test_what_trials_are_judged_on_is_not_searched():
    """A new setting of the faces must be thought about: it is searched, or says why not."""
    refused = {key: reason for key, info in fields(TrainConfig) if (reason := not_searched(info))}
    searched = {key for key, _ in fields(TrainConfig) if key.startswith("data.")} - set(refused)
    assert searched - {key for key in searched if key.startswith("data.augment.")} == {
        "data.train_faces",
        "data.image_size",
        "data.box_scale",
        "data.crop_margin",
        "data.augment_on",
    }
    assert {key for key in refused if not key.startswith("data.")} == {"optim.epochs"}
    for key, reason in refused.items():
        for kind in ({"int": [1, 2]}, {"choice": ["a", "b"]}):
            with pytest.raises(ConfigError, match=re.escape(f"space.{key}: {reason}")):
                parse_space({key: kind}, BASE)
    assert "faces trials are judged" in refused["data.split_seed"]


def test_what_trials_are_judged_on_comes_in_by_no_other_way():
    space = {"optim.lr": {"uniform": [0.1, 0.2]}, "model.backbone": {"choice": ["resnet18", "resnet34"]}}
    with pytest.raises(ConfigError, match=r"known: data.val_faces is not in the space"):
        check_params({"data.val_faces": 3}, parse_space(space, BASE), BASE, "known")
    with pytest.raises(ConfigError, match=r"space\.data\.val_faces: it decides on which faces"):
        parse_space({**space, "data.val_faces": {"int": [1, 2], "when": {"model.backbone": "resnet18"}}}, BASE)
