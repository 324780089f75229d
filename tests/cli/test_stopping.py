"""Ctrl-C and SIGTERM: within two seconds, with a line that says how to continue, and nothing lost."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

import lost_reg
from lost_reg.cli.app import main
from lost_reg.cli.stopping import Stopped, prompt_stop
from lost_reg.runs.folder import read_run

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.path.dirname(lost_reg.__path__[0])}
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
# What the interpreter cannot leave before its end, some half a minute later.
LONG_STEP = "hashlib.pbkdf2_hmac('sha256', b'', b'', 10**8)"


@pytest.fixture
def start(tmp_path):
    """A function that starts a script in `prompt_stop` and waits until it is at the step that is named."""
    started = []

    def start(step: str, after: str = "pass") -> subprocess.Popen:
        script = tmp_path / "script.py"
        script.write_text(
            textwrap.dedent(f"""
                import hashlib, sys, time
                from lost_reg.cli.stopping import Stopped, prompt_stop

                with prompt_stop(lambda text: print("ended:", text, file=sys.stderr)) as stopping:
                    stopping.message = lambda: "3 were done"
                    try:
                        print("ready", flush=True)
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
        time.sleep(0.2)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("sent", CODES)
def test_what_can_unwind_does(start, sent):
    process = start("time.sleep(60)")
    began = time.monotonic()
    process.send_signal(sent)
    _, said = process.communicate(timeout=20)
    assert (said, process.returncode) == ("unwound: 3 were done\n", CODES[sent])
    assert time.monotonic() - began < 1


@pytest.mark.parametrize("sent", CODES)
@pytest.mark.parametrize("step, after", [(LONG_STEP, "pass"), ("time.sleep(60)", LONG_STEP)])
def test_what_does_not_end_by_itself_is_ended_within_two_seconds(start, sent, step, after):
    process = start(step, after)
    began = time.monotonic()
    process.send_signal(sent)
    _, said = process.communicate(timeout=20)
    assert said.endswith("ended: 3 were done\n") and process.returncode == CODES[sent]
    assert time.monotonic() - began < 2


def test_a_second_signal_ends_it_at_once(start):
    process = start(LONG_STEP)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 130 and time.monotonic() - began < 0.7


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


@pytest.mark.parametrize("sent", CODES)
def test_a_run_that_is_stopped_reports_what_was_done_and_is_resumed(tmp_path, save_scene, sent):
    photos = [save_scene(tmp_path / f"photos/{number:03}.png", seed=number) for number in range(60)]
    args = ["run", str(tmp_path / "photos"), "--out", str(tmp_path / "run"), "--batch-size", "2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "lost_reg", *args], stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    lines = tmp_path / "run/predictions.jsonl"
    while process.poll() is None and not (lines.exists() and lines.stat().st_size):
        time.sleep(0.01)
    began = time.monotonic()
    process.send_signal(sent)
    _, said = process.communicate(timeout=20)
    assert time.monotonic() - began < 2
    assert process.returncode == CODES[sent]
    done = read_run(tmp_path / "run").predictions
    assert 0 < len(done) < 60
    last = said.splitlines()[-1]
    counted = int(re.match(r"Interrupted: (\d+) images? (?:was|were) done", last)[1])
    assert len(done) - 1 <= counted <= len(done)  # the signal can come between writing and counting
    assert last.endswith(f"results are in {tmp_path / 'run'}; --resume continues")
    with pytest.raises(SystemExit) as ended:
        main([*args, "--resume"])
    assert ended.value.code == 0
    finished = read_run(tmp_path / "run")
    assert len(finished.predictions) == len(photos)
    first, second = (one["images"] for one in finished.record["sessions"])
    assert counted <= first <= len(done) and second == 60 - len(done)
    assert all(finished.predictions[name] == one for name, one in done.items())
    assert not list(Path(tmp_path / "run").glob("*.part"))
