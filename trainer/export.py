"""python -m trainer.export CKPT --format onnx: one file of the whole path from picture to landmarks.

Input `pictures`: uint8 (N, 3, S, S), RGB, face crops as `trainer.inference.predict` gets them. Outputs: `landmarks`
(N, K, 2) in pixels of the crop and, from heatmaps, `covariance` (N, K, 2, 2) in square pixels. The mirrored picture is
averaged into the landmarks when run.flip_test is set. The file computes in float32 whatever run.precision was: a
checkpoint measured in bfloat16 differs from it by that rounding.

Legend: N pictures (any number), S side, K landmarks, H rows and W columns of a heatmap.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from trainer.config import TrainConfig
from trainer.errors import CheckpointError, ConfigError
from trainer.onnx_export import FIXED_SETTINGS, ExportError, export, require_package
from trainer.run_folder import BEST
from trainer.settings import ArgumentParser


def build_parser() -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(prog="python -m trainer.export", description=__doc__)
    parser.add_argument("checkpoint", metavar="CKPT", type=Path, help="best.pt, or a run folder")
    parser.add_argument("--format", choices=["onnx"], default="onnx", help="kind of file [default: onnx]")
    parser.add_argument("--out", metavar="FILE.onnx", type=Path, help="file [default: beside the checkpoint]")
    parser.add_settings(TrainConfig, sections=["run"])
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0 done, 1 failed, 2 bad input."""
    parser = build_parser()
    arguments = parser.parse(argv)
    try:
        overrides = _overrides(parser.overrides(arguments))
        for package in ("onnx", "onnxscript", "onnxruntime"):
            require_package(package)
    except ConfigError as error:
        parser.error(str(error))

    source = arguments.checkpoint / BEST if arguments.checkpoint.is_dir() else arguments.checkpoint
    out = arguments.out or source.with_suffix(".onnx")
    if out.suffix != ".onnx" or out.is_dir():
        parser.error(f"--out {out}: must be a file whose name ends in .onnx")
    try:
        print(export(source, out, overrides))
    except ConfigError as error:
        parser.error(str(error))
    except (CheckpointError, ExportError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


def _overrides(given: dict[str, str]) -> dict[str, str]:
    """The settings of the command line, without those that an export cannot follow."""
    for key, value in FIXED_SETTINGS.items():
        if given.get(key, value) != value:
            raise ConfigError(f"{key} = {given[key]!r}: the file is made on the CPU, in float32 (allowed: {value})")
    return given


if __name__ == "__main__":
    sys.exit(main())
