"""Feed damaged result, map and annotation files to the commands that read them: none may end in a traceback.

    python evaluation/fuzz_results.py [--files 10000] [--seed 0] [--commands corloc compare ...]

Runs of `tiny` on small rendered scenes, with maps and masks; beside them a sweep, artifacts, a head, neurons,
and exported boxes. For each damaged copy of one of their files, or of the annotations, each command runs in
this process, and so does the command that reads the file if no other does. It must end well or with one line
of error, and everything that it writes as JSON must be JSON, without NaN or Infinity. Ctrl-C shows what was
found so far.
"""

from __future__ import annotations

import argparse
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
from click.testing import CliRunner, Result
from fuzzing.json_mutations import mutated_json
from fuzzing.mutations import mutated_bytes
from harness import argument_parser, markdown_table, run_script
from PIL import Image

from lost_reg.cli.app import main as command_line

IMAGES = 4


@dataclass
class Outcomes:
    """What became of the commands.

    files: how many were damaged.
    ended: how often each command ended well, with a line, or otherwise; wrong: what must not be.
    """

    files: int = 0
    ended: Counter = field(default_factory=Counter)
    wrong: Counter = field(default_factory=Counter)
    slowest: tuple[float, str] = (0.0, "")


def main() -> None:
    options = parsed_options()
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder)
        make_results(top / "whole")
        outcomes = Outcomes()
        try:
            for index in range(options.files):
                damage_one(top, index, options, outcomes)
        except KeyboardInterrupt:
            print("stopped", file=sys.stderr)
    print_outcomes(outcomes)


def parsed_options() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commands", nargs="+", default=[*COMMANDS])
    return parser.parse_args()


def damage_one(top: Path, index: int, options: argparse.Namespace, outcomes: Outcomes) -> None:
    targets = files_to_damage(top / "whole")
    rng = random.Random(f"{options.seed}-{index}")
    try_damaged(top, targets[index % len(targets)], rng, options.commands, outcomes)
    outcomes.files += 1
    if outcomes.files % 500 == 0:
        print(f"{outcomes.files:,} files", file=sys.stderr)


# --- the files --------------------------------------------------------------------------------------


def make_results(top: Path) -> None:
    """Images, annotations, and what the commands make of them."""
    make_dataset(top)
    dataset = ["--dataset", "{top}/boxes.json", "--backbone", "tiny"]
    masks = ["--masks", "--max-objects", "2"]
    for arguments in (
        ["run", *dataset, "--save-maps", *masks, "--out", "{top}/results/a"],
        ["run", *dataset, "--bias", "auto", "--out", "{top}/results/b"],
        ["sweep", *dataset, "--bias", "0,auto", "--tune-fraction", "0.5", "--out", "{top}/results/sweep"],
        ["artifacts", "{top}/images", "--backbone", "tiny", "--out", "{top}/results/artifacts"],
        ["train", "head", "{top}/results/a", "--out", "{top}/head"],
        ["register-neurons", *WITHOUT_REGISTERS, "--threshold", "1", "--out", "{top}/neurons.json"],
        ["export", "{top}/results/a", "--to", "coco", "--out", "{top}/detections.json"],
    ):
        result = invoke(top, arguments)
        if result.exit_code:
            sys.exit(f"lost-reg {' '.join(arguments)}: {result.output}")


