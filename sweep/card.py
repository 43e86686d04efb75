"""python -m sweep.card NAME: the model card of a sweep, with weights and log, and the model in MLflow's registry."""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sweep.card_text import Published, card_text, dataset, percent, public
from sweep.command import add_sweep_argument, carry_out, load_given
from sweep.folder import make_projector
from sweep.loaded import Sweep
from sweep.projection import TrackingUnavailable
from sweep.secrets import redact
from sweep.tracking import resolve_uri
from trainer.config import TrainConfig
from trainer.settings import ArgumentParser, ConfigError, write_yaml

CARD_FOLDER = "card"
_PAPERS = {
    "star": (
        "STAR",
        "STAR Loss: Reducing Semantic Ambiguity in Facial Landmark Detection",
        "https://arxiv.org/abs/2306.02763",
    ),
    "wing": (
        "Wing Loss",
        "Wing Loss for Robust Facial Landmark Localisation with Convolutional Neural Networks",
        "https://arxiv.org/abs/1711.06753",
    ),
    "soft_wing": (
        "SoftWing Loss",
        "Structure-Coherent Deep Feature Learning for Robust Face Alignment",
        "https://ieeexplore.ieee.org/document/9442331",
    ),
    "smooth_l1": ("Smooth L1 Loss", "Fast R-CNN", "https://arxiv.org/abs/1504.08083"),
}


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
    return carry_out(parser, lambda: _card(arguments), "interrupted; the same command begins anew")


def _card(arguments: argparse.Namespace) -> int:
    sweep = load_given(arguments)
    key, folder = _source(sweep)
    target = sweep.folder / CARD_FOLDER
    target.mkdir(exist_ok=True)
    card, checkpoint = _publish_files(sweep, folder, target)
    write_yaml(_metafile(card), target / "metafile.yml")
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


def _source(sweep: Sweep) -> tuple[str, Path]:
    """Name in MLflow and run folder of the model to publish: the first final one, else the winner of the sweep."""
    final = sweep.findings.get("final")
    if final is not None:
        return final["runs"][0], sweep.config.rerun_folder(final["runs"][0])
    if sweep.best is None:
        raise ConfigError(f"sweep {sweep.name}: no trial is complete, so there is nothing to publish")
    return str(sweep.best.number), sweep.config.trial_folder(sweep.best.number)


def _publish_files(sweep: Sweep, folder: Path, target: Path) -> tuple[Published, Path]:
    """Puts weights and log into the card's folder, with their hash in the name, and tells what they are."""
    from trainer import checkpoint
    from trainer.engine import METRICS_FILE

    state = checkpoint.load(folder / checkpoint.BEST)
    trained = TrainConfig.from_tree(state["config"])
    config = public(trained)
    size = config.data.image_size
    model = "_".join([config.model.backbone, config.loss.name, config.data.kind, f"{size}x{size}"])
    weights, log = target / f"{model}.pt", target / f"{model}.jsonl"
    checkpoint.save({**state, "config": config.tree()}, weights)
    shutil.copyfile(folder / METRICS_FILE, log)
    weights, log = _with_hash(weights), _with_hash(log)
    for old in (*target.glob("*.pt"), *target.glob("*.jsonl")):  # of an older card
        if old not in (weights, log):
            old.unlink()
    best = sweep.best
    val_nme = best.best_nme if best is not None and best.best_nme is not None else float("nan")
    final, device = sweep.findings.get("final"), str(state.get("device", "unknown"))
    names = weights.name, log.name
    return Published(model, config, trained.identity(), *names, final, val_nme, device), weights


def _with_hash(path: Path) -> Path:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    return path.rename(path.with_name(f"{path.stem}-{digest}{path.suffix}"))


def _register(sweep: Sweep, key: str, checkpoint: Path, card: Published) -> str:
    from sweep.registry import ALIAS, register

    projector = make_projector(sweep.config)
    projector.catch_up()
    run_id = projector.run_id(key)
    if run_id is None:
        raise TrackingUnavailable(f"MLflow has no run of {key} of sweep {sweep.name}")
    tags = {"nme": repr(card.nme), "split": card.split, "data": dataset(card.config)}
    name = f"starsweep-{sweep.name}"
    uri = resolve_uri(sweep.config.mlflow_uri, sweep.folder.parent)
    version, _ = register(uri, run_id, name, checkpoint, tags)
    return f"models:/{name}@{ALIAS} (version {version})"


def _metafile(card: Published) -> dict[str, Any]:
    """The metafile of the field's model zoos."""
    name, title, url = _PAPERS[card.config.loss.name]
    return {
        "Collections": [{"Name": name, "Paper": {"Title": title, "URL": url}, "README": "README.md"}],
        "Models": [
            {
                "Name": card.model,
                "In Collection": name,
                "Metadata": {
                    "Architecture": [card.config.model.backbone, f"{card.config.model.head} head", name],
                    "Training Data": dataset(card.config),
                },
                "Results": [
                    {
                        "Dataset": dataset(card.config),
                        "Task": "Face 2D Keypoint",
                        "Metrics": {"NME": float(percent(card.nme))}
                        | ({} if card.split == "test" else {"Split": "val"}),
                    }
                ],
                "Weights": card.checkpoint,
            }
        ],
    }


if __name__ == "__main__":
    sys.exit(main())
