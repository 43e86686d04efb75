"""A trained network as a function of pictures."""

import json

import cv2
import numpy as np
import pytest

from trainer import checkpoint, errors, predict
from trainer.config import TrainConfig
from trainer.model import build_model
from trainer.serving import LandmarkPredictor, _load_pyfunc
from trainer.synthetic import draw_face


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A checkpoint of a network that was never trained: what it finds is wrong, but always the same."""
    small = {"data.image_size": 32, "model.backbone": "resnet18", "model.width": 8, "run.threads": 1}
    config = TrainConfig().replace({**small, "run.precision": "float32", "run.channels_last": True})
    path = tmp_path_factory.mktemp("weights") / "best.pt"
    checkpoint.save({"config": config.tree(), "model": build_model(config).state_dict()}, path)
    return path


@pytest.fixture(scope="module")
def predictor(weights):
    return LandmarkPredictor(weights)


def picture(height: int, width: int, seed: int = 0):
    size = max(height, width, 32)
    return np.ascontiguousarray(draw_face(seed, 0, size=size).image[..., ::-1][:height, :width])


@pytest.mark.parametrize(("height", "width"), [(48, 48), (40, 72), (72, 40), (32, 33), (1, 1), (1, 50)])
def test_pictures_of_any_size_give_landmarks_in_their_own_pixels(height, width, predictor):
    found = predictor.predict(np.stack([picture(height, width, seed) for seed in (0, 1)]))
    assert found.shape == (2, 98, 2)
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    side = min(height, width)
    centre = np.array([width - 1, height - 1]) / 2
    assert np.all(np.abs(found - centre) <= side / 2 + 1)  # inside of the largest centred square, which is the crop


def test_each_picture_stands_for_itself(predictor):
    pictures = np.stack([picture(48, 40, seed) for seed in range(3)])
    together = predictor.predict(pictures)
    for i in range(3):
        assert predictor.predict(pictures[i : i + 1])[0] == pytest.approx(together[i], abs=1e-3)
    assert not np.allclose(together[0], together[1], atol=1e-3)
    assert np.array_equal(predictor.predict(pictures), together)
    assert np.array_equal(predictor.predict(pictures, {"unknown": 1}), together)


def test_it_finds_what_the_command_finds(weights, predictor, tmp_path):
    shown = {"square": picture(48, 48), "wide": picture(40, 72), "tall": picture(72, 40)}
    for name, pixels in shown.items():
        cv2.imwrite(str(tmp_path / f"{name}.png"), pixels[..., ::-1])
    images = [str(tmp_path / f"{name}.png") for name in shown]
    assert predict.main([str(weights), *images, "--out", str(tmp_path / "out")]) == 0
    for name, pixels in shown.items():
        told = json.loads((tmp_path / "out" / f"{name}.json").read_text())["landmarks"]
        assert predictor.predict(pixels[None])[0] == pytest.approx(np.array(told), abs=1e-3)


def test_no_pictures_give_no_landmarks(predictor):
    found = predictor.predict(np.zeros((0, 48, 48, 3), np.uint8))
    assert (found.shape, found.dtype) == ((0, 98, 2), np.float32)


def test_views_that_are_not_contiguous_are_pictures_too(predictor):
    pixels = picture(48, 48)[None]
    mirrored = pixels[:, :, ::-1]
    assert np.array_equal(predictor.predict(mirrored), predictor.predict(np.ascontiguousarray(mirrored)))


@pytest.mark.parametrize(
    ("pictures", "told"),
    [
        (np.zeros((48, 48, 3), np.uint8), r"uint8 \(48, 48, 3\)"),
        (np.zeros((1, 48, 48), np.uint8), r"uint8 \(1, 48, 48\)"),
        (np.zeros((1, 3, 48, 48), np.uint8), r"uint8 \(1, 3, 48, 48\)"),
        (np.zeros((1, 48, 48, 4), np.uint8), r"uint8 \(1, 48, 48, 4\)"),
        (np.zeros((1, 48, 48, 3), np.float32), r"float32 \(1, 48, 48, 3\)"),
        (np.zeros((1, 48, 48, 3), np.int64), r"int64 \(1, 48, 48, 3\)"),
        ([], r"float64 \(0,\)"),
    ],
)
def test_other_shapes_and_types_are_refused_by_name(pictures, told, predictor):
    with pytest.raises(ValueError, match=rf"pictures: must be uint8 \(N, H, W, 3\), but are {told}"):
        predictor.predict(pictures)


@pytest.mark.parametrize("shape", [(1, 0, 48, 3), (1, 48, 0, 3), (2, 0, 0, 3)])
def test_pictures_without_a_pixel_are_refused(shape, predictor):
    with pytest.raises(ValueError, match="pictures: "):
        predictor.predict(np.zeros(shape, np.uint8))


def test_mlflow_loads_it_by_the_path_of_its_weights(weights, predictor):
    pixels = picture(48, 48)[None]
    assert np.array_equal(_load_pyfunc(str(weights)).predict(pixels), predictor.predict(pixels))


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(errors.CheckpointError, match=r"none\.pt: no such checkpoint"):
        LandmarkPredictor(tmp_path / "none.pt")
