"""The pickle of LOST's scripts."""

from __future__ import annotations

from export_cases import BOXES, export, prediction, read_lost

from lost_reg.export.run_export import summary_lines


def test_lost_has_room_for_one_box(tmp_path):
    found = [
        prediction("a.jpg", BOXES["whole"], BOXES["plain"], BOXES["small"]),
        prediction("b.jpg", BOXES["small"]),
    ]
    summary = export(tmp_path, found, "lost", drop_implausible=True)
    assert read_lost(tmp_path / "out.pkl") == {"a.jpg": [BOXES["plain"]], "b.jpg": [BOXES["small"]]}
    assert summary.beyond_first == 1
    assert "left out: 1 box after the first of an image" in summary_lines(summary)[-1]
