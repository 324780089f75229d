"""Many images, downloaded from a server on this machine."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from helpers import names, refusal
from http_server import Resource, Server
from PIL import Image

from lost_reg.datasets import downloads
from lost_reg.datasets.downloads import ImageJob, fetch_images


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
        fetch_images(iter(jobs), workers=4, progress=lambda *seen: reports.append(seen))
        assert [job.destination.read_bytes() for job in jobs] == bodies
        assert len(names(tmp_path)) == 21
        assert reports == [(done, 20) for done in range(21)]

    def test_those_in_place_are_skipped(self, server: Server, tmp_path: Path) -> None:
        jobs = self.jobs(server, tmp_path, [jpeg(), jpeg()])
        fetch_images(jobs[:1])
        reports = []
        fetch_images(jobs, progress=lambda *seen: reports.append(seen))
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

    def test_broken_connection_is_tried_again(self, server: Server, tmp_path: Path, retry) -> None:
        retry(1)
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
        assert text.startswith("cannot write the image") and str(tmp_path / "images") in text

    def test_image_of_more_bytes_than_its_pixels_take(self, server: Server, tmp_path: Path) -> None:
        most = 4 * 30 * 40 + 2**20
        jobs = self.jobs(server, tmp_path, [jpeg(), jpeg() + bytes(most)])
        server.resources["/0.jpg"].declares_length, server.resources["/0.jpg"].repeats = False, 10_000
        assert "sends more than 1,053,376 bytes" in refusal(fetch_images, jobs[:1])
        assert "instead of at most 1,053,376" in refusal(fetch_images, jobs[1:])
        assert names(tmp_path) == ["images"]

    def test_image_of_another_size_is_not_decoded(self, server: Server, tmp_path: Path, monkeypatch) -> None:
        """A few bytes can claim many pixels."""
        jobs = self.jobs(server, tmp_path, [jpeg(400, 300)])
        monkeypatch.setattr(Image.Image, "load", None)
        assert "expected 40 x 30 pixels, but got 400 x 300" in refusal(fetch_images, jobs)
