"""One file, downloaded from a server on this machine that breaks off, forgets and lies when told to."""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import os
import socket
import threading
import tracemalloc
from pathlib import Path
from urllib.request import Request

import pytest
from helpers import names, refusal
from http_server import BODY, Resource, Server

from lost_reg.datasets import https
from lost_reg.datasets.downloads import Checksum, fetch
from lost_reg.datasets.https import RequestFailed, TooLong
from lost_reg.errors import LostRegError

SUM = Checksum("sha256", hashlib.sha256(BODY).hexdigest(), len(BODY))


class TestChecksum:
    def test_md5_and_sha256(self, tmp_path: Path) -> None:
        path = tmp_path / "abc"
        path.write_bytes(b"abc")
        assert Checksum("md5", "900150983cd24fb0d6963f7d28e17f72", 3).fits(path)
        assert not SUM.fits(path)
        assert not SUM.fits(tmp_path / "missing")

    @pytest.mark.parametrize("algorithm, digest", [("sha1", "0" * 40), ("md5", "0" * 31), ("md5", "G" * 32)])
    def test_nonsense_is_refused(self, algorithm: str, digest: str) -> None:
        with pytest.raises(ValueError, match="expected"):
            Checksum(algorithm, digest, 3)


class TestFetch:
    def test_plain(self, server: Server, tmp_path: Path) -> None:
        reports = []
        url = server.add("/file", Resource())
        fetch(url, tmp_path / "new" / "file", SUM, progress=lambda *seen: reports.append(seen))
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
        fetch(url, tmp_path / "file", SUM, progress=lambda *seen: reports.append(seen))
        assert reports[-1] == (len(BODY), None)

    def test_interrupted_then_resumed(self, server: Server, tmp_path: Path) -> None:
        resource = Resource(drops=[30_000])
        url = server.add("/file", resource)
        text = refusal(fetch, url, tmp_path / "file", SUM)
        assert url in text and str(tmp_path / "file.part") in text and "30000 of 102400" in text
        assert names(tmp_path) == ["file.part", "file.part.json"]

        reports = []
        fetch(url, tmp_path / "file", SUM, progress=lambda *seen: reports.append(seen))
        assert resource.requests[1]["Range"] == "bytes=30000-"
        assert resource.requests[1]["If-Range"] == '"one"'
        assert resource.sent == [30_000, 72_400]
        assert reports[0] == (30_000, 102_400)
        assert (tmp_path / "file").read_bytes() == BODY
        assert names(tmp_path) == ["file"]

    def test_continued_within_one_call(self, server: Server, tmp_path: Path, retry) -> None:
        retry(2)
        resource = Resource(drops=[30_000, 50_000], etag=None)
        fetch(server.add("/file", resource), tmp_path / "file", SUM)
        assert resource.sent == [30_000, 50_000, 22_400]
        assert (tmp_path / "file").read_bytes() == BODY

    def test_getting_further_starts_the_waits_over(
        self, server: Server, tmp_path: Path, monkeypatch, retry
    ) -> None:
        retry(1)
        monkeypatch.setattr(https, "CHUNK_BYTES", 10_000)
        resource = Resource(drops=[20_000] * 5)
        fetch(server.add("/file", resource), tmp_path / "file", SUM)
        assert resource.sent == [20_000] * 5 + [2_400]

    def test_server_that_ignores_range(self, server: Server, tmp_path: Path, retry) -> None:
        retry(1)
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
        "url",
        ["http://[::1", "http://", "https://", "", "https://a b/", "https://a/\n", "https://a/\x1b[2J",
         "//a/b", "https://a:port/", "https://a:0/", "https://a:99999/", "https://" + "a" * 70 + "/",
         "https://é/", "https://a..b/"],
    )  # fmt: skip
    def test_malformed_address(self, tmp_path: Path, monkeypatch, url: str) -> None:
        monkeypatch.setattr(https, "_opener", None)  # nothing is asked for
        text = refusal(fetch, url, tmp_path / "file", SUM)
        assert text.startswith("cannot download") and text.isprintable()
        assert "well-formed" in text or "only https" in text

    @pytest.mark.parametrize("target", ["http://[::1", "https://a:port/", "file:///etc/passwd"])
    def test_redirect_to_a_malformed_address(
        self, server: Server, tmp_path: Path, retry, target: str
    ) -> None:
        retry(3)
        resource = Resource(location=target)
        assert "cannot download" in refusal(fetch, server.add("/moved", resource), tmp_path / "file", SUM)
        assert len(resource.requests) == 1

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
        redirect = https.SecureRedirects().redirect_request
        args = (Request(start), None, 302, "Found", {}, end)
        if followed:
            assert redirect(*args).full_url == end
        else:
            text = refusal(redirect, *args)
            assert start in text and end in text

    def test_redirect_is_followed_with_the_range(self, server: Server, tmp_path: Path, retry) -> None:
        retry(1)
        resource = Resource(drops=[30_000])
        url = server.add("/moved", Resource(location=server.add("/file", resource)))
        fetch(url, tmp_path / "file", SUM)
        assert resource.sent == [30_000, 72_400]

    def test_redirects_in_a_circle(self, server: Server, tmp_path: Path) -> None:
        url = server.add("/circle", Resource(location="/circle"))
        assert "302" in refusal(fetch, url, tmp_path / "file", SUM)

    def test_not_found_is_asked_once(self, server: Server, tmp_path: Path, retry) -> None:
        retry(3)
        resource = Resource(statuses=[404])
        text = refusal(fetch, server.add("/file", resource), tmp_path / "file", SUM)
        assert "404 Not Found" in text and str(tmp_path / "file") in text
        assert len(resource.requests) == 1

    def test_passing_failure_of_the_server(self, server: Server, tmp_path: Path, retry) -> None:
        retry(2)
        resource = Resource(statuses=[500, 503])
        fetch(server.add("/file", resource), tmp_path / "file", SUM)
        assert len(resource.requests) == 3

    def test_lasting_failure_of_the_server(self, server: Server, tmp_path: Path, retry) -> None:
        retry(2)
        resource = Resource(statuses=[500] * 9)
        assert "500" in refusal(fetch, server.add("/file", resource), tmp_path / "file", SUM)
        assert len(resource.requests) == 3

    def test_silent_server(self, server: Server, tmp_path: Path, monkeypatch) -> None:
        monkeypatch.setattr(https, "TIMEOUT_SECONDS", 0.1)
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


