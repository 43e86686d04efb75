"""A trial's network on the validation faces: errors by part and subset, and pictures of its worst faces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sweep.core.sections import StorageConfig
from trainer.landmarks import ATTRIBUTES


@dataclass(frozen=True)
class WorstFace:
    """A face with landmarks drawn in (JPEG), its NME (a fraction) and the name of its picture."""

    jpeg: bytes
    nme: float
    name: str


@dataclass(frozen=True)
class ErrorAnalysis:
    """What the network of a trial does on the validation faces; `report` as in `Evaluation.report`."""

    report: Mapping[str, Any]
    worst: tuple[WorstFace, ...]
    device: str
    data_hash: str


def analyse_errors(config: StorageConfig, number: int, count: int = 6) -> ErrorAnalysis:
    """Evaluates the kept weights of a trial and draws its `count` worst faces.

    Raises:
        CheckpointError: the weights are not there (see `keep`), or damaged.
        DataError: the validation faces are not there.
    """
    from trainer.data.crop_cache import load_split
    from trainer.evaluation import evaluate
    from trainer.inference import load_trained, locate
    from trainer.visualize import draw_overlay

    trained, model = load_trained(config.trial_folder(number), {"run.device": "auto"})
    split = load_split(trained.data, "val")
    evaluation = evaluate(model, split, trained)
    worst = np.argsort(-np.nan_to_num(evaluation.nme, nan=-1), kind="stable")[:count]
    inner = slice(split.margin, split.margin + split.size)
    pictures = np.ascontiguousarray(split.images[worst, inner, inner])
    points, spreads = locate(model, pictures, trained)
    faces = []
    for row, index in enumerate(worst):
        spread = None if spreads is None else spreads[row]
        truth = np.where(split.visible[index][:, None], split.landmarks[index], np.nan)
        png = draw_overlay(pictures[row], points[row], spread, truth)
        faces.append(WorstFace(_smaller(png), float(evaluation.nme[index]), split.pictures[index].rpartition("/")[2]))
    device = str(next(model.parameters()).device)
    return ErrorAnalysis(evaluation.report(ATTRIBUTES), tuple(faces), device, split.fingerprint())


def _smaller(png: bytes) -> bytes:
    """The picture as JPEG: a tenth of the size, for a report that holds several."""
    import cv2

    picture = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    return bytes(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 85])[1])
