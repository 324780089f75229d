"""The page of a run's clusters: each as a sheet of crops, the nearest to its centre first."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

from PIL import Image

from lost_reg.boxes import whole_pixels
from lost_reg.errors import LostRegError, UnreadableImage
from lost_reg.export.base import NO_FILE, SkippedImages
from lost_reg.files import whole_file
from lost_reg.images.reading import Reading, as_recorded, read_image
from lost_reg.report.page import render_clusters
from lost_reg.runs.folder import CLUSTERS, Results, read_run
from lost_reg.runs.image_folder import RECORDED, ImageFolder, ImageRoot, image_folder
from lost_reg.text import counted
from lost_reg.training.cluster_names import default_names
from lost_reg.training.cluster_record import boxes_by_cluster, has_clusters
from lost_reg.types import Box

CLUSTERS_PAGE = "clusters.html"
CROPS_SHOWN = 24  # of each cluster
CROP_SIDE = 144  # pixels, at most


def write_clusters_page(run: Path, image_root: ImageRoot = RECORDED) -> tuple[Path, SkippedImages | None]:
    """Write clusters.html into the folder of a run that was clustered.

    Args:
        image_root: where the images are; by default where they were during the run.

    Returns:
        The page, and the images whose crops it lacks, if there are any.

    Raises:
        LostRegError: a run without clusters, images that are not to be read (see `ImageFolder.find`), or a
            page that cannot be written.
    """
    results = read_run(run)
    if not has_clusters(results):
        raise LostRegError(f"{str(run)!r} has no clusters: `lost-reg cluster` makes them")
    images = image_folder(results.folder, results.record, image_root)
    thumbnails = _Thumbnails(images, as_recorded(results.settings))
    page = render_clusters(_data(results, thumbnails))
    with whole_file(run / CLUSTERS_PAGE, "the page") as part:
        part.write_text(page, encoding="utf-8")
    return run / CLUSTERS_PAGE, thumbnails.missing if thumbnails.missing.count else None


def _data(results: Results, thumbnails: _Thumbnails) -> dict[str, Any]:
    record = results.record[CLUSTERS]
    wanted = {number: boxes[:CROPS_SHOWN] for number, boxes in boxes_by_cluster(results).items()}
    sizes = dict(enumerate(record["sizes"], start=1))
    shown: dict[int, list[dict[str, str]]] = {number: [] for number in sizes}
    places = [
        (one.image, number, place, one, index)
        for number, boxes in wanted.items()
        for place, (_, one, index) in enumerate(boxes)
    ]
    made: dict[tuple[int, int], dict[str, str]] = {}
    for image, number, place, one, index in sorted(places, key=lambda each: each[:3]):
        picture = thumbnails.of(image, one.objects[index].box_xyxy, one.size_hw)
        if picture:
            made[number, place] = {"picture": picture, "title": f"{image}, object {index}"}
    for (number, _), crop in sorted(made.items(), key=lambda each: each[0]):
        shown.setdefault(number, []).append(crop)
    first = default_names(record["k"])
    return {
        "run": results.folder.absolute().name,
        "summary": _summary(record),
        "clusters": [
            {
                "anchor": f"cluster-{number}",
                "name": name,
                "about": _about(first[number - 1], name, sizes[number], len(shown[number])),
                "crops": shown[number],
            }
            for number, name in enumerate(record["names"], start=1)
        ],
    }


def _summary(record: dict[str, Any]) -> str:
    silhouette = record.get("silhouette")
    quality = "" if silhouette is None else f", silhouette {silhouette:.3f}"
    boxes, clusters = counted(record["boxes"], "box"), counted(record["k"], "cluster")
    return f"{boxes} in {clusters} by the class token of {record['backbone']}{quality}"


def _about(first: str, name: str, size: int, shown: int) -> str:
    of = "" if name == first else f"{first}; "
    some = f"; the {shown} nearest to its centre" if shown < size else ""
    return f"{of}{counted(size, 'object')}{some}"


class _Thumbnails:
    """Crops as data URIs. Asked for in the order of the images, so that each is decoded once."""

    def __init__(self, images: ImageFolder, reading: Reading):
        self._images, self._reading = images, reading
        self._image = ""
        self._pixels: Image.Image | None = None
        self.missing = SkippedImages()

    def of(self, image: str, box_xyxy: Box, size_hw: tuple[int, int]) -> str | None:
        """The crop as a data URI; None if the image cannot be read or has another size."""
        if image != self._image:
            self._image, self._pixels = image, self._read(image, size_hw)
        if self._pixels is None:
            return None
        crop = self._pixels.crop(whole_pixels(box_xyxy, size_hw))
        crop.thumbnail((CROP_SIDE, CROP_SIDE))
        written = io.BytesIO()
        crop.save(written, format="JPEG", quality=80)
        return f"data:image/jpeg;base64,{base64.b64encode(written.getvalue()).decode()}"

    def _read(self, image: str, size_hw: tuple[int, int]) -> Image.Image | None:
        file = self._images.find(image)
        try:
            if file is None:
                raise UnreadableImage(NO_FILE)
            pixels = read_image(file, **self._reading)
            if pixels.shape[:2] != tuple(size_hw):
                raise UnreadableImage("another size than in the run")
        except UnreadableImage as error:
            self.missing.add(image, str(error))
            return None
        return Image.fromarray(pixels)
