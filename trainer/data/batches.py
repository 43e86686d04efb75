"""Batches of faces: shuffled and augmented for training, plain crops in order for evaluation.

Legend: N faces, B batch, K landmarks, S side of the network's input.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.config import TrainConfig
from trainer.coords import to_normalised
from trainer.data.augment import augment, generator, sample_changes
from trainer.data.augment_device import DeviceChanges, augment_batch
from trainer.data.crops import CropSplit
from trainer.runtime import distributed

cv2.setNumThreads(0)  # parallel work is over faces; OpenCV's own threads would fight with those of the network


class Batch(NamedTuple):
    """Pictures (B, 3, S, S) uint8, laid out channels last; target (B, K, 2) float32 in [-1, 1]; mask (B, K) bool.

    Where the device augments, `changes` says what it shall do, and the pictures are canvases (B, 3, C, C) until then.
    """

    pictures: Tensor
    target: Tensor
    mask: Tensor
    changes: DeviceChanges | None = None

    def pin_memory(self) -> Batch:
        """Moves everything into page-locked memory, from where a GPU takes it without the loop waiting."""
        return self._map(lambda tensor: tensor.pin_memory())

    def on(self, device: torch.device, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Pictures of side S, target and mask on the device."""
        pictures, target, mask, changes = self._map(lambda tensor: tensor.to(device, non_blocking=True))
        return pictures if changes is None else augment_batch(pictures, changes, size), target, mask

    def _map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        changes = None if self.changes is None else DeviceChanges(*map(function, self.changes))
        return Batch(function(self.pictures), function(self.target), function(self.mask), changes)


def batches_per_epoch(faces: int, batch_size: int) -> int:
    """Full batches only (one smaller batch if there are fewer faces): batch norm dislikes leftovers."""
    return max(1, faces // batch_size)


def epoch_order(faces: int, seed: int, epoch: int) -> NDArray[np.intp]:
    """Order of the faces in an epoch, (N,)."""
    return np.random.default_rng([seed, epoch]).permutation(faces)


def training_batches(split: CropSplit, config: TrainConfig, epoch: int, *, pin: bool = False) -> Iterator[Batch]:
    """Yields the augmented batches of one epoch: the same bits for the same config and epoch, however many workers.

    Where several processes train together, each gets its share of every batch, which may be empty.

    Args:
        split: the training faces.
        config: batch size, augmentation, seed and workers.
        epoch: from 1.
        pin: put the batches into page-locked memory, from where a GPU takes them without the loop waiting.
    """
    order = epoch_order(len(split.images), config.run.seed, epoch)
    size = config.optim.batch_size
    whole = [order[i * size : (i + 1) * size] for i in range(batches_per_epoch(len(order), size))]
    chunks = [chunk[distributed.shard(len(chunk))] for chunk in whole]
    flip = np.array(config.data.landmarks.flip)

    def assemble(chunk: NDArray[np.intp]) -> Batch:
        batch = _assemble(split, chunk, config, epoch, flip)
        return batch.pin_memory() if pin else batch

    yield from _prefetch(assemble, chunks, config.data.workers)


def evaluation_batches(split: CropSplit, size: int, batch_size: int, rows: slice = slice(None)) -> Iterator[Tensor]:
    """Yields the plain central crops (B, 3, S, S) uint8 of all faces, or of the given rows, in order."""
    margin = (split.images.shape[1] - size) // 2
    inner = slice(margin, margin + size)
    images = split.images[rows]
    for start in range(0, len(images), batch_size):
        crops = np.ascontiguousarray(images[start : start + batch_size, inner, inner])
        yield torch.from_numpy(crops).permute(0, 3, 1, 2)


def _assemble(
    split: CropSplit, chunk: NDArray[np.intp], config: TrainConfig, epoch: int, flip: NDArray[np.intp]
) -> Batch:
    size, canvas = config.data.image_size, split.images.shape[1]
    on_device = config.data.augment_on == "device" and len(chunk) > 0
    side = canvas if on_device else size
    pictures = np.empty((len(chunk), side, side, 3), np.uint8)
    target = np.empty((len(chunk), len(flip), 2), np.float32)
    mask = np.empty((len(chunk), len(flip)), bool)
    drawn = []
    for row, index in enumerate(chunk):
        changes = sample_changes(config.data.augment, generator(config.run.seed, epoch, int(index)), size)
        drawn.append(changes)
        pictures[row] = split.images[index] if on_device else augment(split.images[index], changes, size)
        target[row] = to_normalised(changes.move(split.landmarks[index], flip), size)
        mask[row] = split.visible[index][flip] if changes.mirrored else split.visible[index]
    mask &= (np.abs(target) <= 1).all(-1)  # what augmentation moved out of the picture cannot be shown by a heatmap
    return Batch(
        torch.from_numpy(pictures).permute(0, 3, 1, 2),
        torch.from_numpy(target),
        torch.from_numpy(mask),
        DeviceChanges.collect(drawn, canvas, size) if on_device else None,
    )


def _prefetch(
    make: Callable[[NDArray[np.intp]], Batch], chunks: list[NDArray[np.intp]], workers: int
) -> Iterator[Batch]:
    """Yields make(chunk) for each chunk in order, made ahead by `workers` threads (0: when asked for)."""
    if workers == 0:
        yield from map(make, chunks)
        return
    waiting: deque[Future[Batch]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="batches") as pool:
        try:
            for chunk in chunks:
                waiting.append(pool.submit(make, chunk))
                if len(waiting) > workers + 1:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
