"""`lost-reg explore` as a program, in a real Chromium and under hostile requests.

The server runs in a process of its own, in which any connection to another machine fails. The tests in a
browser are skipped where playwright or a Chromium is missing.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

pytest.importorskip("gradio", reason="gradio is not installed")

from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.middleware.trustedhost import TrustedHostMiddleware

from lost_reg.explore.server import _allowed

_SECONDS = 30  # for a busy machine
_SERVER = """
import socket, sys
connect = socket.socket.connect
def connect_here(self, address):
    if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "localhost", "::1"):
        print("REACHED", address, file=sys.stderr, flush=True)
        raise OSError("no network in tests")
    return connect(self, address)
socket.socket.connect = connect_here
from lost_reg.cli.app import main
main()
"""


class Server:
    """A running `lost-reg explore`, on a free port."""

    def __init__(self, *arguments: object, folder: Path):
        self.errors = folder / "stderr"
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "TMPDIR": str(folder)}
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _SERVER, "explore", *map(str, arguments), "--no-open", "--port", "0"],
                stdout=subprocess.PIPE, stderr=errors, text=True, env=environment,
            )  # fmt: skip
        line = self.process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)/", line)
        assert found, line + self.errors.read_text()
        self.address, self.port = found[0], int(found[1])

    def get(self, path: str, **headers: str) -> tuple[int, bytes]:
        """Status and content of an answer; the path is sent as it is."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_SECONDS)
        with contextlib.closing(connection):
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read()

    def upload(self, file: dict) -> dict:
        """Trigger the event of an upload as a browser does: what the server answers at its end."""
        config = json.loads(self.get("/config")[1])
        (upload,) = (one["id"] for one in config["components"] if one["props"].get("elem_id") == "upload")
        (event,) = (one for one in config["dependencies"] if one["targets"] == [[upload, "upload"]])
        file = {**file, "meta": {"_type": "gradio.FileData"}}
        data = [file if component == upload else None for component in event["inputs"]]
        content = {"data": data, "fn_index": event["id"], "session_hash": f"test{time.monotonic_ns()}"}
        post = urllib.request.Request(
            f"{self.address}gradio_api/queue/join",
            json.dumps(content).encode(),
            {"Content-Type": "application/json"},
        )
        urllib.request.urlopen(post, timeout=_SECONDS).read()
        _, stream = self.get(f"/gradio_api/queue/data?session_hash={content['session_hash']}")
        events = [json.loads(line[5:]) for line in stream.decode().splitlines() if line.startswith("data:")]
        return next(one for one in events if one["msg"] == "process_completed")

    def stop(self) -> int:
        self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(_SECONDS)
        finally:
            self.process.kill()
            self.process.stdout.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory, save_scene):
    """The page of two images in a folder; at the end, it must have asked nothing of the network."""
    top = tmp_path_factory.mktemp("explore")
    save_scene(top / "photos" / "a.png", (150, 200), (40, 30, 150, 120))
    save_scene(top / "photos" / "b.png", (96, 128), seed=2)
    save_scene(top / "c.jpg", (120, 160), (30, 20, 100, 90), seed=3)
    (top / "secret.txt").write_text("its content")
    (top / "tmp").mkdir()
    running = Server(top / "photos", "-b", "tiny", "--max-side", 128, folder=top / "tmp")
    running.top = top
    yield running
    assert running.stop() == 130
    assert running.errors.read_text() == "Interrupted: the page is closed\n"
    assert not list((top / "tmp").glob("lost-reg-explore-*"))


# --- hostile requests


@pytest.mark.parametrize("name", ["secret.txt", "c.jpg", "photos/a.png", "photos/../secret.txt"])
def test_no_file_is_served_but_the_pages_own(server, name):
    for path in (f"{server.top}/{name}", os.path.relpath(server.top / name), f"/proc/self/cwd/{name}"):
        for route in ("file=", "file/"):
            status, content = server.get(f"/gradio_api/{route}{path}")
            assert status in (403, 404) and b"its content" not in content, path


