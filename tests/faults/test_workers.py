"""Trials on two workers each, through Ray Train, against the same training in one process."""

import pytest
from harness import CALM, TINY, Sweep, rows

from sweep.events import EventKind
from trainer import engine
from trainer.config import TrainConfig

pytestmark = pytest.mark.slow

KNOWN = [{"optim.lr": 1e-3, "loss.star_weight": 1.0}, {"optim.lr": 1e30, "loss.star_weight": 1.0}]
SETTINGS = CALM | {"known": KNOWN, "trials": 2, "slots": 1, "pruner": {"name": "none"}, "train": TINY}


def test_a_trial_on_two_workers_means_what_it_means_on_one(tmp_path):
    sweep = Sweep(tmp_path / "home", settings=SETTINGS)
    ended = sweep.run("--resources.workers", "2")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert sweep.states() == {0: "COMPLETE", 1: "DIVERGED"}
    sweep.check(trials=2)
    reason = next(e.data["reason"] for e in sweep.events() if e.kind is EventKind.TRIAL_ENDED and e.trial == 1)
    assert "loss is" in reason
    assert "of epoch 1" in reason

    trial = sweep.folder / "trials" / "0000"
    config = TrainConfig.load(trial / "config.yaml", {"run.output": str(tmp_path / "alone")})
    engine.train(config)
    one, two = rows(tmp_path / "alone"), rows(trial)
    assert len(one) == len(two) == 3
    assert two[0]["train/loss"] == pytest.approx(one[0]["train/loss"], rel=1e-3)  # before rounding has grown
    for a, b in zip(one, two, strict=True):
        assert b["train/loss"] == pytest.approx(a["train/loss"], rel=0.02)
        assert b["val/nme"] == pytest.approx(a["val/nme"], rel=0.02)
        assert b["lr"] == a["lr"]
