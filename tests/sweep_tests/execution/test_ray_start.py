"""Ray gets a folder for its sockets, a token and the cores of this process; if it does not start, that is told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sweep.core.errors import RayStartError
from sweep.execution import ray_session, ray_start

assert ray_session  # sets what ray reads when it is imported

VARIABLES = ("RAY_TMPDIR", "TMPDIR", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE")


@pytest.fixture(autouse=True)
def nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """What `ray.init` was called with, and the environment then."""
    calls: list[dict] = []

    def init(**options: object) -> None:
        calls.append({**options, "environment": dict(os.environ)})

    monkeypatch.setattr(ray_start.ray, "init", init)
    return calls


def fail(monkeypatch: pytest.MonkeyPatch, error: Exception) -> list[int]:
    calls: list[int] = []

    def init(**options: object) -> None:
        calls.append(1)
        raise error

    monkeypatch.setattr(ray_start.ray, "init", init)
    return calls


def test_where_all_is_usual_nothing_is_changed(started: list[dict], monkeypatch: pytest.MonkeyPatch) -> None:
    before = dict(os.environ)
    with ray_start.local_ray():
        pass
    assert not {"RAY_TMPDIR", "RAY_AUTH_TOKEN"} & started[0]["environment"].keys()
    assert dict(os.environ) == before


def test_ray_has_the_cores_that_this_process_may_use(started: list[dict], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_start, "available_cores", lambda: 3)
    with ray_start.local_ray():
        assert started[0]["num_cpus"] == 3


def test_a_long_temporary_folder_is_replaced_for_the_session(
    started: list[dict], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    long = tmp_path / ("x" * 60)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    with ray_start.local_ray():
        assert os.environ["RAY_TMPDIR"] == "/tmp"
    assert started[0]["environment"]["RAY_TMPDIR"] == "/tmp"
    assert "RAY_TMPDIR" not in os.environ


def test_a_folder_that_cannot_be_written_to_is_replaced(started: list[dict], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/proc")  # where also root cannot
    with ray_start.local_ray():
        assert os.environ["RAY_TMPDIR"] == "/tmp"


def test_the_folder_of_another_user_is_replaced_by_an_own_one(
    started: list[dict], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    usable = ray_start._is_usable
    monkeypatch.setattr(ray_start, "_is_usable", lambda folder: "ray-" in folder.name and usable(folder))
    with ray_start.local_ray():
        own = Path(os.environ["RAY_TMPDIR"])
    assert own.name == f"ray-{os.getuid()}"
    assert own.stat().st_mode & 0o777 == 0o700
    own.rmdir()


def test_who_names_a_folder_is_obeyed(started: list[dict], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/proc")
    with ray_start.local_ray():
        assert os.environ["RAY_TMPDIR"] == "/proc"


def test_without_a_home_the_session_has_a_token_of_its_own(
    started: list[dict], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/proc/nohome")
    tokens = []
    for _ in range(2):
        with ray_start.local_ray():
            tokens.append(os.environ["RAY_AUTH_TOKEN"])
        assert "RAY_AUTH_TOKEN" not in os.environ
    assert len(set(tokens)) == 2
    assert min(map(len, tokens)) >= 64


@pytest.mark.parametrize("name", ["RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"])
def test_who_says_how_to_authenticate_is_obeyed(
    started: list[dict], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("HOME", "/proc/nohome")
    monkeypatch.setenv(name, "given")
    with ray_start.local_ray():
        assert {key: os.environ.get(key) for key in VARIABLES if "AUTH" in key and key in os.environ} == {name: "given"}


def test_a_busy_machine_is_tried_again_and_then_told(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = fail(monkeypatch, Exception("The current node timed out during startup. This could happen because ..."))
    with pytest.raises(RayStartError, match=r"timed out during startup.* too busy: try again"), ray_start.local_ray():
        pass
    assert len(calls) == ray_start._MAX_STARTS


@pytest.mark.parametrize(
    ("folder", "error", "advice"),
    [
        (None, RuntimeError("no port is free\nmore"), "no port is free. Its log files: /tmp/ray/session_latest/logs"),
        ("/" + "x" * 90, OSError("AF_UNIX path length cannot exceed 107 bytes"), "Set RAY_TMPDIR to a folder"),
        ("/proc", PermissionError(13, "Permission denied", "/proc/ray"), "Set RAY_TMPDIR to a folder"),
        (None, AssertionError(), "AssertionError"),
    ],
)
def test_what_keeps_ray_from_starting_is_one_line_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, folder: str | None, error: Exception, advice: str
) -> None:
    if folder is not None:
        monkeypatch.setenv("RAY_TMPDIR", folder)
    calls = fail(monkeypatch, error)
    with pytest.raises(RayStartError) as raised, ray_start.local_ray():
        pass
    assert advice in str(raised.value)
    assert "\n" not in str(raised.value)
    assert len(calls) == 1
