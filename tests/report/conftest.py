"""Pages in a browser, for the tests of reports."""

from __future__ import annotations

from pathlib import Path

import pytest
from report_cases import OUTCOMES, report, two_runs

DESKTOP = {"width": 1280, "height": 900}


@pytest.fixture
def open_page(browser):
    """A function that opens a page file; at the end no error may have been logged, and nothing fetched."""
    troubles, contexts = [], []

    def failed(request):
        if request.failure != "net::ERR_ABORTED":  # a picture that is taken away before it has come
            troubles.append(f"{request.failure}: {request.url}")

    def open_it(path: Path, viewport=DESKTOP, color_scheme="light"):
        contexts.append(browser.new_context(viewport=viewport, color_scheme=color_scheme))
        page = contexts[-1].new_page()
        page.set_default_timeout(120_000)
        page.on("console", lambda message: troubles.append(message.text))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("requestfailed", failed)
        page.on("request", lambda request: request.url.startswith("file://") or troubles.append(request.url))
        page.goto(path.resolve().as_uri())
        return page

    yield open_it
    for context in contexts:
        context.close()
    assert troubles == []


@pytest.fixture
def two(tmp_path, make_coco) -> Path:
    """The page of two runs, without and with registers, with maps."""
    return report(two_runs(make_coco, tmp_path, maps=list(OUTCOMES)), tmp_path / "out").page
