"""A trained network at work: it is loaded, and finds landmarks in crops and in whole pictures.

Legend: N faces, B batch, K landmarks, S side of the network's input.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainer import checkpoint
from trainer.config import TrainConfig
from trainer.coords import invert, to_pixels, transform
from trainer.data.batches import evaluation_batches
from trainer.data.crops import CropSplit
from trainer.data.images import crop_face
from trainer.errors import CheckpointError, ConfigError
from trainer.form_speed import resolve
from trainer.heatmap import decode, spatial_moments
from trainer.model import LandmarkNet
from trainer.run_folder import BEST
from trainer.runtime.device import autocast, lay_out, to_device
from trainer.runtime.process import prepare_process
from trainer.settings import apply_overrides


@torch.inference_mode()
def predict_split(
    model: nn.Module, split: CropSplit, config: TrainConfig, faces: slice = slice(None)
) -> NDArray[np.floating]:
    """Landmarks of all faces of a split, or of a part of them, (N, K, 2) in pixels of the crop."""
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    rows = [torch.empty(0, config.data.landmarks.count, 2, device=device)]  # of no face, should there be none
    for pictures in evaluation_batches(split, config.data.image_size, config.optim.batch_size, faces):
        points = predict(model, pictures.to(device), config)
        rows.append(to_pixels(points, config.data.image_size))
    model.train(was_training)
    return torch.cat(rows).cpu().numpy()  # a look at each batch would stall a GPU


def predict(model: nn.Module, pictures: Tensor, config: TrainConfig) -> Tensor:
    """Landmarks (B, K, 2) in [-1, 1] of pictures (B, 3, S, S)."""
    points = decode(run_model(model, pictures, config))
    if config.run.flip_test:
        mirrored = decode(run_model(model, pictures.flip(-1), config))
        points = flip_average(points, mirrored, config.data.landmarks.flip)
    return points


def flip_average(points: Tensor, mirrored: Tensor, order: Sequence[int]) -> Tensor:
    """The mean of landmarks of pictures and of their mirrored copies, (B, K, 2) each in [-1, 1].

    Args:
        points: of the pictures.
        mirrored: of the mirrored pictures, as the network gives them.
        order: of the landmarks in a mirrored picture, (K,), see `Layout.flip`.
    """
    mirrored = mirrored.index_select(1, torch.tensor(order, device=mirrored.device))
    return (points + mirrored * points.new_tensor([-1.0, 1.0])) / 2


@torch.inference_mode()
def locate(
    model: nn.Module, pictures: NDArray[np.uint8], config: TrainConfig
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Landmarks of pictures (B, S, S, 3), RGB, and how widely their heatmaps spread.

    Returns:
        Landmarks (B, K, 2) in pixels of the pictures, and covariances (B, K, 2, 2) in square pixels (of the pictures as
        they are, also where the mirrored ones are averaged in); None instead of these for a head without heatmaps.
    """
    size = config.data.image_size
    tensor = torch.from_numpy(pictures).permute(0, 3, 1, 2).to(next(model.parameters()).device)
    points = to_pixels(predict(model, tensor, config).cpu().double().numpy(), size)
    output = run_model(model, tensor, config)
    if output.ndim != 4:
        return points, None
    m = spatial_moments(output)
    rows = [torch.stack([m.xx, m.xy], -1), torch.stack([m.xy, m.yy], -1)]
    return points, torch.stack(rows, -2).cpu().double().numpy() * ((size - 1) / 2) ** 2


def run_model(model: nn.Module, pictures: Tensor, config: TrainConfig) -> Tensor:
    """The network's output (heatmap logits or coordinates) in the config's precision."""
    with autocast(config, pictures.device):
        output: Tensor = model(lay_out(pictures, config))
    return output


def load_trained(path: Path, overrides: Mapping[str, str] | None = None) -> tuple[TrainConfig, nn.Module]:
    """Reads the best weights of a run.

    Args:
        path: run folder or checkpoint (best.pt).
        overrides: settings that differ from those of the training, such as {'data.root': ...}.

    Raises:
        CheckpointError: missing, damaged, or without evaluated weights.
        ConfigError: an override that does not fit.
    """
    path = path / BEST if path.is_dir() else path
    state = checkpoint.load(path)
    if "optimizer" in state:
        raise CheckpointError(f"{path}: holds the state of a run to go on from; give its {BEST}")
    if not {"config", "model"} <= state.keys():
        raise CheckpointError(f"{path}: holds no config or no weights")
    tree = state["config"]
    trained = TrainConfig.from_tree(tree, str(path)).data.landmarks
    apply_overrides(TrainConfig, tree, overrides or {})
    config = TrainConfig.from_tree(tree, str(path))
    if (asked := config.data.landmarks) is not trained:
        raise ConfigError(
            f"{path}: was trained on {trained.name} ({trained.count} landmarks), the faces have {asked.name} "
            f"({asked.count}); give faces of {trained.name}, or train a network on {asked.name}"
        )
    config = resolve(config)
    prepare_process(config)
    model = LandmarkNet(config.model, config.data.landmarks.count)
    try:
        model.load_state_dict(state["model"])
    except RuntimeError as error:
        raise CheckpointError(f"{path}: its weights do not fit its config ({error})") from None
    return config, to_device(model, config).eval()


def predict_face(
    picture: NDArray[np.uint8], box: NDArray[np.floating], config: TrainConfig, model: nn.Module
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Landmarks of one face.

    Args:
        picture: (H, W, 3), RGB.
        box: x_min, y_min, x_max, y_max of the face in pixels.
        config: of the network.
        model: the network.

    Returns:
        Landmarks (K, 2) in pixels of the picture and, from heatmaps, covariances (K, 2, 2) in square pixels.
    """
    size = config.data.image_size
    crop, matrix = crop_face(picture, box, box_scale=config.data.box_scale, size=size, canvas=size)
    points, covariance = locate(model, crop[None], config)
    back = invert(matrix)
    pixels = np.linalg.norm(back[:, 0]) ** 2  # square pixels of the picture in one of the crop
    return transform(points[0], back), None if covariance is None else covariance[0] * pixels


def whole_picture(picture: NDArray[np.uint8], box_scale: float) -> NDArray[np.float64]:
    """The box whose enlarged square is the picture's largest centred square."""
    height, width = picture.shape[:2]
    half = max(min(height, width) - 1, 1) / box_scale / 2
    x, y = (width - 1) / 2, (height - 1) / 2
    return np.array([x - half, y - half, x + half, y + half])
