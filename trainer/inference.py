"""A trained network at work: loading, predicting, measuring.

Legend: N faces, B batch, K landmarks, S side of the network's input.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainer import checkpoint, metrics, parallel
from trainer.config import TrainConfig
from trainer.coords import to_pixels
from trainer.crops import CropSplit
from trainer.dataset import evaluation_batches
from trainer.heatmap import spatial_moments
from trainer.landmarks import Layout
from trainer.losses import decode
from trainer.model import LandmarkNet
from trainer.process import prepare_process
from trainer.settings import ConfigError, apply_overrides


@dataclass(frozen=True)
class Evaluation:
    """Errors on one split: `nme` (N,) a face, and the landmarks `pred` (N, K, 2) in pixels of the crop."""

    nme: NDArray[np.floating]
    pred: NDArray[np.floating]
    split: CropSplit
    layout: Layout

    def summary(self) -> dict[str, float]:
        """NME, failure rate and AUC, see `metrics.summary`."""
        return metrics.summary(self.nme)

    def report(self, attributes: Iterable[str]) -> dict[str, Any]:
        """All that the command line prints: nme, fr10, auc10, faces, subsets (by attribute), parts."""
        truth = self.split
        subsets = {}
        if truth.attributes is not None:
            for name, chosen in zip(attributes, truth.attributes.T, strict=True):
                if chosen.any():
                    subsets[name] = {**metrics.summary(self.nme[chosen]), "faces": int(chosen.sum())}
        parts = metrics.part_nmes(self.pred, truth.landmarks, self.layout, norm=truth.norms, visible=truth.visible)
        return {**self.summary(), "faces": len(self.nme), "subsets": subsets, "parts": parts}


def evaluate(model: nn.Module, split: CropSplit, config: TrainConfig, shared: bool = False) -> Evaluation:
    """Predicts a split and measures it; the mirrored picture is averaged in when run.flip_test is set.

    Args:
        model: network on its device.
        split: the faces.
        config: of the network.
        shared: all ranks of the process group call this; each predicts its share, and all get the whole.
    """
    if shared:
        rows = parallel.share(len(split))
        pred = np.concatenate(parallel.gathered(parallel.on_each(lambda: predict_split(model, split, config, rows))))
    else:
        pred = predict_split(model, split, config)
    layout = config.data.landmarks
    nme = metrics.nme(pred, split.landmarks, layout, norm=split.norms, visible=split.visible)
    return Evaluation(nme, pred, split, layout)


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
        mirrored = decode(run_model(model, pictures.flip(-1), config))[:, config.data.landmarks.flip]
        points = (points + mirrored * mirrored.new_tensor([-1.0, 1.0])) / 2
    return points


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
        output: Tensor = model(pictures)
    return output


def select_device(name: str) -> torch.device:
    """The device of run.device; auto takes cuda, else mps, else cpu.

    Raises:
        ConfigError: this machine has no such device.
    """
    there = ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available() + ["cpu"]
    if name not in ("auto", *there):
        raise ConfigError(f"run.device = {name!r}: this machine has none (allowed: auto, {', '.join(there)})")
    return torch.device(there[0] if name == "auto" else name)


def place(model: nn.Module, config: TrainConfig) -> nn.Module:
    """Moves a model to the config's device and memory layout."""
    layout = torch.channels_last if config.run.channels_last else torch.contiguous_format
    return model.to(select_device(config.run.device)).to(memory_format=layout)


def autocast(config: TrainConfig, device: torch.device) -> AbstractContextManager[Any]:
    """bfloat16 where the config says so; losses and moments are computed outside of it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=config.run.precision == "bfloat16")


def load_trained(path: Path, overrides: Mapping[str, str] | None = None) -> tuple[TrainConfig, nn.Module]:
    """Reads the best weights of a run.

    Args:
        path: run folder or checkpoint (best.pt).
        overrides: settings that differ from those of the training, such as {'data.root': ...}.

    Raises:
        CheckpointError: missing, damaged, or without evaluated weights.
        ConfigError: an override that does not fit.
    """
    path = path / checkpoint.BEST if path.is_dir() else path
    state = checkpoint.load(path)
    if "optimizer" in state:
        raise checkpoint.CheckpointError(f"{path}: holds the state of a run to go on from; give its {checkpoint.BEST}")
    if not {"config", "model"} <= state.keys():
        raise checkpoint.CheckpointError(f"{path}: holds no config or no weights")
    tree = state["config"]
    apply_overrides(TrainConfig, tree, overrides or {})
    config = TrainConfig.from_tree(tree, str(path)).resolved()
    prepare_process(config)
    model = LandmarkNet(config.model, config.data.landmarks.count)
    try:
        model.load_state_dict(state["model"])
    except RuntimeError as error:
        raise checkpoint.CheckpointError(f"{path}: its weights do not fit its config ({error})") from None
    return config, place(model, config).eval()
