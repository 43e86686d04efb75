"""One run on several processes: who they are, which share each takes, what they tell each other.

They are the ranks of torch.distributed's default process group, made by `joined` under torchrun or by whoever calls the
trainer (gloo on CPUs, nccl on GPUs). Every function that exchanges something must be called on all ranks alike.
Without a process group there is one rank, nothing is exchanged and nothing costs time.
"""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from trainer.cores import processes
from trainer.errors import ConfigError

T = TypeVar("T")

_TIMEOUT = timedelta(hours=1)  # one node may have to build its crop cache while the others wait


def size() -> int:
    """Number of processes that train this run together."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """This process's number among them, from 0; rank 0 writes the files."""
    return distributed.get_rank() if size() > 1 else 0


@contextlib.contextmanager
def process_group() -> Iterator[None]:
    """Joins the process group that torchrun's environment describes, and leaves it at the end.

    Does nothing where there is no such environment or already a group. Takes the GPU of LOCAL_RANK where there are any;
    tensors are then exchanged by nccl, those on the CPU by gloo.
    """
    if processes() == 1 or distributed.is_initialized():
        yield
        return
    gpus = torch.cuda.device_count()
    if gpus:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % gpus)
    distributed.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", timeout=_TIMEOUT)
    try:
        yield
    finally:
        leave()


def leave() -> None:
    """Leaves the process group; also ends the waiting of other ranks for one that failed.

    What still refers to the group, in circles with models, is freed first: else gloo's threads outlive it, and may
    abort a process that has done its work while Python ends.
    """
    gc.collect()
    distributed.destroy_process_group()


def shard(count: int) -> slice:
    """This rank's part of `count` faces: parts lie in order and differ by one face at most; some may be empty."""
    return slice(count * rank() // size(), count * (rank() + 1) // size())


# --- what the ranks tell each other: any object that can be pickled


def rank_zero_result(function: Callable[[], T]) -> T:
    """Calls the function on rank 0 only and returns its result, or raises its error, on all ranks."""
    if size() == 1:
        return function()
    told: list[Any] = [None, None]
    own: Exception | None = None
    if rank() == 0:
        try:
            told[0] = function()
        except Exception as error:  # of any kind: raised again below, here and on the other ranks
            own, told[1] = error, _portable(error)
    distributed.broadcast_object_list(told, src=0)
    if failed := own or told[1]:
        raise failed
    return cast(T, told[0])


def all_ranks_or_raise(function: Callable[[], T]) -> T:
    """Calls the function on every rank and returns its own result there; an error of any rank is raised on all.

    A rank that fails raises its own error, the others that of the lowest rank that failed. The function must not
    exchange anything itself, since a rank that fails would leave the others waiting.
    """
    if size() == 1:
        return function()
    result: T | None = None
    own: Exception | None = None
    try:
        result = function()
    except Exception as error:  # of any kind: raised again below, here and on the other ranks
        own = error
    others = all_gather(None if own is None else _portable(own))
    if failed := own or next(filter(None, others), None):
        raise failed
    return cast(T, result)


def all_gather(value: T) -> list[T]:
    """The values of all ranks, in their order, on every rank."""
    if size() == 1:
        return [value]
    values: list[Any] = [None] * size()
    distributed.all_gather_object(values, value)
    return values


def _portable(error: Exception) -> Exception:
    """The error, or one that says the same where it cannot be sent."""
    try:
        return cast(Exception, pickle.loads(pickle.dumps(error)))
    except Exception:  # whatever its class does when it is pickled
        return RuntimeError(f"{type(error).__name__}: {error}")


# --- gradients and the loss


def wrap_ddp(model: nn.Module) -> nn.Module:
    """The model as a training pass calls it: on several ranks, gradients are averaged over them during backward.

    Raises:
        ConfigError: several ranks on a device that cannot exchange tensors.
    """
    if size() == 1:
        return model
    device = next(model.parameters()).device
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"run.device = {device.type!r}: trains in one process only (several: cpu, cuda)")
    devices = [device] if device.type == "cuda" else None
    with warnings.catch_warnings():  # the newer name of broadcast_buffers is not in torch 2.9
        warnings.simplefilter("ignore", FutureWarning)
        return DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False)


def averaging(network: nn.Module, wanted: bool) -> contextlib.AbstractContextManager[Any]:
    """Whether gradients of a pass (forward and backward) are averaged now, or added up for a later pass to average."""
    return contextlib.nullcontext() if wanted or size() == 1 else cast(DistributedDataParallel, network).no_sync()


def over_batch(loss: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """From the loss of this rank's share to that of the global batch, a mean over all landmarks that are there.

    Args:
        loss: masked mean over this rank's share, with its graph; 0 where it has no landmark.
        mask: (B, K) bool of the share, which landmarks are there; B may be 0.

    Returns:
        The loss to take the gradient of, which averaged over the ranks is that of the global mean; and the global mean,
        without a graph, the same on all ranks: a number that is none is none on all of them.
    """
    if size() == 1:
        return loss, loss.detach()
    landmarks = mask.sum().to(loss.device, torch.float64)
    sums = torch.stack([landmarks * loss.detach(), landmarks])
    distributed.all_reduce(sums)
    total = sums[1].clamp_min(1)
    return loss * (size() * landmarks / total).to(loss.dtype), (sums[0] / total).to(loss.dtype)
