"""The tables of Darcet et al. 2024, and table 5 of Jiang et al. 2025: published beside measured numbers.

`reproduce.py --tables all` writes them. Nothing is computed but scores: see paper_cells.py. A cell that was
not measured is "not here", and the command that measures it is listed.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness import markdown_table
from paper_cells import CUTOFF, DATASETS, TEST_TIME, Measured, measured_below

from lost_reg.backbones.zoo import find_spec
from lost_reg.datasets.catalog import data_root
from lost_reg.errors import one_line
from lost_reg.probing.catalog import SPECS as LABELLED
from lost_reg.probing.published import published_classes
from lost_reg.scoring.published import published_rows
from lost_reg.text import counted

# A backbone, and how published.json calls it: Darcet et al., whose weights are not public, and Jiang et al.
BACKBONES = {
    "dino": ("DINO ViT-S/16",),
    "dinov2": ("DINOv2 ViT-L (IN-22k)", "DINOv2 ViT-L/14"),
    "dinov2_reg": ("DINOv2 ViT-L (IN-22k) + registers", "DINOv2 ViT-L/14 + registers", "DINOv2 + registers"),
    f"dinov2{TEST_TIME}": ("DINOv2 ViT-L/14 + test-time register",),
    "openclip": ("OpenCLIP ViT-B/16",),
    f"openclip{TEST_TIME}": ("OpenCLIP ViT-B/16 + test-time register",),
    "deit3": ("DeiT-III ViT-B (IN-22k)",),
}
_GIANT = "DINOv2 ViT-g/14"
NEAREST = {_GIANT: "dinov2_vitg14"} | {title: name for name, titles in BACKBONES.items() for title in titles}
_DENSE = {"ade20k": "segmentation", "nyud": "depth"}  # the tasks of linear evaluation
_AS_PUBLISHED = ("--outliers", "fixed", "--cutoff", f"{CUTOFF:g}", "--layer", "-1")
_HEAD = """# The papers' tables

For each model, the first line is what the paper reports. The second is what was measured with the nearest
public weights: the value, its 95 % interval, and the number of images. Below are other backbones that were
measured. Of Darcet et al.'s models, only DINOv2 ViT-g/14 is public."""


@dataclass(frozen=True)
class Column:
    """A column: its digits, and what a measured value is multiplied by: 100 for a share."""

    title: str
    digits: int = 1
    scale: float = 100.0

    def show(self, value: float) -> str:
        """A measured value in the unit of the column."""
        return f"{self.scale * value:.{self.digits}f}"


@dataclass(frozen=True)
class Line:
    """A line of a paper: its model, the kind of token if the table has several, its numbers by column."""

    model: str
    published: dict[str, float]
    token: str = ""

    @property
    def backbone(self) -> str | None:
        """The nearest one with public weights, as it is given to commands; None if there is none."""
        return NEAREST.get(self.model)

    @property
    def measured_as(self) -> str | None:
        """How results call it: see `paper_cells.backbone_name`."""
        if not self.backbone:
            return None
        name, test_time, _ = self.backbone.partition(TEST_TIME)
        return find_spec(name).name + test_time


@dataclass(frozen=True)
class Table:
    """A table of a paper.

    cells: which measured cells belong to it: see `Measured`. others: whether backbones that were measured but
    are not in the paper are shown.
    """

    title: str
    source: str
    note: str
    cells: str
    columns: dict[str, Column]
    lines: list[Line]
    others: bool = True


# --- the papers --------------------------------------------------------------------------------------


