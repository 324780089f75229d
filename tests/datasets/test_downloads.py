"""Downloads against a small server on this machine that breaks off, forgets and lies when told to."""

from __future__ import annotations

import hashlib
import io
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.request import Request

import pytest
from helpers import names, refusal
from PIL import Image

from lost_reg.datasets import downloads
from lost_reg.datasets.downloads import Checksum, ImageJob, fetch, fetch_images
from lost_reg.errors import LostRegError

BODY = bytes(range(256)) * 400  # 102,400 bytes
SUM = Checksum("sha256", hashlib.sha256(BODY).hexdigest())


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
    location: str | None = None  # the answers are redirects to there
    gate: threading.Event | None = None  # the answer waits for it
    requests: list[dict[str, str]] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)  # bytes of the body sent in each answer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.close_connection = True
        resource = self.server.resources.get(self.path)
        if resource is None:
            return self.answer(404)
        resource.requests.append(dict(self.headers))
        if resource.gate:
            resource.gate.wait(5)
        if resource.statuses:
            return self.answer(resource.statuses.pop(0))
        if resource.location:
            return self.answer(302, {"Location": resource.location, "Content-Length": "0"})
        start = self.start_of(resource)
        if start and start >= len(resource.body):
            return self.answer(416, {"Content-Range": f"bytes */{len(resource.body)}"})
        headers = {"ETag": resource.etag} if resource.etag else {}
        if start:
            last = len(resource.body) - 1
            headers["Content-Range"] = f"bytes {start}-{last}/{len(resource.body)}"
        body = resource.body[start:]
        if resource.declares_length:
            headers["Content-Length"] = str(len(body))
        stop = resource.drops.pop(0) if resource.drops else len(body)
        resource.sent.append(len(body[:stop]))
        self.answer(206 if start else 200, headers, body[:stop])

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
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.resources: dict[str, Resource] = {}

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is part of the tests."""

    def add(self, path: str, resource: Resource) -> str:
        """Serve the resource; its address."""
        self.resources[path] = resource
        return f"http://127.0.0.1:{self.server_port}{path}"


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "RETRY_WAITS", ())
    monkeypatch.setattr(downloads, "TIMEOUT_SECONDS", 10.0)
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")


def retry(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    monkeypatch.setattr(downloads, "RETRY_WAITS", (0.0,) * times)


class TestChecksum:
    def test_md5_and_sha256(self, tmp_path: Path) -> None:
        path = tmp_path / "abc"
        path.write_bytes(b"abc")
        assert Checksum("md5", "900150983cd24fb0d6963f7d28e17f72").fits(path)
        assert not SUM.fits(path)
        assert not SUM.fits(tmp_path / "missing")

    @pytest.mark.parametrize("algorithm, digest", [("sha1", "0" * 40), ("md5", "0" * 31), ("md5", "G" * 32)])
    def test_nonsense_is_refused(self, algorithm: str, digest: str) -> None:
        with pytest.raises(ValueError, match="expected"):
            Checksum(algorithm, digest)


class TestFetch:
    def test_plain(self, server: Server, tmp_path: Path) -> None:
        reports = []
        url = server.add("/file", Resource())
        fetch(url, tmp_path / "new" / "file", SUM, report=lambda *seen: reports.append(seen))
        assert (tmp_path / "new" / "file").read_bytes() == BODY
        assert names(tmp_path) == ["new", "new/file"]
        assert reports[0] == (0, len(BODY)) and reports[-1] == (len(BODY), len(BODY))

    def test_file_in_place_is_not_asked_for(self, server: Server, tmp_path: Path) -> None:
        resource = Resource()
        (tmp_path / "file").write_bytes(BODY)
        fetch(server.add("/file", resource), tmp_path / "file", SUM)
        assert resource.requests == []
        assert not (tmp_path / "file.lock").exists()  # so the folder may be read-only

    def test_wrong_file_in_place_is_replaced(self, server: Server, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"something else")
        fetch(server.add("/file", Resource()), tmp_path / "file", SUM)
        assert (tmp_path / "file").read_bytes() == BODY

    def test_length_not_told(self, server: Server, tmp_path: Path) -> None:
        reports = []
        url = server.add("/file", Resource(declares_length=False))
        fetch(url, tmp_path / "file", SUM, report=lambda *seen: reports.append(seen))
        assert reports[-1] == (len(BODY), None)

    def test_interrupted_then_resumed(self, server: Server, tmp_path: Path) -> None:
        resource = Resource(drops=[30_000])
        url = server.add("/file", resource)
        text = refusal(fetch, url, tmp_path / "file", SUM)
        assert url in text and str(tmp_path / "file.part") in text and "30000 of 102400" in text
        assert names(tmp_path) == ["file.part", "file.part.json"]

        reports = []
        fetch(url, tmp_path / "file", SUM, report=lambda *seen: reports.append(seen))
        assert resource.requests[1]["Range"] == "bytes=30000-"
        assert resource.requests[1]["If-Range"] == '"one"'
        assert resource.sent == [30_000, 72_400]
        assert reports[0] == (30_000, 102_400)
        assert (tmp_path / "file").read_bytes() == BODY
        assert names(tmp_path) == ["file"]

    def test_continued_within_one_call(self, server: Server, tmp_path: Path, monkeypatch) -> None:
        retry(monkeypatch, 2)
        resource = Resource(drops=[30_000, 50_000], etag=None)
        fetch(server.add("/file", resource), tmp_path / "file", SUM)
        assert resource.sent == [30_000, 50_000, 22_400]
        assert (tmp_path / "file").read_bytes() == BODY

    def test_getting_further_starts_the_waits_over(self, server: Server, tmp_path: Path, monkeypatch) -> None:
        retry(monkeypatch, 1)
        monkeypatch.setattr(downloads, "_CHUNK", 10_000)
        resource = Resource(drops=[20_000] * 5)
        fetch(server.add("/file", resource), tmp_path / "file", SUM)
        assert resource.sent == [20_000] * 5 + [2_400]

    def test_server_that_ignores_range(self, server: Server, tmp_path: Path, monkeypatch) -> None:
        retry(monkeypatch, 1)
        resource = Resource(drops=[30_000], ignores_range=True)
        fetch(server.add("/file", resource), tmp_path / "file", SUM)
        assert resource.requests[1]["Range"] == "bytes=30000-"
        assert resource.sent == [30_000, 102_400]
        assert (tmp_path / "file").read_bytes() == BODY

    @pytest.mark.parametrize("ignores_if_range", [False, True])
    def test_file_changed_in_between(self, server: Server, tmp_path: Path, ignores_if_range: bool) -> None:
        old = Resource(body=bytes(len(BODY)), drops=[30_000])
        refusal(fetch, server.add("/file", old), tmp_path / "file", SUM)
        new = Resource(etag='"two"', ignores_if_range=ignores_if_range)
        fetch(server.add("/file", new), tmp_path / "file", SUM)
        assert (tmp_path / "file").read_bytes() == BODY
        assert new.sent[-1] == len(BODY)
        assert "Range" in new.requests[0]

    def test_part_of_another_address_is_not_continued(self, server: Server, tmp_path: Path) -> None:
        refusal(fetch, server.add("/old", Resource(drops=[30_000])), tmp_path / "file", SUM)
        new = Resource()
        fetch(server.add("/new", new), tmp_path / "file", SUM)
        assert "Range" not in new.requests[0]

    @pytest.mark.parametrize("whole", [True, False])
    def test_part_that_lacks_nothing(self, server: Server, tmp_path: Path, whole: bool) -> None:
        resource = Resource(drops=[30_000])
        url = server.add("/file", resource)
        refusal(fetch, url, tmp_path / "file", SUM)
        (tmp_path / "file.part").write_bytes(BODY if whole else bytes(len(BODY)))
        fetch(url, tmp_path / "file", SUM)
        assert resource.requests[1]["Range"] == f"bytes={len(BODY)}-"
        assert resource.sent == [30_000] if whole else [30_000, 102_400]
        assert (tmp_path / "file").read_bytes() == BODY

    def test_wrong_checksum(self, server: Server, tmp_path: Path) -> None:
        body = b"a page that asks for a login"
        url = server.add("/file", Resource(body=body))
        text = refusal(fetch, url, tmp_path / "file", SUM)
        assert SUM.hexdigest in text and hashlib.sha256(body).hexdigest() in text and url in text
        assert names(tmp_path) == []

    @pytest.mark.parametrize("url", ["http://example.org/file", "ftp://127.0.0.1/file", "file:///etc/hosts"])
    def test_only_https(self, tmp_path: Path, url: str) -> None:
        assert "only https" in refusal(fetch, url, tmp_path / "file", SUM)

    @pytest.mark.parametrize(
        "start, end, followed",
        [
            ("https://example.org/a", "http://example.org/b", False),
            ("https://example.org/a", "http://127.0.0.1/b", False),
            ("https://example.org/a", "https://example.com/b", True),
            ("http://127.0.0.1/a", "http://example.org/b", False),
            ("http://127.0.0.1/a", "http://127.0.0.1/b", True),
        ],
    )
    def test_redirects(self, start: str, end: str, followed: bool) -> None:
        redirect = downloads._SecureRedirects().redirect_request
        args = (Request(start), None, 302, "Found", {}, end)
        if followed:
            assert redirect(*args).full_url == end
        else:
            text = refusal(redirect, *args)
            assert start in text and end in text

    def test_redirect_is_followed_with_the_range(self, server: Server, tmp_path: Path, monkeypatch) -> None:
        retry(monkeypatch, 1)
        resource = Resource(drops=[30_000])
        url = server.add("/moved", Resource(location=server.add("/file", resource)))
        fetch(url, tmp_path / "file", SUM)
        assert resource.sent == [30_000, 72_400]

    def test_redirects_in_a_circle(self, server: Server, tmp_path: Path) -> None:
        url = server.add("/circle", Resource(location="/circle"))
        assert "302" in refusal(fetch, url, tmp_path / "file", SUM)

    def test_not_found_is_asked_once(self, server: Server, tmp_path: Path, monkeypatch) -> None:
        retry(monkeypatch, 3)
        resource = Resource(statuses=[404])
        text = refusal(fetch, server.add("/file", resource), tmp_path / "file", SUM)
        assert "404 Not Found" in text and str(tmp_path / "file") in text
        assert len(resource.requests) == 1

    def test_passing_failure_of_the_server(self, server: Server, tmp_path: Path, monkeypatch) -> None:
        retry(monkeypatch, 2)
        resource = Resource(statuses=[500, 503])
        fetch(server.add("/file", resource), tmp_path / "file", SUM)
        assert len(resource.requests) == 3

    def test_lasting_failure_of_the_server(self, server: Server, tmp_path: Path, monkeypatch) -> None:
        retry(monkeypatch, 2)
        resource = Resource(statuses=[500] * 9)
        assert "500" in refusal(fetch, server.add("/file", resource), tmp_path / "file", SUM)
        assert len(resource.requests) == 3

    def test_silent_server(self, server: Server, tmp_path: Path, monkeypatch) -> None:
        monkeypatch.setattr(downloads, "TIMEOUT_SECONDS", 0.1)
        gate = threading.Event()
        url = server.add("/file", Resource(gate=gate))
        text = refusal(fetch, url, tmp_path / "file", SUM)
        gate.set()
        assert "timed out" in text

    def test_nobody_answers(self, server: Server, tmp_path: Path) -> None:
        with Server() as closed:
            url = closed.add("/file", Resource())
        assert url in refusal(fetch, url, tmp_path / "file", SUM)

    def test_two_at_once_are_one_download(self, server: Server, tmp_path: Path) -> None:
        second_asked = threading.Event()
        resource = Resource(gate=second_asked)
        url = server.add("/file", resource)
        failures = []

        def call() -> None:
            try:
                fetch(url, tmp_path / "file", SUM)
            except LostRegError as error:
                failures.append(error)

        threads = [threading.Thread(target=call) for _ in range(2)]
        for thread in threads:
            thread.start()
        # The first is held at the server for a while; the second must not come there meanwhile.
        threading.Event().wait(0.3)
        second_asked.set()
        for thread in threads:
            thread.join()
        assert failures == [] and len(resource.requests) == 1
        assert names(tmp_path) == ["file"]

    @pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
    def test_full_disk(self, server: Server, tmp_path: Path) -> None:
        (tmp_path / "file.part").symlink_to("/dev/full")
        text = refusal(fetch, server.add("/file", Resource()), tmp_path / "file", SUM)
        assert "No space left" in text and "make room" in text

    def test_folder_that_cannot_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("in the way")
        text = refusal(fetch, "https://example.org/a", tmp_path / "file" / "a", SUM)
        assert "cannot read or write" in text and str(tmp_path / "file") in text


def jpeg(width: int = 40, height: int = 30) -> bytes:
    stream = io.BytesIO()
    Image.effect_noise((width, height), 60).save(stream, "JPEG")
    return stream.getvalue()


class TestFetchImages:
    def jobs(self, server: Server, folder: Path, bodies: list[bytes], **behaviour) -> list[ImageJob]:
        """One 40 x 30 image to be had for each of the bodies that the server has instead."""
        jobs = []
        for i, body in enumerate(bodies):
            url = server.add(f"/{i}.jpg", Resource(body=body, **behaviour))
            jobs.append(ImageJob(url, folder / "images" / f"{i}.jpg", (30, 40)))
        return jobs

    def test_good(self, server: Server, tmp_path: Path) -> None:
        bodies = [jpeg() for _ in range(20)]
        reports = []
        jobs = self.jobs(server, tmp_path, bodies)
        fetch_images(iter(jobs), workers=4, report=lambda *seen: reports.append(seen))
        assert [job.destination.read_bytes() for job in jobs] == bodies
        assert len(names(tmp_path)) == 21
        assert reports == [(done, 20) for done in range(21)]

    def test_those_in_place_are_skipped(self, server: Server, tmp_path: Path) -> None:
        jobs = self.jobs(server, tmp_path, [jpeg(), jpeg()])
        fetch_images(jobs[:1])
        reports = []
        fetch_images(jobs, report=lambda *seen: reports.append(seen))
        assert [len(server.resources[path].requests) for path in ("/0.jpg", "/1.jpg")] == [1, 1]
        assert reports == [(1, 2), (2, 2)]

    @pytest.mark.parametrize(
        "body, reason",
        [
            (jpeg(30, 40), "expected 40 x 30 pixels, but got 30 x 40"),
            (jpeg()[:-200], "no whole image"),
            (b"<html>not here</html>", "no whole image"),
            (b"", "no whole image"),
        ],
        ids=["size", "truncated", "text", "empty"],
    )
    def test_bad_body(self, server: Server, tmp_path: Path, body: bytes, reason: str) -> None:
        jobs = self.jobs(server, tmp_path, [jpeg(), body])
        text = refusal(fetch_images, jobs)
        assert text.startswith("1 of 2 images could not be fetched") and reason in text
        assert jobs[1].url in text and "run the same command again" in text
        assert names(tmp_path) == ["images", "images/0.jpg"]

    def test_failures_are_counted_and_the_rest_fetched_later(self, server: Server, tmp_path: Path) -> None:
        jobs = self.jobs(server, tmp_path, [jpeg() for _ in range(6)])
        for path in ("/1.jpg", "/4.jpg"):
            server.resources[path].statuses = [404]
        assert refusal(fetch_images, jobs).startswith("2 of 6 images")
        fetch_images(jobs)
        assert all(job.destination.is_file() for job in jobs)
        assert len(server.resources["/0.jpg"].requests) == 1

    def test_broken_connection_is_tried_again(self, server: Server, tmp_path: Path, monkeypatch) -> None:
        retry(monkeypatch, 1)
        jobs = self.jobs(server, tmp_path, [jpeg()])
        server.resources["/0.jpg"].drops = [100]
        fetch_images(jobs)
        assert len(server.resources["/0.jpg"].requests) == 2

    def test_gives_up_when_nothing_comes(self, server: Server, tmp_path: Path, monkeypatch) -> None:
        monkeypatch.setattr(downloads, "FAILURES_IN_A_ROW", 3)
        jobs = self.jobs(server, tmp_path, [b"none"] * 50)
        text = refusal(fetch_images, jobs, workers=2)
        assert text.startswith("3 of 50 images could not be fetched and 47 more were given up")
        assert sum(len(resource.requests) for resource in server.resources.values()) < 50

    def test_disk_failure_stops(self, server: Server, tmp_path: Path) -> None:
        (tmp_path / "images").write_text("in the way")
        text = refusal(fetch_images, self.jobs(server, tmp_path, [jpeg()]))
        assert text.startswith("cannot read or write")
