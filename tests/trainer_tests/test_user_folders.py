"""Caches find a folder, also for a user without a home."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from trainer.config import TrainConfig
from trainer.user_folders import default_cache, home_folder, is_writable


@pytest.fixture(autouse=True)
def no_cache_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)


def test_the_cache_is_in_the_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache() == TrainConfig().data.cache_folder == tmp_path / ".cache" / "starsweep"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache() == tmp_path / "xdg" / "starsweep"
    assert not list(tmp_path.iterdir())  # nothing was left


def test_a_home_that_cannot_be_written_to_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/proc/nohome")  # where also root cannot
    cache = default_cache()
    assert cache.parent == Path(tempfile.gettempdir())
    assert cache.name.startswith("starsweep-")


def test_a_user_without_a_home_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", none)
    assert home_folder(".ray") is None
    assert default_cache().parent == Path(tempfile.gettempdir())


def test_what_is_named_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/proc/nohome")
    config = TrainConfig().replace({"data.cache_dir": "/proc/here"})
    assert config.data.cache_folder == Path("/proc/here")  # and refused by name when it is used


def test_what_can_be_written_to_is_tried(tmp_path: Path) -> None:
    assert is_writable(tmp_path)
    assert is_writable(tmp_path / "a" / "b")
    assert not is_writable(Path("/proc/x"))
    (tmp_path / "file").touch()
    assert not is_writable(tmp_path / "file")
    assert not is_writable(tmp_path / "file" / "x")