def paper_tables() -> list[Table]:
    """All tables, in the order in which they are shown."""
    return [
        _discovery("Darcet et al. 2024, table 3"),
        _discovery("Jiang et al. 2025, table 5", others=False),
        _class_probe(),
        _of_papers(
            "linear", "Linear evaluation",
            "On ImageNet, what is measured is logistic regression on the class token. The dense tasks depart "
            "from the paper's protocol: see docs/probes.md.",
            imagenet=Column("ImageNet top-1"), ade20k=Column("ADE20k mIoU"), nyud=Column("NYUd RMSE", 3, 1.0),
        ),
        _of_papers(
            "zero-shot", "Zero-shot classification",
            "By the names of the classes.",
            imagenet=Column("ImageNet top-1"),
        ),
        _of_papers(
            "local", "Position and pixels of patches",
            "Linear probes: the share of right cells of 256, the distance in cells, and the L2 error of a "
            "patch's normalised pixels. Measured at the layer and cut-off of each artifacts.json.",
            position_top1=Column("position, top-1"), position_distance=Column("distance", 2, 1.0),
            pixel_l2=Column("pixels", 2, 1.0),
        ),
        _of_papers(
            "share", "Outliers",
            f"The share of output patch tokens with a norm above {CUTOFF:g}.",
            share=Column("share, %", 2),
        ),
    ]  # fmt: skip


def _discovery(title: str, *, others: bool = True) -> Table:
    """The rows of scoring/published.json whose source is this paper's table."""
    paper, table = title.split()[0], title.partition(", ")[2]
    rows = [
        row
        for row in published_rows()
        if row["source"].startswith(paper) and row["source"].endswith(f", {table}")
    ]
    lines = [Line(row["backbone"], row["corloc"]) for row in rows]
    columns = {name: Column(shown) for name, shown in DATASETS.items()}
    note = "CorLoc of LOST. Measured with the setting that is chosen on a tenth of the images, on the others."
    return Table(f"Object discovery: {title}", rows[0]["source"], note, "discovery", columns, lines, others)


def _class_probe() -> Table:
    """The table of probing/published.json, a line for each kind of token."""
    published = published_classes()
    percent: dict[str, dict[str, float]] = published["percent"]
    tokens = dict.fromkeys(token for of_dataset in percent.values() for token in of_dataset)
    lines = [Line(_GIANT, {name: percent[name][token] for name in percent}, token) for token in tokens]
    columns = {spec.name: Column(spec.title) for spec in LABELLED if spec.name in percent}
    note = (
        "Logistic regression: top-1, or the mean over classes or mAP where these are usual. A star: not with "
        "the weights, images and settings of the paper."
    )
    return Table("Classes from one token", published["source"], note, "classes", columns, lines)


def _of_papers(cells: str, title: str, note: str, **columns: Column) -> Table:
    """A table of papers.json."""
    table = json.loads((Path(__file__).parent / "papers.json").read_text(encoding="utf-8"))[cells]
    return Table(title, table["source"], note, cells, columns, [Line(**line) for line in table["lines"]])


# --- commands ----------------------------------------------------------------------------------------


def commands(cells: str, name: str, columns: list[str], out: Path, root: Path | None) -> list[list[str]]:
    """What measures some columns of a table for a backbone.

    Args:
        cells: as in `Table`. out: the folder for what is measured. root: the data root; None for the default.
    """
    rooted = ["--data-root", str(root)] if root else []
    if cells == "discovery":
        given = ["--out", str(out), "--backbones", name, "--datasets", *columns]
        return [["python", "evaluation/reproduce.py", *given, *rooted]]
    if cells in ("local", "share"):
        images, folder = data_root(root) / "imagenet" / "val", out / f"artifacts-{name}"
        given = [str(images), "--backbone", name, *_AS_PUBLISHED, "--max-side", "224", "--out", str(folder)]
        return [["lost-reg", "artifacts", *given]]
    return [[*_probe(cells, name, dataset, out), *rooted] for dataset in columns]


def _probe(cells: str, name: str, dataset: str, out: Path) -> list[str]:
    task = "zero-shot" if cells == "zero-shot" else _DENSE.get(dataset, "classes")
    command = ["lost-reg", "probe", dataset, "--task", task, "--backbone", name]
    if cells == "classes":
        command += ["--tokens", "cls,normal,outlier", *_AS_PUBLISHED]
    elif task == "classes":
        command += ["--tokens", "cls"]
    if any(spec.name == dataset and spec.can_download for spec in LABELLED):
        command.append("--download")
    return [*command, "--out", str(out / f"{task}-{dataset}-{name}")]


