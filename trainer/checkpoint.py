"""Checkpoints: whole, atomic, and refused by name when they are not what they should be.

`last.pt` holds the whole state of a run, to go on from; `best.pt` the evaluated weights and the config, to use.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from trainer.atomic_file import remove_stale, replacing
from trainer.errors import CheckpointError, DiskFullError
from trainer.runtime.disk import writing

FORMAT = 1


def save(state: dict[str, Any], path: Path) -> None:
    """Writes a checkpoint so that a reader sees the old one or the new one, never half of one.

    Raises:
        DiskFullError: there is no room for it; the previous checkpoint is untouched.
        CheckpointError: it could not be written for another reason; the previous checkpoint is untouched.
    """
    remove_stale(path)
    try:
        with writing(path, _bytes(state)), replacing(path) as temporary, open(temporary, "wb") as file:
            torch.save({"format": FORMAT, **state}, file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:
        if isinstance(error, DiskFullError):
            raise
        raise CheckpointError(f"{path}: could not be written ({error})") from error


def _bytes(state: Any) -> int:
    """What the tensors of a state take on disk."""
    if isinstance(state, torch.Tensor):
        return state.nbytes
    items = state.values() if isinstance(state, dict) else state if isinstance(state, (list, tuple)) else ()
    return sum(_bytes(item) for item in items)


def load(path: Path, identity: str | None = None) -> dict[str, Any]:
    """Reads a checkpoint onto the CPU, executing nothing that it may contain.

    Args:
        path: file.
        identity: refuse a checkpoint whose config has another `TrainConfig.identity`.

    Raises:
        CheckpointError: with the path and what is wrong.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint") from None
    except Exception as error:  # torch raises many kinds for a damaged or hostile file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: damaged, or not a checkpoint that may be read ({reason})") from None
    if not isinstance(state, dict) or not isinstance(state.get("format"), int):
        raise CheckpointError(f"{path}: is not a starsweep checkpoint")
    if state["format"] != FORMAT:
        raise CheckpointError(f"{path}: has format {state['format']}; this program reads format {FORMAT}")
    if identity is not None and state.get("identity") != identity:
        raise CheckpointError(f"{path}: belongs to another config (its {state.get('identity')}, asked for {identity})")
    return state
