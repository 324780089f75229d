"""Kill commands other than `run` at random moments, repeat them, and look for anything lost or half-written.

    python evaluation/kill_commands.py [--kills 60] [--seed 0] [--commands artifacts export-coco ...]

`artifacts`, `register-neurons`, `export`, `report`, `cluster`, and the unpacking of a dataset's archive. Each
writes beside files that are there already, such as an earlier report. The moments are of three kinds: any
time of the command, any time from its first change to the files on, and just before its n-th operation on
them, which an audit hook counts. After each kill every visible file must be as it was, or as an uninterrupted
command leaves it, and all together the old ones or the new ones. Then the command is repeated: the files must
be those of an uninterrupted one, hidden ones included. Needs Linux.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
import signal
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import matplotlib.figure  # noqa: F401 - before the forks, as in interrupted_runs.py
import torch
from harness import argument_parser, describe_machine, markdown_table, run_script
from interrupted_runs import Lost, forked, has_ended, lost_reg_command, make_images, wait_until
from kill_and_resume import is_over

import lost_reg.report.report
from lost_reg.artifacts.records import read_artifacts
from lost_reg.datasets import acquire
from lost_reg.datasets.downloads import Checksum
from lost_reg.runs.folder import TOKENS_FILE

SIGNALS = {"SIGKILL": 0.7, "SIGTERM": 0.15, "SIGINT": 0.15}
PHASES = ("before the first change", "amid its changes", "after the last")
CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.link", "os.truncate")
CREATED = re.compile(rb"\d{4}-\d\d-\d\d \d\d:\d\d UTC")  # in a report's page, the time it was made
Files = dict[str, bytes]  # by the path below a folder
VOC = "VOCdevkit/VOC2012"


@dataclass(frozen=True)
class Case:
    """A command that is killed.

    work: does it, in the folder given. earlier: makes what is there before.
    decisive: whether a file, once it is as an uninterrupted command leaves it, says that all is done.
    partial: whether the content of a file is right though it is neither the old nor the new one.
    """

    work: Callable[[Path], object]
    earlier: Callable[[Path], object] = lambda place: (place / "kept.txt").write_text("the user's")
    decisive: Callable[[str], bool] = lambda name: True
    partial: Callable[[str, bytes, Files], bool] = lambda name, content, new: False


@dataclass
class Tally:
    """What happened to a command; wrong: by what was not as it must be."""

    phases: Counter = field(default_factory=Counter)
    signals: Counter = field(default_factory=Counter)
    hidden: int = 0
    refused: int = 0
    wrong: Counter = field(default_factory=Counter)


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--kills", type=int, default=60, help="of each command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commands", nargs="+")
    options = parser.parse_args()
    torch.set_num_threads(1)  # start no threads, which would not survive a fork
    cv2.setNumThreads(0)
    top = Path(tempfile.mkdtemp(prefix="kill-commands-"))
    cases = make_cases(top)
    tallies = {}
    for name in options.commands or cases:
        tallies[name] = try_case(top, cases[name], options.kills, random.Random(f"{options.seed}-{name}"))
        print(f"{name}: {options.kills} kills, wrong: {dict(tallies[name].wrong)}", file=sys.stderr)
    shutil.rmtree(top)
    print(describe_machine())
    print(report(tallies))


# --- the commands ------------------------------------------------------------------------------------


def make_cases(top: Path) -> dict[str, Case]:
    """The commands by name, with the runs and images that they need, which are made."""
    make_images(top / "photos", random.Random(0))
    run, other = top / "results/a", top / "other/b"
    find = ["run", str(top / "photos"), "--backbone", "tiny", "--workers", "0"]
    finish(top, lambda: lost_reg_command([*find, "--masks", "--save-maps", "--out", str(run)]))
    finish(top, lambda: lost_reg_command([*find, "--limit", "40", "--out", str(other)]))
    few = top / "few"
    shutil.copytree(top / "photos", few, ignore=lambda _, names: sorted(names)[24:])
    random_weights = ["--workers", "0", "--weights", "random", "--backbone", "dino_vits16"]
    search = ["--threshold", "1", "--top-layer", "3", "--out", "{}/neurons.json"]
    export = ["export", run, "--to"]
    return {
        "artifacts": Case(
            command("artifacts", few, "--backbone", "tiny", *random_weights, "--out", "{}/out"),
            decisive=lambda name: name.endswith("artifacts.json"),
            partial=is_part_of_artifacts,
        ),
        "register-neurons": Case(command("register-neurons", few, *random_weights, *search)),
        "export-coco": Case(command(*export, "coco", "--out", "{}/out.json")),
        "export-yolo": Case(command(*export, "yolo", "--images", "copy", "--out", "{}/yolo")),
        "export-png": Case(command(*export, "png", "--out", "{}/masks")),
        "export-crops": Case(command("export", run, "--crops", "{}/crops")),
        "cluster": Case(
            command("cluster", "{}/run", "--k", "3"),
            earlier=lambda place: shutil.copytree(run, place / "run"),
            decisive=lambda name: name.endswith("clusters.html"),
            partial=lambda name, *_: name.endswith(TOKENS_FILE),
        ),
        "report": Case(
            command("report", run, "--max-images", "60", "--out", "{}/report"),
            partial=is_unfinished_page,
            **PAGE,
        ),
        "report-again": Case(
            command("report", run, "--max-images", "60", "--out", "{}/report"),
            command("report", other, "--out", "{}/report"),
            **PAGE,
        ),
        "archive": archive_case(top, "voc", lambda name: name.startswith(VOC), earlier_year),
        "archive-into-half": archive_case(top, "half", lambda name: False, half_a_dataset),
    }


PAGE = {"decisive": lambda name: name.endswith("index.html")}


def command(*arguments: object) -> Callable[[Path], None]:
    """Runs lost-reg with these arguments; "{}" in them is the folder that it writes in."""
    return lambda place: lost_reg_command([str(one).replace("{}", str(place)) for one in arguments])


def finish(top: Path, work: Callable[[], object]) -> None:
    child = forked(work, top / "log")
    if os.waitpid(child, 0)[1]:
        raise Lost(f"what is to be killed does not work: see {top / 'log'}")


def is_part_of_artifacts(name: str, content: bytes, new: Files) -> bool:
    """Whether it holds the first of the backbones, or is a figure of them, complete."""
    if name.endswith(".svg"):
        return content.rstrip().endswith(b"</svg>")
    with tempfile.NamedTemporaryFile() as one, tempfile.NamedTemporaryFile() as all_of_them:
        Path(one.name).write_bytes(content)
        Path(all_of_them.name).write_bytes(new[name])
        found, wanted = (read_artifacts(Path(file.name)).backbones for file in (one, all_of_them))
    return found == wanted[: len(found)]


def is_unfinished_page(name: str, content: bytes, new: Files) -> bool:
    return content == lost_reg.report.report.unfinished_page().encode()


def archive_case(
    top: Path, kind: str, decisive: Callable[[str], bool], earlier: Callable[[Path], object]
) -> Case:
    """`lost-reg datasets --download` once its archive is there, of 300 images and their annotations."""
    source = top / kind / VOC
    make_voc(source, top / "photos")
    with tarfile.open(made := top / kind / "voc.tar", "w") as tar:
        tar.add(source, VOC)
    content = made.read_bytes()
    checksum = Checksum("sha256", hashlib.sha256(content).hexdigest(), len(content))

    def prepare(place: Path) -> None:
        shutil.copy(made, place / "voc.tar")
        earlier(place)

    def work(place: Path) -> None:
        acquire.VOC_ARCHIVES["voc12"] = ("https://127.0.0.1/voc.tar", checksum)
        acquire.download_dataset("voc12", place)

    return Case(work, prepare, decisive)


def make_voc(folder: Path, photos: Path) -> None:
    for name in ("JPEGImages", "Annotations", "ImageSets/Main", "SegmentationClass"):
        (folder / name).mkdir(parents=True)
    stems = [path.stem for path in sorted(photos.glob("*.jpg"))]
    for stem in stems:
        shutil.copy(photos / f"{stem}.jpg", folder / "JPEGImages")
        (folder / "Annotations" / f"{stem}.xml").write_text("<annotation></annotation>")
        (folder / "SegmentationClass" / f"{stem}.png").write_text(stem)
    (folder / "ImageSets/Main/trainval.txt").write_text("\n".join(stems))


def earlier_year(place: Path) -> None:
    (place / "VOCdevkit/VOC2007").mkdir(parents=True)
    (place / "VOCdevkit/VOC2007/kept.txt").write_text("the user's")


def half_a_dataset(place: Path) -> None:
    (place / VOC / "JPEGImages").mkdir(parents=True)
    (place / VOC / "JPEGImages/0000.jpg").write_text("an older one")
    (place / VOC / "kept.txt").write_text("the user's")


# --- a kill ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Uninterrupted:
    """A command that nothing happened to.

    old, new: the files before and after. seconds: how long it took; changing: from its first change on.
    changes: how many operations on files.
    """

    old: Files
    new: Files
    seconds: float
    changing: float
    changes: int


def try_case(top: Path, case: Case, kills: int, rng: random.Random) -> Tally:
    tally, whole = Tally(), uninterrupted(top, case)
    while tally.phases.total() < kills:
        try_kill(top, case, whole, rng, tally)
    return tally


def uninterrupted(top: Path, case: Case) -> Uninterrupted:
    """Runs it twice.

    Raises:
        Lost: the two differ.
    """
    ends = [once_uninterrupted(top, case) for _ in range(2)]
    differ = [name for name in ends[0].new if ends[1].new.get(name) != ends[0].new[name]]
    if differ:
        raise Lost(f"two uninterrupted commands differ in {differ[:3]}")
    return ends[1]


def once_uninterrupted(top: Path, case: Case) -> Uninterrupted:
    place, count = new_place(top, case), top / "count"
    old, first, began = files_of(place), last_change(place), time.monotonic()
    child = forked(lambda: counted_work(case, place, count), top / "log")
    wait_until(lambda: last_change(place) != first or is_over(child))
    changed = time.monotonic()
    wait_until(lambda: has_ended(child))
    ended = time.monotonic()
    changes = int(count.read_text())
    return Uninterrupted(old, files_of(place), ended - began, ended - changed, changes)


def new_place(top: Path, case: Case) -> Path:
    place = top / "place"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    child = forked(lambda: case.earlier(place), top / "log")
    os.waitpid(child, 0)
    return place


def counted_work(case: Case, place: Path, count: Path) -> None:
    changes = watch_changes(place)
    try:
        case.work(place)
    finally:
        count.write_text(str(changes[0]))


def watch_changes(place: Path, deadly: int | None = None) -> list[int]:
    """Counts this process's operations on files below a folder; before the deadly one, it is killed."""
    changes, inside = [0], str(place)

    def hook(event: str, arguments: tuple) -> None:
        if event == "open":
            is_change = isinstance(arguments[2], int) and bool(arguments[2] & (os.O_CREAT | os.O_TRUNC))
        else:
            is_change = event in CHANGES
        # within a folder that is being removed, names are relative
        if is_change and (event in ("os.remove", "os.rmdir") or str(arguments[0]).startswith(inside)):
            changes[0] += 1
            if changes[0] == deadly:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    return changes


