"""python -m sweep.sync NAME: sends to MLflow what a sweep could not send while the server was away."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from sweep.core.errors import TrackingUnavailable
from sweep.driver.command_line import add_sweep_argument, load_given, run_command
from sweep.tracking.artifacts import make_mlflow_sync
from trainer.errors import ConfigError
from trainer.settings import ArgumentParser


def build_parser() -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(prog="python -m sweep.sync", description=__doc__)
    add_sweep_argument(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0 all sent, 1 MLflow is away, 2 bad input."""
    parser = build_parser()
    arguments = parser.parse(argv)
    return run_command(parser, lambda: _sync(arguments), "interrupted; the same command goes on")


def _sync(arguments: argparse.Namespace) -> int:
    config = load_given(arguments).config
    if config.mlflow_uri and "***" in config.mlflow_uri:
        raise ConfigError(f"mlflow_uri: {config.mlflow_uri} is kept without its password; give it with --mlflow_uri")
    try:
        sent = make_mlflow_sync(config, config.train.data.threshold).catch_up()
    except TrackingUnavailable as error:
        print(f"{error}; try again later", file=sys.stderr)
        return 1
    print(f"{sent} events sent; MLflow has all of sweep {config.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
