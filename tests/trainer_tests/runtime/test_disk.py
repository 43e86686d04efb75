"""A full disk is told as one, whatever a library makes of it; everything else passes as it was."""

import errno
from pathlib import Path

import pytest

from trainer.errors import DiskFullError
from trainer.runtime.disk import writing


def system(number: int) -> OSError:
    return OSError(number, "words of the system")


@pytest.mark.parametrize(
    "error",
    [system(errno.ENOSPC), system(errno.EDQUOT), RuntimeError("(sqlite3.OperationalError) database or disk is full")],
)
def test_a_full_disk_is_told_with_path_and_need(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(DiskFullError) as caught, writing(tmp_path / "not yet" / "a.pt", 134_000_000):
        raise error
    assert str(caught.value).startswith(f"{tmp_path}/not yet/a.pt: the disk is full: about 134.0 MB needed, ")
    assert caught.value.__cause__ is error


def test_it_is_found_behind_the_words_of_libraries(tmp_path: Path) -> None:
    error = RuntimeError("unexpected pos 64 vs 0")
    error.__cause__ = system(errno.ENOSPC)
    with pytest.raises(DiskFullError, match="a few kB needed"), writing(tmp_path):
        raise error


def test_what_cannot_fit_is_a_full_disk_even_if_nobody_says_so(tmp_path: Path) -> None:
    with pytest.raises(DiskFullError, match=r"about 1000000\.0 GB needed"), writing(tmp_path, 10**15):
        raise RuntimeError("unexpected pos 64 vs 0")


@pytest.mark.parametrize("error", [system(errno.EACCES), RuntimeError("unexpected pos 64 vs 0"), KeyError("x")])
def test_other_errors_pass_unchanged(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error)) as caught, writing(tmp_path, 1):
        raise error
    assert caught.value is error


def test_the_innermost_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(DiskFullError, match=r"inner: "), writing(tmp_path / "outer"), writing(tmp_path / "inner"):
        raise system(errno.ENOSPC)
