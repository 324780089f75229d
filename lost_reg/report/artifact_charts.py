"""The artifacts of a report: norms by layer, outliers, and what becomes of them, from artifacts.json."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from lost_reg.errors import LostRegError, one_line
from lost_reg.files import folders_with
from lost_reg.report.markup import table, text
from lost_reg.report.plots import Axis, Plot, legend, linear_axis, log_axis

ARTIFACTS_FILE = "artifacts.json"
RULES = {"sigma": "mean + 3 sigma", "fixed": "fixed", "reference": "98th percentile of the reference"}
_GROUPS = {"outliers": "outliers", "rest": "other patches"}


def load_artifacts(top: Path) -> tuple[list[str], list[LostRegError]]:
    """The figures and tables of each artifacts.json at and below a folder, as markup, and errors."""
    shown, errors = [], []
    folders = folders_with(top, ARTIFACTS_FILE)
    for folder in folders:
        try:
            content = _read(folder / ARTIFACTS_FILE)
            heading = f"<h3>{text(str(folder.relative_to(top)))}</h3>\n" if len(folders) > 1 else ""
            shown.append(heading + artifacts_html(content))
        except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, RecursionError) as error:
            reason = one_line(f"{type(error).__name__} {error}")
            errors.append(LostRegError(f"{folder / ARTIFACTS_FILE} does not hold artifacts: {reason}"))
        except OSError as error:
            errors.append(LostRegError(f"cannot read {folder / ARTIFACTS_FILE}: {error.strerror or error}"))
    return shown, errors


def _read(path: Path) -> dict[str, Any]:
    def refuse(number: str) -> None:
        raise ValueError(f"{number} where a number was expected")

    content = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    if not content["backbones"]:
        raise ValueError("no backbones")
    return content


def artifacts_html(content: dict[str, Any]) -> str:
    """What one artifacts.json holds: a row of plots for each backbone, and two tables.

    Raises:
        LookupError, TypeError, ValueError, ArithmeticError, AttributeError: it holds something else.
    """
    rows = content["backbones"]
    norms = _axis_of_norms(rows)
    figures = "\n".join(_figure(row, norms) for row in rows)
    reference = f"The reference is {content['about']['reference']}. " if len(rows) > 1 else ""
    return (
        f'<div class="artifacts">{figures}</div>\n{_legend(rows)}\n'
        f'{_outliers(rows)}<p class="lead">{text(reference)}What a linear probe reads from outliers and '
        "from as many other patches of the same images (- where there were none to test on):</p>\n"
        f"{_probes(rows)}"
    )


# --- plots --------------------------------------------------------------------------------------------


def _axis_of_norms(rows: Sequence[dict]) -> Axis:
    """One for all backbones, so that they can be compared."""
    norms = [float(layer["percentiles"]["1"]) for row in rows for layer in row["layers"]]
    norms += [float(layer["largest"]) for row in rows for layer in row["layers"]]
    return log_axis(max(min(norms), 1e-3), 1.1 * max(norms))


def _figure(row: dict, norms: Axis) -> str:
    plots = (
        ("Norm of patch tokens", _layers_plot(row, norms)),
        ("Patches, %", _histogram_plot(row)),
        ("Patches, %", _cosines_plot(row)),
    )
    drawn = "".join(f'<div><p class="of-plot">{name}</p>{plot}</div>' for name, plot in plots)
    return (
        f'<figure class="chart"><figcaption>{text(row["label"])}: {row["images"]:,} images</figcaption>\n'
        f'<div class="three">{drawn}</div></figure>'
    )


def _layers_plot(row: dict, norms: Axis) -> str:
    layers = [(layer["layer"], layer["percentiles"], layer["largest"]) for layer in row["layers"]]
    at = row["outliers"]["layer"]
    label = (
        f"Norms of patch tokens of {row['label']} by layer; after layer {at} their median is "
        f"{layers[at][1]['50']:.3g}, their 98th percentile {layers[at][1]['98']:.3g} and the largest "
        f"{layers[at][2]:.3g}"
    )
    plot = Plot(_axis_of_layers(len(layers)), norms, "layer", label)

    def percentile(name: str) -> list[tuple[float, float]]:
        return [(layer, float(percentiles[name])) for layer, percentiles, _ in layers]

    lines = [
        plot.area([*percentile("1"), *reversed(percentile("99"))], "outer"),
        plot.area([*percentile("25"), *reversed(percentile("75"))], "inner"),
        plot.line(percentile("50"), "median"),
        plot.line([(layer, float(largest)) for layer, _, largest in layers], "largest"),
    ]
    return plot.svg(lines, [plot.vertical(at, "at-layer")])


def _axis_of_layers(depth: int) -> Axis:
    every = max(1, math.ceil(depth / 7))
    ticks = tuple((layer, str(layer)) for layer in range(0, depth, every))
    return Axis(0, max(1, depth - 1), ticks)


def _histogram_plot(row: dict) -> str:
    layer = row["outliers"]["layer"]
    edges, shares = _histogram(row, layer)
    cutoffs = _cutoffs(row)
    x = log_axis(min([edges[0], *cutoffs.values()]), max([edges[-1], *cutoffs.values()]))
    low = 10 ** math.floor(math.log10(min(share for share in shares if share)))
    y = log_axis(low, max(100.0, max(shares)))
    told = "; ".join(f"{RULES[rule]}: {cutoff:.4g}" for rule, cutoff in cutoffs.items())
    label = f"How norms of {row['label']} are distributed after layer {layer}; cut-offs: {told}"
    plot = Plot(x, y, f"norm after layer {layer}", label)
    return plot.svg(
        [plot.steps(edges, [max(share, low) for share in shares], "counts")],
        [plot.vertical(cutoff, f"cutoff {rule}") for rule, cutoff in cutoffs.items()],
    )


def _cutoffs(row: dict) -> dict[str, float]:
    """The cut-offs that are drawn: those near the norms, so that these stay large enough to be seen."""
    layer = row["layers"][row["outliers"]["layer"]]
    cutoffs = {rule: layer["cutoffs"][rule] for rule in RULES}
    return {rule: at for rule, at in cutoffs.items() if at is not None and at <= 3 * layer["largest"]}


def _histogram(row: dict, layer: int) -> tuple[list[float], list[float]]:
    """Edges, and the share of patches between them in percent; some fifty bins of those that are used."""
    histogram = row["norm_histograms"]
    counts, ratio = histogram["counts"][layer], float(histogram["ratio"])
    used = [index for index, count in enumerate(counts) if count]
    first, last = used[0], used[-1] + 1
    wide = max(1, math.ceil((last - first) / 50))
    starts = range(first, last, wide)
    shares = [100 * sum(counts[start : start + wide]) / row["patches"] for start in starts]
    edges = [histogram["first_edge"] * ratio**start for start in [*starts, starts[-1] + wide]]
    return edges, shares


def _cosines_plot(row: dict) -> str:
    groups = {name: row["outliers"]["neighbour_cosine"][name] for name in _GROUPS}
    groups = {name: cosines for name, cosines in groups.items() if cosines}
    shares = {name: _densities(cosines) for name, cosines in groups.items()}
    top = max((max(values) for values in shares.values()), default=1.0)
    means = ", ".join(f"{_GROUPS[name]} {cosines['mean']:.2f}" for name, cosines in groups.items())
    label = f"Cosine of patches to their four neighbours in {row['label']}; means: {means}"
    plot = Plot(linear_axis(-1, 1, most=5), linear_axis(0, top, most=5), "cosine to the neighbours", label)
    drawn = []
    for name in reversed(shares):
        edges = [-1 + 2 * index / len(shares[name]) for index in range(len(shares[name]) + 1)]
        drawn.append(plot.steps(edges, shares[name], f"of-{name}"))
    return plot.svg(drawn, [])


def _densities(cosines: dict) -> list[float]:
    """In percent, in 25 bins of [-1, 1] or as many as there are."""
    counts = cosines["counts"]
    wide = max(1, len(counts) // 25)
    sums = [0, *accumulate(counts)]
    ends = range(0, len(counts) + 1, wide)
    return [100 * (sums[end] - sums[end - wide]) / cosines["count"] for end in ends[1:]]


def _legend(rows: Sequence[dict]) -> str:
    items = [
        ('<path class="line median" d="M-12 0H12"/>', "median norm"),
        ('<rect class="area inner" x="-12" y="-6" width="24" height="12"/>', "half of the patches"),
        ('<rect class="area outer" x="-12" y="-6" width="24" height="12"/>', "98 % of the patches"),
        ('<path class="line largest" d="M-12 0H12"/>', "largest norm"),
        ('<path class="at-layer" d="M0-8V8"/>', "the layer of the outliers"),
    ]
    drawn = {rule for row in rows for rule in _cutoffs(row)}
    items += [
        (f'<path class="cutoff {rule}" d="M0-8V8"/>', f"cut-off: {said}")
        for rule, said in RULES.items()
        if rule in drawn
    ]
    items += [
        (f'<rect class="area of-{name}" x="-12" y="-6" width="24" height="12"/>', f"cosine of {said}")
        for name, said in _GROUPS.items()
        if any(row["outliers"]["neighbour_cosine"][name] for row in rows)
    ]
    return legend(items)


# --- tables -------------------------------------------------------------------------------------------


def _outliers(rows: Sequence[dict]) -> str:
    columns = (
        "backbone", "layer", "outliers are above", "outliers", "images with any", "seeds on outliers",
        "by chance", "cosine: outliers", "rest",
    )  # fmt: skip
    return table(
        "Outliers", columns, [_outlier_cells(row) for row in rows], columns[1:2] + columns[3:], "outliers"
    )


def _outlier_cells(row: dict) -> list[str]:
    of_outliers, seeds = row["outliers"], row["outliers"]["seeds"]
    cosines = [of_outliers["neighbour_cosine"][name] for name in _GROUPS]
    return [
        text(row["label"]),
        f"{of_outliers['layer']:d}",
        f"{of_outliers['cutoff']:.4g} ({text(RULES[of_outliers['rule']])})",
        _percent(of_outliers["share"]),
        f"{of_outliers['images_with_any']:,d} of {row['images']:,d}",
        _percent(seeds["share"]),
        _percent(seeds["share_by_chance"]),
        *("-" if one is None else f"{one['mean']:.2f}" for one in cosines),
    ]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f} %"


def _probes(rows: Sequence[dict]) -> str:
    columns = ("backbone", "read from", "position, top-1", "distance in cells", "pixels, L2", "tested on")
    cells = [
        [text(row["label"]), said, *_probe_cells(row["outliers"]["probes"][name])]
        for row in rows
        for name, said in _GROUPS.items()
    ]
    return table("Linear probes", columns, cells, columns[2:], "probes")


def _probe_cells(probe: dict | None) -> list[str]:
    if probe is None:
        return ["-"] * 4
    return [
        _percent(probe["position_top1"]),
        f"{probe['position_distance']:.2f}",
        f"{probe['pixel_l2']:.2f}",
        f"{probe['tested_on']:,d}",
    ]
