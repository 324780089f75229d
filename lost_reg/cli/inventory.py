"""What there is and what is on this machine: `lost-reg backbones` and `lost-reg datasets`."""

from __future__ import annotations

from pathlib import Path

from lost_reg.backbones import zoo
from lost_reg.backbones.weights import cached_weights, find_weights, hub_cache
from lost_reg.datasets import catalog as datasets
from lost_reg.errors import LostRegError
from lost_reg.text import text_table


def backbones_table() -> str:
    """One line per backbone."""
    aliases = {name: alias for alias, name in zoo.ALIASES.items()}
    rows = [
        (
            spec.name,
            aliases.get(spec.name, ""),
            spec.family,
            str(spec.patch_size),
            str(spec.registers),
            _weights(spec),
        )
        for spec in zoo.SPECS
    ]
    header = ("backbone", "alias", "family", "patch", "registers", "weights")
    return "\n".join(
        [
            text_table(header, rows),
            f"{zoo.TIMM_PREFIX}NAME takes any other VisionTransformer or Eva of timm. Hub weights lie in",
            f"{hub_cache()}: `lost-reg backbones --download NAME` gets",
            "them, and `lost-reg run --weights FILE` takes a file instead.",
        ]
    )


def _weights(spec: zoo.BackboneSpec) -> str:
    if spec.bundled_file:
        return "here: part of this package"
    if spec.hub_id is None:
        return f"give {spec.official_file} by --weights"
    return f"{'here' if cached_weights(spec) else 'not here'}: {spec.hub_id}"


def download_weights(name: str) -> str:
    """Get a backbone's hub weights; a line that says where they are."""
    from lost_reg.backbones.architectures import resolve_spec

    spec = resolve_spec(name)
    found = find_weights(spec, download=True)
    return f"the weights of {spec.name} are at {found.path}"


def datasets_table(root: Path) -> str:
    """One line per dataset."""
    rows = [(spec.name, spec.about, f"{spec.images:,}", _presence(spec, root)) for spec in datasets.SPECS]
    return "\n".join(
        [
            text_table(("dataset", "about", "images", f"in {root}"), rows),
            "`lost-reg datasets --download NAME` gets voc07, voc12 and coco20k. The path of a folder in VOC",
            "layout or of a COCO annotation file (.json) is a dataset, too.",
        ]
    )


def _presence(spec: datasets.DatasetSpec, root: Path) -> str:
    try:
        found = datasets.find_dataset(spec.name, root)
    except LostRegError:
        return f"not here: looked for {root / spec.folder}"
    missing = len(datasets.missing_images(found))
    if missing:
        return f"incomplete: {missing:,} of {len(found.images):,} images are missing"
    return "here" if found.is_full else f"here: {len(found.images):,} images of it"
