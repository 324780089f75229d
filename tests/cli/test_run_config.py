"""Options of `lost-reg run` from files, variables and earlier runs; a run that is started anew; -q and -v."""

from __future__ import annotations

import json
import shutil

import pytest
from helpers import without_notes
from run_cases import lines_of

from lost_reg.runs.config_file import CONFIG_FILE, read_config

FAST = ("--workers", 0)
QUIET_KEYS = ("root", "settings")


def record_of(folder) -> dict:
    return json.loads((folder / "run.json").read_text())


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--method", "lost", "--layer=-2,-1", "--facet", "qk", "--center", "--max-objects", 2, "--masks"),
        ("--preset", "lost", "--bias", "auto", "--max-side", "native"),
        ("--method", "tokencut", "--square", 64, "--refine", "bilateral"),
        ("--weights", "random", "--method", "maskcut", "--background", "red"),
    ],
    ids=str,
)
def test_the_file_beside_a_run_repeats_it(lost_reg, photos, tmp_path, monkeypatch, options):
    monkeypatch.chdir(tmp_path)
    first = lost_reg("run", "photos", *options, *FAST, "--out", "first")
    assert first.exit_code == 0, first.output
    monkeypatch.delenv("LOST_REG_RUN_BACKBONE")
    monkeypatch.chdir(photos)  # paths in it are absolute
    again = lost_reg("run", "--config", tmp_path / "first" / CONFIG_FILE, "--out", tmp_path / "again")
    assert again.exit_code == 0, again.output
    assert record_of(tmp_path / "again")["settings"] == record_of(tmp_path / "first")["settings"]
    assert sorted(map(str, lines_of(tmp_path / "again"))) == sorted(map(str, lines_of(tmp_path / "first")))
    assert (tmp_path / "again" / CONFIG_FILE).read_text() == (tmp_path / "first" / CONFIG_FILE).read_text()


def test_the_command_line_counts_before_variables_and_they_before_the_file(
    lost_reg, photos, tmp_path, monkeypatch
):
    file = tmp_path / "mine.toml"
    file.write_text(f'inputs = ["{photos}"]\nmethod = "lost"\nmax-side = 64\nworkers = 0\nk_patches = 50\n')

    def sizes(out, *options) -> tuple:
        result = lost_reg("run", "--config", file, *options, "--out", tmp_path / out)
        assert result.exit_code == 0, result.output
        settings = record_of(tmp_path / out)["settings"]
        return settings["method"], settings["features"]["max_side"], settings["options"].get("k_patches")

    assert sizes("a") == ("lost", 64, 50)
    monkeypatch.setenv("LOST_REG_RUN_MAX_SIDE", "80")
    assert sizes("b") == ("lost", 80, 50)
    assert sizes("c", "--max-side", 96) == ("lost", 96, 50)
    monkeypatch.delenv("LOST_REG_RUN_MAX_SIDE")
    assert sizes("d", "--preset", "best") == ("spread", 336, None)  # another setting than the file's
    other = lost_reg("run", photos / "a.jpg", "--config", file, "--out", tmp_path / "e")
    assert other.exit_code == 0 and len(lines_of(tmp_path / "e")) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("max_sied = 3", "has an unknown setting, 'max_sied'; did you mean max_side?"),
        ("max_side = ", "is not a file of settings: "),
        ('max_side = "large"', "'large' is neither native nor a valid number"),
        ("max_side = 0", "neither native nor a valid number"),
        ('config = "x"', "has an unknown setting, 'config'"),
        ("backbone = 3", "unknown backbone '3'"),
        ("inputs = 5", "has 5 for inputs: expected a list of texts"),
        ("batch_size = [[1]]", "has [[1]] for batch_size: expected a text, a number, true or false"),
        ("max_side = {}", "has {} for max_side: expected a text, a number, true or false"),
    ],
)
def test_what_a_file_cannot_hold_is_one_line(lost_reg, photos, tmp_path, text, said, monkeypatch):
    monkeypatch.delenv("LOST_REG_RUN_BACKBONE")
    (tmp_path / "x.toml").write_text(text)
    result = lost_reg("run", photos, "--config", tmp_path / "x.toml", "--out", tmp_path / "out")
    (line,) = without_notes(result)
    assert result.exit_code and line.startswith("Error: ") and said in line


def test_a_variable_counts_as_the_option_does(lost_reg, photos, tmp_path, monkeypatch):
    """Another method takes nothing of the file's; its own, given again, does; images replace the file's."""
    out = tmp_path / "first"
    assert lost_reg("run", photos, *FAST, "--method", "lost", "--layer=-2", "--out", out).exit_code == 0
    file = ("--config", out / CONFIG_FILE, "--out")

    def features(name, *options):
        result = lost_reg("run", *file, tmp_path / name, *options)
        assert result.exit_code == 0, result.output
        return record_of(tmp_path / name)["settings"]["features"]

    assert features("same", "--method", "lost")["layer"] == -2
    by_option = features("option", "--method", "tokencut")
    monkeypatch.setenv("LOST_REG_RUN_METHOD", "tokencut")
    assert features("variable") == by_option and by_option["layer"] == -1


