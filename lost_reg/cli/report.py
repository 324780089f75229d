"""The command `report`."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Any

import click

from lost_reg.cli.options import image_root_of, image_root_options, scoring_options, scoring_options_of
from lost_reg.cli.output import as_options, print_line, print_message
from lost_reg.errors import IncompleteRun
from lost_reg.text import counted


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--out", "-o", type=click.Path(path_type=Path), default="report", show_default=True,
    help="Folder for the report; an earlier report in it is replaced.",
)  # fmt: skip
@scoring_options
@click.option(
    "--max-images", type=click.IntRange(min=1), help="The most images per dataset in the gallery, evenly "
    "spaced.  [default: 2000]",
)  # fmt: skip
@image_root_options
def report(path: Path, out: Path, max_images: int | None, **options: Any) -> None:
    """Write an HTML page with tables, charts and a gallery.

    It shows all runs, sweeps, artifact measurements and probes in the folder PATH. The page opens from disk,
    in any browser. For runs with --save-maps, it also shows how the method arrived at each box.
    """
    from lost_reg.progress import image_progress
    from lost_reg.report.report import write_report

    given = {"images": image_root_of(options), **({"max_images": max_images} if max_images else {})}
    with image_progress("report") as progress:
        summary, errors = write_report(
            path,
            out,
            scoring_options_of(**options),
            progress=progress,
            wording=cache(as_options),
            **given,
        )
    parts = {"sweep": summary.sweeps, "artifact measurement": summary.artifacts, "probe": summary.probes}
    shown = [counted(count, name) for name, count in parts.items() if count]
    if summary.runs:
        images = f"{summary.shown:,} of " if summary.shown < summary.images else ""
        images += counted(summary.images, "image")
        shown = [counted(summary.runs, "run"), images, f"{summary.with_maps:,} with maps", *shown]
    print_line(f"{', '.join(shown)}: open {summary.page}")
    for reason in (*summary.without_picture, *summary.withheld[:1]):
        print_message("Warning", reason)
    for error in errors:
        if isinstance(error, IncompleteRun):
            print_message("Warning", f"left out: {error}")
        else:
            print_message("Error", str(error))
    if not all(isinstance(error, IncompleteRun) for error in errors):
        sys.exit(1)
