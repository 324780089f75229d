"""Figures of `lost-reg artifacts`. The one module that imports matplotlib, which is an optional extra."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lost_reg.errors import LostRegError

NORMS_FIGURE = "norms.png"
LAYERS_FIGURE = "layers.png"
NEIGHBOURS_FIGURE = "neighbours.png"
CUTOFF_LINES = {"sigma": "--", "fixed": ":", "reference": "-."}


def draw_artifacts(rows: list[dict[str, Any]], folder: Path) -> None:
    """Draw what `artifacts.measure` gave, a panel per backbone, into a folder.

    norms.png: how norms are distributed after the layer of the outliers, with the three cut-offs.
    layers.png: median, 98th percentile and largest norm after each layer.
    neighbours.png: how similar outliers and other patches are to their neighbours.

    Raises:
        LostRegError: a folder that cannot be written.
    """
    for name, draw in (
        (NORMS_FIGURE, _draw_norms),
        (LAYERS_FIGURE, _draw_layers),
        (NEIGHBOURS_FIGURE, _draw_neighbours),
    ):
        figure = Figure(figsize=(4.5 * len(rows), 3.4), layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(1, len(rows), squeeze=False, sharey=True)[0]
        for panel, row in zip(panels, rows):
            draw(panel, row)
            panel.set_title(row["label"], fontsize="medium")
            panel.legend(fontsize="small")
        try:
            figure.savefig(folder / name, dpi=130)
        except OSError as error:
            raise LostRegError(
                f"cannot write the figure {folder / name}: {error.strerror or error}"
            ) from None


def _draw_norms(panel, row: dict[str, Any]) -> None:
    histogram, layer = row["norm_histograms"], row["outliers"]["layer"]
    counts = np.array(histogram["counts"][layer])
    edges = histogram["first_edge"] * histogram["ratio"] ** np.arange(len(counts) + 1)
    panel.stairs(100 * counts / row["patches"], edges, fill=True, alpha=0.6)
    for rule, cutoff in row["layers"][layer]["cutoffs"].items():
        if cutoff is not None:
            panel.axvline(cutoff, linestyle=CUTOFF_LINES[rule], color="black", label=f"{rule}: {cutoff:.4g}")
    panel.set(xscale="log", yscale="log", xlabel=f"norm after layer {layer}", ylabel="patches, %")


def _draw_layers(panel, row: dict[str, Any]) -> None:
    layers = [one["layer"] for one in row["layers"]]
    panel.plot(layers, [one["percentiles"]["50"] for one in row["layers"]], label="median")
    panel.plot(layers, [one["percentiles"]["98"] for one in row["layers"]], label="98th percentile")
    panel.plot(layers, [one["largest"] for one in row["layers"]], label="largest")
    panel.set(yscale="log", xlabel="layer", ylabel="norm of patch tokens")


def _draw_neighbours(panel, row: dict[str, Any]) -> None:
    for name, label in (("outliers", "outliers"), ("rest", "other patches")):
        cosines = row["outliers"]["neighbour_cosine"][name]
        if cosines is not None:
            density = np.array(cosines["counts"]) / cosines["count"]
            panel.stairs(
                100 * density, np.linspace(-1, 1, len(density) + 1), fill=True, alpha=0.5, label=label
            )
    panel.set(xlabel="cosine to the four neighbours", ylabel="patches, %")
