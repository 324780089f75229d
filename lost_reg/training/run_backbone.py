"""The backbone of a run, loaded again: its name and weights as the run recorded them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lost_reg.backbones.base import Backbone
from lost_reg.backbones.hub import is_hub_id
from lost_reg.errors import LostRegError
from lost_reg.runs.folder import Results
from lost_reg.runs.seals import foreign, is_own


def backbone_and_weights(
    results: Results, backbone: str | None = None, weights: str | None = None
) -> tuple[str, str | None]:
    """The backbone and weights to load: those given, or else the run's own.

    Raises:
        LostRegError: the run's features were a user's function, or the run is another user's and names a
            file of weights.
    """
    settings, recorded = results.settings, results.settings["weights"]
    if backbone and backbone != settings["backbone"]:
        return backbone, weights
    if recorded["source"] == "callable":
        raise LostRegError(f"the features of {results.folder} are a function's: name a `backbone`")
    found = weights or weights_of(
        results.folder, recorded, results.record.get("weights_file"), own=is_own(results.record)
    )
    return settings["backbone"], found


def weights_of(folder: Path, recorded: Mapping[str, Any], file: str | None, *, own: bool) -> str | None:
    """What `load_backbone` needs to load weights that were recorded.

    Args:
        folder: of the run or detector. file: the file of the weights, as recorded beside them.
        own: whether this user made the record, so that files that it names may be read.

    Raises:
        LostRegError: they are in a file, and the record is another user's.
    """
    source, name = recorded["source"], recorded["name"]
    if source == "file" or (source == "hub" and (not is_hub_id(name) or os.path.exists(name))):
        if not own:
            raise LostRegError(f"{foreign(folder, 'its weights are not read')}: name them with `weights`")
        return file or name
    return name if source in ("hub", "random") else None


def check_same_weights(results: Results, backbone: Backbone) -> None:
    """Check that a backbone has the weights of a run.

    Raises:
        LostRegError: their checksums differ.
    """
    recorded, now = results.settings["weights"].get("sha256"), backbone.weights.sha256
    if recorded and now and recorded != now:
        raise LostRegError(
            f"{backbone.weights.name} is not the file that {results.folder} was made with: name the one to "
            "use with `weights`"
        )
