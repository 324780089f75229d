"""The gallery: what surrounds the images, which the page's script fills in."""

from __future__ import annotations

from typing import Any

from lost_reg.report.gallery import has_maps
from lost_reg.report.page import Section
from lost_reg.report.pictures import ramp

_STOPS = ramp()[::21]


def gallery_section(gallery: dict[str, Any]) -> Section | None:
    """Notes on what is not shown, and the colours of maps. gallery: see `write_gallery`."""
    if not gallery["items"]:
        return None
    notes = [
        f"{dataset['name']}: {dataset['shown']:,} of its {dataset['images']:,} images, evenly spaced "
        "(`lost-reg report --max-images` shows more); the numbers above are of all"
        for dataset in gallery["datasets"]
        if dataset["shown"] < dataset["images"]
    ]
    if gallery["without_picture"]:
        notes.append(f"{gallery['without_picture']:,} images could not be read again: they have no picture")
    if not any(map(has_maps, gallery["items"])):
        notes.append("No maps: `lost-reg run --save-maps` adds token norms, degrees, affinities and masks")
    stops = [
        {"offset": f"{index / (len(_STOPS) - 1):.3f}", "colour": f"rgb{colour}"}
        for index, colour in enumerate(_STOPS)
    ]
    return Section("gallery", "Gallery", {"notes": notes, "stops": stops})
