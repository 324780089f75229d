"""Feed damaged result, map and annotation files to the commands that read them: none may end in a traceback.

    python evaluation/fuzz_results.py [--files 10000] [--seed 0] [--commands corloc compare ...]

Runs of `tiny` on small rendered scenes, with maps and masks, and a sweep and artifacts beside them. For each
damaged copy of one of their files, or of the annotations, each command runs in this process. It must end well
or with one line of error, and everything that it writes as JSON must be JSON, without NaN or Infinity.
"""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from click.testing import CliRunner
from fuzzing.json_mutations import mutated_json
from fuzzing.mutations import mutated_bytes
from harness import argument_parser, markdown_table, run_script
from PIL import Image

from lost_reg.cli.app import main as command_line

IMAGES = 4
SLOW_SECONDS = 10.0


@dataclass
class Outcomes:
    """What became of the commands.

    ended: how often each command ended well, with a line, or otherwise; wrong: what must not be.
    """

    ended: Counter = field(default_factory=Counter)
    wrong: Counter = field(default_factory=Counter)
    slowest: tuple[float, str] = (0.0, "")


def main() -> None:
    options = parsed_options()
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder)
        make_results(top / "whole")
        outcomes = Outcomes()
        targets = files_to_damage(top / "whole")
        for index in range(options.files):
            rng = random.Random(f"{options.seed}-{index}")
            try_damaged(top, targets[index % len(targets)], rng, options.commands, outcomes)
            if index % 500 == 499:
                print(f"{index + 1:,} files", file=sys.stderr)
    print_outcomes(options.files, outcomes)


def parsed_options():
    parser = argument_parser(__doc__)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commands", nargs="+", default=[*COMMANDS])
    return parser.parse_args()


# --- the files --------------------------------------------------------------------------------------


def make_results(top: Path) -> None:
    """Images, annotations, two runs, a sweep, artifacts and register neurons, by the commands themselves."""
    make_dataset(top)
    dataset = ["--dataset", str(top / "boxes.json"), "--backbone", "tiny"]
    images = [str(top / "images"), "--backbone", "tiny"]
    for arguments in (
        ["run", *dataset, "--save-maps", "--masks", "--max-objects", "2", "--out", str(top / "results/a")],
        ["run", *dataset, "--bias", "auto", "--out", str(top / "results/b")],
        [
            "sweep",
            *dataset,
            "--bias",
            "0,auto",
            "--tune-fraction",
            "0.5",
            "--out",
            str(top / "results/sweep"),
        ],
        ["artifacts", *images, "--out", str(top / "results/artifacts")],
    ):
        result = CliRunner().invoke(command_line, arguments)
        if result.exit_code:
            sys.exit(f"lost-reg {' '.join(arguments)}: {result.output}")


