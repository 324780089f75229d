"""What several test modules check in the same way."""

from __future__ import annotations

from pathlib import Path

import pytest

from lost_reg.errors import LostRegError


def refusal(call, *args, **kwargs) -> str:
    """The one line that a call is refused with."""
    with pytest.raises(LostRegError) as caught:
        call(*args, **kwargs)
    text = str(caught.value)
    assert text and "\n" not in text
    return text


def names(folder: Path) -> list[str]:
    """Files and folders below a folder, without locks."""
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    return sorted(name for name in found if not name.endswith(".lock"))
