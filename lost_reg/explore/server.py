"""Serves the page on this machine: to nobody else, and without loading anything from elsewhere."""

from __future__ import annotations

import logging
import os
import socket
import tempfile
import threading
import time
import webbrowser
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from lost_reg.errors import LostRegError
from lost_reg.explore.columns import Model
from lost_reg.explore.reader import Reader

HOST, PORT = "127.0.0.1", 7860
_MOST_BYTES = 2**28  # of an uploaded file
_SECONDS_TO_START = 60.0
_EVERYWHERE = ("0.0.0.0", "::")
# What the page may load: itself alone. Gradio's own code needs inline styles and scripts.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "media-src 'self' blob:; worker-src 'self' blob:; connect-src 'self'; object-src 'none'; "
    "form-action 'self'; base-uri 'self'; frame-ancestors 'none'"
)


def import_gradio() -> None:
    """Import Gradio so that it asks nothing of the network.

    Raises:
        LostRegError: it is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import gradio  # noqa: F401
    except ImportError:
        raise LostRegError("`lost-reg explore` needs `pip install 'lost-reg[explore]'`") from None


@contextmanager
def bound(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens at an address; port 0 is any that is free.

    Raises:
        LostRegError: another program uses the port, or the address is not this machine's.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise LostRegError(f"cannot listen at `host` {host}: {error.strerror or error}") from None
    with listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port))
        except OSError as error:
            reason = str(error.strerror or error).lower()
            raise LostRegError(
                f"cannot listen at {host}, port {port}: {reason}: choose another `port`, or `host`"
            ) from None
        yield listening


def serve(
    listening: socket.socket,
    host: str,
    models: Sequence[Model],
    reader: Reader,
    max_side: int | None = None,
    on_ready: Callable[[str], Any] = webbrowser.open,
) -> None:
    """Serve the page until the process is interrupted.

    Args:
        max_side: see `page`.
        on_ready: called with the page's address once it can be opened.

    Raises:
        LostRegError: Gradio is not installed.
    """
    import_gradio()
    import uvicorn

    with tempfile.TemporaryDirectory(prefix="lost-reg-explore-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # for uploads and pictures
        app = _app(host, models, reader, max_side)
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False))
        # In a thread of its own, so that signals reach the command as they reach the others.
        thread = threading.Thread(target=_serve, args=(server, listening), daemon=True)
        thread.start()
        try:
            _wait_until(lambda: server.started)
            on_ready(address_of(listening, host))
            while thread.is_alive():
                thread.join(0.2)
        finally:
            logging.getLogger("uvicorn.error").disabled = True  # it tells of what is cut off in tracebacks
            server.should_exit = server.force_exit = True
            thread.join(1)


def _serve(server: Any, listening: socket.socket) -> None:
    try:
        server.run([listening])
    except (OSError, ValueError):  # the socket is closed before a busy machine's server has ended
        if not server.should_exit:
            raise


def address_of(listening: socket.socket, host: str) -> str:
    """The address to open in a browser on this machine."""
    shown = HOST if host in _EVERYWHERE else f"[{host}]" if ":" in host else host
    return f"http://{shown}:{listening.getsockname()[1]}/"


def _app(host: str, models: Sequence[Model], reader: Reader, max_side: int | None) -> Any:
    """The application: the page alone, for requests that name this host."""
    import fastapi
    import gradio
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from lost_reg.explore.page import look, page

    app = fastapi.FastAPI(openapi_url=None)
    # Not a name that another site had its visitor's browser resolve to this machine.
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=_allowed(host))
    app.add_middleware(_WithPolicy)
    gradio.mount_gradio_app(
        app, page(models, reader, max_side), path="/", ssr_mode=False, show_error=False,
        enable_monitoring=False, allowed_paths=[], max_file_size=_MOST_BYTES, pwa=False,
        mcp_server=False, **look(),
    )  # fmt: skip
    return app


def _allowed(host: str) -> list[str]:
    """The hosts that requests may name, as starlette reads them.

    Of "[::1]:7860" it takes the part in brackets, or in earlier versions "[", which no site has as its name.
    """
    own = [f"[{host}]", "["] if ":" in host else [host]
    return ["*"] if host in _EVERYWHERE else [*own, "localhost", HOST]


class _WithPolicy:
    """Adds a content security policy to each response, so that a browser loads nothing from elsewhere.

    Requests that the pages of others send are refused.
    """

    def __init__(self, app: Callable[..., Awaitable[None]]):
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = [("content-security-policy", _POLICY), ("referrer-policy", "no-referrer")]
                message["headers"] = [
                    *message["headers"],
                    *((name.encode(), value.encode()) for name, value in headers),
                ]
            await send(message)

        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif _is_from_elsewhere(dict(scope["headers"])):
            await send_with_policy({"type": "http.response.start", "status": 403, "headers": []})
            await send_with_policy({"type": "http.response.body", "body": b"not from the page itself"})
        else:
            await self._app(scope, receive, send_with_policy)


def _is_from_elsewhere(headers: Mapping[bytes, bytes]) -> bool:
    """Whether a page of another site had the browser send the request, such as a file to be kept."""
    origin = headers.get(b"origin")
    return origin is not None and origin.partition(b"://")[2] != headers.get(b"host")


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _SECONDS_TO_START
    while not condition():
        if time.monotonic() > deadline:
            raise LostRegError("the page's server does not start on this machine")
        time.sleep(0.02)
