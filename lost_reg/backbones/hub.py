"""Checkpoints of the Hugging Face hub: in its cache on this machine, or downloaded into it."""

from __future__ import annotations

import contextlib
from pathlib import Path

from lost_reg.backbones.checkpoint_folders import (
    CHECKPOINTS,
    CONFIG,
    INDEX_SUFFIX,
    SUFFIXES,
    files_of,
    shards,
)
from lost_reg.errors import LostRegError
from lost_reg.text import first_sentence


def is_hub_id(name: str) -> bool:
    """Whether it has the form of a repository's id, such as "facebook/dinov2-small"."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    if "/" not in name or name.lower().endswith(SUFFIXES):
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def hub_cache() -> str:
    """The folder of the Hugging Face cache (set by HF_HOME or HF_HUB_CACHE)."""
    from huggingface_hub import constants

    return constants.HF_HUB_CACHE


def cached_checkpoint(hub_id: str | None) -> Path | None:
    """The checkpoint of a repository in the cache, complete, or None."""
    from huggingface_hub import try_to_load_from_cache

    for name in CHECKPOINTS if hub_id else ():
        found = try_to_load_from_cache(hub_id, name)
        if isinstance(found, str):
            with contextlib.suppress(LostRegError):  # a shard is missing
                files_of(Path(found))
                return Path(found)
    return None


def download_checkpoint(hub_id: str) -> Path:
    """Download a checkpoint into the cache, with its shards and config.json; the hub library verifies them.

    Raises:
        LostRegError: it cannot be downloaded.
    """
    for name in CHECKPOINTS:
        path = _download(hub_id, name)
        if path is None:
            continue
        if name.endswith(INDEX_SUFFIX):
            for shard in dict.fromkeys(shards(path).values()):
                _download(hub_id, shard.name)
            files_of(path)
        _download(hub_id, CONFIG)
        return path
    raise LostRegError(
        f"the Hugging Face repository {hub_id} has no weights that lost-reg reads: expected one of "
        f"{', '.join(CHECKPOINTS)}"
    )


def _download(hub_id: str, name: str) -> Path | None:
    """Download one file; None if the repository does not have it."""
    from huggingface_hub import hf_hub_download, utils

    try:
        return Path(hf_hub_download(hub_id, name))
    except utils.LocalEntryNotFoundError as error:
        cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
        reason = f"it cannot be reached ({first_sentence(cause)})"
    except utils.EntryNotFoundError:
        return None
    except utils.GatedRepoError:
        reason = (
            f"it is gated: accept its licence at https://huggingface.co/{hub_id} and log in with "
            "`hf auth login`, or set HF_TOKEN"
        )
    except utils.RepositoryNotFoundError:
        reason = "there is no such repository, or it is private: `hf auth login` or HF_TOKEN give access"
    except Exception as error:  # the hub library's errors have no common base, across its HTTP clients
        reason = first_sentence(error)
    raise LostRegError(f"could not download {hub_id} from the Hugging Face hub: {reason}")
