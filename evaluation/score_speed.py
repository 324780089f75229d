"""Time and memory of scoring many images: corloc, compare and report, each in a process of its own.

    python evaluation/score_speed.py [--images 300000] [--objects 300000] [--rounds 1]
    python evaluation/score_speed.py --before CHECKOUT      with the code of another checkout, in turns

Two runs on a dataset in COCO's format are made up, with one or three objects an image; and one on a dataset
in VOC layout, of one image with very many objects. No image is there, as scoring needs none: so the gallery
of the report has no pictures. Memory is the most that the process has held (VmHWM of Linux).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from harness import (
    argument_parser,
    describe_machine,
    markdown_table,
    median_and_range,
    run_script,
    seconds,
)

from lost_reg.discovery.methods import Setting
from lost_reg.masks.grids import stored
from lost_reg.runs.writer import RunWriter
from lost_reg.types import FoundObject, Prediction

HERE = Path(__file__).resolve().parents[1]
CLASSES = 20
SIZE_HW, PATCH = (480, 640), 16
GRID_HW = SIZE_HW[0] // PATCH, SIZE_HW[1] // PATCH
# runs a command of lost-reg, then writes the most kB that the process has held, as Linux counts them
CHILD = """
import re, sys
from lost_reg.cli.app import main
held, sys.argv = sys.argv[1], ["lost-reg", *sys.argv[2:]]
try:
    main()
finally:
    status = open("/proc/self/status").read()
    with open(held, "w") as file:
        file.write(re.search(r"VmHWM:\\s+(\\d+)", status)[1])
"""


@dataclass
class Taken:
    """What a command took, once in each round: seconds, those of a core, and MB at most; what it printed."""

    seconds: list[float] = field(default_factory=list)
    core_seconds: list[float] = field(default_factory=list)
    megabytes: list[float] = field(default_factory=list)
    printed: str = ""


def main() -> None:
    options = parse()
    print(describe_machine())
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder)
        commands = {
            **make_coco(top / "many", options.images),
            **make_voc(top / "one", options.objects),
        }
        commands = {name: one for name, one in commands.items() if name.split()[0] in options.commands}
        checkouts = {"before": options.before, "after": HERE} if options.before else {"now": HERE}
        taken = measure(commands, checkouts, options.rounds, top)
    print(f"\n{options.images:,} images; {options.objects:,} objects in one image\n")
    print(table(commands, list(checkouts), taken))
    check_same(commands, taken)


def parse() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument("--images", type=int, default=300_000, help="images of the two runs")
    parser.add_argument("--objects", type=int, default=300_000, help="objects of the one image in VOC layout")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--before", type=Path, help="a checkout of other code")
    parser.add_argument(
        "--commands", nargs="+", default=["corloc", "compare", "report"], help="only these commands"
    )
    return parser.parse_args()


def measure(
    commands: Mapping[str, list[str]], checkouts: Mapping[str, Path], rounds: int, top: Path
) -> dict[tuple[str, str], Taken]:
    """What each command took with the code of each checkout, which take turns.

    Raises:
        OSError: a command that fails.
    """
    taken = {(name, code): Taken() for name in commands for code in checkouts}
    for _ in range(rounds):
        for name, arguments in commands.items():
            for code, checkout in checkouts.items():
                run_once(arguments, checkout, top, taken[name, code])
    return taken


def check_same(commands: Iterable[str], taken: Mapping[tuple[str, str], Taken]) -> None:
    """Raises OSError if a command prints something else with the code of another checkout."""
    for name in commands:
        if len({one.printed for (command, _), one in taken.items() if command == name}) > 1:
            raise OSError(f"{name} does not print the same before and after")


def run_once(arguments: list[str], checkout: Path, top: Path, into: Taken) -> None:
    held = top / "held"
    environment = {**os.environ, "PYTHONPATH": str(checkout.resolve())}

    def run() -> None:
        done = subprocess.run(
            [sys.executable, "-c", CHILD, str(held), *arguments],
            env=environment, cwd=top, capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            raise OSError(f"lost-reg {' '.join(arguments)}: {done.stderr}")
        into.printed = done.stdout

    before = os.times()
    into.seconds.append(seconds(run))
    after = os.times()
    used = [getattr(after, name) - getattr(before, name) for name in ("children_user", "children_system")]
    into.core_seconds.append(sum(used))
    into.megabytes.append(int(held.read_text()) * 1024 / 1e6)


def table(commands: Mapping[str, list[str]], codes: list[str], taken: Mapping[tuple[str, str], Taken]) -> str:
    columns = {"seconds": ".1f", "core_seconds": ".1f", "megabytes": ".0f"}
    names = {"seconds": "seconds", "core_seconds": "of a core", "megabytes": "MB"}
    header = ["", *(f"{names[what]}, {code}" for what in columns for code in codes)]
    rows = [
        [
            name,
            *(shown(getattr(taken[name, code], what), columns[what]) for what in columns for code in codes),
        ]
        for name in commands
    ]
    return markdown_table(header, rows)


def shown(values: list[float], form: str) -> str:
    return median_and_range(values, form) if len(values) > 1 else f"{values[0]:{form}}"


# --- what is scored ----------------------------------------------------------------------------------


def make_coco(folder: Path, images: int) -> dict[str, list[str]]:
    """A dataset in COCO's format and two runs on it; the commands to measure."""
    (folder / "images").mkdir(parents=True)
    (folder / "images" / name_of(0)).touch()  # by which the folder is known
    truth = folder / "instances.json"
    random = np.random.default_rng(0)
    boxes = random_boxes(random, 3 * images)
    with truth.open("w") as file:
        file.write('{"images": [')
        write_list(file, (image_record(number) for number in range(images)))
        file.write('], "annotations": [')
        write_list(
            file, (annotation(number, boxes[number]) for number in range(3 * images) if number % 6 < 4)
        )
        categories = [{"id": number, "name": f"class {number}"} for number in range(CLASSES)]
        file.write(f'], "categories": {json.dumps(categories)}}}')
    for number, name in enumerate("ab"):
        found = (prediction(name_of(index), box) for index, box in enumerate(moved(random, boxes[::3])))
        write_run(folder / name, truth, found, seed=number)
    dataset = ["--dataset", str(truth)]
    return {
        "corloc": ["corloc", str(folder / "a"), "--json", *dataset],
        "compare": ["compare", str(folder / "a"), str(folder / "b"), "--json", *dataset],
        "report": ["report", str(folder / "a"), "--out", str(folder / "report"), *dataset],
    }


