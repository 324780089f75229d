"""Where the images of a run may be read from: a folder that the user names, or that their own run used."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from helpers import prediction, refusal, write_predictions

from lost_reg.cli.app import main
from lost_reg.errors import LostRegError
from lost_reg.runs import seals
from lost_reg.runs.folder import read_record
from lost_reg.runs.image_folder import ImageFolder, ImageRoot, image_folder
from lost_reg.runs.seals import is_own, sealed


@pytest.fixture
def photos(tmp_path, save_scene):
    save_scene(tmp_path / "photos/a.jpg")
    save_scene(tmp_path / "secret.jpg")
    (tmp_path / "photos/link.jpg").symlink_to(tmp_path / "secret.jpg")
    (tmp_path / "photos/inner.jpg").symlink_to("a.jpg")
    return tmp_path / "photos"


def invoke(*arguments):
    return CliRunner().invoke(main, [str(one) for one in arguments], catch_exceptions=False)


def change_record(run, **changed) -> None:
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, **changed}))


# --- names -------------------------------------------------------------------------------------------


def test_files_below_the_folder_are_found(photos):
    folder = ImageFolder(photos)
    assert folder.find("a.jpg") == photos / "a.jpg"
    assert folder.find("inner.jpg") == photos / "inner.jpg"  # a link that stays inside
    assert folder.find("b.jpg") is None and folder.find(".") is None
    assert folder.find("nul\0.jpg") is None and folder.find("l" * 5000) is None


def test_a_run_on_addresses_alone_has_no_folder(photos, monkeypatch):
    monkeypatch.chdir(photos)
    assert image_folder(photos, sealed({"root": "", "settings": {}})).find("a.jpg") is None


def test_images_without_files_are_counted_where_all_are_needed(photos):
    folder = ImageFolder(photos)
    assert folder.find_all(["a.jpg", "inner.jpg"]) == {name: photos / name for name in ("a.jpg", "inner.jpg")}
    text = refusal(folder.find_all, ["a.jpg", "gone.jpg"])
    assert text.startswith(f"1 of 2 images is missing below {str(photos)!r} (gone.jpg): ")
    assert "1 of 1 image is missing on this machine" in refusal(ImageFolder(None).find_all, ["s3://b/a.jpg"])


@pytest.mark.parametrize("name", ["../secret.jpg", "x/../../secret.jpg", "/etc/passwd", ".."])
def test_names_that_lead_out_are_refused(photos, name):
    assert "leads out of the folder" in refusal(ImageFolder(photos).find, name)
    assert "leads out of the folder" in refusal(ImageFolder(photos, follow_links=True).find, name)


def test_links_that_lead_out_are_followed_if_the_user_says_so(photos):
    assert "is a link out of" in refusal(ImageFolder(photos).find, "link.jpg")
    assert ImageFolder(photos, follow_links=True).find("link.jpg") == photos / "link.jpg"


def test_a_folder_that_is_itself_a_link_holds_its_files(photos, tmp_path):
    (tmp_path / "linked").symlink_to(photos)
    assert ImageFolder(tmp_path / "linked").find("a.jpg")


# --- seals -------------------------------------------------------------------------------------------


def test_the_seal_holds_until_what_it_covers_changes():
    record = sealed({"created": "now", "root": "/photos", "settings": {"dataset": None}, "images": 3})
    assert is_own(record) and is_own({**record, "images": 4, "sessions": [1]})
    other = {"root": "/", "settings": {"dataset": "/x"}, "created": "then", "data_root": "/"}
    for name, value in {**other, "weights_file": "/x"}.items():
        assert not is_own({**record, name: value}), name
    for changed in ({"seal": "0" * 64}, {"seal": None}, {"seal": "\ud800"}):
        assert not is_own({**record, **changed}), changed


def test_another_user_has_another_key(monkeypatch, tmp_path):
    record = sealed({"root": "/photos"})
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "other"))
    assert not is_own(record)
    assert is_own(sealed(record))
    key = tmp_path / "other/lost-reg/key"
    assert key.stat().st_mode & 0o777 == 0o600 and [key] == list(key.parent.iterdir())


def test_without_a_place_for_the_key_runs_are_made_but_not_sealed(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    record = sealed({"root": "/photos", "seal": "old"})
    assert record == {"root": "/photos"} and not is_own(record)


def test_a_damaged_key_is_replaced_and_without_a_home_folder_there_is_none(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    (tmp_path / "lost-reg").mkdir()
    (tmp_path / "lost-reg/key").write_bytes(b"short")
    assert is_own(sealed({"root": "/photos"}))

    def homeless(name):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(seals, "user_state_path", homeless)
    assert sealed({"root": "/photos"}) == {"root": "/photos"} and not is_own({"root": "/photos"})


def test_the_images_of_a_foreign_run_need_a_folder_that_the_user_names(photos, tmp_path):
    run = write_predictions(tmp_path / "run", [prediction("a.jpg", (0, 0, 9, 9))], root=photos)
    assert image_folder(run, read_record(run / "run.json")).find("a.jpg")
    change_record(run, root="/")
    record = read_record(run / "run.json")
    message = refusal(image_folder(run, record).find, "etc/passwd")
    assert "was made by somebody else" in message and "`image_root`" in message
    assert image_folder(run, record, ImageRoot(photos)).find("a.jpg") == photos / "a.jpg"
    with pytest.raises(LostRegError, match="no such folder of images"):
        image_folder(run, record, ImageRoot(tmp_path / "gone"))


# --- commands ----------------------------------------------------------------------------------------


def test_an_export_copies_nothing_from_a_folder_that_a_foreign_run_names(photos, tmp_path):
    run = write_predictions(tmp_path / "run", [prediction("secret.jpg", (0, 0, 9, 9))], root=photos)
    change_record(run, root=str(tmp_path))
    arguments = ("export", run, "--to", "yolo", "--images", "copy", "--out", tmp_path / "out")
    result = invoke(*arguments)
    assert (
        result.exit_code == 1 and "--image-root names" in result.stderr.replace("name their", "names their")
    ) or ("--image-root" in result.stderr)
    assert not (tmp_path / "out").exists()
    assert invoke(*arguments, "--image-root", tmp_path).exit_code == 0


def test_a_report_shows_no_picture_from_such_a_folder_and_says_why(photos, tmp_path):
    run = write_predictions(
        tmp_path / "run", [prediction("../secret.jpg", (0, 0, 9, 9))], root=photos, dataset=None
    )
    result = invoke("report", run, "--out", tmp_path / "report")
    page = (tmp_path / "report/index.html").read_text()
    assert result.exit_code == 0 and "leads out of the folder" in page
    assert not list((tmp_path / "report/thumbnails").iterdir())
    change_record(run, root=str(photos / "sub"))
    invoke("report", run, "--out", tmp_path / "report")
    page = (tmp_path / "report/index.html").read_text()
    assert "was made by somebody else" in page and "--image-root" in page


def test_an_own_run_beside_a_foreign_one_on_the_same_images_keeps_its_pictures(photos, tmp_path):
    found = [prediction("a.jpg", (0, 0, 9, 9))]
    runs = [write_predictions(tmp_path / f"runs/{name}", found, root=photos, dataset=None) for name in "ab"]
    change_record(runs[0], created="then")
    assert invoke("report", tmp_path / "runs", "--out", tmp_path / "report").exit_code == 0
    assert len(list((tmp_path / "report/thumbnails").iterdir())) == 1


def test_ground_truth_is_not_read_from_a_path_that_a_foreign_run_names(tmp_path, make_coco):
    annotations = make_coco(tmp_path / "coco", {"a.jpg": [(0, 0, 9, 9, 0)]})
    run = write_predictions(
        tmp_path / "run", [prediction("a.jpg", (0, 0, 9, 9))], root=tmp_path, dataset=str(annotations)
    )
    assert invoke("corloc", run).exit_code == 0
    change_record(run, created="then")
    result = invoke("corloc", run)
    assert result.exit_code == 1 and "name it with --dataset" in result.stderr
    assert invoke("corloc", run, "--dataset", annotations).exit_code == 0


def test_a_run_on_some_files_is_not_said_to_be_finished_by_resuming(tmp_path, make_coco):
    annotations = make_coco(tmp_path / "coco", {"a.jpg": [(0, 0, 9, 9, 0)], "b.jpg": [(0, 0, 9, 9, 0)]})
    for dataset, advice in ((None, False), (str(annotations), True)):
        run = write_predictions(
            tmp_path / f"run{advice}", [prediction("a.jpg", (0, 0, 9, 9))], root=tmp_path, dataset=dataset
        )
        said = invoke("corloc", run, "--dataset", annotations).stderr
        assert "covers 1 of the 2 images" in said and ("--resume" in said) == advice


def test_nor_are_the_ids_of_its_images(tmp_path, make_coco):
    annotations = make_coco(tmp_path / "coco", {"b.jpg": [], "a.jpg": [(0, 0, 9, 9, 0)]})
    found = [prediction("a.jpg", (0, 0, 9, 9))]
    run = write_predictions(tmp_path / "run", found, root=tmp_path, dataset=str(annotations))
    for number, (created, image_id) in enumerate([(None, 2), ("then", 1)]):
        if created:
            change_record(run, created=created)
        result = invoke("export", run, "--to", "coco", "--out", tmp_path / f"{number}.json")
        written = json.loads((tmp_path / f"{number}.json").read_text())
        assert written["images"][0]["id"] == image_id
        assert ("is not yours" in result.stderr) == bool(created)


@pytest.mark.parametrize("name", ["predictions.jsonl", ".lock", "maps", "pictures"])
def test_nothing_is_written_through_links_in_a_folder(tmp_path, photos, name):
    run = tmp_path / "run"
    run.mkdir()
    target = tmp_path / "target"
    target.write_text("kept") if "." in name else target.mkdir()
    (run / name).symlink_to(target)
    result = invoke("run", photos / "a.jpg", "--backbone", "tiny", "--out", run, "--save-maps", "--visualize")
    assert result.exit_code == 1 and "is a link, which nothing is written through" in result.stderr
    assert target.read_text() == "kept" if target.is_file() else not list(target.iterdir())


def test_nor_through_links_deeper_in_it(tmp_path, photos, save_scene):
    save_scene(photos / "sub/b.jpg")
    (tmp_path / "target").mkdir()
    (tmp_path / "run/maps").mkdir(parents=True)
    (tmp_path / "run/maps/sub").symlink_to(tmp_path / "target")
    result = invoke("run", photos, "--backbone", "tiny", "--out", tmp_path / "run", "--save-maps")
    assert result.exit_code == 1 and "is a link" in result.stderr
    assert not list((tmp_path / "target").iterdir())
