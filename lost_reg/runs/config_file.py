"""Files of settings: the options of a run, in TOML, as `lost-reg run --config` reads them."""

from __future__ import annotations

import codecs
import difflib
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from lost_reg.errors import LostRegError
from lost_reg.files import whole_file
from lost_reg.text import first_sentence

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CONFIG_FILE = "run.toml"
_MOST_BYTES = 2**24
_ABOUT = "# The options of this run, as `lost-reg run` takes them from a file (`config`).\n"


def write_config(folder: Path, options: Mapping[str, Any]) -> None:
    """Write the options of a run beside its results, completely or not at all.

    Raises:
        LostRegError: a folder that cannot be written.
    """
    import tomli_w

    text = _ABOUT + tomli_w.dumps(options)
    with whole_file(folder / CONFIG_FILE) as part:
        part.write_text(text, encoding="utf-8", errors="surrogateescape")  # names of any bytes


def read_config(path: Path, known: Collection[str]) -> dict[str, Any]:
    """The options in a file.

    Args:
        known: the names of all options.

    Raises:
        LostRegError: a file that cannot be read, or an option that there is not.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1).removeprefix(codecs.BOM_UTF8)
        if len(content) > _MOST_BYTES:
            raise LostRegError(f"{str(path)!r} is not a file of settings: it has more than 16 MiB")
        options = tomllib.loads(content.decode(errors="surrogateescape"))
    except OSError as error:
        raise LostRegError(f"cannot read {str(path)!r}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise LostRegError(f"{str(path)!r} is not a file of settings: {first_sentence(error)}") from None
    options = {name.replace("-", "_"): value for name, value in options.items()}
    if unknown := [name for name in options if name not in known]:
        close = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise LostRegError(f"{str(path)!r} has an unknown setting, {unknown[0]!r}{hint}")
    return options