def try_kill(top: Path, case: Case, whole: Uninterrupted, rng: random.Random, tally: Tally) -> None:
    place = new_place(top, case)
    (kind,) = rng.choices(list(SIGNALS), list(SIGNALS.values()))
    moment = rng.choice(("any", "changing", "operation", "operation"))
    if moment == "operation":
        deadly, kind = rng.randint(1, whole.changes), "SIGKILL"
        child = forked(lambda: (watch_changes(place, deadly), case.work(place)), top / "log")
        wait_until(lambda: has_ended(child))
    else:
        first = last_change(place)
        child = forked(lambda: case.work(place), top / "log")
        if moment == "changing":
            wait_until(lambda: last_change(place) != first or is_over(child))
            time.sleep(rng.uniform(0, whole.changing))
        else:
            time.sleep(rng.uniform(0, whole.seconds))
        os.kill(child, signal.Signals[kind])
        wait_until(lambda: has_ended(child))
    tally.signals[kind] += 1
    look(case, whole, files_of(place), tally)
    repeat(top, case, place, whole, tally)


def look(case: Case, whole: Uninterrupted, found: Files, tally: Tally) -> None:
    """Compare what a killed command has left with what was there before, and with the whole outcome."""
    visible = {name: content for name, content in found.items() if not is_hidden(name)}
    tally.hidden += visible != found
    old, new = whole.old, whole.new
    phase = 0 if found == old else 2 if visible == new else 1
    tally.phases[PHASES[phase]] += 1
    changed = {name for name, content in new.items() if old.get(name) != content and case.decisive(name)}
    is_done = any(visible.get(name) == new[name] for name in changed)
    wrong = set()
    for name, content in visible.items():
        if name.endswith("/"):
            continue
        right = content in (old.get(name), new.get(name)) or case.partial(name, content, new)
        if not right and not (name not in old and name not in new and content in new.values()):
            wrong.add("half-written")
    lost = {name for name in old if visible.get(name) != old[name] and not is_done and name[-1] != "/"}
    if any(visible.get(name) != new.get(name) for name in lost):
        wrong.add("something earlier lost")
    elif lost and any(case.decisive(name) for name in changed):
        wrong.add("the old and the new mixed")
    if is_done and any(visible.get(name) != content for name, content in new.items()):
        wrong.add("looks done, and is not")
    tally.wrong.update(wrong)


