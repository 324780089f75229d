"""Ctrl-C and SIGTERM end a command within two seconds, whatever it is at.

Python acts on a signal between two steps of the interpreter, and a step can be a matrix product of many
seconds. So a thread watches: if the command has not ended by itself after a moment, or at a second signal, it
ends the process. That loses nothing, as results are on the disk as soon as there are any.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SECONDS_TO_END = 1.5
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
STOPPED_CODES = tuple(128 + one for one in _SIGNALS)  # a shell's exit codes for them
_SHOW_CURSOR = "\x1b[?25h"  # which a progress bar hides


class Stopped(KeyboardInterrupt):
    """A signal has asked the process to end."""

    def __init__(self, signal_number: int):
        super().__init__()
        self.exit_code = 128 + signal_number


class Stopping:
    """What is told when a command is stopped: `message` gives it, in one line."""

    def __init__(self):
        self.message: Callable[[], str] = lambda: "stopped before the end"


@contextmanager
def prompt_stop(say: Callable[[str], None]) -> Iterator[Stopping]:
    """Raise Stopped at a signal, and end the process if that takes too long.

    Args:
        say: tells the message where the process is ended; the caller tells it of a Stopped.
    """
    stopping = Stopping()
    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield stopping
        return
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)  # what a signal handler writes to
    earlier = {one: signal.signal(one, _raise) for one in _SIGNALS}
    earlier_fd = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    watch = threading.Thread(target=_watch, args=(ours, lambda: say(stopping.message())), daemon=True)
    watch.start()
    try:
        yield stopping
    finally:
        signal.set_wakeup_fd(earlier_fd)
        for one, handler in earlier.items():
            signal.signal(one, handler)
        theirs.close()  # ends the watch
        watch.join()
        ours.close()


def _raise(signal_number: int, _) -> None:
    raise Stopped(signal_number)


def _watch(signals: socket.socket, say: Callable[[], None]) -> None:
    """End the process some time after its first signal, or at the second. Ends once the other end closes."""
    first = _next_signal(signals)
    if first is None:
        return
    signals.settimeout(SECONDS_TO_END)
    try:
        if _next_signal(signals) is None:
            return
    except TimeoutError:
        pass
    if sys.stderr.isatty():
        sys.stderr.write(_SHOW_CURSOR)
    say()
    sys.stderr.flush()
    os._exit(128 + first)


def _next_signal(signals: socket.socket) -> int | None:
    while received := signals.recv(1):
        if received[0] in _SIGNALS:
            return received[0]
    return None
