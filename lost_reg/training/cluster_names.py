"""Names of clusters: those they are born with, and those of a user's file."""

from __future__ import annotations

import re
from pathlib import Path

from lost_reg.errors import LostRegError, one_line
from lost_reg.files import read_text
from lost_reg.json_files import MALFORMED, as_json, parse_json, reason_of
from lost_reg.text import shown_names

_LONGEST = 100  # characters


def default_names(k: int) -> list[str]:
    """The names of k clusters: "cluster 01" and so on, as wide as the last."""
    width = max(2, len(str(k)))
    return [f"cluster {number:0{width}}" for number in range(1, k + 1)]


def read_names(path: Path) -> dict[str, str]:
    """A file of names: a JSON object, or lines `cluster = name`, among empty lines and # comments.

    Raises:
        LostRegError: a file that cannot be read, or is neither; names the line.
    """
    text = read_text(path, "`names`")
    if text.lstrip().startswith("{"):
        try:
            return parse_json(text, dict[str, str])
        except MALFORMED as error:
            raise LostRegError(f"`names` {str(path)!r} is not JSON of names: {reason_of(error)}") from None
    names: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        cluster, equals, name = (part.strip() for part in line.partition("="))
        if not (equals and cluster and name) or cluster in names:
            raise LostRegError(
                f"line {number} of `names` {str(path)!r} is not `cluster = name`, each cluster once"
            )
        names[cluster] = name
    return names


def renamed(k: int, wanted: dict[str, str], earlier: list[str] | None = None) -> list[str]:
    """The names of k clusters, with those wanted in place of the earlier ones.

    Args:
        wanted: by the cluster's first name ("cluster 07") or its number ("7"). Several may share a name.
        earlier: by default the first names.

    Raises:
        LostRegError: a cluster that does not exist, or a name that is empty, long or not printable.
    """
    first = default_names(k)
    names = list(earlier or first)
    unknown = []
    for cluster, name in wanted.items():
        number = re.fullmatch(r"(?:cluster )?0*([1-9][0-9]{0,5})", cluster)
        if number is None or int(number[1]) > k:
            unknown.append(cluster)
            continue
        if not name.strip() or len(name) > _LONGEST or not name.isprintable():
            raise LostRegError(
                f"{one_line(as_json(name[:_LONGEST]))} cannot be the name of {cluster}: expected 1 to "
                f"{_LONGEST} printable characters"
            )
        names[int(number[1]) - 1] = name.strip()
    if unknown:
        shown = one_line(shown_names(map(repr, unknown)))
        raise LostRegError(f"no cluster {shown} in the run: it has {first[0]} to {first[-1]}")
    return names
