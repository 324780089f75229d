"""Which datasets are on this machine: `lost-reg datasets`."""

from __future__ import annotations

from pathlib import Path

from lost_reg.datasets.acquire import DOWNLOADABLE
from lost_reg.datasets.base import DatasetSpec
from lost_reg.datasets.catalog import FORMATS, SPECS, find_dataset, missing_images
from lost_reg.errors import LostRegError
from lost_reg.text import text_table


def datasets_table(root: Path) -> str:
    """A table with a line for each dataset, and how to get more."""
    rows = [(spec.name, spec.about, f"{spec.images:,}", _presence(spec, root)) for spec in SPECS]
    return "\n".join(
        [
            text_table(("dataset", "about", "images", f"in {root}"), rows),
            f"`lost-reg datasets --download NAME` downloads {', '.join(DOWNLOADABLE)}. A dataset can",
            f"also be given by its path: {' or '.join(one.about for one in FORMATS)}.",
        ]
    )


def _presence(spec: DatasetSpec, root: Path) -> str:
    try:
        found = find_dataset(spec.name, root)
    except LostRegError:
        return f"not here: looked for {root / spec.folder}"
    missing = len(missing_images(found))
    if missing:
        return f"incomplete: {missing:,} of {len(found.images):,} images are missing"
    return "here" if found.is_full else f"here: {len(found.images):,} images of it"
