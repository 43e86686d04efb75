"""What each machine of a cluster is asked for before it trains: faces, files, versions. Runs on that machine."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from sweep.storage import Storage
from trainer.config import TrainConfig
from trainer.settings import ConfigError

_DECISIVE = ("torch", "torchvision", "numpy", "opencv-python-headless")  # of what numbers depend on


def prepare_node(tree: dict[str, object], storage: Storage | None, probe: Path) -> dict[str, str]:
    """Builds the crop cache of this machine, and tries what trials will need here.

    Args:
        tree: of the sweep's base config.
        storage: where trials put their files; None: into the sweep's folder, which this machine must see.
        probe: a file in that folder.

    Returns:
        {"data.hash.train": ..., "data.hash.val": ..., "version.torch": ...}, or {"error": what is wrong}.
    """
    from trainer.annotations import DataError
    from trainer.model import ModelError

    config = TrainConfig.from_tree(tree)
    found = {f"version.{name}": version(name) for name in _DECISIVE}
    try:
        if storage is not None:
            storage.check()
        elif not probe.exists():
            return {"error": f"does not see {probe.parent}: give output a folder that all machines see, or set storage"}
        return found | prepare_faces(config)
    except (ConfigError, DataError, ModelError, OSError) as error:
        return {"error": str(error)}


def prepare_faces(config: TrainConfig) -> dict[str, str]:
    """Builds the crop cache of this machine, and tries the pretrained weights, so that no trial has to.

    Returns:
        The hashes of the faces by name.

    Raises:
        DataError, ModelError: faces or weights are missing or faulty.
    """
    from trainer.crops import load_split

    hashes = {f"data.hash.{split}": load_split(config.data, split).fingerprint() for split in ("train", "val")}
    if config.model.pretrained != "none":
        from trainer.model import build_model

        build_model(config)
    return hashes
