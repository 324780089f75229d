"""Which weights a backbone has, where they are found, and which are on this machine."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lost_reg.backbones import zoo
from lost_reg.backbones.checkpoint_folders import checkpoint_digest, checkpoint_in
from lost_reg.backbones.hub import (
    by_hand,
    cached_checkpoint,
    download_checkpoint,
    hub_cache,
    is_hub_id,
    is_offline,
    torch_hub_cache,
    torch_hub_file,
)
from lost_reg.backbones.zoo import BackboneSpec
from lost_reg.errors import LostRegError
from lost_reg.text import text_table

RANDOM = "random"


@dataclass(frozen=True)
class Weights:
    """Which weights a backbone has.

    source: "hub", "torch.hub" for its cache, "file", "bundled", "random", or "callable" for features that are
        the user's own.
    name: what identifies them: the hub repository, or the name of the file or folder.
    path, sha256: the file they were read from, if there is one; of shards, their index, and the digest of
        all their bytes in its order.
    """

    source: str
    name: str
    path: Path | None = None
    sha256: str | None = None

    def recorded(self) -> dict[str, Any]:
        """As recorded in results."""
        return {"source": self.source, "name": self.name, "sha256": self.sha256}


def find_weights(spec: BackboneSpec, weights: str | Path | None = None, *, offline: bool = False) -> Weights:
    """Find the weights of a backbone; download them if they are not on this machine.

    Args:
        spec: the backbone's row.
        weights: a file, a folder, or the id of a Hugging Face repository; "random" for random weights; None
            for the backbone's published ones, in timm's repository or else in the authors', in the caches of
            Hugging Face and of torch.hub.
        offline: whether downloads are forbidden; HF_HUB_OFFLINE forbids them, too.

    Raises:
        LostRegError: missing weights; says where they were looked for and how to get them.
    """
    source, name, path = locate(spec, weights, offline=offline)
    return Weights(source, name, path, checkpoint_digest(path) if path else None)


def locate(
    spec: BackboneSpec, weights: str | Path | None = None, *, offline: bool = False
) -> tuple[str, str, Path | None]:
    """As `find_weights`, without reading them: their source, name and path."""
    if weights == RANDOM:
        return RANDOM, RANDOM, None
    if weights is not None:
        if path := local_checkpoint(weights):
            return "file", os.path.basename(os.path.abspath(weights)), path
        hub_ids: tuple[str, ...] = (str(weights),)
    elif spec.bundled_file is not None:
        return "bundled", spec.bundled_file, Path(__file__).parent / "bundled" / spec.bundled_file
    else:
        hub_ids = spec.hub_ids
    for hub_id in hub_ids:
        if path := cached_checkpoint(hub_id):
            return "hub", hub_id, path
    official_file = None if weights else spec.official_file
    if path := torch_hub_file(official_file):
        return "torch.hub", path.name, path
    if not hub_ids:
        remedy = f"get the authors' {official_file} and give its path" if official_file else "give a file"
        raise LostRegError(f"no hub carries the weights of {spec.name}: {remedy} as `weights`")
    if offline or is_offline():
        raise _not_here(spec, hub_ids, official_file, "`offline`" if offline else "HF_HUB_OFFLINE")
    return "hub", hub_ids[0], download_checkpoint(hub_ids[0])


def _not_here(
    spec: BackboneSpec, hub_ids: tuple[str, ...], official_file: str | None, forbidden_by: str
) -> LostRegError:
    in_torch_hub = f", and for {official_file} in {torch_hub_cache()}" if official_file else ""
    return LostRegError(
        f"the weights of {spec.name} are not here (looked for {' and '.join(hub_ids)} in {hub_cache()}"
        f"{in_torch_hub}), and {forbidden_by} forbids downloading them: {by_hand(hub_ids[0])}"
    )


def local_checkpoint(weights: str | Path) -> Path | None:
    """The file or index of shards that a user names by a path; None for the id of a repository.

    Raises:
        LostRegError: there is no such file, or the folder holds no weights.
    """
    path = Path(weights)
    if not str(weights):
        raise LostRegError("`weights` is empty: it is a file, a folder, or the id of a checkpoint on the hub")
    if os.path.isdir(path):
        return checkpoint_in(path)
    if os.path.isfile(path):
        return path
    if isinstance(weights, str) and is_hub_id(weights):
        return None
    raise LostRegError(
        f"no weight file {str(path)!r}: `weights` is a file, a folder with a checkpoint of Hugging Face "
        "transformers, or the id of one on the hub"
    )


def backbones_table(width: int | None = None) -> str:
    """One row per backbone. `width`: see `text.text_table`."""
    aliases = {name: alias for alias, name in zoo.ALIASES.items()}
    rows = [
        {
            "backbone": spec.name,
            "alias": aliases.get(spec.name, ""),
            "family": spec.family,
            "patch": str(spec.patch_size),
            "registers": str(spec.registers),
            "weights": _presence(spec),
        }
        for spec in zoo.SPECS
    ]
    return "\n".join(
        [
            text_table(rows, width=width, drop=("family", "registers", "patch"), fold="weights"),
            f"{zoo.TIMM_PREFIX}NAME is any other VisionTransformer or Eva model of timm. Hub weights are",
            f"downloaded when they are first used, into {hub_cache()};",
            "`lost-reg backbones --download NAME` does it now, and `lost-reg run --weights` uses others.",
        ]
    )


def _presence(spec: BackboneSpec) -> str:
    if spec.bundled_file:
        return "here: part of this package"
    here = [hub_id for hub_id in spec.hub_ids if cached_checkpoint(hub_id)]
    if torch_hub_file(spec.official_file):
        here.append(f"{spec.official_file} in torch.hub's cache")
    if here:
        return f"here: {here[0]}"
    return f"not here: {spec.hub_ids[0]}" if spec.hub_ids else f"give {spec.official_file} as `weights`"


def download_weights(name: str) -> str:
    """Download a backbone's weights; returns a line that says where they are."""
    from lost_reg.backbones.timm_models import resolve_spec

    spec = resolve_spec(name)
    _, _, path = locate(spec)
    return f"the weights of {spec.name} are at {path}"
