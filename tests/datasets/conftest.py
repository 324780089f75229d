"""What the tests of downloads share: a server on this machine, and no waiting between retries."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from http_server import Server, serving

from lost_reg.datasets import https


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture(autouse=True)
def no_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(https, "RETRY_WAITS", ())
    monkeypatch.setattr(https, "TIMEOUT_SECONDS", 10.0)
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")


@pytest.fixture
def retry(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """A function that allows so many retries, without waits."""
    return lambda times: monkeypatch.setattr(https, "RETRY_WAITS", (0.0,) * times)
