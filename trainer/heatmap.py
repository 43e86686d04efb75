"""Heatmaps: from logits to the mean and covariance of where a landmark is, in few passes over memory.

Legend: B batch, K landmarks, H rows, W columns of a heatmap, N = B K maps; coordinates are (x, y) in [-1, 1],
corner-aligned (see `trainer.coords`). Everything is computed in float32 or wider.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

_EPSILON = 1e-5  # added to the normalisers of the covariance by the published STAR code
_CACHE_BYTES = 1 << 19  # maps worked on at a time on a CPU: what stays in a core's cache between the passes


class Moments(NamedTuple):
    """First and second moments of heatmaps: mean (B, K, 2), variances xx, yy and covariance xy (B, K)."""

    mean: Tensor
    xx: Tensor
    yy: Tensor
    xy: Tensor


def spatial_moments(logits: Tensor) -> Moments:
    """Mean and covariance of the softmax of heatmap logits (B, K, H, W).

    The covariance is the unbiased one for weighted samples, S / (V1 - V2 / V1) with V1 = sum p + 1e-5 and
    V2 = sum p^2 + 1e-5, as the published STAR code takes it (Zhou et al., CVPR 2023, section 3.2).
    """
    kind = torch.float64 if logits.dtype == torch.float64 else torch.float32
    maps = logits.to(
        kind, memory_format=torch.contiguous_format
    ).contiguous()  # the first does nothing where the type is right
    mean_x, mean_y, xx, yy, xy, squares = (m.view(logits.shape[:2]) for m in _SoftmaxSums.apply(maps.flatten(0, 1)))
    v1 = 1 + _EPSILON
    norm = v1 - (squares + _EPSILON) / v1
    return Moments(torch.stack([mean_x, mean_y], dim=-1), xx / norm, yy / norm, xy / norm)


class _SoftmaxSums(torch.autograd.Function):
    """Sums over p = softmax(logits) of each map: x, y, their squared and mixed deviations from the mean, and p^2.

    The gradient of any function of these sums with respect to p is F(x) + G(y) + c (y - my)(x - mx) + d p, so forward
    and backward are thin products and separable sums, done block by block while a block of maps is in the cache. One
    heatmap-sized tensor is kept (p) and one is made (the gradient).
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> tuple[Tensor, ...]:
        n, height, width = logits.shape
        x, y = _axis(width, logits), _axis(height, logits)
        thin = torch.stack([torch.ones_like(x), x], dim=1)  # (W, 2)
        p = torch.empty_like(logits)
        rows = logits.new_empty(n, height, 2)  # of each row: sum p, sum p x
        columns, squares = logits.new_empty(n, width), logits.new_empty(n)
        for block in _blocks(logits):
            maps = p[block]
            flat = maps.flatten(1)
            torch.softmax(logits[block].flatten(1), -1, out=flat)
            torch.matmul(maps.view(-1, width), thin, out=rows[block].view(-1, 2))
            torch.sum(maps, 1, out=columns[block])
            torch.linalg.vecdot(flat, flat, out=squares[block])
        row_sums, row_x = rows.unbind(-1)
        mean_x, mean_y = columns @ x, row_sums @ y  # (N,)
        dx, dy = x - mean_x[:, None], y - mean_y[:, None]  # (N, W), (N, H)
        xx, yy = (columns * dx * dx).sum(1), (row_sums * dy * dy).sum(1)
        xy = ((row_x - mean_x[:, None] * row_sums) * dy).sum(1)
        ctx.save_for_backward(p, dx, dy, xx, yy, xy, squares)
        return mean_x, mean_y, xx, yy, xy, squares

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        p, dx, dy, xx, yy, xy, squares = ctx.saved_tensors
        of_x, of_y, of_xx, of_yy, of_xy, of_squares = (g[:, None] for g in grads)  # (N, 1)
        by_column = (of_x + of_xx * dx) * dx  # F, (N, W)
        # the softmax's backward takes the mean of the gradient over p away, which the sums themselves give
        offset = of_xx * xx[:, None] + of_yy * yy[:, None] + of_xy * xy[:, None] + 2 * of_squares * squares[:, None]
        by_row = (of_y + of_yy * dy) * dy - offset  # G, (N, H)
        mixed, of_p = of_xy * dy, 2 * of_squares[..., None]  # c (y - my), (N, H); d, (N, 1, 1)
        left = torch.stack([torch.ones_like(by_row), by_row, mixed], dim=2)  # (N, H, 3)
        right = torch.stack([by_column, torch.ones_like(by_column), dx], dim=1)  # (N, 3, W)
        gradient = torch.empty_like(p)
        for block in _blocks(p):
            out = gradient[block]
            torch.bmm(left[block], right[block], out=out)
            out.addcmul_(p[block], of_p[block]).mul_(p[block])
        return gradient


def _axis(size: int, like: Tensor) -> Tensor:
    return torch.linspace(-1, 1, size, dtype=like.dtype, device=like.device)


def _blocks(maps: Tensor) -> list[slice]:
    """Slices of maps (N, H, W) that are worked on at a time: cache-sized ones on a CPU, all at once elsewhere."""
    n, height, width = maps.shape
    size = max(1, _CACHE_BYTES // (height * width * maps.element_size())) if maps.device.type == "cpu" else n
    return [slice(i, min(i + size, n)) for i in range(0, n, size)]
