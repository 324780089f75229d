"""The commands that list what is available: `backbones`, `datasets` and `methods`."""

from __future__ import annotations

from pathlib import Path

import click

from lost_reg.cli.completions import backbone_names, dataset_names
from lost_reg.cli.options import continued_by_itself, data_root_option
from lost_reg.cli.output import as_options, print_line
from lost_reg.text import table_width


@click.command()
@click.option(
    "--download",
    metavar="NAME",
    shell_complete=backbone_names,
    help="Download this backbone's weights into the Hugging Face cache.",
)
def backbones(download: str | None) -> None:
    """List the backbones, and download their weights."""
    from lost_reg.backbones.weights import backbones_table, download_weights

    if download:
        print_line(download_weights(download))
    else:
        click.echo(as_options(backbones_table(table_width())))


@click.command()
@click.option(
    "--download",
    metavar="NAME",
    shell_complete=dataset_names,
    help="Download this dataset into the data root.",
)
@data_root_option
def datasets(download: str | None, data_root: Path | None) -> None:
    """List the datasets, and download them."""
    from lost_reg.datasets.catalog import data_root as find_root
    from lost_reg.datasets.catalog import datasets_table

    root = find_root(data_root)
    if download:
        download_with_progress(download, root)
        print_line(f"{download} is in {root}")
    else:
        click.echo(datasets_table(root, table_width()))


def download_with_progress(name: str, root: Path) -> None:
    """Download a dataset, showing progress."""
    from lost_reg.datasets.acquire import download_dataset
    from lost_reg.progress import download_progress

    continued_by_itself()
    with download_progress() as report:
        download_dataset(name, root, report)


@click.command()
def methods() -> None:
    """List the discovery methods and their presets."""
    from lost_reg.discovery.methods import METHODS
    from lost_reg.discovery.presets import ACROSS_METHODS
    from lost_reg.text import text_table

    rows = [
        row
        for name, method in METHODS.items()
        for row in (
            {"method": name, "preset": "", "about": method.about},
            *({"method": "", "preset": key, "about": one.about} for key, one in method.presets.items()),
        )
    ]
    rows += [
        {"method": "(by preset)", "preset": name, "about": one.about} for name, one in ACROSS_METHODS.items()
    ]
    click.echo(text_table(rows, width=table_width(), fold="about"))
