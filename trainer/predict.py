"""python -m trainer.predict CKPT IMAGE... --out DIR: landmarks of pictures, as JSON and as overlay pictures."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trainer.errors import CheckpointError, ConfigError, DataError
from trainer.settings import ArgumentParser

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
    from trainer.data.images import read_picture
    from trainer.inference import predict_face, whole_picture
    from trainer.visualize import draw_overlay

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
