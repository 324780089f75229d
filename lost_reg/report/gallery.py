"""The gallery of a report: what each run found in each image.

All coordinates on the page are fractions of an image's width and height, so that they fit any thumbnail.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lost_reg.boxes import IOU_THRESHOLD, iou
from lost_reg.discovery.maps import Maps
from lost_reg.errors import LostRegError, one_line
from lost_reg.files import is_address
from lost_reg.images.reading import Reading, as_recorded
from lost_reg.progress import Progress, no_progress
from lost_reg.report.loading import ReportRun
from lost_reg.report.map_words import explanations, titles
from lost_reg.report.page import Section
from lost_reg.report.pictures import Pictures, ramp
from lost_reg.report.runs import degenerate_notes, paired_by_registers
from lost_reg.runs.folder import MAPS_FOLDER
from lost_reg.runs.image_folder import RECORDED, ImageFolder, ImageRoot, image_folder
from lost_reg.runs.map_files import maps_path, read_maps
from lost_reg.runs.pictures import MASK_COLOURS, MASK_OPACITY
from lost_reg.scoring.corloc import objects_that_count
from lost_reg.text import counted
from lost_reg.types import Box, Failure, ImageTruth, Prediction

MAX_IMAGES = 2000
_MOST_WITHHELD = 3  # notes on images that must not be read


@dataclass(frozen=True)
class Shown:
    """What a gallery shows.

    max_images: the most images of each dataset, evenly spaced.
    images: where the images of runs on a user's own files are.
    count_hard: whether objects marked as hard count.
    """

    max_images: int = MAX_IMAGES
    images: ImageRoot = RECORDED
    count_hard: bool = True


def write_gallery(
    runs: Sequence[ReportRun],
    pictures: Pictures,
    chosen: Shown,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Write thumbnails and maps; returns the page's data, whose names are not escaped.

    Raises:
        LostRegError: a folder that cannot be written.
    """
    by_images: dict[str, list[ReportRun]] = {}
    for run in runs:
        by_images.setdefault(_images_of(run), []).append(run)
    names = list(dict.fromkeys(run.name for run in runs))
    groups = [_Group(group, chosen) for group in by_images.values()]
    total = sum(len(group.shown) for group in groups)
    items = []
    for index, group in enumerate(groups):
        for image in group.shown:
            items.append({"dataset": index, **_item(group, image, names, pictures)})
            progress(len(items) - pictures.failed, pictures.failed, total)
    return {
        "runs": names,
        "pair": _first_pair(runs, list(by_images.values()), names),
        "datasets": [group.facts(names) for group in groups],
        "threshold": IOU_THRESHOLD,
        "items": items,
        "without_picture": _without_picture(groups, pictures.failed),
        "withheld": sorted(set().union(*(group.withheld for group in groups))),
        "map_titles": titles(_map_names(items)),
    }


def gallery_section(runs: Sequence[ReportRun], gallery: dict[str, Any]) -> Section | None:
    """Notes on runs without a score and on what is not shown, and the colour scale of maps.

    gallery: see `write_gallery`.
    """
    if not gallery["items"]:
        return None
    unscored = [run for run in runs if not run.row]  # those that no table names
    notes = [run.label for run in unscored if run.label != run.short]
    notes += degenerate_notes(unscored)
    notes += [
        f"{dataset['name']}: {dataset['shown']:,} of its {counted(dataset['images'], 'image')}, evenly "
        "spaced (`lost-reg report --max-images` shows more); the numbers above are of all"
        for dataset in gallery["datasets"]
        if dataset["shown"] < dataset["images"]
    ]
    notes += gallery["without_picture"]
    notes += gallery["withheld"][:_MOST_WITHHELD]
    with_maps = any(map(has_maps, gallery["items"]))
    without_maps = dict.fromkeys(run.short for run in runs if not _maps_folder(run).is_dir())
    if without_maps or not with_maps:
        whose = f" of {', '.join(without_maps)}" if with_maps else ""
        notes.append(
            f"No maps{whose}: `lost-reg draw` makes them from the folder of a run, as `lost-reg run "
            "--save-maps` does"
        )
    colours = ramp()[::21]
    stops = [
        {"offset": f"{index / (len(colours) - 1):.3f}", "colour": f"rgb{colour}"}
        for index, colour in enumerate(colours)
    ]
    content = {
        "notes": notes,
        "stops": stops,
        "explanations": explanations(_map_names(gallery["items"])),
        "has_maps": with_maps,
        "has_truth": any(item["truth"] for item in gallery["items"]),
        "has_classes": any(item["labels"] for item in gallery["items"]),
        "mask_colour": f"rgb{MASK_COLOURS[0]}" if any(map(_has_masks, gallery["items"])) else None,
        "mask_opacity": MASK_OPACITY,
    }
    return Section("gallery", "Gallery", content)


