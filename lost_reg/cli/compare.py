"""The command `compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lost_reg.cli.options import one_of_json_and_csv, scoring_options, scoring_options_of
from lost_reg.cli.output import as_options, print_notes


@click.command()
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@scoring_options
@click.option(
    "--images", "all_images", is_flag=True, help="List every image on which only one of the two succeeds."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, which also lists those images.")
@click.option(
    "--csv", "as_csv", is_flag=True, help="Print the table as CSV; with --images, the list of images instead."
)
def compare(a: Path, b: Path, all_images: bool, as_json: bool, as_csv: bool, **options: Any) -> None:
    """Test whether two runs on the same images differ.

    A and B are run folders, LOST pickles or COCO-style detections (.json). Settings that differ are listed
    first. Differences are B minus A, in points of CorLoc, with a 95 % paired bootstrap interval and the p
    value of McNemar's exact test: for all images, by size of the largest object, and per class.

    A class covers the images that contain it; a box is correct if it has IoU >= 0.5 with an object of that
    class. To judge a single size or class, use p (Holm), which is corrected for multiple comparisons.
    """
    from lost_reg.scoring import comparison_text
    from lost_reg.scoring.compare import compare as compare_runs

    one_of_json_and_csv(as_json, as_csv)
    comparison = compare_runs(a, b, scoring_options_of(**options))
    if as_json:
        shown = comparison_text.json_text(comparison)
    elif as_csv and all_images:
        shown = comparison_text.images_csv_text(comparison)
    elif as_csv:
        shown = comparison_text.csv_text(comparison)
    else:
        shown = as_options(comparison_text.text(comparison, all_images=all_images))
    click.echo(shown)
    print_notes(comparison.notes)
