"""The command `compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from lost_reg.cli.options import (
    one_of_json_and_csv,
    scoring_options,
    scoring_options_of,
)
from lost_reg.cli.output import as_options, print_notes
from lost_reg.text import table_width


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
    """Test whether two runs, or two probes, on the same images differ.

    A and B are run folders, LOST pickles or COCO-style detections (.json). Settings that differ are listed
    first. Differences are B minus A, in points of CorLoc, with a 95 % paired bootstrap interval and the p
    value of McNemar's exact test: for all images, by size of the largest object, and per class.

    A class covers the images that contain it; a box is correct if it has IoU >= 0.5 with an object of that
    class. To judge a single size or class, use p (Holm), which is corrected for multiple comparisons.

    A and B can also be folders of `lost-reg probe`, of one task and dataset. Then the scores that both have
    are compared on their test images: top-1 in the same way, other measures by the paired bootstrap alone.
    """
    from lost_reg.probing.compare import is_probe
    from lost_reg.scoring import comparison_text
    from lost_reg.scoring.compare import compare as compare_runs

    one_of_json_and_csv(as_json, as_csv)
    if is_probe(a) or is_probe(b):
        _compare_probes(a, b, as_json, as_csv)
        return
    comparison = compare_runs(a, b, scoring_options_of(**options))
    if as_json:
        shown = comparison_text.json_text(comparison)
    elif as_csv and all_images:
        shown = comparison_text.images_csv_text(comparison)
    elif as_csv:
        shown = comparison_text.csv_text(comparison)
    else:
        shown = as_options(comparison_text.text(comparison, all_images=all_images, width=table_width()))
    click.echo(shown)
    print_notes(comparison.notes)


def _compare_probes(a: Path, b: Path, as_json: bool, as_csv: bool) -> None:
    from lost_reg.probing import comparison_text
    from lost_reg.probing.compare import compare_probes

    context = click.get_current_context()
    for name in ("dataset", "data_root", "partial", "no_hard", "unannotated", "all_images"):
        if context.get_parameter_source(name) == ParameterSource.COMMANDLINE:
            option = f"--{name.removeprefix('all_').replace('_', '-')}"
            raise click.UsageError(f"{option} is for runs: probes have their own test images")
    comparison = compare_probes(a, b)
    if as_json or as_csv:
        click.echo((comparison_text.json_text if as_json else comparison_text.csv_text)(comparison))
    else:
        click.echo(comparison_text.text(comparison, table_width()))
