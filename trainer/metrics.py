"""Errors of predicted landmarks: NME, failure rate, AUC, CED; whole faces, parts of the face, subsets.

Legend: N faces, K landmarks. NME is a fraction everywhere (0.05 = 5 %); NaN marks what could not be measured.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trainer.landmarks import Layout, Norm
from trainer.metric_names import rate_names

Floats = NDArray[np.floating]
Bools = NDArray[np.bool_]


def distances(pred: Floats, target: Floats) -> Floats:
    """Euclidean distance of every landmark: (N, K, 2), (N, K, 2) -> (N, K), in the unit of the points."""
    return np.linalg.norm(np.asarray(pred) - np.asarray(target), axis=-1)


def norms(target: Floats, norm: Norm) -> Floats:
    """Length (N,) that divides the error of each face, from its landmarks (N, K, 2); NaN where these are missing.

    Raises:
        ValueError: the norm is the size of the box, which the landmarks do not tell.
    """
    if not norm.right:
        raise ValueError("landmarks do not tell the box: pass norm, sqrt(width * height) of each face's box")
    right, left = (_middle(target, side) for side in (norm.right, norm.left))
    return np.linalg.norm(right - left, axis=-1)


def _middle(points: Floats, of: Sequence[int]) -> Floats:
    """Mean place (N, 2) of some landmarks."""
    middle: Floats = points[:, of[0]] if len(of) == 1 else points[:, list(of)].mean(axis=1)
    return middle


def nme(
    pred: Floats, target: Floats, layout: Layout, *, norm: Floats | None = None, visible: Bools | None = None
) -> Floats:
    """Normalised mean error of each face, (N,), as a fraction.

    Args:
        pred, target: (N, K, 2), in one unit.
        layout: its default norm divides the error (inter-ocular for WFLW and 300-W).
        norm: (N,), divides it instead.
        visible: (N, K), False where a landmark is missing; a face without any gives NaN.
    """
    error = distances(pred, target)
    return masked_row_mean(error, visible) / (norms(target, layout.norm()) if norm is None else norm)


def masked_row_mean(error: Floats, visible: Bools | None) -> Floats:
    """Mean over K of (N, K) where visible; NaN for a row with nothing visible."""
    if visible is None:
        return error.mean(axis=1)
    count = visible.sum(axis=1)
    total = np.where(visible, error, 0).sum(axis=1)
    return np.divide(total, count, out=np.full(len(error), np.nan), where=count > 0)


def failure_rate(nme: Floats, threshold: float = 0.10) -> float:
    """Share of faces whose NME is above the threshold (or not finite)."""
    return float(np.mean(~(np.asarray(nme) <= threshold)))


def auc(nme: Floats, threshold: float = 0.10) -> float:
    """Area under the CED from 0 to the threshold, divided by the threshold: exact, 1 at best.

    The CED is a staircase, so its integral is the mean of what each face leaves free below the threshold.
    """
    free = 1 - np.nan_to_num(np.asarray(nme, dtype=np.float64), nan=np.inf, posinf=np.inf) / threshold
    return float(np.clip(free, 0, None).mean())


def ced(nme: Floats, limit: float = 0.10, points: int = 200) -> tuple[Floats, Floats]:
    """Cumulative error distribution: NME thresholds (P,) from 0 to limit, share of faces at most that wrong (P,)."""
    thresholds = np.linspace(0, limit, points)
    finite = np.sort(np.nan_to_num(np.asarray(nme, dtype=np.float64), nan=np.inf, posinf=np.inf))
    return thresholds, np.searchsorted(finite, thresholds, side="right") / len(finite)


def part_nmes(
    pred: Floats, target: Floats, layout: Layout, *, norm: Floats, visible: Bools | None = None
) -> dict[str, float]:
    """Mean NME of each part of the face, over the faces in which any of its landmarks is visible."""
    error = distances(pred, target)
    found = {}
    for part, (start, stop) in layout.parts.items():
        rows = masked_row_mean(error[:, start:stop], None if visible is None else visible[:, start:stop]) / norm
        found[part] = mean(rows)
    return found


def mean(values: Floats) -> float:
    """Mean over what is not NaN; NaN if nothing is."""
    known = np.asarray(values)[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def summary(nme: Floats, threshold: float = 0.10) -> dict[str, float]:
    """The three numbers that the field reports: NME, failure rate and AUC."""
    failures, area = rate_names(threshold)
    return {"nme": mean(nme), failures: failure_rate(nme, threshold), area: auc(nme, threshold)}


def bootstrap_means(errors: Floats, *, draws: int = 2000, seed: int = 0) -> Floats:
    """What the mean NME might have been with other runs and other faces: (draws,) resampled means.

    Runs and faces are both drawn with replacement (Efron and Tibshirani, An Introduction to the Bootstrap, 1993,
    chapter 8). Two calls with as many runs, faces and the same seed draw the same ones, so that the difference of what
    they return is that of pairs.

    Args:
        errors: (R, N), NME of N faces in R runs.
        draws: number of samples.
        seed: of the draws.
    """
    runs, faces = errors.shape
    rng = np.random.default_rng([seed, runs, faces])
    means = np.empty(draws)
    for i in range(draws):
        means[i] = mean(errors[rng.integers(0, runs, runs)].mean(0)[rng.integers(0, faces, faces)])
    return means


def interval(samples: Floats, level: float = 0.95) -> tuple[float, float]:
    """The middle `level` of samples, as (low, high)."""
    low, high = np.nanquantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
