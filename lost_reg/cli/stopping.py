"""Ctrl-C and SIGTERM end a command within two seconds, whatever it is doing.

Python handles signals between bytecode instructions, and one instruction can be a matrix product of many
seconds. So a thread watches: it ends the process if the command does not end by itself soon after, or if a
second signal comes. Nothing is lost, because results are written to disk as soon as they exist.
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
    """What a stopped command prints: `message` returns one line."""

    def __init__(self):
        self.message: Callable[[], str] = lambda: "stopped before the end"


@contextmanager
def prompt_stop(print_message: Callable[[str], None]) -> Iterator[Stopping]:
    """Raise Stopped at a signal, and end the process if that takes too long.

    Args:
        print_message: prints the message before this ends the process. After a Stopped, the caller prints it.
    """
    stopping = Stopping()
    if threading.current_thread() is not threading.main_thread():  # only that one may handle signals
        yield stopping
        return
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)  # what a signal handler writes to
    earlier = {one: signal.signal(one, _raise) for one in _SIGNALS}
    earlier_fd = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    last_words = (ours, lambda: print_message(stopping.message()))
    watch = threading.Thread(target=_watch, args=last_words, daemon=True)
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


def _watch(signals: socket.socket, print_message: Callable[[], None]) -> None:
    """End the process shortly after its first signal, or at the second; return if the other end closes."""
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
    print_message()
    sys.stderr.flush()
    os._exit(128 + first)


def _next_signal(signals: socket.socket) -> int | None:
    while received := signals.recv(1):
        if received[0] in _SIGNALS:
            return received[0]
    return None