def test_an_event_reads_no_file_of_the_machine(server):
    for path in (server.top / "c.jpg", server.top / "photos" / "a.png", "/etc/passwd"):
        answer = server.upload({"path": str(path), "orig_name": "c.jpg"})
        assert answer["success"] is False and "expected an uploaded file" in str(answer["output"]), answer


def test_an_event_fetches_no_address(server):
    for address in ("http://192.0.2.1/a.png", "https://example.com/a.png", f"{server.address}a.png"):
        answer = server.upload({"path": address, "url": address})
        assert answer["success"] is False and "expected an uploaded file" in str(answer["output"]), answer


def test_the_page_is_for_this_host_alone(server):
    assert server.get("/")[0] == 200
    assert server.get("/", Host="evil.example")[0] == 400
    assert server.get("/config", Host=f"localhost:{server.port}")[0] == 200


def test_pages_of_other_sites_can_send_nothing(server):
    assert server.get("/config", Origin=server.address.rstrip("/"))[0] == 200
    for origin in ("http://evil.example", "null", f"http://evil.example:{server.port}"):
        assert server.get("/config", Origin=origin)[0] == 403


@pytest.mark.parametrize(
    ("host", "allowed", "refused"),
    [("::1", "[::1]:7860", "evil.example"), ("127.0.0.1", "127.0.0.1:7860", "[::1]:7860")],
)
def test_an_address_of_ipv6_is_a_host(host, allowed, refused):
    app = FastAPI()
    app.get("/")(lambda: "the page")
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=_allowed(host))
    client = TestClient(app)
    assert client.get("/", headers={"host": allowed}).status_code == 200
    assert client.get("/", headers={"host": refused}).status_code == 400


def test_answers_forbid_what_is_not_the_pages_own(server):
    with urllib.request.urlopen(server.address, timeout=_SECONDS) as answer:
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'self'" in policy and "http" not in policy


# --- in a browser


@pytest.fixture
def open_page(server, browser):
    """A function that opens the page; at the end nothing may have been logged, or asked of another host."""
    troubles, contexts = [], []

    def open_it(viewport=(1280, 900), color_scheme="light"):
        size = dict(zip(("width", "height"), viewport))
        contexts.append(browser.new_context(viewport=size, color_scheme=color_scheme))
        page = contexts[-1].new_page()
        page.set_default_timeout(1000 * _SECONDS)
        # Gradio itself warns of what it does not need
        page.on("console", lambda one: one.type == "error" and troubles.append(one.text))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        allowed = (server.address, "blob:", "data:")
        page.on("request", lambda one: one.url.startswith(allowed) or troubles.append(one.url))
        page.goto(server.address)
        page.locator(".slot-map img").wait_for()
        return page

    yield open_it
    for context in contexts:
        context.close()
    assert troubles == []


def until(page, read, condition):
    """What is read once it meets a condition."""
    for _ in range(50 * _SECONDS):
        if condition(found := read()):
            return found
        page.wait_for_timeout(20)
    raise AssertionError(f"never came true: {found!r}")


def text(page, kind: str, column: int = 1) -> str:
    return page.locator(".lost-reg-column").nth(column - 1).locator(f".{kind}-text").first.inner_text()


def choose(page, control: str, option: str) -> None:
    page.locator(f"#{control} input").click()
    page.get_by_role("option", name=option, exact=True).click()


