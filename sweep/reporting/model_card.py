"""The files of a model card: weights and log with their hashes, and the metafile."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

from sweep.analysis.sweep_result import SweepResult
from sweep.reporting.card_text import Published, dataset, percent, public
from trainer.config import TrainConfig
from trainer.errors import ConfigError
from trainer.run_folder import BEST, METRICS_FILE

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


def published_run(sweep: SweepResult) -> tuple[str, Path]:
    """Name in MLflow and run folder of the model to publish: the first final one, else the winner of the sweep."""
    final = sweep.findings.final_test
    if final is not None:
        return final.runs[0], sweep.config.rerun_folder(final.runs[0])
    if sweep.best is None:
        raise ConfigError(f"sweep {sweep.name}: no trial is complete, so there is nothing to publish")
    return str(sweep.best.number), sweep.config.trial_folder(sweep.best.number)


def publish_files(sweep: SweepResult, folder: Path, target: Path) -> tuple[Published, Path]:
    """Puts weights and log into the card's folder, with their hash in the name, and tells what they are."""
    from trainer import checkpoint

    state = checkpoint.load(folder / BEST)
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
    final, device = sweep.findings.final_test, str(state.get("device", "unknown"))
    names = weights.name, log.name
    return Published(model, config, trained.identity(), *names, final, val_nme, device), weights


def _with_hash(path: Path) -> Path:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    return path.rename(path.with_name(f"{path.stem}-{digest}{path.suffix}"))


def metafile(card: Published) -> dict[str, Any]:
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