def has_maps(item: dict[str, Any]) -> bool:
    """Whether any run has maps for an image of the gallery."""
    return any("maps" in entry for entry in item["entries"].values())


def _has_masks(item: dict[str, Any]) -> bool:
    return any("masks" in entry for entry in item["entries"].values())


def _without_picture(groups: Sequence[_Group], count: int) -> list[str]:
    """Why images that a run has read have no picture; count: of all of them."""
    at_addresses = sum(group.at_addresses for group in groups)
    others = count - at_addresses
    reasons = "gone, damaged or in a tar shard"
    if any(group.withheld for group in groups):
        reasons = "gone, damaged, in a tar shard or not to be read"
    lines = {"images at addresses are not read again": at_addresses, reasons: others}
    return [f"{counted(number, 'image')} without a picture: {why}" for why, number in lines.items() if number]


def _map_names(items: Sequence[dict[str, Any]]) -> set[str]:
    entries = (entry for item in items for entry in item["entries"].values())
    return {name for entry in entries if "maps" in entry for name in entry["maps"]["names"]}


def _images_of(run: ReportRun) -> str:
    """A key that runs on the same images share."""
    if run.dataset is None:
        return str(run.record.get("root", run.folder))
    return f"{run.dataset.name} {run.dataset.split}"


def _first_pair(
    runs: Sequence[ReportRun], groups: Sequence[Sequence[ReportRun]], names: list[str]
) -> list[int]:
    """The two runs on the same images that are shown first, or the first run, as indices into the names.

    groups: the runs by their images.
    """
    for pair in paired_by_registers(runs):
        return [names.index(run.name) for run in pair]
    for group in groups:
        if len(places := list(dict.fromkeys(names.index(run.name) for run in group))) > 1:
            return places[:2]
    return [0] if names else []


class _Group:
    """The runs on one dataset.

    outcomes: for each run, a Prediction or Failure of the images that are shown, by dataset image name.
    at_addresses: how many images that `file` was asked for are at addresses.
    """

    def __init__(self, runs: list[ReportRun], chosen: Shown):
        self.runs, self._count_hard = runs, chosen.count_hard
        self.dataset = runs[0].dataset
        folders = [image_folder(one.folder, one.record, chosen.images) for one in runs]
        self._folders = [
            min(folders, key=lambda folder: folder.refusal is not None)
        ]  # one to be read, if any
        if self.dataset:
            self._folders.insert(0, ImageFolder(self.dataset.root, chosen.images.follow_links))
        self.withheld: set[str] = set()
        self.at_addresses = 0
        done = set().union(*(run.images for run in runs))
        images = [name for name in self.dataset.images if name in done] if self.dataset else sorted(done)
        self.images = len(images)
        self.shown = evenly_spaced(images, chosen.max_images)
        self.outcomes = [run.outcomes(self.shown) for run in runs]

    def truth(self, image: str) -> ImageTruth | None:
        """The objects that count, with the image's size as a run recorded it if the dataset lacks it.

        None if there is no ground truth.
        """
        if self.dataset is None:
            return None
        truth = objects_that_count(self.dataset.truths[image], self._count_hard)
        found = (outcomes.get(image) for outcomes in self.outcomes)
        sizes = [one.size_hw for one in found if isinstance(one, Prediction)]
        return truth if truth.size_hw or not sizes else replace(truth, size_hw=sizes[0])

    def file(self, image: str) -> Path | None:
        """The image's file; None if it is gone, at an address, or must not be read: `withheld` says why."""
        recorded = next(found[image].image for found in self.outcomes if image in found)
        for folder, name in zip(self._folders, (image, recorded) if self.dataset else (recorded,)):
            try:
                if path := folder.find(name):
                    return path
            except LostRegError as error:
                self.withheld.add(str(error))
        self.at_addresses += is_address(recorded) or is_address(self.runs[0].record.get("root") or "")
        return None

    @property
    def reading(self) -> Reading:
        """How the run read the image files."""
        return as_recorded(self.runs[0].settings)

    def facts(self, names: list[str]) -> dict[str, Any]:
        """What the page's script needs of the group; names: of all runs."""
        title = f"{self.dataset.title} {self.dataset.split}" if self.dataset else None
        title = title or Path(_images_of(self.runs[0])).name or "images"
        runs = [names.index(run.name) for run in self.runs]
        shown = {run: one.short for run, one in zip(runs, self.runs)}
        return {"name": one_line(title), "images": self.images, "shown": len(self.shown), "runs": shown}


