"""A trained network measured on a split."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from trainer import metrics
from trainer.config import TrainConfig
from trainer.data.crops import CropSplit
from trainer.inference import predict_split
from trainer.landmarks import Layout, Norm
from trainer.runtime import distributed


@dataclass(frozen=True)
class Evaluation:
    """Errors on one split: `nme` (N,) a face, divided by `norm`, and the landmarks `pred` (N, K, 2) in crop pixels."""

    nme: NDArray[np.floating]
    pred: NDArray[np.floating]
    split: CropSplit
    layout: Layout
    norm: Norm
    threshold: float

    def summary(self) -> dict[str, float]:
        """NME, failure rate and AUC, see `metrics.summary`."""
        return metrics.summary(self.nme, self.threshold)

    def report(self, attributes: Iterable[str]) -> dict[str, Any]:
        """All that the command line prints: nme, fr10 and auc10 (or as the threshold names them), norm, faces, subsets
        (by attribute), parts."""
        truth = self.split
        subsets = {}
        if truth.attributes is not None:
            for name, chosen in zip(attributes, truth.attributes.T, strict=True):
                if chosen.any():
                    subsets[name] = {**metrics.summary(self.nme[chosen], self.threshold), "faces": int(chosen.sum())}
        parts = metrics.part_nmes(self.pred, truth.landmarks, self.layout, norm=truth.norms, visible=truth.visible)
        facts = {"norm": self.norm.name, "faces": len(self.nme)}
        return {**self.summary(), **facts, "subsets": subsets, "parts": parts}


def evaluate(model: nn.Module, split: CropSplit, config: TrainConfig, shared: bool = False) -> Evaluation:
    """Predicts a split and measures it; the mirrored picture is averaged in when run.flip_test is set.

    Args:
        model: network on its device.
        split: the faces.
        config: of the network.
        shared: all ranks of the process group call this; each predicts its share, and all get the whole.
    """
    if shared:
        rows = distributed.shard(len(split))
        pred = np.concatenate(
            distributed.all_gather(distributed.all_ranks_or_raise(lambda: predict_split(model, split, config, rows)))
        )
    else:
        pred = predict_split(model, split, config)
    layout = config.data.landmarks
    nme = metrics.nme(pred, split.landmarks, layout, norm=split.norms, visible=split.visible)
    return Evaluation(nme, pred, split, layout, config.data.norm, config.data.threshold)
