"""The backbones there are, and whether their weights are on this machine: `lost-reg backbones`."""

from __future__ import annotations

from lost_reg.backbones import zoo
from lost_reg.backbones.weights import cached_weights, find_weights, hub_cache
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
            f"{zoo.TIMM_PREFIX}NAME is any other VisionTransformer or Eva model of timm. Hub weights are in",
            f"{hub_cache()}: `lost-reg backbones --download NAME`",
            "downloads them, and `lost-reg run --weights FILE` uses a file instead.",
        ]
    )


def _weights(spec: zoo.BackboneSpec) -> str:
    if spec.bundled_file:
        return "here: part of this package"
    if spec.hub_id is None:
        return f"give {spec.official_file} as `weights`"
    return f"{'here' if cached_weights(spec) else 'not here'}: {spec.hub_id}"


def download_weights(name: str) -> str:
    """Download a backbone's weights; a line that says where they are."""
    from lost_reg.backbones.architectures import resolve_spec

    spec = resolve_spec(name)
    found = find_weights(spec, download=True)
    return f"the weights of {spec.name} are at {found.path}"
