"""Makes the program independent of how it was started: its standard streams, and the encoding of names."""

from __future__ import annotations

import os
import sys

_STREAMS = {"stdin": "r", "stdout": "w", "stderr": "w"}  # in the order of their file descriptors


def prepare_process() -> None:
    """Start over in UTF-8 mode if file names are not UTF-8 here, and make all standard streams usable."""
    _use_utf8()
    _open_missing_streams()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # what a terminal cannot show must not end a run
            stream.reconfigure(errors="backslashreplace")


def _use_utf8() -> None:
    """Replace this process by one in Python's UTF-8 mode, in a locale such as C or ISO-8859-1.

    Otherwise, the names of files would be other texts than in a UTF-8 locale, in results, datasets and lists.
    Bytes that are not UTF-8 become surrogates (PEP 383) in both.
    """
    encoding = sys.getfilesystemencoding().lower()
    if encoding != "utf-8" and os.environ.get("PYTHONUTF8") != "1" and sys.executable:
        arguments = [sys.executable, *sys.orig_argv[1:]]
        os.execve(sys.executable, arguments, {**os.environ, "PYTHONUTF8": "1"})


def _open_missing_streams() -> None:
    """Let streams that the caller has closed (`2>&-`) lead nowhere.

    Otherwise they are None, and the next file that is opened, such as predictions.jsonl, would take the place
    of standard error, to which C libraries write.
    """
    for name, mode in _STREAMS.items():
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode)  # noqa: SIM115 - it takes the lowest file descriptor that is free
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)
