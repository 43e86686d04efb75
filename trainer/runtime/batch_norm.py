"""Batch normalisation over the global batch, when several processes train one run.

Ioffe and Szegedy, ICML 2015, with the statistics of all ranks' shares together, so that they do not depend on the
number of ranks. The names in the state dict are those of nn.BatchNorm2d.

Legend: B faces in this rank's share, which may be 0; C channels; H, W rows, columns; N values a channel on all ranks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.autograd.function import once_differentiable

from trainer.runtime import distributed as parallel


def synchronise(model: nn.Module) -> None:
    """Has the model's batch norms take the statistics of the global batch, in place; nothing on one rank."""
    if parallel.size() == 1:
        return
    kind = _GpuBatchNorm if next(model.parameters()).device.type == "cuda" else GlobalBatchNorm
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, _exchanged(child, kind))


class GlobalBatchNorm(nn.BatchNorm2d):
    """nn.BatchNorm2d with the statistics of all ranks, on CPUs, where torch's SyncBatchNorm is not to be had."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape.

        Raises:
            ValueError: one value a channel in all, which has no variance.
        """
        return self._normalise(input) if self.training else super().forward(input)

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # the exchange is not compiled
    def _normalise(self, x: Tensor) -> Tensor:
        mean, var, count = _global_statistics(x.detach())
        if count < 2:
            raise ValueError(f"Expected more than 1 value per channel when training, got {count:g} on all ranks")
        assert self.momentum is not None
        assert self.num_batches_tracked is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(var * (count / (count - 1)), self.momentum)
        return _Normalise.apply(x, self.weight, self.bias, mean, var, count, self.eps)


class _GpuBatchNorm(nn.SyncBatchNorm):
    """torch's own, which for an empty share would exchange numbers of the input's type instead of float32."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input if len(input) else input.float())


def _exchanged(norm: nn.BatchNorm2d, kind: type[nn.BatchNorm2d | nn.SyncBatchNorm]) -> nn.Module:
    """Another kind of batch norm with the weights and statistics of `norm` themselves."""
    new = kind(norm.num_features, norm.eps, norm.momentum)
    new.weight, new.bias = norm.weight, norm.bias
    new.running_mean, new.running_var = norm.running_mean, norm.running_var
    new.num_batches_tracked = norm.num_batches_tracked
    return new.train(norm.training)


def _global_statistics(x: Tensor) -> tuple[Tensor, Tensor, float]:
    """Mean and biased variance (C,) of all ranks' values, float32 or wider, and N."""
    channels, wide = x.shape[1], torch.promote_types(x.dtype, torch.float32)
    count = x.numel() // channels
    sums = torch.zeros(2 * channels + 1, dtype=torch.float64)  # differences of squares need the digits
    if count:
        nothing = torch.zeros(channels, dtype=wide)
        mean, var = (s.double() for s in torch.batch_norm_update_stats(x, nothing, nothing.clone(), 0.0))
        sums = torch.cat([count * mean, count * (var + mean.square()), sums.new_tensor([count])])
    distributed.all_reduce(sums)
    total = float(sums[-1])
    mean, square = sums[:channels] / total, sums[channels:-1] / total
    return mean.to(wide), (square - mean.square()).clamp_min(0).to(wide), total


class _Normalise(torch.autograd.Function):
    """weight (x - mean) / sqrt(var + eps) + bias, where mean and var are functions of all ranks' x."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, count: float, eps: float
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, var)
        ctx.count, ctx.eps = count, eps
        return nn.functional.batch_norm(x, mean, var, weight, bias, training=False, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of weight and bias are of this rank's share, as those of all other weights."""
        x, weight, mean, var = ctx.saved_tensors
        if len(x):  # the gradient as if mean and var were constants; (B, C, H, W), (C,), (C,)
            through, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
                grad, x, weight, mean, var, None, None, False, ctx.eps, [True, True, True]
            )
        else:
            through, of_weight, of_bias = torch.zeros_like(x), torch.zeros_like(weight), torch.zeros_like(weight)
        sums = torch.stack([of_weight, of_bias])
        distributed.all_reduce(sums)
        scale = (var + ctx.eps).rsqrt()
        slope, shift = sums * (weight * scale / ctx.count)  # of the normalised x, and the constant
        slope = slope * scale
        shift = shift - slope * mean
        through = through.addcmul_(x, slope[:, None, None], value=-1).sub_(shift[:, None, None])
        return through, of_weight, of_bias, None, None, None, None
