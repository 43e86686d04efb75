"""What may become of requests to an MLflow server on their way, and of its answers."""

from __future__ import annotations

import http.client
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from waiting import PATIENCE


class Proxy(ThreadingHTTPServer):
    """In front of a server; what `mode` does is done to requests whose path holds `only`.

    pass: answers; slow: answers 2 s later; 500: answers so itself; hang: the server does it, but the answer is lost;
    hold: the server gets it when `release` is set, which is too late for whoever asked. `hit` counts such requests.
    """

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Forward)
        self.behind, self.mode, self.only, self.hit = port, "pass", "", 0
        self.release = threading.Event()
        self.uri = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def turn(self, mode: str, only: str = "") -> None:
        self.mode, self.only, self.hit = mode, only, 0


class _Forward(BaseHTTPRequestHandler):
    server: Proxy

    def _handle(self) -> None:
        proxy, body = self.server, self.rfile.read(int(self.headers.get("Content-Length", 0)))
        mode = proxy.mode if proxy.only in self.path else "pass"
        if mode == "hold":
            proxy.hit += 1
            proxy.release.wait()
        if mode == "500":
            status, kind, answer = 500, "text/plain", b"broken"
        else:
            behind = http.client.HTTPConnection("127.0.0.1", proxy.behind, timeout=PATIENCE)
            behind.request(self.command, self.path, body, dict(self.headers))
            got = behind.getresponse()
            status, kind, answer = got.status, got.headers.get("Content-Type", "text/plain"), got.read()
            behind.close()
        if mode == "slow":
            time.sleep(2)
        if mode == "hold":
            return
        if mode != "pass":
            proxy.hit += 1
        if mode == "hang":
            self.rfile.read(1)  # until the client has given up
            return
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _handle

    def log_message(self, *_: object) -> None:
        """Says nothing."""
