"""Which weights a backbone has, where they are found, and which are on this machine."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lost_reg.backbones import zoo
from lost_reg.backbones.checkpoint_folders import checkpoint_digest, checkpoint_in
from lost_reg.backbones.hub import cached_checkpoint, download_checkpoint, hub_cache, is_hub_id
from lost_reg.backbones.zoo import BackboneSpec
from lost_reg.errors import LostRegError
from lost_reg.text import text_table

RANDOM = "random"


@dataclass(frozen=True)
class Weights:
    """Which weights a backbone has.

    source: "hub", "file", "bundled", "random", or "callable" for features that are the user's own.
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


def find_weights(spec: BackboneSpec, weights: str | Path | None = None, *, download: bool = False) -> Weights:
    """Find the weights of a backbone on this machine.

    Args:
        spec: the backbone's row.
        weights: a file, a folder, or the id of a Hugging Face repository; "random" for random weights; None
            for the backbone's published ones, in timm's repository or else in the authors'.
        download: whether weights that are not in the Hugging Face cache are downloaded.

    Raises:
        LostRegError: missing weights; says where they were looked for and how to get them.
    """
    if weights == RANDOM:
        return Weights(source="random", name=RANDOM)
    if weights is not None:
        path = local_checkpoint(weights)
        name = os.path.basename(os.path.abspath(weights))
        return _weights("file", name, path) if path else _hub_weights(str(weights), download)
    if spec.bundled_file is not None:
        path = Path(__file__).parent / "bundled" / spec.bundled_file
        return _weights("bundled", spec.bundled_file, path)
    for hub_id in spec.hub_ids:
        if path := cached_checkpoint(hub_id):
            return _weights("hub", hub_id, path)
    if not spec.hub_ids:
        file = spec.official_file
        remedy = f"get the authors' {file} and give its path" if file else "give a file"
        raise LostRegError(f"no hub carries the weights of {spec.name}: {remedy} as `weights`")
    if download:
        return _weights("hub", spec.hub_ids[0], download_checkpoint(spec.hub_ids[0]))
    ids = " and ".join(spec.hub_ids)
    raise LostRegError(
        f"the weights of {spec.name} are not here (looked for {ids} in {hub_cache()}): "
        f"`lost-reg backbones --download {spec.name}` gets them, or give a checkpoint as `weights`"
    )


def _weights(source: str, name: str, path: Path) -> Weights:
    return Weights(source, name, path, checkpoint_digest(path))


def _hub_weights(hub_id: str, download: bool) -> Weights:
    """The weights of a repository, which a user names."""
    path = cached_checkpoint(hub_id) or (download_checkpoint(hub_id) if download else None)
    if path is None:
        raise LostRegError(
            f"no weights {hub_id!r}: there is no such file or folder, and no such repository in the Hugging "
            f"Face cache ({hub_cache()}); `download` gets it from the hub"
        )
    return _weights("hub", hub_id, path)


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


def backbones_table() -> str:
    """One line per backbone."""
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
            text_table(rows),
            f"{zoo.TIMM_PREFIX}NAME is any other VisionTransformer or Eva model of timm. Hub weights are in",
            f"{hub_cache()}: `lost-reg backbones --download NAME`",
            "downloads them, and `lost-reg run --weights` uses another checkpoint instead.",
        ]
    )


def _presence(spec: BackboneSpec) -> str:
    if spec.bundled_file:
        return "here: part of this package"
    if not spec.hub_ids:
        return f"give {spec.official_file} as `weights`"
    here = [hub_id for hub_id in spec.hub_ids if cached_checkpoint(hub_id)]
    return f"here: {here[0]}" if here else f"not here: {spec.hub_ids[0]}"


def download_weights(name: str) -> str:
    """Download a backbone's weights; returns a line that says where they are."""
    from lost_reg.backbones.timm_models import resolve_spec

    spec = resolve_spec(name)
    found = find_weights(spec, download=True)
    return f"the weights of {spec.name} are at {found.path}"
