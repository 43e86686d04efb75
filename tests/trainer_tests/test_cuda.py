"""Training on a CUDA GPU; `make bench-gpu` measures how fast it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from trainer import engine
from trainer.config import TrainConfig
from trainer.data.crop_cache import load_split
from trainer.forms import form_of
from trainer.inference import load_trained
from trainer.runtime.process import release_memory

from .conftest import Tiny

pytestmark = pytest.mark.cuda
ON_GPU = {"run.device": "cuda", "run.precision": "auto", "run.channels_last": "auto"}


def test_a_run_takes_what_the_card_has_in_hardware_and_its_weights_are_good_elsewhere(tiny: Tiny) -> None:
    result = engine.train(tiny(ON_GPU | {"optim.epochs": 4}))
    written = TrainConfig.load(result.folder / "config.yaml")
    major, _ = torch.cuda.get_device_capability()
    expected = "bfloat16" if major >= 8 else "float16" if major == 7 else "float32"
    assert form_of(written).precision == expected
    config, model = load_trained(result.folder, {"run.device": "cpu", "run.precision": "float32"})
    evaluation = engine.evaluate(model, load_split(config.data, "val"), config)
    assert evaluation.summary()["nme"] == pytest.approx(result.best_nme, rel=0.05)


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
def test_a_resumed_run_goes_on_as_if_never_stopped(tiny: Tiny, tmp_path: Path, precision: str) -> None:
    changes = ON_GPU | {"run.precision": precision, "run.checkpoint_seconds": 0.0, "optim.epochs": 3}
    whole = engine.train(tiny(changes | {"run.output": str(tmp_path / "whole")}))

    def stop(result: engine.EpochResult) -> None:
        raise KeyboardInterrupt

    config = tiny(changes | {"run.output": str(tmp_path / "cut")})
    with pytest.raises(KeyboardInterrupt):
        engine.train(config, report=stop)
    rest = engine.train(config, resume_from=tmp_path / "cut" / "last.pt")
    assert rest.best_nme == pytest.approx(whole.best_nme, rel=0.02)


def test_faces_that_the_gpu_augments_train_as_well(tiny: Tiny) -> None:
    assert engine.train(tiny(ON_GPU | {"data.augment_on": "device"})).best_nme < 1


def test_a_run_gives_its_memory_back(tiny: Tiny) -> None:
    release_memory()
    before = torch.cuda.memory_allocated()
    engine.train(tiny(ON_GPU))
    release_memory()
    assert torch.cuda.memory_allocated() - before < 1e6