def evenly_spaced(images: Sequence[str], most: int) -> list[str]:
    """At most `most` of the images, in order and evenly spaced."""
    if len(images) <= most:
        return list(images)
    return [images[index * len(images) // most] for index in range(most)]


def _item(group: _Group, image: str, names: list[str], pictures: Pictures) -> dict[str, Any]:
    """The page's data on one image."""
    truth = group.truth(image)
    outcomes = [(run, found[image]) for run, found in zip(group.runs, group.outcomes) if image in found]
    sizes = [one.size_hw for _, one in outcomes if isinstance(one, Prediction)]
    # an image that no run could read may have crashed a process: do not try it in this one
    thumbnail, size_hw = pictures.thumbnail(group.file(image), group.reading) if sizes else (None, None)
    return {
        "name": one_line(image),
        "thumbnail": thumbnail,
        "size_hw": size_hw or (sizes[0] if sizes else (truth and truth.size_hw) or (3, 4)),
        "truth": _true_boxes(truth) if truth else [],
        "labels": [one_line(label) for label in dict.fromkeys(truth.labels)] if truth else [],
        "entries": {names.index(run.name): _entry(run, one, truth, pictures) for run, one in outcomes},
    }


def _true_boxes(truth: ImageTruth) -> list[list[float]]:
    return [_fractions(box, truth.size_hw) for box in truth.boxes_xyxy] if truth.size_hw else []


def _entry(
    run: ReportRun, outcome: Prediction | Failure, truth: ImageTruth | None, pictures: Pictures
) -> dict[str, Any]:
    """The page's data on one run's outcome for one image."""
    if isinstance(outcome, Failure):
        return {"failure": one_line(outcome.reason), "iou": best_iou(None, truth) if truth else None}
    entry: dict[str, Any] = {
        "boxes": [_fractions(one.box_xyxy, outcome.size_hw) for one in outcome.objects],
        "iou": best_iou(outcome.box_xyxy, truth) if truth else None,
        "seed": _seed_box(outcome.objects[0].seed, outcome.grid_hw) if outcome.objects else None,
    }
    if labels := dict.fromkeys(one.label for one in outcome.objects if one.label):
        entry["labels"] = list(map(one_line, labels))
    if any(one.mask for one in outcome.objects):
        try:
            entry["masks"] = pictures.masks(outcome)
        except ValueError as error:
            entry["masks_error"] = f"its masks are malformed: {error}"
    if not _maps_folder(run).is_dir():
        return entry  # a note says so once
    path = maps_path(_maps_folder(run), outcome.image)
    if not path.is_file():
        return {**entry, "maps_error": "no maps: the run's folder has none of this image, though of others"}
    try:
        maps = read_maps(path)
    except LostRegError as error:
        return {**entry, "maps_error": one_line(str(error))}
    if outcome.objects:
        entry["seed"] = _seed_box(maps.seed, maps.mask.shape, maps.covered_hw)
    return {**entry, "maps": _maps(maps, pictures)}


def _maps_folder(run: ReportRun) -> Path:
    return run.folder / MAPS_FOLDER


def _maps(maps: Maps, pictures: Pictures) -> dict[str, Any]:
    """The page's data on an image's maps: with one of the attention of the class token, after the norms."""
    means = {f"attention of {token}": weights[0] for token, weights in [*maps.attention.items()][:1]}
    norms = {name: values for name, values in maps.values.items() if name == "norms"}
    values = {**norms, **means, **maps.values}
    return {
        "picture": pictures.maps(replace(maps, values=values)),
        "names": list(map(one_line, values)),
        "ranges": [[_short(one.min()), _short(one.max())] for one in values.values()],
        "rows": maps.mask.shape[0],
        "covered_hw": [round(float(share), 5) for share in maps.covered_hw],
        "attention": [
            {"token": one_line(token), "heads": len(weights) - 1, "picture": pictures.heads(weights)}
            for token, weights in maps.attention.items()
        ],
    }


def best_iou(box: Box | None, truth: ImageTruth) -> float | None:
    """A box's IoU with its best-matching object, 0 without a box; None if the image has no object."""
    if not truth.boxes_xyxy:
        return None
    return float(iou(box, truth.boxes_xyxy).max()) if box else 0.0


def _fractions(box: Box, size_hw: tuple[int, int]) -> list[float]:
    height, width = size_hw
    return [round(side / length, 4) for side, length in zip(box, (width, height, width, height))]


def _seed_box(seed, grid_hw, covered_hw=(1.0, 1.0)) -> list[float]:
    """The seed's patch in fractions of the image; the grid covers slightly more than the image."""
    (row, column), (rows, columns), (high, wide) = seed, grid_hw, covered_hw
    box = column, row, column + 1, row + 1
    sides = columns * wide, rows * high, columns * wide, rows * high
    return [round(side / length, 4) for side, length in zip(box, sides)]


def _short(value: float) -> float:
    return float(f"{value:.3g}") if abs(value) < 1000 else float(round(float(value)))
