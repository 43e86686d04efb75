"""Losses on landmarks.

STAR works on heatmaps, the others on decoded coordinates. Legend: B batch, K landmarks, H rows, W columns of a heatmap;
coordinates are (x, y) in [-1, 1], corner-aligned (see `trainer.coords`). All losses are computed in float32 or wider.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from trainer.config import LossConfig
from trainer.heatmap import decode, spatial_moments

_SMOOTH = 0.01  # scale of the smooth-L1 distance inside STAR, in units of [-1, 1]
_EPSILON = 1e-5  # added to variances by the published STAR code
_ROUND = 1e-4  # eigenvalues closer than this (relative) count as equal: a round heatmap has no axes to turn
_TINY = 1e-24  # keeps the square root differentiable for one-hot heatmaps, whose covariance is 0

Distance = Callable[[Tensor], Tensor]


def star_loss(
    logits: Tensor,
    target: Tensor,
    *,
    star_weight: float = 1.0,
    distance: str = "smooth_l1",
    mask: Tensor | None = None,
) -> Tensor:
    """STAR loss: the error along each principal axis of a heatmap, divided by the heatmap's spread along that axis.

    Zhou et al., "STAR Loss: Reducing Semantic Ambiguity in Facial Landmark Detection", CVPR 2023, equations 5 to 8:
    d(v1.e) / sqrt(l1) + d(v2.e) / sqrt(l2) + star_weight (|l1| + |l2|), averaged over landmarks. The eigenpairs of the
    2 x 2 covariance are taken in closed form, which stays finite, value and gradient, for round heatmaps.

    Args:
        logits: (B, K, H, W).
        target: (B, K, 2), (x, y) in [-1, 1].
        star_weight: weight of the eigenvalue term, >= 0.
        distance: smooth_l1, l1, l2 or wing.
        mask: (B, K), 0 or False where a landmark is missing; None: all are there.

    Returns:
        The mean over the landmarks that are there, 0 if there are none; a scalar.
    """
    if mask is not None:  # a NaN that counts for nothing must not reach the gradient either
        target = torch.where(mask.to(torch.bool)[..., None], target, target.new_zeros(()))
    m = spatial_moments(logits)
    ex, ey = (t - mean for t, mean in zip(target.to(m.x.dtype).unbind(-1), (m.x, m.y), strict=True))  # (B, K)
    half, lean = (m.xx + m.yy) / 2, (m.xx - m.yy) / 2
    gap = (lean.square() + m.xy.square() + (_ROUND * half).square() + _TINY).sqrt()
    # (v.e)^2 along the axes needs no eigenvector: (lean, xy) / gap is (cos, sin) of twice the angle
    ex2, ey2 = ex.square(), ey.square()
    total, turned = (ex2 + ey2) / 2, (lean * (ex2 - ey2) / 2 + m.xy * ex * ey) / gap
    sign = gap.new_tensor([1.0, -1.0])[:, None, None]  # the long axis, the short one
    eigenvalues, squared = half + sign * gap, total + sign * turned  # (2, B, K)
    along = _STAR_DISTANCES[distance](squared) / (eigenvalues.clamp_min(0) + _EPSILON).sqrt()
    return masked_mean((along + star_weight * eigenvalues.abs()).sum(0), mask)


def masked_mean(value: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of (B, K) over the entries whose mask is set; 0 where none is. Masked values may even be NaN."""
    if mask is None:
        return value.mean()
    keep = mask.to(torch.bool)
    return torch.where(keep, value, value.new_zeros(())).sum() / keep.sum().clamp_min(1)


class LandmarkLoss:
    """The loss of a config, applied to what the model's head gives.

    Heatmap heads give logits (B, K, H, W), the regression head gives coordinates (B, K, 2) in [-1, 1].
    """

    def __init__(self, config: LossConfig) -> None:
        self.config = config

    def __call__(self, output: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        if self.config.name == "star":
            return star_loss(
                output, target, star_weight=self.config.star_weight, distance=self.config.distance, mask=mask
            )
        error = (decode(output) - torch.where(mask[..., None], target, target.new_zeros(()))).abs()  # (B, K, 2)
        return masked_mean(_COORDINATE_LOSSES[self.config.name](error).sum(-1), mask)


def smooth_l1(error: Tensor, beta: float = _SMOOTH) -> Tensor:
    """Quadratic below `beta`, linear above (Girshick, ICCV 2015), elementwise."""
    return nn.functional.smooth_l1_loss(error, torch.zeros_like(error), reduction="none", beta=beta)


def wing(error: Tensor, width: float = 0.08, curvature: float = 0.016) -> Tensor:
    """Wing loss (Feng et al., CVPR 2018, equation 5), elementwise; the paper's 10 and 2 px of a 256 px picture."""
    size = error.abs()
    offset = width * (1 - math.log1p(width / curvature))
    return torch.where(size < width, width * (size / curvature).log1p(), size - offset)


def soft_wing(error: Tensor, low: float = 0.016, high: float = 0.16, curvature: float = 0.004) -> Tensor:
    """SoftWing loss (Lin et al., Structure-Coherent Deep Feature Learning, TIP 2021): linear for errors below `low`,
    logarithmic above, continuous; the published 2, 20 and 0.5 px of a 256 px picture, elementwise."""
    size = error.abs()
    offset = low - high * math.log1p(low / curvature)
    return torch.where(size < low, size, high * (size / curvature).log1p() + offset)


def _size(squared: Tensor) -> Tensor:
    """|t| from t^2 as the published code takes it: sqrt(max(t^2, 1e-6)), without gradient below 1e-3."""
    return squared.clamp_min(1e-6).sqrt()


_STAR_DISTANCES: dict[str, Distance] = {  # of t^2
    "smooth_l1": lambda squared: smooth_l1(_size(squared)),
    "l1": _size,
    "l2": lambda squared: squared,
    "wing": lambda squared: wing(_size(squared)),
}
_COORDINATE_LOSSES: dict[str, Distance] = {"smooth_l1": smooth_l1, "wing": wing, "soft_wing": soft_wing}