class TestLimits:
    @pytest.mark.parametrize("more", [1, 10**9])
    def test_announced_length_beyond_the_expected_is_not_received(
        self, server, tmp_path, retry, more
    ) -> None:
        retry(3)
        resource = Resource(announces=len(BODY) + more)
        text = refusal(fetch, server.add("/file", resource), tmp_path / "file", SUM)
        assert f"announces {len(BODY) + more:,} bytes instead of at most 102,400" in text
        assert names(tmp_path) == [] and len(resource.requests) == 1

    def test_endless_body_is_cut_off_at_the_expected_size(self, server, tmp_path, monkeypatch, retry) -> None:
        retry(3)
        resource = Resource(declares_length=False, repeats=1_000)
        seen: list[int] = []
        url = server.add("/file", resource)
        text = refusal(fetch, url, tmp_path / "file", SUM, progress=lambda done, total: seen.append(done))
        assert "sends more than 102,400 bytes" in text and "resume" not in text
        assert names(tmp_path) == [] and max(seen) <= len(BODY) and len(resource.requests) == 1
        fetch(server.add("/good", Resource()), tmp_path / "file", SUM)

    def test_body_beyond_the_announced_length_is_not_read(self, server, tmp_path) -> None:
        fetch(server.add("/file", Resource(announces=len(BODY), repeats=5)), tmp_path / "file", SUM)
        assert (tmp_path / "file").read_bytes() == BODY

    def test_body_shorter_than_announced_is_asked_for_again(self, server, tmp_path, retry) -> None:
        retry(2)
        short = Resource(body=BODY[:1_000], announces=len(BODY))
        assert "ended after 1000 of 102400 bytes" in refusal(
            fetch, server.add("/file", short), tmp_path / "file", SUM
        )

    def test_part_that_is_too_long_is_fetched_anew(self, server, tmp_path) -> None:
        resource = Resource(drops=[30_000])
        url = server.add("/file", resource)
        refusal(fetch, url, tmp_path / "file", SUM)
        (tmp_path / "file.part").write_bytes(BODY + BODY)
        fetch(url, tmp_path / "file", SUM)
        assert (tmp_path / "file").read_bytes() == BODY

    @pytest.mark.parametrize("content", ["[" * 100_000, "[]", '{"url": 3}', "{"])
    def test_damaged_record_of_a_part_starts_anew(self, server, tmp_path, content) -> None:
        (tmp_path / "file.part").write_bytes(b"something")
        (tmp_path / "file.part.json").write_text(content)
        fetch(server.add("/file", Resource()), tmp_path / "file", SUM)
        assert (tmp_path / "file").read_bytes() == BODY

    def test_memory_stays_flat(self, server, tmp_path, monkeypatch) -> None:
        monkeypatch.setattr(https, "CHUNK_BYTES", 2**16)
        body = BODY * 200  # 20 MB
        big = Checksum("sha256", hashlib.sha256(body).hexdigest(), len(body))
        url = server.add("/file", Resource(announces=len(body), repeats=200))
        tracemalloc.start()
        try:
            fetch(url, tmp_path / "file", big)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 5e6

    def test_body_in_memory_is_bounded(self, server, monkeypatch) -> None:
        assert https.read_all(server.add("/a", Resource()), len(BODY)) == BODY
        for resource in (Resource(), Resource(declares_length=False)):
            with pytest.raises(TooLong):
                https.read_all(server.add("/b", resource), len(BODY) - 1)

    def test_slow_server_is_cut_off(self, server, tmp_path, monkeypatch, retry) -> None:
        """By a clock of the test: each look at it is 40 seconds after the last."""
        retry(2)
        ticks = itertools.count(0, 40)
        monkeypatch.setattr(https, "clock", lambda: next(ticks))
        monkeypatch.setattr(https, "SLOWEST_BYTES_PER_SECOND", 10**6)
        resource = Resource()
        text = refusal(fetch, server.add("/file", resource), tmp_path / "file", SUM)
        assert "it is too slow: " in text and "under 1,000,000 a second" in text
        assert len(resource.requests) == 3

    def test_time_that_a_server_does_not_take_is_not_counted(self, server, tmp_path, monkeypatch) -> None:
        paced = https._Paced(io.BytesIO(b"a" * 300))  # type: ignore[arg-type]
        now = itertools.cycle([0, 0, 100, 100])  # 100 s between two reads
        monkeypatch.setattr(https, "clock", lambda: next(now))
        assert all(paced.readinto(bytearray(10)) == 10 for _ in range(30))

    def test_rate_is_that_of_each_window(self, monkeypatch) -> None:
        """60,000 bytes in 60 s are enough, but do not make up for the next 60 s."""
        ticks = itertools.count(0, 1)
        monkeypatch.setattr(https, "clock", lambda: next(ticks))
        paced = https._Paced(io.BytesIO(bytes(10**6)))  # type: ignore[arg-type]
        paced.left = 10**6
        for size in [1_000] * 60 + [5_000] * 10 + [1] * 49:
            paced.readinto(bytearray(size))
        with pytest.raises(RequestFailed, match="it is too slow: 50,050 bytes in 60 s, under 1,000 a second"):
            paced.readinto(bytearray(1))

    def test_headers_without_end(self, tmp_path, retry) -> None:
        """A server that says `100 Continue` for ever."""
        retry(2)
        with socket.create_server(("127.0.0.1", 0)) as listening:

            def answer() -> None:
                connection, _ = listening.accept()
                with connection, contextlib.suppress(OSError):
                    for _ in range(10_000):
                        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)

            thread = threading.Thread(target=answer)
            thread.start()
            url = f"http://127.0.0.1:{listening.getsockname()[1]}/"
            assert "headers without end" in refusal(fetch, url, tmp_path / "file", SUM)
            thread.join()
