"""python -m trainer.show CONFIG.yaml --out sheet.png: faces of a data set as the network gets them, with landmarks."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from trainer.config import TrainConfig
from trainer.data.crop_cache import load_split
from trainer.errors import ConfigError, DataError
from trainer.settings import ArgumentParser
from trainer.visualize import draw_face


def build_parser() -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(prog="python -m trainer.show", description=__doc__)
    parser.add_argument("config", nargs="?", metavar="CONFIG.yaml", help="settings; without it, the defaults")
    parser.add_argument("--out", metavar="PNG", type=Path, required=True, help="picture to write")
    parser.add_argument("--split", choices=["train", "val", "test"], default="train", help="faces [default: train]")
    parser.add_argument("--columns", type=int, default=8, metavar="N", help="faces a row [default: 8]")
    parser.add_argument("--rows", type=int, default=3, metavar="N", help="rows of faces [default: 3]")
    parser.add_argument("--augmented", action="store_true", help="as augmented in the first epoch")
    parser.add_argument("--plain", action="store_true", help="without landmarks")
    parser.add_settings(TrainConfig, sections=["data", "run"])
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0 done, 1 failed, 2 bad input."""
    parser = build_parser()
    arguments = parser.parse(argv)
    if min(arguments.columns, arguments.rows) < 1 or arguments.out.suffix.lower() not in (".png", ".jpg"):
        parser.error("--columns and --rows must be 1 or more, and --out a .png or .jpg")
    try:
        config = TrainConfig.load(arguments.config, parser.overrides(arguments))
        split = load_split(config.data, arguments.split)
    except ConfigError as error:
        parser.error(str(error))
    except DataError as error:
        print(f"DataError: {error}", file=sys.stderr)
        return 1
    count = min(arguments.columns * arguments.rows, len(split))
    tiles = [draw_face(split, i, config, arguments.augmented, not arguments.plain) for i in range(count)]
    blank = np.full_like(tiles[0], 255)
    tiles += [blank] * (-len(tiles) % arguments.columns)
    rows = [np.hstack(tiles[i : i + arguments.columns]) for i in range(0, len(tiles), arguments.columns)]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(arguments.out), np.vstack(rows)[..., ::-1])
    print(arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
