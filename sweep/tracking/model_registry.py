"""MLflow's model registry: registers the best model of a sweep, to be loaded by its alias."""

from __future__ import annotations

import hashlib
import logging
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import trainer
from sweep.tracking.mlflow_client import connect, translated

if TYPE_CHECKING:
    from mlflow import MlflowClient

ALIAS = "champion"
_NEEDED = ("torch", "torchvision", "numpy", "opencv-python-headless", "pydantic", "pyyaml", "filelock")
_CHECKPOINT_TAG = "starsweep.checkpoint"  # hash of the weights, so that they are registered only once


def register(uri: str, run_id: str, name: str, checkpoint: Path, tags: dict[str, str]) -> tuple[str, bool]:
    """Makes a checkpoint the champion of a registered model.

    The model is stored with the trainer's code; it takes pictures (N, H, W, 3) uint8 and gives landmarks (N, K, 2).

    Args:
        uri: MLflow store, as `resolve_uri` gives it.
        run_id: the run that trained it.
        name: of the registered model, which is made when missing.
        checkpoint: best.pt.
        tags: of the version, such as its NME.

    Returns:
        The version, and whether it is new: weights that are registered already only get the alias.

    Raises:
        TrackingUnavailable: MLflow cannot be reached, or refuses.
    """
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    with translated(uri):
        client = connect(uri)
        _make_name(client, name)
        known = [v for v in client.search_model_versions(f"name='{name}'") if v.tags.get(_CHECKPOINT_TAG) == digest]
        found = (
            str(known[0].version)
            if known
            else _add(client, run_id, name, checkpoint, {**tags, _CHECKPOINT_TAG: digest})
        )
        client.set_registered_model_alias(name, ALIAS, found)
    return found, not known


def _make_name(client: MlflowClient, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _add(client: MlflowClient, run_id: str, name: str, checkpoint: Path, tags: dict[str, str]) -> str:
    artifact_path = f"model-{tags[_CHECKPOINT_TAG][:8]}"  # a rerun may have an older version's
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        _save(model, checkpoint)
        client.log_artifacts(run_id, str(model), artifact_path)
    made = client.create_model_version(name, f"runs:/{run_id}/{artifact_path}", run_id=run_id, tags=tags)
    return str(made.version)


def _save(path: Path, checkpoint: Path) -> None:
    """Writes the model in the format of mlflow.pyfunc, without a run."""
    import mlflow.pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    from trainer.serving import LandmarkPredictor

    count = LandmarkPredictor(checkpoint).config.data.landmarks.count
    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, -1, -1, 3))]),
        outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, count, 2))]),
    )
    logging.getLogger("mlflow").setLevel(logging.ERROR)  # it recommends type hints
    mlflow.pyfunc.save_model(
        path=str(path),
        loader_module="trainer.serving",
        data_path=str(checkpoint),
        code_paths=[str(Path(str(trainer.__file__)).parent)],
        signature=signature,
        input_example=_example(),
        pip_requirements=[*map(_pinned, _NEEDED)],
    )


def _pinned(package: str) -> str:
    """A requirement such as torch==2.14.1, without a local version suffix."""
    try:
        return f"{package}=={version(package).partition('+')[0]}"
    except PackageNotFoundError:  # OpenCV has several packages
        return package


def _example() -> Any:
    """One synthetic face, (1, H, W, 3)."""
    from trainer.synthetic import draw_face

    return np.ascontiguousarray(draw_face(0, 0, size=64).image[..., ::-1])[None]
