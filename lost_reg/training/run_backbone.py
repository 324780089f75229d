"""The backbone of a run, loaded again: its name and weights as the run recorded them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lost_reg.backbones.base import Backbone
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
    if recorded["source"] == "file" and not weights and not is_own(results.record):
        raise LostRegError(f"{foreign(results.folder, 'its weights are not read')}: name them with `weights`")
    return settings["backbone"], weights or own_weights(recorded, results.record.get("weights_file"))


def own_weights(recorded: Mapping[str, Any], file: str | None) -> str | None:
    """What `load_backbone` needs to load weights that were recorded; `file`: as recorded in run.json."""
    if recorded["source"] == "file":
        return file or recorded["name"]
    return recorded["name"] if recorded["source"] in ("hub", "random") else None


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
