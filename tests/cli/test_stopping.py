"""Ctrl-C and SIGTERM: within two seconds, with a line that says how to continue, and nothing lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

import lost_reg
from lost_reg.cli.app import main
from lost_reg.cli.stopping import SECONDS_TO_END, Stopped, prompt_stop
from lost_reg.runs.folder import read_run

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.path.dirname(lost_reg.__path__[0])}
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
# What the interpreter cannot leave before its end, some minutes later.
LONG_STEP = "hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)"
HANG_GUARD = 120  # seconds, after which a test fails that would not end; far more than a busy machine needs
NEVER = 3600  # seconds
FOREVER = "while True: time.sleep(0.05)"  # in short steps: a signal just before a step does not end it


@pytest.fixture
def start(tmp_path):
    """A function that starts a script in `prompt_stop` and waits until it is at the step that is named."""
    started = []

    def start(step: str, after: str = "pass", seconds_to_end: float = SECONDS_TO_END) -> subprocess.Popen:
        script = tmp_path / "script.py"
        script.write_text(
            textwrap.dedent(f"""
                import hashlib, sys, threading, time
                from lost_reg.cli import stopping
                from lost_reg.cli.stopping import Stopped, prompt_stop

                stopping.SECONDS_TO_END = {seconds_to_end}
                sys.setswitchinterval(1000)  # another thread runs once this one is at its step, not before
                begun = threading.Event()
                say = lambda: begun.wait() and print("ready", flush=True)
                threading.Thread(target=say, daemon=True).start()
                with prompt_stop(lambda text: print("ended:", text, file=sys.stderr)) as stopping:
                    stopping.message = lambda: "3 were done"
                    try:
                        begun.set()
                        {step}
                    except Stopped as stopped:
                        print("unwound:", stopping.message(), file=sys.stderr, flush=True)
                        {after}
                        sys.exit(stopped.exit_code)
            """)
        )
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        process = subprocess.Popen([sys.executable, str(script)], env=ENVIRONMENT, **pipes)
        started.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("sent", CODES)
def test_what_can_unwind_does(start, sent):
    process = start(FOREVER, seconds_to_end=NEVER)
    process.send_signal(sent)
    _, said = process.communicate(timeout=HANG_GUARD)
    assert (said, process.returncode) == ("unwound: 3 were done\n", CODES[sent])


@pytest.mark.parametrize("sent", CODES)
@pytest.mark.parametrize("step, after", [(LONG_STEP, "pass"), (FOREVER, LONG_STEP)])
def test_what_does_not_end_by_itself_is_ended_within_two_seconds(start, sent, step, after):
    assert SECONDS_TO_END < 2  # of waiting; how long the rest takes is the machine's affair
    process = start(step, after)
    process.send_signal(sent)
    _, said = process.communicate(timeout=HANG_GUARD)
    assert said.endswith("ended: 3 were done\n") and process.returncode == CODES[sent]


def test_a_second_signal_ends_it_at_once(start):
    process = start(FOREVER, f"print('at it', flush=True); {LONG_STEP}", seconds_to_end=NEVER)
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "at it\n"
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=HANG_GUARD)
    assert said.endswith("ended: 3 were done\n") and process.returncode == 130


def test_handlers_and_threads_are_as_they_were_before():
    handlers, threads = [signal.getsignal(one) for one in CODES], threading.active_count()
    with pytest.raises(Stopped) as stopped, prompt_stop(print):
        signal.raise_signal(signal.SIGTERM)
    assert stopped.value.exit_code == 143
    assert [signal.getsignal(one) for one in CODES] == handlers
    assert threading.active_count() == threads and signal.set_wakeup_fd(-1) == -1


def test_other_threads_leave_signals_alone():
    handlers = []

    def work():
        with prompt_stop(print) as stopping:
            handlers.extend([signal.getsignal(signal.SIGINT), stopping.message()])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGINT), "stopped before the end"]


# A run that does not go on after five images, and may take its time to end.
STALLING = f"""
import time
from lost_reg.cli import stopping
from lost_reg.cli.app import main
from lost_reg.runs.sessions import Session

def add(self, outcome, add=Session.add):
    add(self, outcome)
    if self.done == 5:
        print("5 are done", flush=True)
        {FOREVER}

Session.add, stopping.SECONDS_TO_END = add, {NEVER}
main()
"""


@pytest.mark.parametrize("sent", CODES)
def test_a_run_that_is_stopped_reports_what_was_done_and_is_resumed(tmp_path, save_scene, sent):
    photos = [save_scene(tmp_path / f"photos/{number:03}.png", seed=number) for number in range(12)]
    args = ["run", str(tmp_path / "photos"), "--out", str(tmp_path / "run"), "--batch-size", "2"]
    (tmp_path / "stalling.py").write_text(STALLING)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "stalling.py"), *args],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT,
    )  # fmt: skip
    assert process.stdout.readline() == "5 are done\n"
    process.send_signal(sent)
    _, said = process.communicate(timeout=HANG_GUARD)
    assert process.returncode == CODES[sent]
    done = read_run(tmp_path / "run").predictions
    assert len(done) == 5
    last = said.splitlines()[-1]
    assert last.startswith("Interrupted: 4 images were done; ")  # it came between writing and counting
    assert last.endswith(f"results are in {tmp_path / 'run'}; --resume continues")
    with pytest.raises(SystemExit) as ended:
        main([*args, "--resume"])
    assert ended.value.code == 0
    finished = read_run(tmp_path / "run")
    assert len(finished.predictions) == len(photos)
    assert [one["images"] for one in finished.record["sessions"]] == [5, 7]
    assert all(finished.predictions[name] == one for name, one in done.items())
    assert not list(Path(tmp_path / "run").glob("*.part"))
