"""The network: a torchvision ResNet and one of three heads.

Legend: B batch, K landmarks, S side of the input picture. Heatmap heads give logits (B, K, S/4, S/4) (deconv: S/32
times 2 to the number of deconvolutions), the regression head gives coordinates (B, K, 2) in [-1, 1].
"""

from __future__ import annotations

import copy
import functools
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

from trainer.config import ModelConfig, TrainConfig
from trainer.errors import ModelError

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, RGB in [0, 1]


class Backbone(nn.Module):
    """A torchvision ResNet without pooling and classifier; gives its four stages."""

    def __init__(self, name: str) -> None:
        super().__init__()
        net = torchvision.models.get_model(name, weights=None)
        self.stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
        self.stages = nn.ModuleList([net.layer1, net.layer2, net.layer3, net.layer4])
        expansion = 4 if isinstance(net.layer1[0], torchvision.models.resnet.Bottleneck) else 1
        self.channels = [width * expansion for width in (64, 128, 256, 512)]

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, 3, S, S) -> maps of stride 4, 8, 16 and 32."""
        x = self.stem(x)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class PyramidHead(nn.Module):
    """Feature pyramid (Lin et al., CVPR 2017), read at stride 4: laterals are upsampled and added, then K maps."""

    def __init__(self, channels: list[int], width: int, landmarks: int) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
        self.smooth = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(True)
        )
        self.maps = nn.Conv2d(width, landmarks, 1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        top = self.laterals[-1](maps[-1])
        for lateral, lower in zip(reversed(self.laterals[:-1]), reversed(maps[:-1]), strict=True):
            top = nn.functional.interpolate(top, scale_factor=2.0, mode="nearest") + lateral(lower)
        return self.maps(self.smooth(top))


class DeconvHead(nn.Module):
    """Deconvolutions of stride 2 on the last stage (Xiao et al., Simple Baselines, ECCV 2018), then K maps."""

    def __init__(self, channels: list[int], width: int, layers: int, landmarks: int) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        for i in range(layers):
            before = channels[-1] if i == 0 else width
            deconv = nn.ConvTranspose2d(before, width, 4, stride=2, padding=1, bias=False)
            blocks += [deconv, nn.BatchNorm2d(width), nn.ReLU(True)]
        self.deconvs = nn.Sequential(*blocks)
        self.maps = nn.Conv2d(width, landmarks, 1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        return self.maps(self.deconvs(maps[-1]))


class RegressionHead(nn.Module):
    """Pooled features straight to coordinates (DeepPose: Toshev and Szegedy, CVPR 2014)."""

    def __init__(self, channels: list[int], landmarks: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels[-1], 2 * landmarks)
        nn.init.normal_(self.linear.weight, std=0.001)  # all landmarks begin in the middle of the picture
        nn.init.zeros_(self.linear.bias)

    def forward(self, maps: list[Tensor]) -> Tensor:
        return self.linear(maps[-1].mean((2, 3))).unflatten(1, (-1, 2))


class LandmarkNet(nn.Module):
    """Pictures in, heatmap logits or coordinates out; ImageNet normalisation is part of the network."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: ModelConfig, landmarks: int) -> None:
        super().__init__()
        self.backbone = Backbone(config.backbone)
        self.head = _head(config, self.backbone.channels, landmarks)
        self.register_buffer("mean", torch.tensor(_MEAN).mul(255).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_STD).mul(255).view(1, 3, 1, 1), persistent=False)

    def forward(self, pictures: Tensor) -> Tensor:
        """RGB pictures (B, 3, S, S), 0 to 255, uint8 or float."""
        return self.head(self.backbone((pictures.float() - self.mean) / self.std))


def build_model(config: TrainConfig) -> LandmarkNet:
    """Builds the network with weights drawn from run.seed, then loads pretrained ones where asked for.

    Raises:
        ModelError: pretrained weights that cannot be had or do not fit.
    """
    return copy.deepcopy(_initial_model(config.model, config.data.landmarks.count, config.run.seed))


@functools.lru_cache(maxsize=1)  # the trials of a worker begin alike, and drawing the weights takes a tenth of a second
def _initial_model(config: ModelConfig, landmarks: int, seed: int) -> LandmarkNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LandmarkNet(config, landmarks)
    if config.pretrained != "none":
        _load_pretrained(model.backbone, config)
    return model


def _head(config: ModelConfig, channels: list[int], landmarks: int) -> nn.Module:
    if config.head == "pyramid":
        return PyramidHead(channels, config.width, landmarks)
    if config.head == "deconv":
        return DeconvHead(channels, config.width, config.deconv_layers, landmarks)
    return RegressionHead(channels, landmarks)


def _load_pretrained(backbone: Backbone, config: ModelConfig) -> None:
    state = _imagenet_state(config.backbone) if config.pretrained == "imagenet" else _file_state(config.pretrained)
    renamed = {_our_name(k): v for k, v in state.items() if not k.startswith("fc.")}
    try:
        backbone.load_state_dict(renamed)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"model.pretrained = {config.pretrained!r}: does not fit {config.backbone}: {reason}"
        ) from None


def _our_name(key: str) -> str:
    """torchvision's names (conv1.weight, layer1.0...) -> those of `Backbone` (stem.0.weight, stages.0.0...)."""
    key = key.removeprefix("backbone.")
    if key.startswith("layer"):
        return f"stages.{int(key[5]) - 1}{key[6:]}"
    for theirs, ours in (("conv1.", "stem.0."), ("bn1.", "stem.1.")):
        if key.startswith(theirs):
            return ours + key.removeprefix(theirs)
    return key


def _imagenet_state(name: str) -> dict[str, Tensor]:
    weights = torchvision.models.get_model_weights(name).DEFAULT
    try:
        return dict(weights.get_state_dict(progress=False, check_hash=True))
    except (OSError, RuntimeError) as error:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise ModelError(
            f"model.pretrained = 'imagenet': the weights of {name} could not be downloaded ({error}). "
            f"Fetch {weights.url} on a connected machine and put it into {folder}, or give its path: "
            f"--model.pretrained PATH; --model.pretrained none starts from scratch."
        ) from None


def _file_state(path: str) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ModelError(f"model.pretrained = {path!r}: no such file (allowed: none, imagenet or a path)") from None
    except Exception as error:  # torch raises many kinds for what is not a checkpoint
        raise ModelError(
            f"model.pretrained = {path!r}: is not a readable state dict ({type(error).__name__})"
        ) from None
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ModelError(f"model.pretrained = {path!r}: does not hold a state dict")
    return {k: v for k, v in state.items() if not k.startswith(("head.", "keypoint_head."))}