def invoke(top: Path, arguments: list[str]) -> Result:
    result = CliRunner().invoke(command_line, [one.replace("{top}", str(top)) for one in arguments])
    if result.exit_code == 130:  # the commands take Ctrl-C for themselves
        raise KeyboardInterrupt
    return result


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
    (top / "images/3.png").write_bytes(b"not an image")  # so that there is a line of errors
    content = {"images": listed, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    (top / "boxes.json").write_text(json.dumps(content))


def files_to_damage(top: Path) -> list[Path]:
    """Each as often as it should come: predictions and maps most."""
    results = Path("results")
    names = [
        *[results / "a/predictions.jsonl"] * 4, *[results / "a/run.json"] * 3, *[Path("boxes.json")] * 3,
        *[results / "a/maps/0.png.npz"] * 4, results / "a/errors.jsonl", results / "sweep/sweep.json",
        results / "sweep/corloc.json", results / "artifacts/artifacts.json", *map(Path, READ_BY),
    ]  # fmt: skip
    lines = [path.relative_to(top) for path in (top / "results/sweep").glob("*.jsonl")]
    return names + [name for name in lines if (top / name).stat().st_size]


def damaged(path: Path, rng: random.Random) -> bytes:
    data = path.read_bytes()
    return mutated_bytes(data, data, rng) if path.suffix == ".npz" else mutated_json(data, rng)


# --- the commands -----------------------------------------------------------------------------------

WITHOUT_REGISTERS = ["{top}/images", "--backbone", "timm:vit_tiny_patch16_224", "--weights", "random",
                     "--max-side", "32", "--workers", "0"]  # fmt: skip
MADE = ("report", "yolo", "made")  # the folders that commands make
COMMANDS = {
    "corloc": ["corloc", "{top}/results", "--json"],
    "compare": ["compare", "{top}/results/a", "{top}/results/b", "--json"],
    "report": ["report", "{top}/{results}", "--out", "{top}/report"],
    "export": ["export", "{top}/results/a", "--to", "coco", "--out", "{top}/out.json"],
    "resume": ["run", "--dataset", "{top}/boxes.json", "--backbone", "tiny", "--workers", "0", "--save-maps",
               "--masks", "--max-objects", "2", "--out", "{top}/results/a", "--resume"],
    "score": ["score", "{top}/results/a", "--json"],
    "yolo": ["export", "{top}/results/a", "--to", "yolo", "--images", "copy", "--out", "{top}/yolo"],
}  # fmt: skip
# The files that none of these reads, and the command that does.
READ_BY = {
    "head/head.json": ["run", "{top}/images", "--backbone", "tiny", "--workers", "0", "--method", "head",
                       "--head", "{top}/head", "--out", "{top}/made"],
    "neurons.json": ["run", *WITHOUT_REGISTERS, "--test-time-registers", "1", "--register-neurons",
                     "{top}/neurons.json", "--out", "{top}/made"],
    "detections.json": ["corloc", "{top}/detections.json", "--dataset", "{top}/boxes.json", "--json"],
}  # fmt: skip


def try_damaged(top: Path, name: Path, rng: random.Random, commands: list[str], outcomes: Outcomes) -> None:
    """Damage one file of the results, and run the commands on them."""
    copy = top / "whole"
    kept = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    own = READ_BY.get(name.as_posix())
    arguments = {name.as_posix(): own} if own else {command: COMMANDS[command] for command in commands}
    (copy / name).write_bytes(damaged(copy / name, rng))
    for command, words in arguments.items():
        run_command(copy, command, words, name, outcomes)
    for folder in MADE:
        shutil.rmtree(copy / folder, ignore_errors=True)
    for path in copy.rglob("*"):
        if path.is_file() and path not in kept:
            path.unlink()
    for path, content in kept.items():
        path.write_bytes(content)


def run_command(copy: Path, command: str, words: list[str], name: Path, outcomes: Outcomes) -> None:
    folder = "/".join(name.parts[:2]) if name.parts[0] == "results" else "results/a"
    before = {path: path.read_bytes() for path in (copy / "results").rglob("*") if path.is_file()}
    began = time.perf_counter()
    result = invoke(copy, [word.replace("{results}", folder) for word in words])
    outcomes.slowest = max(outcomes.slowest, (time.perf_counter() - began, f"{command}: {name}"))
    if result.exception and not isinstance(result.exception, SystemExit):
        last = traceback.extract_tb(result.exception.__traceback__)[-1]
        outcomes.wrong[f"{command} on {name.name}: {type(result.exception).__name__} in {last.name}"] += 1
        outcomes.ended[command, "a traceback"] += 1
    else:
        how = {0: "well", 1: "one line", 2: "one line"}.get(result.exit_code, "otherwise")
        outcomes.ended[command, how] += 1
    check_json(copy, command, words, name, result.stdout, outcomes)
    for path, content in before.items():  # a resumed run writes to its folder
        path.write_bytes(content)


def check_json(
    copy: Path, command: str, words: list[str], name: Path, printed: str, outcomes: Outcomes
) -> None:
    """Everything that was written as JSON must be JSON."""
    texts = [printed] if "--json" in words and printed.strip() else []
    texts += [(copy / "out.json").read_text()] if command == "export" and (copy / "out.json").exists() else []
    for text in texts:
        try:
            json.loads(text, parse_constant=_refuse)
        except ValueError as error:
            outcomes.wrong[f"{command} on {name.name}: wrote no JSON: {str(error)[:40]}"] += 1


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def print_outcomes(outcomes: Outcomes) -> None:
    hows = ("well", "one line", "otherwise", "a traceback")
    commands = dict.fromkeys(command for command, _ in outcomes.ended)
    rows = [[command, *(f"{outcomes.ended[command, how]:,}" for how in hows)] for command in commands]
    print(f"{outcomes.files:,} damaged files.\n")
    print(markdown_table(["command", *hows], rows))
    print(f"\nLongest: {outcomes.slowest[0]:.1f} s ({outcomes.slowest[1]}).")
    for what, count in outcomes.wrong.most_common():
        print(f"WRONG {count:,} times: {what}")


if __name__ == "__main__":
    run_script(main)
