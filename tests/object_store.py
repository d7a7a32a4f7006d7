"""An S3 server on loopback, and a proxy before it that does to requests what networks and busy stores do."""

from __future__ import annotations

import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FAULTS = ("slow_down", "error", "reset", "slow", "lost", "cut_off")
"""503 and 500 answers; a connection reset in the middle of a body; a body that trickles; an answer that is lost after
the work was done; an upload that breaks off midway."""

_BODY = "<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}, injected</Message></Error>"


class FaultyProxy(ThreadingHTTPServer):
    """Passes requests on to `port`, a share of `rate` with a fault, until `most` had one.

    `struck` counts faults by kind, `requests` by method, `ranges` those for a part of a file.
    """

    daemon_threads = True

    def __init__(self, port: int, *, rate: float, seed: int = 0, faults: tuple[str, ...] = FAULTS) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = port
        self.rate = rate
        self.faults = faults
        self.most = 1_000_000
        self.struck: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self.ranges = 0
        self._random = random.Random(seed)
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def choose(self, method: str) -> str | None:
        """The fault of the next request, if it is to have one: of those that fit it, the rarest so far."""
        possible = [fault for fault in self.faults if _fits(fault, method)]
        with self._lock:
            self.requests[method] += 1
            if not possible or self.struck.total() >= self.most or self._random.random() >= self.rate:
                return None
            fault = min(possible, key=lambda fault: (self.struck[fault], self._random.random()))
            self.struck[fault] += 1
            return fault


def _fits(fault: str, method: str) -> bool:
    return {"reset": method == "GET", "slow": method == "GET", "cut_off": method == "PUT"}.get(fault, True)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyProxy

    def _pass_on(self) -> None:
        fault = self.server.choose(self.command)
        length = int(self.headers.get("Content-Length") or 0)
        if fault == "cut_off":
            self.rfile.read(length // 2)
            return self._reset()
        body = self.rfile.read(length)
        if fault == "slow_down":
            return self._refuse(503, "SlowDown")
        if fault == "error":
            return self._refuse(500, "InternalError")
        if self.headers.get("Range"):
            self.server.ranges += 1
        answer, data = self._ask(body)
        if fault == "lost":
            return self._reset()
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        stated = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(data))
        self.send_header("Content-Length", stated or "0")
        self.end_headers()
        if fault == "reset":
            self.wfile.write(data[: len(data) // 2])
            return self._reset()
        if fault == "slow":
            for start in range(0, len(data), max(1, len(data) // 8)):
                self.wfile.write(data[start : start + max(1, len(data) // 8)])
                time.sleep(0.02)
            return None
        self.wfile.write(data)
        return None

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass_on

    def _ask(self, body: bytes) -> tuple[http.client.HTTPResponse, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.upstream, timeout=60)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in ("connection", "expect")}
        connection.request(self.command, self.path, body=body or None, headers=headers)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        return answer, data

    def _refuse(self, status: int, code: str) -> None:
        data = b"" if self.command == "HEAD" else _BODY.format(code=code).encode()
        self.send_response_only(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _reset(self) -> None:
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Faults are no news here."""

    def handle(self) -> None:
        try:
            super().handle()
        except (ConnectionError, ValueError, OSError):
            self.close_connection = True

    def finish(self) -> None:
        try:
            super().finish()
        except (ConnectionError, ValueError, OSError):
            self.close_connection = True


@contextmanager
def serve(proxy: FaultyProxy) -> Iterator[FaultyProxy]:
    """Runs the proxy in a thread."""
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join()
