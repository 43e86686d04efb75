"""python -m sweep.sync SWEEP_FOLDER: sends to MLflow what a sweep could not send while the server was away."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from sweep.config import load_sweep
from sweep.folder import CONFIG_FILE, find_sweep, make_projector
from sweep.secrets import redact
from sweep.tracking import TrackingUnavailable
from trainer.settings import ArgumentParser, ConfigError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0 all sent, 1 MLflow is away, 2 bad input."""
    parser = ArgumentParser(prog="python -m sweep.sync", description=__doc__)
    parser.add_argument("sweep", metavar="NAME", help="name of a sweep in the output folder, or its folder")
    parser.add_argument("--output", metavar="DIR", default="outputs", help="folder of the sweeps [default: outputs]")
    parser.add_argument("--mlflow_uri", metavar="URI", help="MLflow store, if not the one that the sweep was run with")
    arguments = parser.parse(argv)
    try:
        folder = find_sweep(arguments.sweep, Path(arguments.output))
        overrides = {"mlflow_uri": arguments.mlflow_uri} if arguments.mlflow_uri else {}
        config = load_sweep(folder / CONFIG_FILE, {**overrides, "output": str(folder.parent), "name": folder.name})
        if config.mlflow_uri and "***" in config.mlflow_uri:
            raise ConfigError(
                f"mlflow_uri: {config.mlflow_uri} is kept without its password; give it with --mlflow_uri"
            )
        sent = make_projector(config).catch_up()
    except (ConfigError, ValueError) as error:
        parser.error(redact(str(error)))
    except TrackingUnavailable as error:
        print(f"{error}; try again later", file=sys.stderr)
        return 1
    print(f"{sent} events sent; MLflow has all of sweep {config.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
