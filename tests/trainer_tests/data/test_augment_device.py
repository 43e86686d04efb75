"""What a GPU would do, done on the CPU: the same pictures as OpenCV's, apart from roundings, and the same training."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trainer.data.augment import augment, generator, sample_changes
from trainer.data.augment_device import DeviceChanges, augment_batch
from trainer.data.batches import training_batches
from trainer.data.crop_cache import load_split
from trainer.data.crops import CropSplit
from trainer.data_config import AugmentConfig
from trainer.engine import train

from ..conftest import Tiny

STRONG = AugmentConfig(rotation=60, scale=0.4, shift=0.2, colour=1, occlusion=0.5, blur=0.5)


def both(canvases: np.ndarray, config: AugmentConfig, size: int) -> tuple[np.ndarray, np.ndarray, list]:
    """The same changes by OpenCV and as tensors, (N, S, S, 3) int each, and the changes."""
    changes = [sample_changes(config, generator(0, 1, i), size) for i in range(len(canvases))]
    by_opencv = np.stack([augment(canvas, c, size) for canvas, c in zip(canvases, changes, strict=True)])
    tensors = torch.from_numpy(canvases).permute(0, 3, 1, 2)
    by_tensors = augment_batch(tensors, DeviceChanges.collect(changes, canvases.shape[1], size), size)
    assert by_tensors.dtype == torch.uint8
    assert by_tensors.is_contiguous(memory_format=torch.channels_last)
    return by_opencv.astype(int), by_tensors.permute(0, 2, 3, 1).numpy().astype(int), changes


@pytest.mark.parametrize("size", [32, 64, 128])
def test_faces_look_the_same(tiny: Tiny, size: int) -> None:
    canvases = np.array(load_split(tiny({"data.image_size": size}).data, "train").images)
    a, b, changes = both(canvases, STRONG, size)
    assert any(c.patch for c in changes)
    assert any(c.sigma for c in changes)
    assert any(c.mirrored for c in changes)
    difference = np.abs(a - b)
    assert difference.mean() < 0.3  # grey levels
    assert np.quantile(difference, 0.999) <= 8  # OpenCV takes positions to 1/32 pixel, which shows at edges


def test_without_interpolation_every_level_is_the_same() -> None:
    """Mirrored or not, in other colours, covered: all that needs no position between pixels and no blur."""
    config = AugmentConfig(rotation=0, scale=0, shift=0, colour=1, occlusion=0.5, blur=0)
    noise = np.random.default_rng(0).integers(0, 256, (12, 40, 40, 3), dtype=np.uint8)
    a, b, changes = both(noise, config, 32)
    assert {c.mirrored for c in changes} == {True, False}
    assert np.array_equal(a, b)


def test_a_blur_alone_is_opencvs_to_two_levels() -> None:
    config = AugmentConfig(flip=0, rotation=0, scale=0, shift=0, colour=0, occlusion=0, blur=1)
    noise = np.random.default_rng(0).integers(0, 256, (4, 192, 192, 3), dtype=np.uint8)
    a, b, changes = both(noise, config, 160)
    assert len({c.sigma for c in changes}) == 4
    assert np.abs(a - b).max() <= 2
    assert np.abs(a - b).mean() < 0.3


def test_nothing_drawn_is_nothing_done() -> None:
    config = AugmentConfig(flip=0, rotation=0, scale=0, shift=0, colour=0, occlusion=0, blur=0)
    noise = np.random.default_rng(0).integers(0, 256, (3, 40, 40, 3), dtype=np.uint8)
    _, b, _ = both(noise, config, 32)
    assert np.array_equal(b, noise[:, 4:36, 4:36])


def test_batches_carry_canvases_until_they_are_on_the_device(tiny: Tiny, faces: CropSplit) -> None:
    ours = [batch.on(torch.device("cpu"), 32) for batch in training_batches(faces, tiny(), 1)]
    device = list(training_batches(faces, tiny({"data.augment_on": "device"}), 1))
    assert {batch.pictures.shape[-1] for batch in device} == {faces.images.shape[1]}
    for (pictures, target, mask), batch in zip(ours, device, strict=True):
        made, same_target, same_mask = batch.on(torch.device("cpu"), 32)
        assert torch.equal(target, same_target)
        assert torch.equal(mask, same_mask)
        assert made.shape == pictures.shape
        assert (made.float() - pictures.float()).abs().mean() < 1


def test_it_trains_like_the_other(tiny: Tiny) -> None:
    nmes = {}
    for where in ("cpu", "device"):
        config = tiny({"data.augment_on": where, "optim.epochs": 4, "optim.lr": 5e-3, "data.train_faces": 48})
        nmes[where] = train(config).best_nme
    assert nmes["device"] != nmes["cpu"]
    assert abs(nmes["device"] - nmes["cpu"]) < 0.3 * nmes["cpu"]
