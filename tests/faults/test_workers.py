"""Trials on two workers each, through Ray Train, against the same training in one process."""

import pytest
from harness import CALM, TINY, Sweep, rows

from sweep.storage.event_log import EventKind
from trainer import engine
from trainer.config import TrainConfig

pytestmark = [pytest.mark.slow, pytest.mark.long]

# Adam divides a gradient by its size: where that is nothing but float32's rounding, two workers may step another way
# than one. So small a rate keeps what comes of it below the tolerance. For whole runs in float64 see test_parallel.py.
RATE = 1e-5
SETTINGS = CALM | {
    "space": {"optim.lr": {"choice": [RATE, 1e30]}},
    "known": [{"optim.lr": RATE}, {"optim.lr": 1e30}],
    "trials": 2,
    "slots": 1,
    "pruner": {"name": "none"},
    "train": TINY,
}


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
    for a, b in zip(one, two, strict=True):
        assert b["train/loss"] == pytest.approx(a["train/loss"], rel=1e-4)
        assert b["val/nme"] == pytest.approx(a["val/nme"], rel=1e-4)
        assert b["lr"] == a["lr"]
