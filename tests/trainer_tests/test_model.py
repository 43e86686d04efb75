"""The network: shapes of every head, weights from the seed, pretrained weights that fit or are refused."""

from __future__ import annotations

import urllib.error
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from trainer.errors import ModelError
from trainer.heatmap import decode
from trainer.model import Backbone, LandmarkNet, build_model

from .conftest import Tiny

REGRESSION = {"model.head": "regression", "loss.name": "wing"}
HEADS: dict[str, dict[str, Any]] = {"pyramid": {}, "deconv": {"model.head": "deconv"}, "regression": REGRESSION}


def pictures(size: int, count: int = 2) -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=rng)


def equal_weights(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    pairs = zip(a.state_dict().items(), b.state_dict().items(), strict=True)
    return all(k == m and torch.equal(v, w) for (k, v), (m, w) in pairs)


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
@pytest.mark.parametrize("head", HEADS)
@torch.inference_mode()
def test_shapes(tiny: Tiny, backbone: str, head: str) -> None:
    model = build_model(tiny({"model.backbone": backbone, **HEADS[head]})).eval()
    for size in (32, 64):
        expected = (2, 98, 2) if head == "regression" else (2, 98, size // 4, size // 4)
        output = model(pictures(size))
        assert output.shape == expected
        assert output.dtype == torch.float32
        assert decode(output).shape == (2, 98, 2)


@torch.inference_mode()
def test_heatmaps_of_a_256_pixel_picture_have_64_cells_a_side(tiny: Tiny) -> None:
    assert build_model(tiny()).eval()(pictures(256, 1)).shape == (1, 98, 64, 64)


@pytest.mark.parametrize(("layers", "cells"), [(1, 4), (2, 8), (3, 16), (4, 32)])
@torch.inference_mode()
def test_every_deconvolution_doubles_the_heatmap(tiny: Tiny, layers: int, cells: int) -> None:
    model = build_model(tiny({"model.head": "deconv", "model.deconv_layers": layers})).eval()
    assert model(pictures(64)).shape == (2, 98, cells, cells)


@pytest.mark.parametrize("head", ["pyramid", "deconv"])
@torch.inference_mode()
def test_width_is_that_of_the_head(tiny: Tiny, head: str) -> None:
    for width in (8, 24):
        assert build_model(tiny({"model.head": head, "model.width": width})).head.maps.in_channels == width


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnet101"])
def test_every_backbone_is_torchvisions(name: str) -> None:
    with torch.device("meta"):
        ours, theirs = Backbone(name), torchvision.models.get_model(name, weights=None)
    count = sum(p.numel() for p in ours.parameters())
    assert count == sum(p.numel() for p in theirs.parameters()) - sum(p.numel() for p in theirs.fc.parameters())


@pytest.mark.parametrize("head", HEADS)
def test_weights_come_from_the_seed_alone(tiny: Tiny, head: str) -> None:
    first = build_model(tiny(HEADS[head]))
    torch.manual_seed(99)
    torch.rand(3)
    before = torch.get_rng_state()
    assert equal_weights(first, build_model(tiny(HEADS[head])))
    assert torch.equal(torch.get_rng_state(), before)
    assert not equal_weights(first, build_model(tiny({**HEADS[head], "run.seed": 1})))


@torch.inference_mode()
def test_regression_begins_in_the_middle_of_the_picture(tiny: Tiny) -> None:
    output = build_model(tiny(REGRESSION)).eval()(pictures(64))
    assert output.abs().max() < 0.2
    assert output.abs().max() > 0


@torch.inference_mode()
def test_pictures_are_normalised_as_imagenet_wants_it(tiny: Tiny) -> None:
    """The first convolution sees (RGB / 255 - mean) / std, from bytes or floats."""
    model, seen = build_model(tiny()).eval(), []
    model.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    batch = pictures(32)
    assert torch.equal(model(batch), model(batch.float()))
    mean, std = ([v] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    expected = (batch / 255 - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
    torch.testing.assert_close(seen[0], expected, atol=1e-5, rtol=1e-5)


# --- pretrained weights


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    """torchvision's own names, recognisable values."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        net = torchvision.models.resnet18(weights=None)
    net.bn1.running_mean.fill_(0.25)
    return net.state_dict()


@torch.inference_mode()
def test_a_torchvision_state_dict_loads(tiny: Tiny, weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save(weights, tmp_path / "r18.pt")
    model = build_model(tiny({"model.pretrained": str(tmp_path / "r18.pt")})).eval()
    net = torchvision.models.resnet18(weights=None)
    net.load_state_dict(weights)
    net.eval()
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    maps = model.backbone(x)
    trunk = torch.nn.Sequential(
        net.conv1, net.bn1, net.relu, net.maxpool, net.layer1, net.layer2, net.layer3, net.layer4
    )
    assert torch.equal(maps[-1], trunk(x))
    scratch = build_model(tiny())
    assert equal_weights(model.head, scratch.head)
    assert not equal_weights(model.backbone, scratch.backbone)


def test_a_checkpoint_with_prefixes_and_a_head_loads(
    tiny: Tiny, weights: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    """As MMPose and Lightning write them: {'state_dict': {'backbone.conv1.weight': ..., 'head...': ...}}."""
    state = {f"backbone.{k}": v for k, v in weights.items() if not k.startswith("fc.")}
    torch.save({"state_dict": {**state, "head.final.weight": torch.ones(1)}, "meta": {"epoch": 3}}, tmp_path / "a.pth")
    torch.save(weights, tmp_path / "b.pth")
    models = [build_model(tiny({"model.pretrained": str(tmp_path / name)})) for name in ("a.pth", "b.pth")]
    assert equal_weights(*models)


def refused(tiny: Tiny, pretrained: str, backbone: str = "resnet18") -> str:
    with pytest.raises(ModelError) as error:
        build_model(tiny({"model.pretrained": pretrained, "model.backbone": backbone}))
    return str(error.value)


def test_a_path_without_a_file(tiny: Tiny, tmp_path: Path) -> None:
    message = refused(tiny, str(tmp_path / "none.pt"))
    assert message == f"model.pretrained = '{tmp_path / 'none.pt'}': no such file (allowed: none, imagenet or a path)"
    assert "allowed: none, imagenet or a path" in refused(tiny, "image_net")


@pytest.mark.parametrize("content", [b"", b"weights", b"PK\x03\x04 cut short", b"\x80\x02garbage"])
def test_a_file_that_holds_no_weights(tiny: Tiny, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(content)
    message = refused(tiny, str(path))
    assert message.startswith(f"model.pretrained = '{path}': is not a readable state dict")


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, torch.ones(3), {"state_dict": {"a": 1}}])
def test_a_file_that_holds_something_else(tiny: Tiny, tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "a.pt")
    assert (
        refused(tiny, str(tmp_path / "a.pt")) == f"model.pretrained = '{tmp_path / 'a.pt'}': does not hold a state dict"
    )


def test_weights_of_another_network(tiny: Tiny, weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save(weights, tmp_path / "r18.pt")
    message = refused(tiny, str(tmp_path / "r18.pt"), "resnet50")
    assert "does not fit resnet50" in message
    torch.save({k: v for k, v in weights.items() if "layer3" not in k}, tmp_path / "part.pt")
    assert "does not fit resnet18" in refused(tiny, str(tmp_path / "part.pt"))


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_a_hostile_file_runs_nothing(tiny: Tiny, tmp_path: Path) -> None:
    torch.save({"conv1.weight": Hostile(tmp_path / "owned")}, tmp_path / "a.pt")
    assert "is not a readable state dict" in refused(tiny, str(tmp_path / "a.pt"))
    assert not (tmp_path / "owned").exists()


def test_imagenet_without_a_network_says_what_to_do(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    message = refused(tiny, "imagenet", "resnet50")
    for text in (
        "resnet50",
        "no route to host",
        "https://",
        str(tmp_path / "hub" / "checkpoints"),
        "--model.pretrained",
    ):
        assert text in message


def test_imagenet_weights_that_were_fetched_by_hand(
    tiny: Tiny, weights: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    url = torchvision.models.get_model_weights("resnet18").DEFAULT.url
    path = tmp_path / "hub" / "checkpoints" / Path(url).name
    path.parent.mkdir(parents=True)
    torch.save(weights, path)
    model = build_model(tiny({"model.pretrained": "imagenet"}))
    assert torch.equal(model.backbone.stem[0].weight, weights["conv1.weight"])


def test_normalisation_is_not_part_of_a_checkpoint(tiny: Tiny) -> None:
    model = LandmarkNet(tiny().model, 98)
    assert not {"mean", "std"} & set(model.state_dict())
