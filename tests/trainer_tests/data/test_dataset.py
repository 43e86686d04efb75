"""Batches: the same bits however they are made, masks that follow the landmarks, evaluation on plain crops."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Mapping

import numpy as np
import pytest
import torch

from trainer.coords import to_normalised
from trainer.data.batches import Batch, batches_per_epoch, epoch_order, evaluation_batches, training_batches
from trainer.data.crops import CropSplit

from ..conftest import Tiny

PLAIN = {f"data.augment.{name}": 0.0 for name in ("flip", "rotation", "scale", "shift", "colour", "occlusion", "blur")}


def batches(tiny: Tiny, faces: CropSplit, epoch: int = 1, changes: Mapping[str, object] | None = None) -> list[Batch]:
    return list(training_batches(faces, tiny(changes), epoch))


def equal(a: list[Batch], b: list[Batch]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x, y) for p, q in zip(a, b, strict=True) for x, y in zip(p[:3], q[:3], strict=True)
    )


@pytest.mark.parametrize("workers", [1, 3, 40])
def test_workers_change_nothing(tiny: Tiny, faces: CropSplit, workers: int) -> None:
    assert equal(batches(tiny, faces), batches(tiny, faces, changes={"data.workers": workers}))


def test_the_same_epoch_gives_the_same_bits_and_another_does_not(tiny: Tiny, faces: CropSplit) -> None:
    first = batches(tiny, faces, 3)
    assert equal(first, batches(tiny, faces, 3))
    assert not equal(first, batches(tiny, faces, 4))
    assert not equal(first, batches(tiny, faces, 3, {"run.seed": 1}))


def test_form_of_a_batch(tiny: Tiny, faces: CropSplit) -> None:
    made = batches(tiny, faces)
    assert len(made) == 3
    for batch in made:
        assert (batch.pictures.shape, batch.pictures.dtype) == ((8, 3, 32, 32), torch.uint8)
        assert (batch.target.shape, batch.target.dtype) == ((8, 98, 2), torch.float32)
        assert (batch.mask.shape, batch.mask.dtype) == ((8, 98), torch.bool)
        assert batch.pictures.is_contiguous(memory_format=torch.channels_last)


def test_an_epoch_is_a_permutation_of_the_faces(tiny: Tiny, faces: CropSplit) -> None:
    shown = torch.cat([batch.pictures for batch in batches(tiny, faces, changes=PLAIN)])
    order = epoch_order(24, 0, 1)
    assert sorted(order) == list(range(24))
    plain = torch.cat(list(evaluation_batches(faces, 32, 24)))
    assert torch.equal(shown, plain[torch.from_numpy(order)])
    assert not np.array_equal(order, epoch_order(24, 0, 2))
    assert not np.array_equal(order, epoch_order(24, 1, 1))


def test_unaugmented_targets_are_the_landmarks(tiny: Tiny, faces: CropSplit) -> None:
    target = torch.cat([batch.target for batch in batches(tiny, faces, changes=PLAIN)])
    expected = to_normalised(faces.landmarks[epoch_order(24, 0, 1)], 32)
    np.testing.assert_allclose(target.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("faces_", "size", "count"), [(24, 8, 3), (25, 8, 3), (31, 8, 3), (7, 8, 1), (8, 8, 1), (1, 8, 1)]
)
def test_leftovers_are_dropped_unless_there_is_nothing_else(faces_: int, size: int, count: int) -> None:
    assert batches_per_epoch(faces_, size) == count


def test_fewer_faces_than_a_batch_make_one_smaller_batch(tiny: Tiny, faces: CropSplit) -> None:
    (batch,) = batches(tiny, faces, changes={"optim.batch_size": 100})
    assert len(batch.pictures) == 24


def test_landmarks_outside_of_the_picture_are_masked(tiny: Tiny, faces: CropSplit) -> None:
    wild = {"data.augment.scale": 0.9, "data.augment.shift": 0.5}
    made = batches(tiny, faces, changes=wild)
    target, mask = (torch.cat([batch[i] for batch in made]) for i in (1, 2))
    assert torch.equal(mask, (target.abs() <= 1).all(-1))
    assert 0.2 < mask.float().mean() < 0.95


def test_missing_landmarks_are_masked_and_follow_the_mirror(tiny: Tiny, faces: CropSplit) -> None:
    visible, landmarks = faces.visible.copy(), faces.landmarks.copy()
    visible[:, :20] = False
    landmarks[:, :20] = np.nan
    partial = dataclasses.replace(faces, visible=visible, landmarks=landmarks)
    for flip in (0.0, 1.0):
        config = tiny({**PLAIN, "data.augment.flip": flip})
        made = list(training_batches(partial, config, 1))
        whole = list(training_batches(faces, config, 1))
        hidden = list(range(20)) if flip == 0 else [i for i, j in enumerate(config.data.landmarks.flip) if j < 20]
        for part, full in zip(made, whole, strict=True):
            assert not part.mask[:, hidden].any()
            rest = [i for i in range(98) if i not in hidden]
            assert torch.equal(part.mask[:, rest], full.mask[:, rest])
            assert torch.equal(part.target[:, rest], full.target[:, rest])


def test_evaluation_shows_the_central_crops_in_order(faces: CropSplit) -> None:
    made = list(evaluation_batches(faces, 32, 10))
    assert [len(pictures) for pictures in made] == [10, 10, 4]
    m = faces.margin
    assert m > 0
    expected = faces.images[:, m : m + 32, m : m + 32].transpose(0, 3, 1, 2)
    assert np.array_equal(torch.cat(made).numpy(), expected)


def test_an_abandoned_epoch_leaves_no_thread(tiny: Tiny, faces: CropSplit) -> None:
    before = threading.active_count()
    iterator = training_batches(faces, tiny({"data.workers": 3}), 1)
    next(iterator)
    iterator.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_a_fault_in_a_worker_comes_out(tiny: Tiny, faces: CropSplit) -> None:
    broken = dataclasses.replace(faces, landmarks=faces.landmarks[:5])
    with pytest.raises(IndexError):
        list(training_batches(broken, tiny({"data.workers": 2}), 1))
