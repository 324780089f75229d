"""Seals: which records of runs and detectors this user made on this machine.

A record names files and folders: the images of the run, its dataset, its weights. In a run folder that
somebody else made, these can be anything, such as "/". So a record is sealed with a secret key that only this
user's account has, and what it names is read only if the seal holds (or if the user names it).
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from platformdirs import user_state_path

from lost_reg.errors import LostRegError
from lost_reg.files import read_regular, whole_file
from lost_reg.json_files import as_json
from lost_reg.runs.folder import COMMAND

SEAL = "seal"  # its key in a record
OF_RUNS = ("created", "root", "data_root", "weights_file", "settings")  # what is sealed of their records
OF_DETECTORS = ("created", "vit")
_KEY_FILE = "key"
_KEY_BYTES = 32


def sealed(record: dict[str, Any], names: Sequence[str] = OF_RUNS) -> dict[str, Any]:
    """The record with a seal over what it has of these names; without one if no key can be kept here."""
    key = _key() or _new_key()
    unsealed = {name: value for name, value in record.items() if name != SEAL}
    return {**unsealed, SEAL: _seal(unsealed, names, key)} if key else unsealed


def is_own(record: dict[str, Any], names: Sequence[str] = OF_RUNS) -> bool:
    """Whether this user made the record on this machine, and what it names is as it was."""
    key, seal = _key(), record.get(SEAL)
    if key is None or not isinstance(seal, str):
        return False
    return hmac.compare_digest(seal.encode("utf-8", "surrogatepass"), _seal(record, names, key).encode())


def foreign(folder: Path, what: str) -> str:
    """What to tell the user of a folder with a record that is not their own; what: the consequence."""
    return f"{folder} was made by somebody else, on another machine or by an earlier version, so {what}"


def _seal(record: dict[str, Any], names: Sequence[str], key: bytes) -> str:
    named = [record.get(name) for name in names]
    named += [record[COMMAND]] if COMMAND in record else []  # records of earlier versions have none
    content = as_json(named, sort_keys=True)
    return hmac.new(key, content.encode(), hashlib.sha256).hexdigest()


def _key_path() -> Path:
    return user_state_path("lost-reg") / _KEY_FILE


def _key() -> bytes | None:
    with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: a user without a home folder
        key = read_regular(_key_path())
        return key if len(key) == _KEY_BYTES else None
    return None


def _new_key() -> bytes | None:
    """Make the key, which only this user can read; None if it cannot be kept.

    Of two processes that make the first key at the same moment, one can seal with a key that is replaced; its
    run counts as another user's then.
    """
    with contextlib.suppress(LostRegError, RuntimeError), whole_file(_key_path()) as part:
        part.touch(mode=0o600)
        part.write_bytes(secrets.token_bytes(_KEY_BYTES))
    return _key()
