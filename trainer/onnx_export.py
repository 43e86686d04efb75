"""A trained network as an ONNX model, checked against it."""

from __future__ import annotations

import hashlib
import importlib
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.config import TrainConfig
from trainer.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor, nn

_OPSET = 18  # what torch translates to by itself; newer ones are converted from it
_TOLERANCE = 1e-4  # largest difference from the model, in [-1, 1]: about a hundredth of a pixel at 256
FIXED_SETTINGS = {"run.device": "cpu", "run.precision": "float32"}
_BATCHES = (1, 3)  # sizes to check with: one is a size of its own to tracers, and none may be frozen into the file


class ExportError(RuntimeError):
    """A network that cannot be written, or a file that does not compute what the network does."""


def export(source: Path, out: Path, overrides: Mapping[str, str]) -> str:
    """Writes the network of a checkpoint as ONNX, checks the file against it, and tells the result in one line.

    A file that was there before stays until the new one is whole and checked.

    Raises:
        CheckpointError: missing, damaged, or without evaluated weights.
        ConfigError: an override that does not fit, or a missing package.
        ExportError: it cannot be traced, or the file differs from the network; no file is left.
        OSError: it could not be written.
    """
    from trainer.atomic_file import remove_stale, replacing, write_synced
    from trainer.inference import load_trained
    from trainer.runtime.disk import writing

    config, model = load_trained(source, {**overrides, **FIXED_SETTINGS})
    with open(source, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    out.parent.mkdir(parents=True, exist_ok=True)
    data = to_onnx(model, config, {"checkpoint_sha256": digest})
    remove_stale(out)
    with replacing(out) as temporary:
        with writing(out, len(data)):
            write_synced(temporary, data)
        difference = check(temporary, model, config)
    return f"{out}  {len(data) / 1e6:.1f} MB  opset {_OPSET}  largest difference {difference:.1e} (in [-1, 1])"


def to_onnx(model: nn.Module, config: TrainConfig, metadata: Mapping[str, str]) -> bytes:
    """The ONNX file of a network on the CPU, weights inside.

    Its metadata_props say layout, image_size, box_scale, flip_test and what is in `metadata`.

    Raises:
        ExportError: torch cannot trace or translate the network.
    """
    import torch

    size = config.data.image_size
    example = torch.zeros(2, 3, size, size, dtype=torch.uint8)
    names = ["landmarks"] if config.model.head == "regression" else ["landmarks", "covariance"]
    try:
        with warnings.catch_warnings(action="ignore"), torch.no_grad():
            program = torch.onnx.export(
                _whole_path(model, config).eval(),
                (example,),
                input_names=["pictures"],
                output_names=names,
                opset_version=_OPSET,
                dynamic_shapes=({0: torch.export.Dim("N")},),
                dynamo=True,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise ExportError(f"torch.onnx cannot write this network ({_first_line(error)})") from error
    assert program is not None, "torch.onnx.export gives a program with dynamo=True"
    written = {"layout": config.data.landmarks.name, "image_size": size, "box_scale": config.data.box_scale}
    written |= {"flip_test": str(config.run.flip_test).lower(), **metadata}
    proto = program.model_proto
    for node in proto.graph.node:
        del node.metadata_props[:]  # stack traces with the paths of this machine
    require_package("onnx").helper.set_model_props(proto, {key: str(value) for key, value in written.items()})
    data: bytes = proto.SerializeToString()
    return data


def check(path: Path, model: nn.Module, config: TrainConfig) -> float:
    """The largest difference between an ONNX file and its network, landmarks and covariances, in units of [-1, 1].

    Raises:
        ExportError: it is above `_TOLERANCE` or no number, or the file cannot be run.
    """
    import numpy as np

    batches = _sample(config.data.image_size)
    outputs = _run(path, batches, config.run.threads or 0)
    differences = [_differences(found, model, batch, config) for found, batch in zip(outputs, batches, strict=True)]
    largest = float(np.max(differences))  # NaN if one is
    if not largest <= _TOLERANCE:
        raise ExportError(
            f"the ONNX file differs from the network by {largest:.1e} in [-1, 1] (allowed: {_TOLERANCE:.0e})"
        )
    return largest


def _run(path: Path, batches: Sequence[Tensor], threads: int) -> list[Sequence[Any]]:
    """The outputs of an ONNX file for each batch; 0 threads: all."""
    runtime = require_package("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors only
    options.intra_op_num_threads = threads
    try:
        session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return [session.run(None, {"pictures": batch.numpy()}) for batch in batches]
    except Exception as error:  # onnxruntime's kinds have no common parent
        raise ExportError(f"onnxruntime cannot run the file ({_first_line(error)})") from error


def _differences(found: Sequence[Any], model: nn.Module, pictures: Tensor, config: TrainConfig) -> list[float]:
    """Largest difference of each output from what `trainer.inference` and `trainer.heatmap` give, in [-1, 1]."""
    import torch

    from trainer.coords import to_normalised
    from trainer.heatmap import spatial_moments
    from trainer.inference import predict, run_model

    size = config.data.image_size
    with torch.inference_mode():
        expected = [predict(model, pictures, config)]
        normalised = [to_normalised(torch.from_numpy(found[0]), size)]
        if len(found) > 1:
            m = spatial_moments(run_model(model, pictures, config))
            expected.append(torch.stack([m.xx, m.xy, m.xy, m.yy], -1).unflatten(-1, (2, 2)))
            normalised.append(torch.from_numpy(found[1]) / ((size - 1) / 2) ** 2)
        return [float((a - b).abs().max()) for a, b in zip(normalised, expected, strict=True)]


def _whole_path(model: nn.Module, config: TrainConfig) -> nn.Module:
    """The module that is traced: pictures (N, 3, S, S) -> landmarks (N, K, 2) and covariance (N, K, 2, 2), if any."""
    import torch
    from torch import nn

    from trainer.coords import to_pixels
    from trainer.inference import flip_average

    size, order, mirror = config.data.image_size, config.data.landmarks.flip, config.run.flip_test

    class WholePath(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
            # both ways in one batch: two calls would write each layer twice
            output = self.model(torch.cat([pictures, pictures.flip(-1)]) if mirror else pictures)
            points, covariance = _moments(output) if output.ndim == 4 else (output.float(), None)
            if mirror:
                points, mirrored = points.unflatten(0, (2, -1)).unbind(0)
                points = flip_average(points, mirrored, order)
            landmarks = to_pixels(points, size)
            if covariance is None:
                return (landmarks,)
            covariance = covariance.unflatten(0, (2, -1))[0] if mirror else covariance  # of the picture as it is
            return landmarks, covariance * ((size - 1) / 2) ** 2

    return WholePath()


def _moments(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Means (N, K, 2) and covariances (N, K, 2, 2) of the softmax of logits (N, K, H, W), in [-1, 1].

    `trainer.heatmap.spatial_moments` in plain operators, a second time, since its blocks of preallocated memory cannot
    be traced. Each exported file is checked against it.
    """
    import torch

    from trainer.heatmap import EPSILON

    height, width = logits.shape[2:]
    x, y = torch.linspace(-1, 1, width), torch.linspace(-1, 1, height)
    p = logits.flatten(2).softmax(-1).unflatten(-1, (height, width))
    columns, rows = p.sum(2), p.sum(3)  # (N, K, W), (N, K, H)
    mean_x, mean_y = (columns * x).sum(-1, keepdim=True), (rows * y).sum(-1, keepdim=True)  # (N, K, 1)
    dx, dy = x - mean_x, y - mean_y  # (N, K, W), (N, K, H)
    xx, yy = (columns * dx.square()).sum(-1), (rows * dy.square()).sum(-1)
    xy = ((p * dy[..., None]).sum(2) * dx).sum(-1)
    v1 = 1 + EPSILON
    norm = v1 - (p.square().sum((2, 3)) + EPSILON) / v1
    covariance = torch.stack([xx, xy, xy, yy], -1) / norm[..., None]
    return torch.cat([mean_x, mean_y], -1), covariance.unflatten(-1, (2, 2))


def _sample(size: int) -> list[Tensor]:
    """Pictures to check with, in batches of each of `_BATCHES`: drawn faces, and noise in the last place."""
    import numpy as np
    import torch

    from trainer.synthetic import draw_face

    count = sum(_BATCHES)
    pictures = np.stack([draw_face(0, i, size=size).image[..., ::-1] for i in range(count)])
    pictures[-1] = np.random.default_rng(0).integers(0, 256, pictures[-1].shape)
    return list(torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous().split(_BATCHES))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def require_package(package: str) -> Any:
    """An imported package of the extra `onnx`.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ConfigError(f"the package {package} is missing ({error}): pip install -e '.[onnx]'") from None
