"""A small HTTP server on this machine that breaks off, forgets and lies when told to."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BODY = bytes(range(256)) * 400  # 102,400 bytes


@dataclass
class Resource:
    """What the server has at one path, and how it misbehaves there."""

    body: bytes = BODY
    etag: str | None = '"one"'
    statuses: list[int] = field(default_factory=list)  # answers of the first requests; 200 after them
    drops: list[int] = field(default_factory=list)  # bytes after which the first answers break off
    ignores_range: bool = False
    ignores_if_range: bool = False
    declares_length: bool = True
    announces: int | None = None  # a length that is not the body's
    repeats: int = 1  # how often the body is sent; the client may go away before
    location: str | None = None  # the answers are redirects to there
    headers: dict[str, str] = field(default_factory=dict)  # of every answer, besides those of HTTP
    gate: threading.Event | None = None  # the answer waits for it
    requests: list[dict[str, str]] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)  # bytes of the body sent in each answer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.close_connection = True
        self.server.requested.append(self.path)
        resource = self.server.resources.get(self.path)
        if resource is None:
            return self.answer(404)
        resource.requests.append(dict(self.headers))
        if resource.gate:
            resource.gate.wait(5)
        if resource.statuses:
            return self.answer(resource.statuses.pop(0), {"Content-Length": "0", **resource.headers})
        if resource.location:
            return self.answer(302, {"Location": resource.location, "Content-Length": "0"})
        start = self.start_of(resource)
        if start and start >= len(resource.body):
            return self.answer(416, {"Content-Range": f"bytes */{len(resource.body)}"})
        headers = dict(resource.headers) | ({"ETag": resource.etag} if resource.etag else {})
        if start:
            last = len(resource.body) - 1
            headers["Content-Range"] = f"bytes {start}-{last}/{len(resource.body)}"
        body = resource.body[start:]
        if resource.declares_length:
            headers["Content-Length"] = str(len(body) if resource.announces is None else resource.announces)
        stop = resource.drops.pop(0) if resource.drops else len(body)
        resource.sent.append(len(body[:stop]))
        self.answer(206 if start else 200, headers, body[:stop])
        for _ in range(resource.repeats - 1):
            self.wfile.write(body)
            resource.sent[-1] += len(body)

    do_HEAD = do_GET

    def start_of(self, resource: Resource) -> int:
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if asked is None or resource.ignores_range:
            return 0
        if_range = self.headers.get("If-Range")
        if if_range not in (None, resource.etag) and not resource.ignores_if_range:
            return 0
        return int(asked[1])

    def answer(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in (headers or {"Content-Length": "0"}).items():
            self.send_header(name, value)
        self.send_header("Connection", "close")  # which it is; clients would use it again
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    """Serves `resources`, by their paths, and keeps the paths that were asked for in `requested`."""

    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.resources: dict[str, Resource] = {}
        self.requested: list[str] = []

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is part of the tests."""

    def add(self, path: str, resource: Resource) -> str:
        """Serve the resource; its address."""
        self.resources[path] = resource
        return f"http://127.0.0.1:{self.server_port}{path}"


@contextmanager
def serving() -> Iterator[Server]:
    """A server that answers until the block ends."""
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()