def make_voc(folder: Path, objects: int) -> dict[str, list[str]]:
    """A dataset in VOC layout of one image with many objects, and a run on it; the command to measure."""
    for name in ("JPEGImages", "Annotations"):
        (folder / "voc" / name).mkdir(parents=True)
    (folder / "voc" / "JPEGImages" / "0.jpg").touch()
    boxes = random_boxes(np.random.default_rng(0), objects)
    height, width = SIZE_HW
    with (folder / "voc" / "Annotations" / "0.xml").open("w") as file:
        file.write(f"<annotation><size><width>{width}</width><height>{height}</height></size>\n")
        for number, (xmin, ymin, xmax, ymax) in enumerate(boxes):
            file.write(
                f"<object><name>class {number % CLASSES}</name><difficult>0</difficult>"
                f"<truncated>0</truncated><bndbox><xmin>{xmin + 1}</xmin><ymin>{ymin + 1}</ymin>"
                f"<xmax>{xmax}</xmax><ymax>{ymax}</ymax></bndbox></object>\n"
            )
        file.write("</annotation>")
    write_run(folder / "run", folder / "voc", [prediction("0.jpg", boxes[0])])
    return {"corloc of VOC": ["corloc", str(folder / "run"), "--json", "--dataset", str(folder / "voc")]}


def name_of(number: int) -> str:
    return f"{number:012}.jpg"


def random_boxes(random: np.random.Generator, count: int) -> np.ndarray:
    """(count, 4) boxes xyxy in whole pixels within an image."""
    corners = random.integers(0, SIZE_HW[::-1], (count, 2, 2))
    return np.concatenate([corners.min(axis=1), corners.max(axis=1) + 1], axis=1)


def moved(random: np.random.Generator, boxes: np.ndarray) -> np.ndarray:
    """The boxes, each side moved by up to 40 pixels, within an image."""
    height, width = SIZE_HW
    return (boxes + random.integers(-40, 41, boxes.shape)).clip(0, [width, height, width, height])


def image_record(number: int) -> dict[str, Any]:
    height, width = SIZE_HW
    return {"id": number, "file_name": name_of(number), "height": height, "width": width}


def annotation(number: int, box: np.ndarray) -> dict[str, Any]:
    """One of at most three objects of an image."""
    xmin, ymin, xmax, ymax = box.tolist()
    return {
        "id": number, "image_id": number // 3, "category_id": number % CLASSES, "iscrowd": 0,
        "bbox": [xmin, ymin, xmax - xmin, ymax - ymin], "area": (xmax - xmin) * (ymax - ymin),
    }  # fmt: skip


def write_list(file: Any, records: Iterator[dict[str, Any]]) -> None:
    for number, one in enumerate(records):
        file.write(f"{', ' if number else ''}{json.dumps(one)}")


def prediction(image: str, box: np.ndarray) -> Prediction:
    """A line of LOST, with the mask of a rectangle."""
    sides = tuple(box.tolist())
    left, top, right, bottom = (side // PATCH for side in sides)
    cells = np.zeros(GRID_HW, bool)
    cells[top : bottom + 1, left : right + 1] = True
    seed = (min(top, GRID_HW[0] - 1), min(left, GRID_HW[1] - 1))
    details = {"degree": 12, "positive_share": 0.4}
    found = FoundObject(sides, 0.25, seed, details, stored(cells, SIZE_HW))
    return Prediction(image, SIZE_HW, GRID_HW, (found,))


def write_run(folder: Path, dataset: Path, found: Any, seed: int = 0) -> None:
    settings = {
        "dataset": str(dataset), "split": "all", "apply_exif": False, "backbone": "dino_vits16",
        "weights": {"source": "random", "name": f"seed {seed}", "sha256": None}, "precision": "fp32",
        **Setting().recorded(),
    }  # fmt: skip
    with RunWriter(folder, settings, {"images": None}) as writer:
        for one in found:
            writer.write(one)


if __name__ == "__main__":
    run_script(main)
