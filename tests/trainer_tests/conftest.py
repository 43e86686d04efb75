"""A training config small enough to run many times: ResNet-18 at 32 px on a handful of synthetic faces."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from prepared import taught

from trainer import form_speed
from trainer.config import TrainConfig
from trainer.data.crop_cache import load_split
from trainer.data.crops import CropSplit

Tiny = Callable[..., TrainConfig]


@pytest.fixture(autouse=True)
def known_speeds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where tests run the machine is busy, and a busy machine is measured anew each time."""
    monkeypatch.setattr(form_speed, "_measure", lambda config: (taught(), False))


@pytest.fixture(scope="session")
def crop_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One crop cache for the whole session, so that each set of synthetic faces is drawn once."""
    return tmp_path_factory.mktemp("crops")


@pytest.fixture
def tiny(tmp_path: Path, crop_cache: Path) -> Iterator[Tiny]:
    """Makes configs; `tiny({'optim.lr': 1e-2})` differs in what is given. Run folders are removed after the test."""
    runs = tmp_path / "runs"

    def make(changes: Mapping[str, object] | None = None) -> TrainConfig:
        base = {
            "data.train_faces": 24,
            "data.val_faces": 8,
            "data.test_faces": 8,
            "data.image_size": 32,
            "data.cache_dir": str(crop_cache),
            "data.workers": 0,
            "model.backbone": "resnet18",
            "optim.lr": 1e-3,
            "optim.epochs": 2,
            "optim.batch_size": 8,
            "run.output": str(runs / "run"),
            "run.threads": 1,
            "run.precision": "float32",
            "run.channels_last": True,
        }
        if (changes or {}).get("model.head") != "regression":
            base["model.width"] = 8
        return TrainConfig().replace({**base, **(changes or {})})

    yield make
    shutil.rmtree(runs, ignore_errors=True)  # a checkpoint of a ResNet-18 is 130 MB


@pytest.fixture
def faces(tiny: Tiny) -> CropSplit:
    """The 24 training faces of a tiny config."""
    return load_split(tiny().data, "train")
