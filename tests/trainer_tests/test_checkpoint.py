"""Checkpoints: whole and atomic; anything else is refused by name and runs nothing."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from trainer import checkpoint
from trainer.errors import CheckpointError

STATE = {"identity": "abc", "model": {"w": torch.arange(2000.0)}, "history": [{"lr": 1e-3}], "best_nme": 0.1}


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


def refused(path: Path, identity: str | None = None) -> str:
    with pytest.raises(CheckpointError) as error:
        checkpoint.load(path, identity)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_went_in_comes_out(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    checkpoint.save(STATE, path)
    state = checkpoint.load(path, "abc")
    assert torch.equal(state["model"]["w"], STATE["model"]["w"])
    assert (state["format"], state["history"], state["best_nme"]) == (checkpoint.FORMAT, [{"lr": 1e-3}], 0.1)
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


def test_a_newer_one_replaces_the_older(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    checkpoint.save(STATE, path)
    checkpoint.save({**STATE, "best_nme": 0.05}, path)
    assert checkpoint.load(path)["best_nme"] == 0.05


@pytest.mark.parametrize("fault", [OSError("No space left on device"), RuntimeError("unexpected pos 64 vs 0")])
def test_a_failed_write_leaves_the_older_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception) -> None:
    path = tmp_path / "last.pt"
    checkpoint.save(STATE, path)

    def fail(_: Any, file: Any) -> None:
        file.write(b"half of it")
        raise fault

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", fail)
        with pytest.raises(CheckpointError, match=r"last\.pt: could not be written"):
            checkpoint.save({**STATE, "best_nme": 0.05}, path)
    assert checkpoint.load(path)["best_nme"] == 0.1
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"last\.pt: could not be written"):
        checkpoint.save(STATE, tmp_path / "none" / "last.pt")


def test_missing(tmp_path: Path) -> None:
    assert "no such checkpoint" in refused(tmp_path / "last.pt")


def test_a_folder_is_no_checkpoint(tmp_path: Path) -> None:
    refused(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9, 0.999])
def test_cut_short(tmp_path: Path, share: float) -> None:
    path = tmp_path / "last.pt"
    checkpoint.save(STATE, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    assert "damaged" in refused(path)


@pytest.mark.parametrize("content", [b"hello\n", b"\0" * 100, b"PK\x03\x04", b"\x80\x02K\x01."])
def test_something_else_entirely(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "last.pt"
    path.write_bytes(content)
    refused(path)


@pytest.mark.parametrize("content", [{"model": {}}, [1], torch.ones(3), {"format": "1"}])
def test_a_torch_file_of_another_kind(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "last.pt"
    torch.save(content, path)
    assert "is not a starsweep checkpoint" in refused(path)


def test_another_format(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    torch.save({**STATE, "format": checkpoint.FORMAT + 1}, path)
    assert f"has format {checkpoint.FORMAT + 1}; this program reads format {checkpoint.FORMAT}" in refused(path)


def test_another_config(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    checkpoint.save(STATE, path)
    assert "belongs to another config (its abc, asked for xyz)" in refused(path, "xyz")
    checkpoint.save({"model": {}}, path)
    assert "belongs to another config" in refused(path, "xyz")


@pytest.mark.parametrize("how", ["torch", "legacy torch", "pickle"])
def test_a_hostile_file_runs_nothing(tmp_path: Path, how: str) -> None:
    path, trap = tmp_path / "last.pt", tmp_path / "owned"
    state = {"format": checkpoint.FORMAT, "model": Hostile(trap)}
    if how == "pickle":
        path.write_bytes(pickle.dumps(state, protocol=2))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=how == "torch")
    assert "damaged, or not a checkpoint that may be read" in refused(path)
    assert not trap.exists()
    if how == "pickle":
        pickle.loads(path.read_bytes())
        assert trap.is_dir()  # the trap does work