def test_a_file_of_the_users_is_not_replaced(lost_reg, refused, photos, tmp_path):
    mine = tmp_path / "out" / CONFIG_FILE
    mine.parent.mkdir()
    mine.write_text("# mine\nlimit = 1\n")
    line = refused("run", photos, *FAST, "--config", mine, "--out", mine.parent)
    assert "would be replaced by the options of this run: move it, or choose another --out" in line
    assert mine.read_text() == "# mine\nlimit = 1\n" and not (mine.parent / "run.json").exists()


def test_a_file_may_begin_with_a_mark_of_utf_8(lost_reg, photos, tmp_path):
    (tmp_path / "x.toml").write_text("limit = 1", encoding="utf-8-sig")
    assert lost_reg("run", photos, "--config", tmp_path / "x.toml", "--out", tmp_path / "out").exit_code == 0
    assert len(lines_of(tmp_path / "out")) == 1


def test_a_file_that_is_not_there_is_one_line(refused, photos, tmp_path):
    assert "cannot read" in refused("run", photos, "--config", tmp_path / "x.toml")


def test_names_of_any_bytes_are_kept(tmp_path):
    from lost_reg.runs.config_file import write_config

    options = {"inputs": ["a\udcff.jpg", 'b"\n.jpg', "é"], "workers": 0, "center": False}
    write_config(tmp_path, options)
    assert read_config(tmp_path / CONFIG_FILE, ["inputs", "workers", "center"]) == options


