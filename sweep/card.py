"""python -m sweep.card NAME: the model card of a sweep, with weights and log, and the model in MLflow's registry."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sweep.analysis.sweep_result import SweepResult
from sweep.core.errors import TrackingUnavailable
from sweep.core.mlflow_uri import resolve_uri
from sweep.core.redaction import redact
from sweep.driver.command_line import add_sweep_argument, load_given, run_command
from sweep.reporting.card_text import Published, card_text, dataset
from sweep.reporting.model_card import CARD_FOLDER, metafile, publish_files, published_run
from sweep.tracking.artifacts import make_mlflow_sync
from trainer.settings import ArgumentParser, write_yaml


def build_parser() -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(prog="python -m sweep.card", description=__doc__)
    add_sweep_argument(parser)
    parser.add_argument("--no-register", action="store_true", help="leave MLflow's model registry as it is")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0 done, 1 failed (or not registered), 2 bad input."""
    parser = build_parser()
    arguments = parser.parse(argv)
    return run_command(parser, lambda: _card(arguments), "interrupted; the same command begins anew")


def _card(arguments: argparse.Namespace) -> int:
    sweep = load_given(arguments)
    key, folder = published_run(sweep)
    target = sweep.folder / CARD_FOLDER
    target.mkdir(exist_ok=True)
    card, checkpoint = publish_files(sweep, folder, target)
    write_yaml(metafile(card), target / "metafile.yml")
    text = target / "README.md"
    text.write_text(card_text(sweep, card), encoding="utf-8")
    print(text)
    if arguments.no_register:
        return 0
    try:
        card = replace(card, registered=_register(sweep, key, checkpoint, card))
    except TrackingUnavailable as error:
        print(f"not registered: {redact(str(error))}; the same command tries again", file=sys.stderr)
        return 1
    text.write_text(card_text(sweep, card), encoding="utf-8")
    print(f"registered: {card.registered}")
    return 0


def _register(sweep: SweepResult, key: str, checkpoint: Path, card: Published) -> str:
    from sweep.tracking.model_registry import ALIAS, register

    projector = make_mlflow_sync(sweep.config, sweep.config.train.data.threshold)
    projector.catch_up()
    run_id = projector.run_id(key)
    if run_id is None:
        raise TrackingUnavailable(f"MLflow has no run of {key} of sweep {sweep.name}")
    tags = {"nme": repr(card.nme), "split": card.split, "data": dataset(card.config)}
    name = f"starsweep-{sweep.name}"
    uri = resolve_uri(sweep.config.mlflow_uri, sweep.folder.parent)
    version, _ = register(uri, run_id, name, checkpoint, tags)
    return f"models:/{name}@{ALIAS} (version {version})"


if __name__ == "__main__":
    sys.exit(main())