def test_upload_click_and_change_of_method(server, open_page):
    page = open_page()
    assert page.locator("h1").all_text_contents() == ["lost-reg explore"]
    assert "a.png" in page.locator("#status").inner_text() and "tiny" in text(page, "method")
    assert "max side 128" in text(page, "method")

    page.set_input_files("#upload input[type=file]", server.top / "c.jpg")
    until(page, lambda: page.locator("#status").inner_text(), lambda found: "c.jpg" in found)
    until(
        page, lambda: text(page, "patch"), lambda found: "LOST's seed: row" in found and "of 6 x 8" in found
    )

    picture = page.locator(".slot-objects img").first
    box = picture.bounding_box()
    before = picture.get_attribute("src")
    picture.click(position={"x": 0.45 * box["width"], "y": 0.75 * box["height"]})
    until(page, lambda: text(page, "patch"), lambda found: "Your patch: row 4, column 3 of 6 x 8" in found)
    for control, value in (("row", "4"), ("column", "3")):
        until(page, page.locator(f"#{control} input").input_value, value.__eq__)
    assert picture.get_attribute("src") == before  # a click changes nothing that does not depend on it

    page.locator("#row input").fill("1")  # by keyboard
    until(page, lambda: text(page, "patch"), lambda found: "Your patch: row 1, column 3 of 6 x 8" in found)

    page.locator("#more-1 button").first.click()
    page.locator("#facet-1 input").wait_for()
    assert page.locator("#facet-1 input").input_value() == "qkv" and not page.locator("#bias-1").is_visible()
    choose(page, "method-1", "LOST")
    lost = "LOST: k of layer -1, raw, max side 128, bias "
    until(page, lambda: text(page, "method"), lambda found: f"{lost}0" in found)
    page.locator("#bias-1 input[type=number]").fill("-0.3")
    page.locator("#bias-1 input[type=number]").press("Tab")
    until(page, lambda: text(page, "method"), lambda found: f"{lost}-0.3" in found)
    assert "Your patch: row 1, column 3" in text(page, "patch")


def test_one_backbone_twice_with_other_layers_and_facets(open_page):
    page = open_page()
    page.locator("#columns").get_by_text("2", exact=True).click()
    until(page, lambda: text(page, "method", 2), lambda found: "Spread: qkv of layer -1" in found)
    page.locator("#more-2 button").first.click()
    choose(page, "method-2", "LOST")
    until(page, lambda: text(page, "method", 2), lambda found: "LOST: k of layer -1," in found)
    choose(page, "layer-2", "-2")
    page.keyboard.press("Escape")  # it stays open for more
    until(page, lambda: text(page, "method", 2), lambda found: "LOST: k of layers -1 and -2," in found)
    choose(page, "facet-2", "q")
    until(page, lambda: text(page, "method", 2), lambda found: "LOST: q of layers -1 and -2," in found)
    assert "Spread: qkv of layer -1," in text(page, "method")
    place = page.locator(".lost-reg-column").nth(1).locator(".slot-norms img")
    place.click(position={"x": 5, "y": 5})  # a click in one column is a place in all
    for column in (1, 2):
        until(
            page,
            lambda at=column: text(page, "patch", at),
            lambda found: "Your patch: row 0, column 0" in found,
        )


def test_paging_and_a_damaged_upload(server, open_page, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    page = open_page(color_scheme="dark")
    page.get_by_role("button", name="Next").click()
    until(page, lambda: page.locator("#status").inner_text(), lambda found: "b.png" in found)
    page.set_input_files("#upload input[type=file]", tmp_path / "broken.png")
    page.get_by_text("broken.png: a PNG file whose header is damaged").first.wait_for()
    assert "b.png" in page.locator("#status").inner_text()


def test_on_a_phone_nothing_is_wider_than_the_screen(open_page):
    page = open_page(viewport=(390, 800))
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    boxes = "every => every.map((one) => one.getBoundingClientRect().toJSON())"
    paging = page.locator("#paging").locator("button, input").evaluate_all(boxes)
    middles = [box["top"] + box["height"] / 2 for box in paging]
    assert len(paging) == 3 and max(box["height"] for box in paging) < 50
    assert max(middles) - min(middles) < 2  # on one line
    assert page.get_by_label("Number of the image").input_value() == "1"
    assert page.locator("#paging").get_by_text("of 2").is_visible()
    assert page.locator(".slot-affinities img").first.bounding_box()["width"] > 250
    assert not page.locator("#facet-1").is_visible()  # folded
    page.locator("#more-1 button").first.click()
    page.locator("#facet-1").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
