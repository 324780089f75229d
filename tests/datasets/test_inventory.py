"""The table of datasets says which of them are on this machine."""

from __future__ import annotations

from lost_reg.datasets.catalog import datasets_table


def test_what_is_here_and_what_is_missing(tmp_path, make_voc):
    make_voc(tmp_path / "VOCdevkit" / "VOC2007", {"a": [("dog", 1, 1, 9, 9)], "b": []})
    make_voc(tmp_path / "VOCdevkit" / "VOC2012", {"a": [], "b": []})
    (tmp_path / "VOCdevkit" / "VOC2012" / "JPEGImages" / "b.jpg").unlink()
    table = datasets_table(tmp_path)
    rows = {line.split()[0]: line for line in table.splitlines()}
    assert rows["voc07"].endswith("here: 2 images of it") and "5,011" in rows["voc07"]
    assert rows["voc12"].endswith("incomplete: 1 of 2 images is missing")
    assert rows["coco20k"].endswith(f"not here: looked for {tmp_path / 'coco'}")
    assert "--download NAME` downloads voc07, voc12, coco20k." in table