# --- the text ----------------------------------------------------------------------------------------


def tables_text(out: Path, root: Path | None = None, seed: int = 0) -> str:
    """All tables, and what is missing, as Markdown.

    Args:
        out: the folder in which measurements are looked for. root: the data root; None for the default.
        seed: of the tenth of the images that a sweep's setting is chosen on.
    """
    cells, counts, unusable = measured_below(out, root, seed)
    looked = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    parts = [
        _HEAD,
        f"Looked for measurements in {out}: {looked}. Of several, that of the most images is shown.",
    ]
    missing: dict[str, None] = {}
    for table in paper_tables():
        of_it = [cell for cell in cells if cell.cells == table.cells and cell.column in table.columns]
        header = ["model", "", *(column.title for column in table.columns.values())]
        parts += [f"## {table.title}", f"{table.note} Source: {table.source}."]
        parts.append(markdown_table(header, [*_rows(table, of_it)]))
        missing |= dict.fromkeys(shlex.join(command) for command in _missing(table, of_it, out, root))
    if missing:
        intro = "What can be measured with public weights, and is not here, comes from these commands:"
        parts += ["## Not here", intro, "```bash\n" + "\n".join(missing) + "\n```"]
    if unusable:
        parts += ["## Could not be used", "\n".join(f"- {one_line(line)}" for line in unusable)]
    return "\n\n".join(parts) + "\n"


def _rows(table: Table, cells: list[Measured]) -> Iterator[list[str]]:
    """Each model of the paper, published and measured, then the other backbones."""
    for line in table.lines:
        numbers = (
            f"{line.published[key]:.{column.digits}f}" if key in line.published else "-"
            for key, column in table.columns.items()
        )
        yield [_titled(line.model, line.token), "published", *numbers]
        yield _measured_row(table, cells, line.measured_as, line.token)
    known = {(line.measured_as, line.token) for line in table.lines}
    tokens = {line.token for line in table.lines}
    measured = {(cell.backbone, cell.token) for cell in cells if cell.token in tokens}
    for name, token in sorted(measured - known) if table.others else ():
        yield _measured_row(table, cells, name, token)


def _measured_row(table: Table, cells: list[Measured], name: str | None, token: str) -> list[str]:
    title = _titled(name, token) if name else "(its weights are not public)"
    return [
        title,
        "measured",
        *(_shown(column, _find(cells, name, key, token)) for key, column in table.columns.items()),
    ]


def _titled(name: str, token: str) -> str:
    return f"{name}, {token}" if token else name


def _find(cells: list[Measured], name: str | None, column: str, token: str) -> Measured | None:
    """The first cell of this kind."""
    matching = (one for one in cells if (one.backbone, one.column, one.token) == (name, column, token))
    return next(matching, None)


def _shown(column: Column, cell: Measured | None) -> str:
    if cell is None:
        return "not here"
    if cell.value is None:
        return "too few"
    star = "*" if cell.cells == "classes" and not cell.same_setting else ""
    ends = f"{' to '.join(column.show(end) for end in cell.interval)}; " if cell.interval else ""
    return f"{column.show(cell.value)}{star} ({ends}{counted(cell.images, 'image')})"


def _missing(table: Table, cells: list[Measured], out: Path, root: Path | None) -> Iterator[list[str]]:
    """The commands for the cells of a paper's models that are not here."""
    lacking: dict[str, set[str]] = {}
    for line in table.lines:
        if line.backbone:
            of_line = {key for key in table.columns if not _find(cells, line.measured_as, key, line.token)}
            lacking.setdefault(line.backbone, set()).update(of_line)
    for backbone, keys in lacking.items():
        if keys:
            yield from commands(
                table.cells, backbone, [key for key in table.columns if key in keys], out, root
            )
