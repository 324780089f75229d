"""Pickles, checkpoints, heads, register neurons and detectors that were made to harm who reads them.

    python evaluation/hostile_weights.py [--gigabytes 2] [--kinds PATTERN]

Each is given to the command that reads it, in a process of its own with a limit on its memory (RLIMIT_DATA:
all that it may write to; the code of torch does not count) and a minute of processor time. It must end with
exit code 1 and one line, or well, and must not have executed anything: code in the files would make a file
that is looked for. Sound files come first: they must be read within the same limits. Ctrl-C shows what was
found so far.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import resource
import shutil
import signal
import sys
import tempfile
import threading
import traceback
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import numpy as np
from fuzzing.outcomes import kind_of
from fuzzing.weight_attacks import BUNDLED, NAME, Attack, attacks
from harness import MIB, argument_parser, markdown_table, run_script
from PIL import Image
from safetensors.torch import load_file

from lost_reg.backbones.registers import RegisterNeurons, write_neurons
from lost_reg.cli.app import main as command_line
from lost_reg.discovery.features import FeatureConfig
from lost_reg.discovery.head import Head
from lost_reg.runs.heads import write_head

SECONDS, SECONDS_ON_THE_CLOCK = 60, 400
REASONS_SHOWN = 25


@dataclass
class Outcomes:
    """What became of the files of a kind.

    ended: how often, in which way. slowest, largest: the most seconds and bytes.
    """

    ended: Counter = field(default_factory=Counter)
    slowest: float = 0.0
    largest: int = 0


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--kinds", default="", help="only kinds that this pattern finds")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(report(Path(folder), int(options.gigabytes * 2**30), options.kinds))


def report(folder: Path, most: int, wanted: str) -> str:
    """Tables of all outcomes, after sound files were read within the same limits."""
    readers = sound_files(folder)
    canary = folder / "executed"
    sound = []
    for reader, command in readers.items():
        shutil.rmtree(folder / "out", ignore_errors=True)
        code, lines, seconds, memory = ended(command, most)
        assert code == 0, (reader, code, lines)
        sound.append((reader, f"{seconds:.1f} s", f"{memory / MIB:,.0f} MiB"))
    of_kinds: dict[str, Outcomes] = defaultdict(Outcomes)
    reasons: Counter[str] = Counter()
    bad = []
    for attack in _until_interrupted(one for one in attacks(str(canary)) if re.search(wanted, one.kind)):
        shutil.rmtree(folder / "out", ignore_errors=True)
        code, lines, seconds, memory = ended(with_attack(readers[attack.reader], attack, folder), most)
        how = "executed code" if canary.exists() else ending(code, lines)
        canary.unlink(missing_ok=True)
        one = of_kinds[attack.kind]
        one.ended[how] += 1
        one.slowest, one.largest = max(one.slowest, seconds), max(one.largest, memory)
        reasons[without_names(lines[-1]) if lines and code else "read"] += 1
        if how not in ENDINGS[:2]:
            bad.append(f"- {attack.kind}: {attack.what}: {how} {lines[-1:]}")
            print(bad[-1], file=sys.stderr, flush=True)
    return "\n\n".join(
        (
            markdown_table(["sound", "time", "memory"], sound),
            table_of_kinds(of_kinds),
            table_of_reasons(reasons),
            "\n".join(bad),
        )
    )


def _until_interrupted(found: Iterator[Attack]) -> Iterator[Attack]:
    interrupted = threading.Event()
    signal.signal(signal.SIGINT, lambda *_: interrupted.set())
    for number, attack in enumerate(found):
        if interrupted.is_set():
            return
        if number % 50 == 0:
            print(f"{number} files", file=sys.stderr, flush=True)
        yield attack


ENDINGS = ("one line", "read", "a traceback", "a signal", "too long", "executed code", "otherwise")


def ending(code: int, lines: list[str]) -> str:
    if code in (-signal.SIGALRM, -signal.SIGXCPU):
        return "too long"
    if code < 0:
        return "a signal"
    if any(line.startswith("Traceback") for line in lines):
        return "a traceback"
    if code == 0:
        return "read"
    return "one line" if code == 1 and len(lines) == 1 else "otherwise"


# --- commands ----------------------------------------------------------------------------------------


def sound_files(folder: Path) -> dict[str, list[str]]:
    """Sound files, and the command that reads each of them, by what is read: its file is last."""
    images = folder / "images"
    images.mkdir()
    rng = np.random.default_rng(0)
    for number in range(2):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(images / f"{number}.png")
    truth = {
        "images": [{"id": 1, "file_name": "0.png", "width": 64, "height": 64}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "iscrowd": 0}],
        "categories": [{"id": 1, "name": "a"}],
    }
    (folder / "truth.json").write_text(json.dumps(truth))
    (folder / "sound.pkl").write_bytes(pickle.dumps({"0.png": np.array([0, 0, 9, 9])}))
    write_neurons(folder / "neurons.json", RegisterNeurons(((5, 3),)))
    width = load_file(BUNDLED)[NAME].shape[-1]
    write_head(Head("tiny", "tiny", None, FeatureConfig(), (0.1,) * width, 0.1), folder / "head")
    os.environ["LOST_REG_RUN_BACKBONE"] = "tiny"
    run = ["run", str(images), "--out", str(folder / "out"), "--device", "cpu", "--workers", "0"]
    registers = [*run, "-b", "dino_vits16", "--weights", "random", "--test-time-registers", "1"]
    return {
        "corloc": ["corloc", "--dataset", str(folder / "truth.json"), str(folder / "sound.pkl")],
        "weights": [*run, "--weights", str(BUNDLED)],
        "head": [*run, "--method", "head", "--head", str(folder / "head" / "head.json")],
        "neurons": [*registers, "--register-neurons", str(folder / "neurons.json")],
        "detector": [*run, "--method", "detector", "--detector", str(sound_detector(folder, run))],
    }


def sound_detector(folder: Path, run: list[str]) -> Path:
    """A detector that was trained for a step."""
    assert ended([*run[:3], str(folder / "run"), *run[4:]])[0] == 0
    small = ["--channels", "8", "--min-size", "64", "--max-size", "64", "--steps", "1"]
    command = ["train", "detector", str(folder / "run"), "--out", str(folder / "detector"), *small]
    assert ended(command)[0] == 0
    return folder / "detector"


def with_attack(command: list[str], attack: Attack, folder: Path) -> list[str]:
    """Write a hostile file; the command with it in the place of the sound one."""
    place = folder / "hostile"
    shutil.rmtree(place, ignore_errors=True)
    path = place / attack.name
    path.parent.mkdir(parents=True)
    if attack.reader == "detector":
        shutil.copytree(command[-1], path)
    attack.write(path)
    return [*command[:-1], str(path)]


def ended(command: list[str], most: int | None = None) -> tuple[int, list[str], float, int]:
    """The exit code of a command in a process of its own, what it wrote to standard error, its seconds of
    processor time, and the most bytes that it held.

    The process is a copy of this one, so that torch is not imported for each.
    """
    with tempfile.TemporaryFile() as errors:
        process = os.fork()
        if not process:
            _become(command, errors.fileno(), most)
        _, status, usage = os.wait4(process, 0)
        errors.seek(0)
        lines = errors.read(10**6).decode("utf-8", "replace").splitlines()
    return os.waitstatus_to_exitcode(status), lines, usage.ru_utime + usage.ru_stime, 1024 * usage.ru_maxrss


def _become(command: list[str], errors: int, most: int | None) -> NoReturn:
    """Run a command in this process, and end."""
    code = 70
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(errors, 2)
        if most:
            resource.setrlimit(resource.RLIMIT_DATA, (most, most))
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 5))
        signal.alarm(SECONDS_ON_THE_CLOCK)
        command_line.main(command, prog_name="lost-reg")
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


# --- tables ------------------------------------------------------------------------------------------


def table_of_kinds(of_kinds: dict[str, Outcomes]) -> str:
    rows = [
        (kind, one.ended.total(), *(one.ended[how] for how in ENDINGS), f"{one.slowest:.1f} s",
         f"{one.largest / MIB:,.0f} MiB")
        for kind, one in of_kinds.items()
    ]  # fmt: skip
    total = sum((one.ended for one in of_kinds.values()), Counter())
    slowest = max(one.slowest for one in of_kinds.values())
    largest = max(one.largest for one in of_kinds.values())
    rows.append(
        (
            "all",
            total.total(),
            *(total[how] for how in ENDINGS),
            f"{slowest:.1f} s",
            f"{largest / MIB:,.0f} MiB",
        )
    )
    return markdown_table(["kind", "files", *ENDINGS, "longest", "most memory"], rows)


def table_of_reasons(reasons: Counter[str]) -> str:
    shown = reasons.most_common(REASONS_SHOWN)
    others = reasons.total() - sum(count for _, count in shown)
    return markdown_table(["reason", "files"], [*shown, ("others", others)])


def without_names(line: str) -> str:
    """A reason without the paths in it."""
    return kind_of(re.sub(r"'?/\S+", "FILE", line.removeprefix("Error: ")).replace("|", "/"))


if __name__ == "__main__":
    run_script(main)
