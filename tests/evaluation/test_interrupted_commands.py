"""What kill_commands.py would notice."""

from __future__ import annotations

import pytest
from kill_commands import Case, Tally, Uninterrupted, look

OLD = {"kept.txt": b"the user's", "out/index.html": b"old page", "out/old.png": b"old"}
NEW = {"kept.txt": b"the user's", "out/index.html": b"new page", "out/new.png": b"new"}


def seen(**files) -> tuple[dict, dict]:
    """The phases and what is wrong with the files that a kill left."""
    case, tally = Case(print, decisive=lambda name: name.endswith(".html")), Tally()
    found = {name.replace("__", "/").replace("_", "."): content.encode() for name, content in files.items()}
    look(case, Uninterrupted(OLD, NEW, 1, 1, 1), found, tally)
    return dict(tally.phases), dict(tally.wrong)


KEPT = {"kept_txt": "the user's"}


@pytest.mark.parametrize(
    "files, wrong",
    [
        ({"out__index_html": "old page", "out__old_png": "old"}, {}),
        ({"out__index_html": "old page", "out__old_png": "old", "out__new_png": "new", "_part": "x"}, {}),
        ({"out__index_html": "new page", "out__new_png": "new", "out__old_png": "old"}, {}),
        ({"out__index_html": "new page", "out__new_png": "new"}, {}),
        ({"out__index_html": "new page", "out__old_png": "old"}, {"looks done, and is not": 1}),
        ({"out__index_html": "old page"}, {"the old and the new mixed": 1}),
        ({"out__index_html": "old page", "out__old_png": "old", "out__new_png": "ne"}, {"half-written": 1}),
    ],
)
def test_what_a_kill_left(files, wrong):
    assert seen(**KEPT, **files)[1] == wrong


def test_a_file_of_the_user_that_is_gone_is_noticed():
    files = {"out__index_html": "old page", "out__old_png": "old"}
    assert seen(**files) == ({"amid its changes": 1}, {"something earlier lost": 1})
