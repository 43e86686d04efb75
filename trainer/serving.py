"""A trained network as a function of pictures, as `mlflow.pyfunc` loads it; knows nothing of MLflow itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.inference import load_trained, predict_face, whole_picture


class LandmarkPredictor:
    """Landmarks of pictures that show one face each, filling the picture as in a crop.

    Args:
        checkpoint: best.pt.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.config, self._model = load_trained(checkpoint, {"run.device": "auto"})

    def predict(self, pictures: NDArray[np.uint8], params: dict[str, Any] | None = None) -> NDArray[np.float32]:
        """Landmarks of pictures.

        Args:
            pictures: (N, H, W, 3), RGB, uint8.
            params: none are known; the signature is MLflow's.

        Returns:
            (N, K, 2): x and y in pixels, the centre of the top left pixel being (0, 0).

        Raises:
            ValueError: another shape or type.
        """
        pictures = np.asarray(pictures)
        if pictures.ndim != 4 or pictures.shape[-1] != 3 or pictures.dtype != np.uint8 or 0 in pictures.shape[1:]:
            raise ValueError(f"pictures: must be uint8 (N, H, W, 3), but are {pictures.dtype} {pictures.shape}")
        box_scale = self.config.data.box_scale
        found = [predict_face(p, whole_picture(p, box_scale), self.config, self._model)[0] for p in pictures]
        count = self.config.data.landmarks.count
        return np.array(found, np.float32).reshape(len(pictures), count, 2)


def _load_pyfunc(path: str) -> LandmarkPredictor:
    """What `mlflow.pyfunc` calls, with the path of the checkpoint."""
    return LandmarkPredictor(Path(path))
