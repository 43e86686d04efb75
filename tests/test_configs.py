"""Every config that is delivered loads, and the WFLW recipe is the published one."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweep.core.config_file import load_sweep
from trainer.config import TrainConfig

CONFIGS = Path(__file__).parents[1] / "configs"
TRAIN, SWEEP = (sorted((CONFIGS / kind).glob("*.yaml")) for kind in ("train", "sweep"))
WFLW = CONFIGS / "train" / "wflw_resnet50_star.yaml"


def test_there_are_configs() -> None:
    assert {"demo", "wflw_resnet50_star"} <= {p.stem for p in TRAIN} & {p.stem for p in SWEEP}


@pytest.mark.parametrize("path", TRAIN, ids=lambda path: path.stem)
def test_train_config_loads_and_survives_a_round_trip(path: Path, tmp_path: Path) -> None:
    config = TrainConfig.load(path)
    config.dump(tmp_path / "a.yaml")
    assert TrainConfig.load(tmp_path / "a.yaml") == config
    assert config.run.output is None  # where results go is for whoever starts it
    assert config.data.cache_dir is None


@pytest.mark.parametrize("path", SWEEP, ids=lambda path: path.stem)
def test_sweep_config_loads(path: Path) -> None:
    config = load_sweep(path, {})
    assert config.name == path.stem
    assert "optim.lr" in config.space
    assert ("loss.star_weight" in config.space) == (config.train.loss.name == "star")


def test_the_wflw_recipe_has_the_published_numbers() -> None:
    config = TrainConfig.load(WFLW)
    data, model, loss, optim = config.data, config.model, config.loss, config.optim
    assert (data.kind, data.landmarks.count, data.image_size, data.box_scale) == ("wflw", 98, 256, 1.25)
    augment = data.augment
    assert (augment.flip, augment.rotation, augment.scale) == (0.5, 60, 0.25)
    assert (augment.shift, augment.colour, augment.occlusion, augment.blur) == (0, 0, 0, 0)
    assert (model.backbone, model.pretrained, model.head) == ("resnet50", "imagenet", "pyramid")
    assert (loss.name, loss.star_weight, loss.distance) == ("star", 1, "smooth_l1")
    assert (optim.name, optim.lr, optim.weight_decay, optim.epochs) == ("adam", 5e-4, 0, 210)
    assert (optim.batch_size, optim.accumulate) == (64, 8)
    assert (optim.warmup_steps, optim.warmup_from) == (500, 0.001)
    assert (optim.schedule, optim.milestones, optim.gamma) == ("multistep", (170, 200), 0.1)
    assert (optim.clip_norm, optim.ema_decay) == (None, 0)
    assert config.run.flip_test


def test_the_wflw_sweep_trains_the_wflw_recipe() -> None:
    base = load_sweep(CONFIGS / "sweep" / "wflw_resnet50_star.yaml", {}).train
    changed = {"data.root": "x", "run.threads": 1, "run.output": None}
    assert TrainConfig.from_tree(base.tree()).replace(changed) == TrainConfig.load(WFLW).replace(changed)


@pytest.mark.parametrize("loss", ["smooth_l1", "wing", "soft_wing"])
def test_the_baselines_differ_from_the_recipe_in_head_and_loss_only(loss: str) -> None:
    star = load_sweep(CONFIGS / "sweep" / "wflw_resnet50_star.yaml", {})
    baseline = load_sweep(CONFIGS / "sweep" / "wflw_baseline.yaml", {"train.loss.name": loss, "name": f"wflw_{loss}"})
    assert (baseline.train.model.head, baseline.train.loss.name) == ("regression", loss)
    for name in ("data", "optim", "run"):
        assert getattr(baseline.train, name) == getattr(star.train, name)
    for name in ("trials", "epochs", "pruner", "sampler"):
        assert getattr(baseline, name) == getattr(star, name)