def test_resume_alone_continues_with_the_runs_own_images_and_settings(
    lost_reg, photos, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    options = ("--method", "lost", "--bias", -0.2, "--max-side", 64, "--masks", *FAST)
    lost_reg("run", photos, *options, "--limit", 1, "--out", out)
    command = record_of(out)["command"]
    monkeypatch.chdir(tmp_path)
    result = lost_reg("run", "--resume", "--out", "out")
    assert result.exit_code == 0 and "1 was done before" in result.stdout, result.output
    assert len(lines_of(out)) == 2 and record_of(out)["command"] == command
    lost_reg("run", photos, *options, "--out", tmp_path / "whole")
    assert sorted(map(str, lines_of(out))) == sorted(map(str, lines_of(tmp_path / "whole")))


def test_resume_alone_takes_nothing_from_runs_of_others(refused, lost_reg, photos, tmp_path):
    """Nor if the record of a run of one's own was changed."""
    out = tmp_path / "out"
    lost_reg("run", photos, *FAST, "--limit", 1, "--out", out)
    record = record_of(out)
    record["command"]["inputs"] = ["/"]
    (out / "run.json").write_text(json.dumps(record))
    line = refused("run", "--resume", "--out", out)
    assert "its images and settings are not taken from it: name them" in line
    assert lost_reg("run", photos, *FAST, "--out", out, "--resume").exit_code == 0  # everything is named
    assert record_of(out)["command"]["inputs"] == [str(photos)]  # and sealed with what was named
    assert str(photos) in (out / CONFIG_FILE).read_text()
    assert "no run in" in refused("run", "--resume", "--out", photos)
    assert "the run in the folder that --out names" in refused("run", "--resume", exit_code=2)


def test_other_settings_are_shown_as_a_table(lost_reg, photos, tmp_path):
    out = tmp_path / "out"
    lost_reg("run", photos, *FAST, "--limit", 1, "--out", out)
    result = lost_reg("run", photos, *FAST, "--resume", "--out", out, "--max-side", 96, "--masks")
    line, *table = without_notes(result)
    assert line.startswith(
        f"Error: {str(out)!r} holds a run with other settings (masks, max_side): choose another"
    )
    assert [row.split() for row in table] == [
        ["setting", "old", "new"],
        ["--------", "----", "---"],
        ["masks", "none", "yes"],
        ["max_side", "336", "96"],
    ]


def test_a_backbone_is_given_with_its_weights(lost_reg, refused, photos, voc, tmp_path):
    for command in (
        ["run", photos],
        ["sweep", "-d", "voc07", "--data-root", voc, "--bias", 0, "--layer", -1],
    ):
        more = ("--tune-fraction", 0.5) if command[0] == "sweep" else ()
        out = tmp_path / command[0]
        result = lost_reg(*command, *more, *FAST, "-b", "tiny=random", "--out", out)
        assert result.exit_code == 0, result.output
        settings = json.loads(next(out.glob("*[np].json")).read_text())["settings"]
        assert (settings["backbone"], settings["weights"]["source"]) == ("tiny", "random")
    assert record_of(tmp_path / "run")["command"]["weights"] == "random"
    both = ("-b", "tiny=random", "--weights", "random")
    assert "either as tiny=FILE or as --weights FILE" in refused("run", photos, *both, exit_code=2)


def test_overwriting_removes_the_run_and_nothing_else(lost_reg, refused, photos, tmp_path):
    out = tmp_path / "out"
    (out / "maps").mkdir(parents=True)
    kept = [out / "mine.txt", out / "maps" / "mine.npz"]
    for path in kept:
        path.write_text("mine")
    run = ("run", photos, *FAST, "--out", out)
    assert lost_reg(*run, "--save-maps", "--visualize").exit_code == 0
    assert "--overwrite starts it anew" in refused(*run, "--preset", "lost")
    assert lost_reg(*run, "--preset", "lost", "--overwrite").exit_code == 0
    assert record_of(out)["settings"]["method"] == "lost" and len(record_of(out)["sessions"]) == 1
    files = {path for path in out.rglob("*") if path.is_file()}
    made = {out / name for name in ("run.json", "run.toml", "predictions.jsonl", "errors.jsonl", ".lock")}
    assert files == {*made, *kept}
    assert "choose one" in refused(*run, "--overwrite", "--resume", exit_code=2)


def test_overwriting_removes_nothing_where_a_line_hides_what_is_there(lost_reg, refused, photos, tmp_path):
    out = tmp_path / "out"
    lost_reg("run", photos, *FAST, "--visualize", "--out", out)
    mine = out / "predictions.rank-backup.jsonl"
    mine.write_text("mine")
    lines = (out / "predictions.jsonl").read_text()
    (out / "predictions.jsonl").write_text(lines + "damaged\n")
    before = sorted(out.rglob("*"))
    assert "malformed line" in refused("run", photos, *FAST, "--out", out, "--overwrite")
    assert sorted(out.rglob("*")) == before
    (out / "predictions.jsonl").write_text(lines)
    assert lost_reg("run", photos, *FAST, "--out", out, "--overwrite").exit_code == 0
    assert not (out / "pictures").exists() and mine.read_text() == "mine"


def test_overwriting_goes_through_no_links(lost_reg, refused, photos, tmp_path):
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    run = ("run", photos, *FAST, "--out", out)
    lost_reg(*run, "--save-maps")
    shutil.move(out / "maps" / "sub", elsewhere)
    (out / "maps" / "sub").symlink_to(elsewhere)
    assert lost_reg(*run, "--overwrite").exit_code == 0
    assert len(list(elsewhere.iterdir())) == 1
    (tmp_path / "link").symlink_to(out / "run.json")
    shutil.move(out / "run.json", elsewhere / "run.json")
    (out / "run.json").symlink_to(elsewhere / "run.json")
    assert "is a link" in refused(*run, "--overwrite")
    assert (elsewhere / "run.json").exists()


def test_a_misspelt_variable_is_said_with_the_nearest(lost_reg, monkeypatch):
    assert lost_reg("methods").stderr == ""
    for name in ("LOST_REG_RUN_MAXSIDE", "LOST_REG_DATTA", "LOST_REG_TRAIN_HEAD_SEEDZ"):
        monkeypatch.setenv(name, "80")
    for name in ("LOST_REG_RUN_MAX_SIDE", "LOST_REG_DATA", "LOST_REG_TRAIN_HEAD_SEED", "LOST_REGION_X"):
        monkeypatch.setenv(name, "80")
    near = ("LOST_REG_DATA", "LOST_REG_RUN_MAX_SIDE", "LOST_REG_TRAIN_HEAD_SEED")
    warnings = lost_reg("methods").stderr.splitlines()
    assert [line.rpartition("; did you mean ")[2] for line in warnings] == [f"{name}?" for name in near]
    assert warnings[0].startswith("Warning: no option has the variable LOST_REG_DATTA, which is ignored")


def test_quiet_and_verbose(lost_reg, photos, tmp_path):
    run = ("run", photos, *FAST, "--weights", "random", "--out")
    quiet = lost_reg(*run, tmp_path / "a", "-q")
    assert quiet.stderr == "Warning: tiny runs with random weights: its results are meaningless\n"
    assert quiet.stdout.startswith("2 images in")
    verbose = lost_reg(*run, tmp_path / "b", "-v").stderr
    assert "Note: tiny has the weights random (random), in fp32 on cpu\n" in verbose
    assert "Note: settings: spread, " in verbose
    plain = lost_reg(*run, tmp_path / "c").stderr
    assert "has the weights" not in plain and "Warning: tiny runs with random weights" in plain
