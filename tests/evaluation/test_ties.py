"""Ties for the lowest degree are counted, and the boxes that hang on their order."""

from __future__ import annotations

import re

import ties
from PIL import Image


def test_ties_prints_its_table(tmp_path, make_voc, printed):
    """Of two black images all patches tie, since all affinities are positive; of a scene they do not."""
    objects = [("thing", 33, 17, 96, 64)]
    voc = make_voc(tmp_path / "voc", {"000001": objects, "000002": objects, "000003": objects})
    for name in ("000001", "000002"):
        Image.new("RGB", (96, 64)).save(voc / "JPEGImages" / f"{name}.jpg")
    output = printed(ties, "--dataset", voc)
    raw, *centred = (line for line in output.splitlines() if line.startswith("| k") or "qk" in line)
    some, every, seeds, boxes = map(int, re.findall(r"\| (\d+)", raw))
    assert (every, boxes) == (2, 0) and 2 <= some <= 3 and seeds <= some
    assert len(centred) == 2 and all("centred" in line and "| 0 |" in line for line in centred)
