"""The command `cluster`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lost_reg.cli.completions import backbone_names
from lost_reg.cli.imports import import_models
from lost_reg.cli.model_options import load, model_options
from lost_reg.cli.options import continued_by_itself, given, image_root_of, image_root_options
from lost_reg.cli.output import print_line, print_message, print_note
from lost_reg.text import counted


class Ks(click.ParamType):
    """A number of clusters, or a range such as 5:40."""

    name = "K"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        first, colon, last = value.partition(":")
        try:
            numbers = range(int(first), int(last) + 1) if colon else [int(first)]
        except ValueError:
            numbers = []
        if not numbers or numbers[0] < 1 or len(numbers) > 1000:
            self.fail(f"{value!r} is neither a number, such as 20, nor a range, such as 5:40", param, ctx)
        return tuple(numbers)


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--k", type=Ks(), metavar="N|FROM:TO",
    help="The number of clusters, or a range in which the silhouette chooses.  [default: 20]",
)  # fmt: skip
@click.option(
    "--names", type=click.Path(path_type=Path), metavar="FILE",
    help="Names of clusters, as JSON or as lines `cluster 01 = cat`. Without --k, renames those there are.",
)  # fmt: skip
@click.option(
    "--backbone", "-b", shell_complete=backbone_names,
    help="The backbone whose class token describes a crop.  [default: the run's]",
)  # fmt: skip
@model_options
@click.option(
    "--seed", type=click.IntRange(0, 2**32 - 1), help="Of k-means and the silhouette.  [default: 0]"
)
@click.option(
    "--batch-size", type=click.IntRange(min=1), metavar="N",
    help="How many crops of one size run together.  [default: 16]",
)  # fmt: skip
@image_root_options
def cluster(run: Path, names: Path | None, **options: Any) -> None:
    """Sort the objects of a run into classes, without labels.

    As in LOST's OD: the crop of each box goes through the backbone's class token, and k-means clusters the
    whitened tokens. Each object gets its cluster as a label in the run folder, where clusters.html shows the
    crops of each cluster. `lost-reg export` writes the labels as categories, and `lost-reg score` compares
    them with a dataset's classes. Clustering again replaces what there is; the tokens are kept.
    """
    from lost_reg.training.cluster_names import read_names
    from lost_reg.training.cluster_record import has_clusters
    from lost_reg.training.cluster_run import (
        ClusterOptions,
        check_clusterable,
        read_clusterable,
        rename_run,
    )

    images = image_root_of(options)
    wanted = read_names(names) if names else {}
    results = read_clusterable(run)
    chosen = ClusterOptions(names=wanted, image_root=images, **given(options, ("k", "seed", "batch_size")))
    anew = any(options[name] is not None for name in ("k", "seed", "backbone", "weights"))
    if names and not anew and has_clusters(results):
        summary = rename_run(results, wanted)
    else:
        check_clusterable(results, chosen)
        summary = _clustered(results, chosen, options)
    _print(run, summary, images)


def _clustered(results: Any, chosen: Any, options: dict[str, Any]) -> Any:
    """Load the backbone and cluster."""
    import_models()

    from lost_reg.progress import image_progress
    from lost_reg.training.cluster_run import cluster_run
    from lost_reg.training.run_backbone import backbone_and_weights, check_same_weights

    backbone, weights = options["backbone"], options["weights"]
    name, file = backbone_and_weights(results, backbone, weights)
    loaded = load(name, {**options, "weights": file})
    if not backbone and not weights:
        check_same_weights(results, loaded)
    continued_by_itself()
    with image_progress("crops", "box") as progress:
        return cluster_run(results, loaded, chosen, progress)


def _print(run: Path, summary: Any, images: Any) -> None:
    """Write the page of the run's crops, and print the sizes of its clusters."""
    from lost_reg.report.clusters import write_clusters_page

    page, missing = write_clusters_page(run, images)
    silhouette = "" if summary.silhouette is None else f", silhouette {summary.silhouette:.3f}"
    print_line(f"{counted(summary.boxes, 'box')} in {counted(summary.k, 'cluster')}{silhouette}")
    for name, size in summary.sizes.items():
        print_line(f"  {size:>6,}  {name}")
    if missing:
        print_message("Warning", f"the page lacks crops of images that could not be read: {missing}")
    if not summary.is_finished:
        print_note("the run is not finished: `resume` it, then cluster again")
    print_line(f"crops of each cluster are in {page}")
