"""The command `export`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lost_reg.cli.options import image_root_of, image_root_options
from lost_reg.cli.output import print_line, print_message
from lost_reg.export.base import MODES
from lost_reg.export.formats import FORMATS

_TARGETS = ", ".join(
    f"a {format.suffix} file ({name})" if format.suffix else f"a new folder ({name})"
    for name, format in FORMATS.items()
)
_WITH_IMAGES = ", ".join(name for name, format in FORMATS.items() if format.has_images)
_WITH_SPLIT = ", ".join(name for name, format in FORMATS.items() if format.has_split)


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--to", type=click.Choice(list(FORMATS)), help="The output format.")
@click.option(
    "--out", "-o", type=click.Path(path_type=Path), help=f"The file or folder to write: {_TARGETS}."
)  # fmt: skip
@click.option(
    "--crops",
    type=click.Path(path_type=Path),
    help="A new folder for the image crops inside the boxes; with or without --to.",
)
@click.option(
    "--images", type=click.Choice(MODES),
    help=f"Link, hard-link or copy the images into the folder, or leave them out ({_WITH_IMAGES}).  "
    "[default: link]",
)  # fmt: skip
@click.option(
    "--val", type=float, metavar="SHARE",
    help=f"Keep this share of the images for validation, chosen by their names ({_WITH_SPLIT}).  "
    "[default: train and validate on all]",
)  # fmt: skip
@click.option("--seed", type=int, metavar="N", help="Another seed keeps other images.  [default: 0]")
@image_root_options
@click.option(
    "--drop-implausible",
    is_flag=True,
    help="Drop boxes that are a whole image, a single patch or a border strip.",
)
@click.option(
    "--min-area", type=float, metavar="SHARE", help="Drop boxes that cover a smaller share of the image."
)
@click.option(
    "--max-area", type=float, metavar="SHARE", help="Drop boxes that cover a larger share of the image."
)
@click.option(
    "--max-degree",
    type=float,
    metavar="SHARE",
    help="Drop boxes whose seed is similar to a larger share of the other patches.",
)
@click.option("--min-score", type=float, metavar="SCORE", help="Drop boxes with a lower score.")
@click.option(
    "--max-borders",
    type=click.IntRange(min=0, max=4),
    metavar="N",
    help="Drop boxes that touch more than N of the image's four edges.",
)
def export(
    run: Path,
    to: str | None,
    out: Path | None,
    crops: Path | None,
    images: str | None,
    val: float | None,
    seed: int | None,
    **others: Any,
) -> None:
    """Export boxes as COCO, YOLO, VOC, FiftyOne, CSV or crops; masks as COCO, YOLO polygons or PNG.

    It also writes LOST's own pickle. RUN is a run folder; all objects of each image are exported. Implausible
    boxes (a whole image, a single patch or a border strip) are counted, and kept unless you pass
    --drop-implausible.
    """
    if bool(to) != bool(out):
        raise click.UsageError("give both a format with --to and where to write it with --out")
    if not to and not crops:
        raise click.UsageError("give a format with --to, or a folder with --crops")

    from lost_reg.export.base import Split
    from lost_reg.export.boxes import Filters
    from lost_reg.export.run_export import ExportOptions, export_run, summary_lines, warnings
    from lost_reg.progress import image_progress

    if images and not (to and FORMATS[to].has_images):
        raise click.UsageError(f"--images is for the formats {_WITH_IMAGES}")
    if (val is not None or seed is not None) and not (to and FORMATS[to].has_split):
        raise click.UsageError(f"--val and --seed are for the formats {_WITH_SPLIT}")
    if seed is not None and val is None:
        raise click.UsageError("--seed needs --val")
    given: dict[str, Any] = {"images": images} if images else {}
    if val is not None:
        given["split"] = Split(val, seed or 0)
    root = image_root_of(others)
    options = ExportOptions(to, out, crops, image_root=root, filters=Filters(**others), **given)
    with image_progress("crops") as progress:
        summary = export_run(run, options, progress=progress)
    for line in summary_lines(summary):
        click.echo(line)
    for line in warnings(summary):
        print_message("Warning", line)
    print_line(f"written: {', '.join(str(path) for path in (out, crops) if path)}")
