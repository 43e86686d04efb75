"""How fast trials train while their MLflow server is away or slow, against a healthy one."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from benchmarks.measuring import Table, medians_in_turn

_ROUNDS, _EPOCHS, _LATE = 3, 8, 2.0
_WORDS = [
    "--trials",
    "2",
    "--pruner.name",
    "none",
    "--train.optim.epochs",
    str(_EPOCHS),
    "--train.run.precision",
    "bfloat16",
]


def measure() -> Table:
    """Runs two trials at once with each kind of server in turn."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        uris = {
            "healthy": stack.enter_context(_healthy(Path(folder))),
            "never there": f"http://127.0.0.1:{_free_port()}",
            f"error 500 after {_LATE:g} s": stack.enter_context(_slow()),
        }
        runs = {name: (lambda uri=uri: _images_per_second(uri)) for name, uri in uris.items()}
        speeds = medians_in_turn(runs, _ROUNDS)
    rows = [[name, f"{speed:.1f}", f"{speed / speeds['healthy']:.3f}"] for name, speed in speeds.items()]
    conditions = (
        f"The demo's network, two trials of one thread at once, {_EPOCHS} epochs each: median of the epochs after the "
        f"first, and of {_ROUNDS} rounds in turn."
    )
    return Table("Training while MLflow is away", ["MLflow server", "images/s a trial", "of healthy"], rows, conditions)


def _images_per_second(uri: str) -> float:
    with tempfile.TemporaryDirectory() as output:
        words = ["--output", output, "--mlflow_uri", uri, *_WORDS]
        subprocess.run([sys.executable, "-m", "sweep.run", *words], check=True, stdout=subprocess.DEVNULL)
        lines = (Path(output) / "demo" / "events.jsonl").read_text(encoding="utf-8").splitlines()
    events = [event for event in map(json.loads, lines) if event["event"] == "report" and event["step"] > 1]
    return statistics.median(event["metrics"]["images_per_second"] for event in events)


@contextlib.contextmanager
def _healthy(folder: Path) -> Iterator[str]:
    """A real MLflow server on SQLite."""
    port = _free_port()
    store = ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}", "--artifacts-destination", str(folder)]
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1", *store]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    server = subprocess.Popen(command, cwd=folder, **quiet)  # type: ignore[call-overload]
    try:
        for _ in range(300):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1):
                break
            time.sleep(0.3)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@contextlib.contextmanager
def _slow() -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            time.sleep(_LATE)
            self.send_error(500)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
