"""Unfinished work: which command can continue or replace it, and that nothing else is removed."""

from __future__ import annotations

import pytest

from lost_reg.errors import LostRegError
from lost_reg.training.work_folder import WorkKind, work_folder

KIND = WorkKind("probe", ("tokens.bin", "features/features.bin"))


class Stopped(Exception):
    pass


def stop(out, settings, **options):
    """Begin or continue work, and leave it unfinished; returns the work that was there."""
    with pytest.raises(Stopped), work_folder(out, KIND, settings, **options) as work:
        before = (work / "tokens.bin").exists()
        (work / "features").mkdir(exist_ok=True)
        for name in KIND.files:
            (work / name).write_text("x")
        raise Stopped
    return before


def test_work_of_the_same_settings_continues_and_other_work_begins_anew(tmp_path):
    assert [stop(tmp_path, {"seed": 0}), stop(tmp_path, {"seed": 0}, overwrite=True)] == [False, True]
    with (
        pytest.raises(LostRegError, match=r"other settings \(seed\)"),
        work_folder(tmp_path, KIND, {"seed": 1}),
    ):
        pass
    assert not stop(tmp_path, {"seed": 1}, overwrite=True)
    with work_folder(tmp_path, KIND, {"seed": 1}):
        pass
    assert not (tmp_path / "unfinished").exists()


def test_the_user_s_own_files_stay(tmp_path):
    stop(tmp_path, {"seed": 0})
    (tmp_path / "unfinished" / "features" / "mine.txt").write_text("mine")
    stop(tmp_path, {"seed": 1}, overwrite=True)
    with work_folder(tmp_path, KIND, {"seed": 1}):
        pass
    left = [path for path in (tmp_path / "unfinished").rglob("*") if path.is_file()]
    assert left == [tmp_path / "unfinished" / "features" / "mine.txt"]


@pytest.mark.parametrize("text", ['{"command": "train head", "seed": 0}', '{"seed": 0}', "{", "[]"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_the_work_of_another_command_is_left_alone(tmp_path, text, overwrite):
    stop(tmp_path, {"seed": 0})
    (tmp_path / "unfinished" / "settings.json").write_text(text)
    with (
        pytest.raises(LostRegError, match="unfinished work of another command"),
        work_folder(tmp_path, KIND, {"seed": 0}, overwrite=overwrite),
    ):
        pass
    assert (tmp_path / "unfinished" / "tokens.bin").exists()
    assert (tmp_path / "unfinished" / "settings.json").read_text() == text
