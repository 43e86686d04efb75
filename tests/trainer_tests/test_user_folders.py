"""Caches find a folder, also for a user without a home."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import pytest

from trainer.config import TrainConfig
from trainer.errors import ConfigError
from trainer.user_folders import check_output, default_cache, home_folder, is_writable, matplotlib_cache


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


def test_a_folder_for_results_that_cannot_be_written_to_is_refused_by_its_setting(tmp_path: Path) -> None:
    check_output(tmp_path / "a" / "b", "output")
    assert not list(tmp_path.iterdir())  # nothing was left
    (tmp_path / "file").touch()
    for folder in (Path("/proc/x"), tmp_path / "file" / "x"):
        with pytest.raises(ConfigError, match=f"output = '{folder}': cannot be written to .*name another folder"):
            check_output(folder, "output")


def test_a_full_disk_is_left_to_what_meets_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(**options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    check_output(tmp_path, "output")


def test_matplotlib_keeps_its_cache_elsewhere_without_a_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("MPLCONFIGDIR", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    matplotlib_cache()
    assert "MPLCONFIGDIR" not in os.environ
    monkeypatch.setenv("HOME", "/proc/nohome")
    monkeypatch.setenv("MPLCONFIGDIR", "mine")
    matplotlib_cache()
    assert os.environ["MPLCONFIGDIR"] == "mine"
    monkeypatch.delenv("MPLCONFIGDIR")
    matplotlib_cache()
    assert is_writable(Path(os.environ["MPLCONFIGDIR"]))
