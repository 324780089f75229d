"""Change files while commands read them: each must end well or in one line, with a result of the files.

    python evaluation/changing_files.py [--trials 400] [--seed 0] [--commands run corloc ...]

While a command runs, one of the files that it reads, chosen at random, is changed at random times: it
grows, is cut off, is overwritten or replaced by another of its kind, goes and comes back, or becomes a link
or a pipe.
Predictions grow line by line, as those of a run that is going on. The command must end in time, without a
traceback, and what it writes must be whole. A box of `run` must be that of one of the contents that the file
had. Needs Linux.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import torch
from harness import argument_parser, describe_machine, markdown_table, run_script
from interrupted_runs import Lost, forked, lost_reg_command
from kill_and_resume import is_over

import lost_reg

IMAGES = 24
WEIGHTS = Path(lost_reg.__file__).parent / "backbones/bundled/tiny.safetensors"
SECONDS = 30.0  # that a command may take
NAMED = ("truth.json", "photos.tar", "weights.safetensors")  # by the user, who may give a pipe
ENDINGS = ("well", "one line", "by a signal", "other")
CREATED = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC")


@dataclass(frozen=True)
class Command:
    """A command, and the files that are changed while it runs.

    arguments: with "{}" for the folder of everything. targets: patterns of files below it.
    out: what it writes, to be removed before the next time.
    """

    arguments: tuple[str, ...]
    targets: tuple[str, ...]
    out: str = ""


COMMANDS = {
    "run": Command(
        ("run", "{}/photos", "--backbone", "tiny", "--workers", "2", "--out", "{}/new"), ("photos/*",), "new"
    ),
    "run, shard": Command(
        ("run", "{}/photos.tar", "--backbone", "tiny", "--workers", "2", "--out", "{}/new"),
        ("photos.tar",),
        "new",
    ),
    "run, weights": Command(
        ("run", "{}/photos", "--backbone", "tiny", "--workers", "0", "--limit", "2", "--weights",
         "{}/weights.safetensors", "--out", "{}/new"), ("weights.safetensors",), "new",
    ),
    "corloc": Command(
        ("corloc", "{}/results", "--json"),
        ("results/a/predictions.jsonl", "results/a/run.json", "truth.json"),
    ),
    "score": Command(("score", "{}/results/a", "--json"), ("results/a/predictions.jsonl", "truth.json")),
    "compare": Command(
        ("compare", "{}/results/a", "{}/results/b", "--json"),
        ("results/a/predictions.jsonl", "results/a/run.json", "truth.json"),
    ),
    "report": Command(
        ("report", "{}/results", "--out", "{}/report"),
        ("results/a/*.json*", "results/a/maps/photos/*", "photos/*", "truth.json"),
        "report",
    ),
    "export, coco": Command(
        ("export", "{}/results/a", "--to", "coco", "--out", "{}/out.json"),
        ("results/a/predictions.jsonl", "results/a/run.json"),
        "out.json",
    ),
    "export, copies": Command(
        ("export", "{}/results/a", "--to", "yolo", "--images", "copy", "--out", "{}/yolo"),
        ("photos/*",),
        "yolo",
    ),
    "export, crops": Command(("export", "{}/results/a", "--crops", "{}/crops"), ("photos/*",), "crops"),
}  # fmt: skip


@dataclass
class Tally:
    """How the trials of a command ended; changes: how many there were; wrong: by what it was."""

    endings: Counter = field(default_factory=Counter)
    changes: Counter = field(default_factory=Counter)
    wrong: Counter = field(default_factory=Counter)


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--trials", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commands", nargs="+", default=[*COMMANDS])
    options = parser.parse_args()
    torch.set_num_threads(1)  # start no threads, which would not survive a fork
    cv2.setNumThreads(0)
    top = Path(tempfile.mkdtemp(prefix="changing-files-"))
    make_files(top)
    tallies: dict[str, Tally] = defaultdict(Tally)
    usual = {name: usual_outcome(top, COMMANDS[name]) for name in options.commands}
    for index in range(options.trials):
        name = options.commands[index % len(options.commands)]
        trial = Trial(top, COMMANDS[name], random.Random(f"{options.seed}-{index}"), usual[name])
        trial.run(tallies[name])
        if index % 50 == 49:
            print(f"{index + 1} trials, wrong: {wrongs(tallies)}", file=sys.stderr, flush=True)
    shutil.rmtree(top)
    print(describe_machine())
    print(report(tallies))


def wrongs(tallies: dict[str, Tally]) -> dict[str, dict[str, int]]:
    return {name: dict(tally.wrong) for name, tally in tallies.items() if tally.wrong}


# --- the files ---------------------------------------------------------------------------------------


def make_files(top: Path) -> None:
    """Photos, also in a shard, annotations, two runs, weights; of each another, to replace it."""
    noise = random.Random(0)
    for folder in ("photos", "other/photos"):
        (top / folder).mkdir(parents=True)
        for index in range(IMAGES):
            pixels = torch.randint(100, 130, (64, 96, 3)).numpy().astype("uint8")
            y, x = noise.randrange(40), noise.randrange(60)
            pixels[y : y + 24, x : x + 30] = [noise.randrange(256) for _ in range(3)]
            cv2.imwrite(str(top / folder / f"{index:02}.png"), pixels)
    for place in (top, top / "other"):
        shutil.make_archive(str(place / "photos"), "tar", place / "photos")
        (place / "truth.json").write_text(annotations(noise))
        shutil.copy(WEIGHTS, place / "weights.safetensors")
        for run, extra in (("a", ["--save-maps"]), ("b", ["--bias", "auto"])):
            out = place / "results" / run
            command = ["run", "--dataset", str(top / "truth.json"), "--backbone", "tiny", "--workers", "0"]
            finish(top, [*command, *extra, "--out", str(out)], place)


def annotations(noise: random.Random) -> str:
    """COCO annotations of an object in each photo."""
    images, objects = [], []
    for index in range(IMAGES):
        images.append({"id": index + 1, "file_name": f"photos/{index:02}.png", "height": 64, "width": 96})
        box = [noise.randrange(50), noise.randrange(30), 30, 24]
        objects.append({"id": index + 1, "image_id": index + 1, "bbox": box, "iscrowd": 0, "category_id": 1,
                        "area": 720, "segmentation": [[1, 1, 40, 1, 40, 40, 1, 40]]})  # fmt: skip
    return json.dumps({"images": images, "annotations": objects, "categories": [{"id": 1, "name": "thing"}]})


def finish(top: Path, arguments: list[str], place: Path) -> None:
    """Run a command to its end; the runs of `other` have the photos of `other`, under the same names."""
    with exchanged(top / "photos", place / "photos"):
        child = forked(lambda: lost_reg_command(arguments), top / "log")
        if os.waitpid(child, 0)[1]:
            raise Lost(f"what is to be read cannot be made: see {top / 'log'}")


@contextlib.contextmanager
def exchanged(one: Path, other: Path):
    if one == other:
        yield
        return
    kept = one.with_name(f"kept-{one.name}")
    one.rename(kept)
    (shutil.copytree if other.is_dir() else shutil.copy)(other, one)
    try:
        yield
    finally:
        remove(one)
        kept.rename(one)


# --- a trial -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Usual:
    """What a command gives of unchanged files. seconds: how long it took; boxes: of `run`, by image."""

    seconds: float
    boxes: dict[str, set[str]]


def usual_outcome(top: Path, command: Command) -> Usual:
    """The outcome of unchanged files, with the photos and with the others."""
    boxes: dict[str, set[str]] = defaultdict(set)
    for place in (top / "other", top):
        with (
            exchanged(top / "photos", place / "photos"),
            exchanged(top / "photos.tar", place / "photos.tar"),
        ):
            began = time.monotonic()
            os.waitpid(start(top, command), 0)
            seconds = time.monotonic() - began
        for image, found in boxes_of(top / "new"):
            boxes[image].add(found)
        if command.out:
            remove(top / command.out)
    return Usual(seconds, boxes)


def start(top: Path, command: Command) -> int:
    (top / "log").unlink(missing_ok=True)
    arguments = [one.replace("{}", str(top)) for one in command.arguments]
    return forked(lambda: lost_reg_command(arguments), top / "log")


def output_of(top: Path, command: Command) -> str:
    if command.out.endswith(".json") and (top / command.out).exists():
        return (top / command.out).read_text()
    if "--json" not in command.arguments:
        return ""
    text = (top / "log").read_text()
    start = re.search(r"^[\[{]", text, re.MULTILINE)
    if not start:
        return ""
    end = json.JSONDecoder(parse_constant=refuse).raw_decode(text[start.start() :])[1]
    return text[start.start() :][:end]


def refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def boxes_of(run: Path) -> list[tuple[str, str]]:
    """The image and the objects of each line."""
    lines = (run / "predictions.jsonl").read_bytes().splitlines() if run.is_dir() else []
    rows = [json.loads(line) for line in lines]
    return [(row["image"], json.dumps([one["box_xyxy"] for one in row["objects"]])) for row in rows]


def remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    with contextlib.suppress(OSError):
        path.unlink()


@dataclass
class Trial:
    """One command, and one file that changes while it runs."""

    top: Path
    command: Command
    rng: random.Random
    usual: Usual

    def run(self, tally: Tally) -> None:
        target = self.rng.choice(
            [path for one in self.command.targets for path in sorted(self.top.glob(one))]
        )
        content = target.read_bytes()
        kinds = [kind for kind in CHANGES if kind != "is a pipe" or target.name not in NAMED]
        kinds = [*kinds, *(["growing"] * 3 if target.name == "predictions.jsonl" else [])]
        kind = self.rng.choice(kinds)
        if kind == "growing":
            lines = content.splitlines(keepends=True)
            target.write_bytes(b"".join(lines[:5]))
        child = start(self.top, self.command)
        began = time.monotonic()
        status = None
        try:
            while not is_over(child) and time.monotonic() < began + SECONDS:
                if kind == "growing":
                    grow(target, content, self.rng)
                else:
                    CHANGES[kind](
                        target, content, self.top / "other" / target.relative_to(self.top), self.rng
                    )
                tally.changes[kind] += 1
                time.sleep(self.rng.uniform(0, self.usual.seconds / 8))
                if self.rng.random() < 0.5 and kind != "growing":
                    restore(target, content)
            if not is_over(child):
                os.killpg(child, signal.SIGKILL)
                tally.wrong[f"{kind} {target.suffix}: did not end"] += 1
            status = os.waitpid(child, 0)[1]
        finally:
            restore(target, content)
        self.look(status, kind, target, tally)

    def look(self, status: int, kind: str, target: Path, tally: Tally) -> None:
        code = os.waitstatus_to_exitcode(status)
        ending = (
            "well" if code == 0 else "one line" if code in (1, 2) else "by a signal" if code < 0 else "other"
        )
        tally.endings[ending] += 1
        log, out = (self.top / "log").read_text(), self.top / self.command.out
        wrong = set()
        if "Traceback" in log:
            print(log, file=sys.stderr)
            wrong.add(f"a traceback: {log.strip().splitlines()[-1][:60]}")
        if ending in ("by a signal", "other"):
            wrong.add(f"exit code {code}")
        if code == 1 and len([line for line in log.splitlines() if line.startswith("Error: ")]) == 0:
            wrong.add("an error without a line")
        wrong |= self.wrong_output(code, kind, target)
        tally.wrong.update(f"{target.name} {kind}: {one}" for one in wrong)
        if self.command.out:
            remove(out)

    def wrong_output(self, code: int, kind: str, target: Path) -> set[str]:
        out, wrong = self.top / self.command.out, set()
        try:
            output = output_of(self.top, self.command)
            if code == 0 and output:
                json.loads(output, parse_constant=refuse)
            if self.command.out == "new":
                for image, box in boxes_of(out):
                    if self.usual.boxes and box not in self.usual.boxes.get(image, ()):
                        wrong.add("a box of neither content")
        except ValueError:
            wrong.add("what was written is damaged")
        if self.command.out and self.command.out != "new" and code and out.exists():
            page = out / "index.html"
            if not (page.exists() and ("not finished" in page.read_text() or "Gallery" in page.read_text())):
                wrong.add("something half-written is left")
        if code == 0 and out.is_dir() and (out / "index.html").exists():
            shown = set(re.findall(r'"((?:maps|thumbnails)/[^"]*)"', (out / "index.html").read_text()))
            if any(not (out / one).is_file() for one in shown):
                wrong.add("the page shows pictures that are not there")
        return wrong


# --- the changes -------------------------------------------------------------------------------------

Change = Callable[[Path, bytes, Path, random.Random], object]


def grow(target: Path, content: bytes, rng: random.Random) -> None:
    """Append some more bytes of a file of lines, as a run does, but also half lines."""
    with target.open("ab") as file:
        file.write(content[file.tell() :][: rng.randrange(1, 900)])


def opened(target: Path, flags: int, mode: str):
    """Opens a file that exists, and waits at no pipe."""
    return open(os.open(target, flags | os.O_NONBLOCK), mode)


def append(target: Path, content: bytes, other: Path, rng: random.Random) -> None:
    with contextlib.suppress(OSError), opened(target, os.O_WRONLY | os.O_APPEND, "ab") as file:
        file.write(rng.randbytes(rng.randrange(1, 5000)))


def shrink(target: Path, content: bytes, other: Path, rng: random.Random) -> None:
    with contextlib.suppress(OSError):
        os.truncate(target, rng.randrange(len(content)))


def overwrite(target: Path, content: bytes, other: Path, rng: random.Random) -> None:
    with contextlib.suppress(OSError), opened(target, os.O_RDWR, "r+b") as file:
        file.seek(rng.randrange(len(content)))
        file.write(other.read_bytes()[: rng.randrange(1, 5000)])


def replace(target: Path, content: bytes, other: Path, rng: random.Random) -> None:
    part = target.with_name(".replacing")
    shutil.copy(other, part)
    part.replace(target)


def vanish(target: Path, content: bytes, other: Path, rng: random.Random) -> None:
    target.unlink(missing_ok=True)


def link(target: Path, content: bytes, other: Path, rng: random.Random) -> None:
    target.unlink(missing_ok=True)
    target.symlink_to(rng.choice([other, target.with_name("nowhere"), target, target.parent]))


def pipe(target: Path, content: bytes, other: Path, rng: random.Random) -> None:
    target.unlink(missing_ok=True)
    os.mkfifo(target)


CHANGES: dict[str, Change] = {
    "grows": append, "is cut off": shrink, "is overwritten": overwrite, "is replaced": replace,
    "is gone": vanish, "is a link": link, "is a pipe": pipe,
}  # fmt: skip


def restore(target: Path, content: bytes) -> None:
    part = target.with_name(".restoring")
    part.write_bytes(content)
    part.replace(target)


def report(tallies: dict[str, Tally]) -> str:
    rows = [
        [
            name,
            tally.endings.total(),
            tally.changes.total(),
            *(tally.endings[one] for one in ENDINGS),
            "; ".join(f"{count} {what}" for what, count in tally.wrong.most_common()) or "nothing",
        ]
        for name, tally in tallies.items()
    ]
    return markdown_table(["command", "trials", "changes", *ENDINGS, "wrong"], rows)


if __name__ == "__main__":
    run_script(main)
