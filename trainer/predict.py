"""python -m trainer.predict CKPT IMAGE... --out DIR: landmarks of pictures, as JSON and as overlay pictures."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trainer.settings import ArgumentParser, ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from trainer.config import TrainConfig


def build_parser() -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(prog="python -m trainer.predict", description=__doc__)
    parser.add_argument("checkpoint", metavar="CKPT", type=Path, help="best.pt, or a run folder")
    parser.add_argument("images", metavar="IMAGE", type=Path, nargs="+", help="pictures, one face each")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder for NAME.json and NAME.png")
    parser.add_argument(
        "--box",
        metavar="X0,Y0,X1,Y1",
        type=_box,
        help="face box in pixels, for every picture; without it, the face is taken to fill the picture as in a crop",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0 done, 1 a picture or checkpoint failed, 2 bad input."""
    parser = build_parser()
    arguments = parser.parse(argv)

    from trainer.annotations import DataError
    from trainer.checkpoint import CheckpointError
    from trainer.inference import load_trained

    failed = 0
    try:
        config, model = load_trained(arguments.checkpoint, {"run.device": "auto"})
        arguments.out.mkdir(parents=True, exist_ok=True)
    except (CheckpointError, ConfigError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    for image in arguments.images:
        try:
            found, overlay = predict_picture(image, arguments.box, config, model)
        except DataError as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            failed += 1
            continue
        stem = _free_stem(arguments.out, image.stem)
        (arguments.out / f"{stem}.json").write_text(json.dumps(found), encoding="utf-8")
        (arguments.out / f"{stem}.png").write_bytes(overlay)
        print(arguments.out / f"{stem}.png")
    return 1 if failed else 0


def predict_picture(
    path: Path, box: NDArray[np.floating] | None, config: TrainConfig, model: nn.Module
) -> tuple[dict[str, Any], bytes]:
    """Landmarks of the one face of a picture.

    Returns:
        A JSON object: image, layout, box, landmarks (K pairs, pixels of the picture) and, from heatmaps, covariance
        (K matrices 2 x 2, square pixels); and the overlay as PNG bytes.

    Raises:
        DataError: the picture cannot be read.
    """
    from trainer.pictures import read_picture

    picture = read_picture(path)
    box = whole_picture(picture, config.data.box_scale) if box is None else box
    landmarks, covariance = predict_face(picture, box, config, model)
    found = {
        "image": path.name,
        "layout": config.data.landmarks.name,
        "box": [float(v) for v in box],
        "landmarks": landmarks.round(3).tolist(),
    }
    if covariance is not None:
        found["covariance"] = covariance.round(4).tolist()
    return found, draw_overlay(picture, landmarks, covariance)


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
    from trainer.coords import invert, transform
    from trainer.inference import locate
    from trainer.pictures import crop_face

    size = config.data.image_size
    crop, matrix = crop_face(picture, box, box_scale=config.data.box_scale, size=size, canvas=size)
    points, covariance = locate(model, crop[None], config)
    back = invert(matrix)
    pixels = np.linalg.norm(back[:, 0]) ** 2  # square pixels of the picture in one of the crop
    return transform(points[0], back), None if covariance is None else covariance[0] * pixels


def draw_overlay(
    picture: NDArray[np.uint8],
    landmarks: NDArray[np.floating],
    covariance: NDArray[np.floating] | None,
    truth: NDArray[np.floating] | None = None,
) -> bytes:
    """PNG of the picture (enlarged to 512 pixels or more) with the landmarks as green dots.

    Ellipses of one standard deviation are drawn around them, and a red line to where the truth is known to lie.
    """
    import cv2

    factor = max(1, -(-512 // max(picture.shape[:2])))
    canvas = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)[..., ::-1].copy()
    radius = max(2, max(canvas.shape[:2]) // 300)

    def place(point: NDArray[np.floating]) -> tuple[int, ...]:
        """In sixteenths of a pixel of the canvas."""
        return tuple(int(v) for v in np.clip((point + 0.5) * factor - 0.5, -1e4, 1e5) * 16)

    if covariance is not None:
        plain = canvas.copy()
        for point, spread in zip(landmarks, covariance, strict=True):
            variances, axes = np.linalg.eigh(spread)
            lengths = tuple(int(v) for v in np.sqrt(variances[::-1].clip(0)) * factor * 16)
            angle = float(np.degrees(np.arctan2(axes[1, 1], axes[0, 1])))
            cv2.ellipse(canvas, place(point), lengths, angle, 0, 360, (0, 200, 255), 1, cv2.LINE_AA, 4)
        canvas = cv2.addWeighted(canvas, 0.5, plain, 0.5, 0)  # many of them lie on top of each other
    for i, centre in enumerate(map(place, landmarks)):
        if truth is not None and np.isfinite(truth[i]).all():
            cv2.line(canvas, centre, place(truth[i]), (60, 60, 255), radius - 1, cv2.LINE_AA, 4)
        cv2.circle(canvas, centre, radius * 16, (80, 255, 80), -1, cv2.LINE_AA, 4)
    return bytes(cv2.imencode(".png", canvas)[1])


def whole_picture(picture: NDArray[np.uint8], box_scale: float) -> NDArray[np.float64]:
    """The box whose enlarged square is the picture's largest centred square."""
    height, width = picture.shape[:2]
    half = max(min(height, width) - 1, 1) / box_scale / 2
    x, y = (width - 1) / 2, (height - 1) / 2
    return np.array([x - half, y - half, x + half, y + half])


def _box(text: str) -> NDArray[np.float64]:
    try:
        box = np.array([float(v) for v in text.split(",")])
    except ValueError:
        box = np.array([])
    if box.shape != (4,) or not (np.abs(box) < 1e6).all() or box[2] <= box[0] or box[3] <= box[1]:
        raise argparse.ArgumentTypeError(f"{text!r}: must be four numbers X0,Y0,X1,Y1 with X0 < X1 and Y0 < Y1")
    if max(box[2] - box[0], box[3] - box[1]) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a pixel wide or high")
    return box


def _free_stem(folder: Path, stem: str) -> str:
    """A name that overwrites nothing: two pictures of one name may come from two folders."""
    number, name = 1, stem
    while (folder / f"{name}.json").exists():
        number += 1
        name = f"{stem}-{number}"
    return name


if __name__ == "__main__":
    sys.exit(main())
