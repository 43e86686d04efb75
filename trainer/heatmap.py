"""Heatmaps: from logits to the mean and covariance of where a landmark is, in few passes over memory.

Legend: B batch, K landmarks, H rows, W columns of a heatmap, N = B K maps; coordinates are (x, y) in [-1, 1],
corner-aligned (see `trainer.coords`). Everything is computed in float32 or wider.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

EPSILON = 1e-5  # added to the normalisers of the covariance by the published STAR code
_CACHE_BYTES = 1 << 21  # maps worked on at a time on a CPU: what stays in the caches between the passes


class Moments(NamedTuple):
    """First and second moments of heatmaps, (B, K) each: means x, y, variances xx, yy and covariance xy."""

    x: Tensor
    y: Tensor
    xx: Tensor
    yy: Tensor
    xy: Tensor

    @property
    def mean(self) -> Tensor:
        """The mean positions, (B, K, 2) as (x, y)."""
        return torch.stack([self.x, self.y], dim=-1)


def spatial_moments(logits: Tensor) -> Moments:
    """Means and covariances of the softmax of heatmap logits (B, K, H, W).

    The covariance is the unbiased one for weighted samples, S / (V1 - V2 / V1) with V1 = sum p + 1e-5 and
    V2 = sum p^2 + 1e-5, as the published STAR code takes it (Zhou et al., CVPR 2023, section 3.2).
    """
    kind = torch.float64 if logits.dtype == torch.float64 else torch.float32
    maps = logits.to(kind, memory_format=torch.contiguous_format).contiguous()  # the first skips what has the type
    x, y, xx, yy, xy, squares = (m.view(logits.shape[:2]) for m in _SoftmaxSums.apply(maps.flatten(0, 1)))
    v1 = 1 + EPSILON
    norm = v1 - (squares + EPSILON) / v1
    return Moments(x, y, xx / norm, yy / norm, xy / norm)


class _SoftmaxSums(torch.autograd.Function):
    """Sums over p = softmax(logits) of each map: x, y, their squared and mixed deviations from the mean, and p^2.

    The gradient of any function of these sums with respect to p is F(x) + G(y) + c (y - my)(x - mx) + d p, so forward
    and backward are sums over rows and columns and outer products, done block by block while a block of maps is in
    the cache. One heatmap-sized tensor is kept (p) and one is made (the gradient).
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> tuple[Tensor, ...]:
        n, height, width = logits.shape
        x, y = _axis(width, logits), _axis(height, logits)
        weights = torch.stack([torch.ones_like(y), y])  # (2, H)
        p = torch.empty_like(logits)
        columns = logits.new_empty(n, 2, width)  # of each column: sum p, sum p y
        rows, norms = logits.new_empty(n, height), logits.new_empty(n)
        for block in _blocks(logits):
            maps = p[block]
            torch.softmax(logits[block].flatten(1), -1, out=maps.flatten(1))
            torch.bmm(weights.expand(len(maps), -1, -1), maps, out=columns[block])
            torch.sum(maps, 2, out=rows[block])
            torch.linalg.vector_norm(maps.flatten(1), dim=1, out=norms[block])
        column_sums, column_y = columns.unbind(1)
        mean_x, mean_y = column_sums @ x, rows @ y  # (N,)
        dx, dy = x - mean_x[:, None], y - mean_y[:, None]  # (N, W), (N, H)
        by_x = column_sums * dx
        xx, yy = (by_x * dx).sum(1), (rows * dy * dy).sum(1)
        xy = (column_y * dx).sum(1) - mean_y * by_x.sum(1)
        squares = norms.square()
        ctx.save_for_backward(p, dx, dy, xx, yy, xy, squares)
        return mean_x, mean_y, xx, yy, xy, squares

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        p, dx, dy, xx, yy, xy, squares = ctx.saved_tensors
        of_x, of_y, of_xx, of_yy, of_xy, of_squares = (g[:, None] for g in grads)  # (N, 1)
        # the softmax's backward takes the mean of the gradient over p away, which the sums themselves give
        offset = of_xx * xx[:, None] + of_yy * yy[:, None] + of_xy * xy[:, None] + 2 * of_squares * squares[:, None]
        by_column = ((of_x + of_xx * dx) * dx)[:, None, :]  # F, (N, 1, W)
        by_row = ((of_y + of_yy * dy) * dy - offset)[..., None]  # G, (N, H, 1)
        dx, mixed = dx[:, None, :], (of_xy * dy)[..., None]  # c (y - my), (N, H, 1)
        of_p = 2 * of_squares[..., None]  # d, (N, 1, 1)
        gradient = torch.empty_like(p)
        for block in _blocks(p):
            out = gradient[block]
            torch.addcmul(by_column[block], mixed[block], dx[block], out=out)
            out.add_(by_row[block]).addcmul_(p[block], of_p[block]).mul_(p[block])
        return gradient


def _axis(size: int, like: Tensor) -> Tensor:
    return torch.linspace(-1, 1, size, dtype=like.dtype, device=like.device)


def _blocks(maps: Tensor) -> list[slice]:
    """Slices of maps (N, H, W) that are worked on at a time: cache-sized ones on a CPU, all at once elsewhere."""
    n, height, width = maps.shape
    size = max(1, _CACHE_BYTES // (height * width * maps.element_size())) if maps.device.type == "cpu" else n
    return [slice(i, min(i + size, n)) for i in range(0, n, size)]


def decode(output: Tensor) -> Tensor:
    """Coordinates (B, K, 2) in [-1, 1] from heatmap logits (B, K, H, W); coordinates pass through as float32."""
    return spatial_moments(output).mean if output.ndim == 4 else output.float()