def make_dataset(top: Path) -> None:
    (top / "images").mkdir(parents=True)
    random_pixels = np.random.default_rng(0)
    listed, annotations = [], []
    for index in range(IMAGES):
        pixels = random_pixels.integers(100, 130, (64, 96, 3), dtype=np.uint8)
        pixels[16:48, 32:64] = random_pixels.integers(0, 255, (32, 32, 3))
        Image.fromarray(pixels).save(top / "images" / f"{index}.png")
        listed.append({"id": index + 1, "file_name": f"{index}.png", "height": 64, "width": 96})
        shared = {"iscrowd": 0, "category_id": 1, "area": 1024}
        outline = [[32, 16, 64, 16, 64, 48, 32, 48]]
        annotations.append(
            {
                "id": index + 1,
                "image_id": index + 1,
                "bbox": [32, 16, 32, 32],
                **shared,
                "segmentation": outline,
            }
        )
    content = {"images": listed, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    (top / "boxes.json").write_text(json.dumps(content))


def files_to_damage(top: Path) -> list[Path]:
    """Each with a weight by how often it is listed: predictions and maps most."""
    results = Path("results")
    names = [
        *[results / "a/predictions.jsonl"] * 4, *[results / "a/run.json"] * 3, *[Path("boxes.json")] * 3,
        *[results / "a/maps/0.png.npz"] * 4, results / "sweep/sweep.json", results / "sweep/corloc.json",
        results / "artifacts/artifacts.json",
    ]  # fmt: skip
    lines = [path.relative_to(top) for path in (top / "results/sweep").glob("*.jsonl")]
    names += [name for name in lines if (top / name).stat().st_size]
    return [name for name in names if (top / name).is_file()]


def damaged(path: Path, rng: random.Random) -> bytes:
    data = path.read_bytes()
    return mutated_bytes(data, data, rng) if path.suffix == ".npz" else mutated_json(data, rng)


# --- the commands -----------------------------------------------------------------------------------

COMMANDS = {
    "corloc": ["corloc", "{top}/results", "--json"],
    "score": ["score", "{top}/results/a", "--json"],
    "compare": ["compare", "{top}/results/a", "{top}/results/b", "--json"],
    "report": ["report", "{top}/results", "--out", "{top}/report"],
    "export": ["export", "{top}/results/a", "--to", "coco", "--out", "{top}/out.json"],
    "yolo": ["export", "{top}/results/a", "--to", "yolo", "--images", "copy", "--out", "{top}/yolo"],
    "resume": ["run", "--dataset", "{top}/boxes.json", "--backbone", "tiny", "--workers", "0", "--save-maps",
               "--masks", "--max-objects", "2", "--out", "{top}/results/a", "--resume"],
    "file": ["corloc", "{top}/results/a/predictions.jsonl", "--dataset", "{top}/boxes.json"],
}  # fmt: skip


def try_damaged(top: Path, name: Path, rng: random.Random, commands: list[str], outcomes: Outcomes) -> None:
    """Damage one file in a copy of the results, and run the commands on it."""
    copy = top / "whole"
    whole = (copy / name).read_bytes()
    try:
        (copy / name).write_bytes(data := damaged(copy / name, rng))
        for command in commands:
            run_command(copy, command, name, data, outcomes)
    finally:
        restore(copy, name, whole)


def restore(copy: Path, name: Path, whole: bytes) -> None:
    (copy / name).write_bytes(whole)
    shutil.rmtree(copy / "yolo", ignore_errors=True)
    shutil.rmtree(copy / "report", ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
        (copy / "out.json").unlink()


def run_command(copy: Path, command: str, name: Path, data: bytes, outcomes: Outcomes) -> None:
    kept = {path: path.read_bytes() for path in (copy / "results/a").rglob("*") if path.is_file()}
    arguments = [one.replace("{top}", str(copy)) for one in COMMANDS[command]]
    began = time.perf_counter()
    result = CliRunner().invoke(command_line, arguments)
    seconds = time.perf_counter() - began
    outcomes.slowest = max(outcomes.slowest, (seconds, f"{command}: {name}"))
    if result.exception and not isinstance(result.exception, SystemExit):
        last = traceback.extract_tb(result.exception.__traceback__)[-1]
        outcomes.wrong[f"{command} on {name.name}: {type(result.exception).__name__} in {last.name}"] += 1
        outcomes.ended[command, "a traceback"] += 1
    else:
        how = "well" if result.exit_code == 0 else "one line" if result.exit_code in (1, 2) else "otherwise"
        outcomes.ended[command, how] += 1
    check_json(copy, command, name, result.stdout, outcomes)
    if command == "resume":
        for path, content in kept.items():
            path.write_bytes(content)


def check_json(copy: Path, command: str, name: Path, printed: str, outcomes: Outcomes) -> None:
    """Everything that was written as JSON must be JSON."""
    texts = [printed] if "--json" in COMMANDS[command] and printed.strip() else []
    texts += [(copy / "out.json").read_text()] if command == "export" and (copy / "out.json").exists() else []
    for text in texts:
        try:
            json.loads(text, parse_constant=_refuse)
        except ValueError as error:
            outcomes.wrong[f"{command} on {name.name}: wrote no JSON: {str(error)[:40]}"] += 1


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def print_outcomes(files: int, outcomes: Outcomes) -> None:
    hows = ("well", "one line", "otherwise", "a traceback")
    commands = dict.fromkeys(command for command, _ in outcomes.ended)
    rows = [[command, *(f"{outcomes.ended[command, how]:,}" for how in hows)] for command in commands]
    print(f"{files:,} damaged files.\n")
    print(markdown_table(["command", *hows], rows))
    print(f"\nLongest: {outcomes.slowest[0]:.1f} s ({outcomes.slowest[1]}).")
    for what, count in outcomes.wrong.most_common():
        print(f"WRONG {count:,} times: {what}")


if __name__ == "__main__":
    run_script(main)