def repeat(top: Path, case: Case, place: Path, whole: Uninterrupted, tally: Tally) -> None:
    """Do it again, to the end: the files must be those of an uninterrupted command, and no others."""
    log = top / "repeated"
    log.unlink(missing_ok=True)
    child = forked(lambda: case.work(place), log)
    refused = bool(os.waitpid(child, 0)[1])
    found = files_of(place)
    tally.refused += refused
    if "Traceback" in log.read_text() and "LostRegError" not in log.read_text():
        tally.wrong["a traceback when repeated"] += 1
    if found == whole.new:
        return
    visible = {name: content for name, content in found.items() if not is_hidden(name)}
    if visible == whole.new:
        tally.wrong["left for ever: hidden files"] += 1
    elif refused:
        tally.wrong["refused when repeated, though not done"] += 1
    else:
        tally.wrong["repeated, other files than uninterrupted"] += 1


# --- files -------------------------------------------------------------------------------------------


def files_of(place: Path) -> Files:
    """The content of all files and links, and b"" for folders without any; but for empty locks."""
    found = {}
    for folder, folders, names in os.walk(place):
        for name in names:
            path = Path(folder, name)
            if not name.endswith(".lock"):
                content = os.readlink(path).encode() if path.is_symlink() else path.read_bytes()
                found[str(path.relative_to(place))] = CREATED.sub(b"", content)
        if not folders and not names:
            found[f"{Path(folder).relative_to(place)}/"] = b""
    return found


def is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in Path(name).parts)


def last_change(place: Path) -> list[int]:
    """When the folders here changed."""
    return sorted(_times(place))


def _times(folder: Path) -> Iterator[int]:
    for path, _, _ in os.walk(folder):
        try:
            yield os.stat(path).st_mtime_ns
        except FileNotFoundError:
            continue


def report(tallies: dict[str, Tally]) -> str:
    rows = [
        [
            name,
            " + ".join(str(tally.signals[one]) for one in SIGNALS),
            *(tally.phases[phase] for phase in PHASES),
            tally.hidden,
            "; ".join(f"{count} {what}" for what, count in tally.wrong.items()) or "nothing",
        ]
        for name, tally in tallies.items()
    ]
    head = ["command", " + ".join(SIGNALS), *PHASES, "left something hidden", "wrong"]
    return markdown_table(head, rows)


if __name__ == "__main__":
    run_script(main)
