"""Charts: what they look like as SVG, that they are the same in every session, and where axes have ticks."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import pytest
from matplotlib.figure import Figure

from lost_reg.charts import COLOURS, WIDTH, chart, chart_file, log_scale, ordered_colour, percent_top, titled

ROOT = Path(__file__).parents[1]
HOSTILE = '$x$ <b onload=y> & "quotes" 日本'


def draw(axes):
    (line,) = axes.plot([0, 1, 2], [0, 25, 50], color=COLOURS["text"], marker="D", label=HOSTILE)
    titled(line, HOSTILE + "\nnext")
    titled(axes.stairs([1, 2], [0, 1, 2], fill=True, color="#123456"), "steps")
    axes.set(title=HOSTILE, xlabel="x", xlim=(0, 2), ylim=(0, 50))


def texts(svg: str, tag: str = "text") -> list[str]:
    return [
        element.text for element in ElementTree.fromstring(svg).iter(f"{{http://www.w3.org/2000/svg}}{tag}")
    ]


def test_a_chart_holds_nothing_that_a_strict_page_refuses():
    svg = chart(draw, "a chart")
    kinds = {element.tag.rpartition("}")[2] for element in ElementTree.fromstring(svg).iter()}
    assert kinds <= {"svg", "g", "path", "defs", "clipPath", "rect", "text", "use", "title"}
    assert "style" not in svg and "font-family" not in svg and "http://www.w3.org/1999" not in svg


def test_text_stays_text():
    svg = chart(draw, HOSTILE)
    assert texts(svg).count(HOSTILE) == 2  # its title and its legend
    assert set(texts(svg, "title")) == {
        HOSTILE + "\\nnext",
        "steps",
    }
    root = ElementTree.fromstring(svg)
    assert root.get("role") == "img" and root.get("aria-label") == HOSTILE
    assert "<b" not in svg


@pytest.mark.parametrize("hostile", ["\x00", "\ud800", "\x1b[2J", "\ufffe"])
def test_what_xml_has_no_character_for_is_escaped(hostile):
    def draw_hostile(axes):
        axes.plot([0, 1], [0, 1], label=f"a{hostile}")
        axes.set(xlabel=f"b{hostile}", title=f"c{hostile}")

    svg = chart(draw_hostile, f"d{hostile}")
    escaped = repr(hostile)[1:-1]
    assert {f"a{escaped}", f"b{escaped}", f"c{escaped}"} <= set(texts(svg))
    assert ElementTree.fromstring(svg).get("aria-label") == f"d{escaped}"


def test_a_chart_without_a_label_is_hidden_from_those_who_cannot_see_it():
    root = ElementTree.fromstring(chart(draw, ""))
    assert root.get("aria-hidden") == "true" and root.get("role") is None


def test_colours_of_the_page_are_its_variables_and_others_stay():
    svg = chart(draw, "a chart")
    used = set(re.findall(r'(?:fill|stroke)="(.*?)"', svg))
    assert used == {"none", "#123456", "var(--text)", "var(--quiet)", "var(--line)"}


def test_the_page_has_every_colour_and_the_same_in_light():
    css = (ROOT / "lost_reg/report/templates/page.css").read_text()
    variables = dict(re.findall(r"--([\w-]+): light-dark\((#\w+), #\w+\);", css))
    assert {name: variables[name] for name in COLOURS} == COLOURS


def test_a_file_is_on_white_in_colours_of_its_own():
    svg = chart_file([("one $", draw), ("two", draw)])
    root = ElementTree.fromstring(svg.encode())
    assert root.get("viewBox").split()[2] == str(2 * WIDTH)
    assert "var(" not in svg and 'fill="#ffffff"' in svg and COLOURS["text"] in svg
    assert {"one $", "two"} <= set(texts(svg.encode()))


def test_charts_are_the_same_in_every_session_and_whatever_the_users_style():
    before = chart(draw, "a chart"), chart_file([("", draw)])
    with matplotlib.rc_context({"lines.linewidth": 9, "svg.fonttype": "path", "axes.grid": False}):
        assert (chart(draw, "a chart"), chart_file([("", draw)])) == before
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import test_charts; sys.stdout.buffer.write(test_charts.chart(test_charts.draw, 'a chart').encode())"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=ROOT, check=True)
    assert result.stdout.decode() == before[0]


def test_ids_of_charts_on_one_page_differ():
    first, second = (set(re.findall(r' id="(.*?)"', chart(draw, label))) for label in ("first", "second"))
    assert first and second and not first & second


def test_points_stand_where_they_are():
    root = ElementTree.fromstring(chart(draw, "a chart"))
    (group,) = [g for g in root.iter() if (g.findtext("{*}title") or "").startswith("$x$")]
    points = [
        tuple(map(float, point.split()[1:]))
        for point in re.findall(r"[ML] [\d. ]+", group.find("{*}path").get("d"))
    ]
    (x0, y0), (x1, y1), (x2, y2) = points
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.02) and y0 - y1 == pytest.approx(y1 - y2, abs=0.02)
    assert x2 - x0 > 0.8 * WIDTH and y0 > y2


def test_a_legend_shows_each_label_once_and_makes_room_for_itself():
    def many(axes):
        for index in range(12):
            axes.plot([0, 1], [0, index], label=f"line {index % 6}")

    def height(svg):
        return float(ElementTree.fromstring(svg).get("viewBox").split()[3])

    svg = chart(many, "many", height=100)
    assert [text for text in texts(svg) if text.startswith("line")] == [f"line {index}" for index in range(6)]
    assert (
        100 < height(svg) < 160 and height(chart(lambda axes: axes.plot([0, 1]), "none", height=100)) == 100
    )


@pytest.mark.parametrize(
    "low, high, expected",
    [
        (0.5, 2000, ["1", "10", "100", "1,000"]),
        (3, 60, ["5", "10", "20", "50"]),
        (14, 42, ["15", "20", "30", "40"]),
        (3, 3, ["1.5", "2", "3", "4", "5"]),
    ],
)
def test_logarithmic_axes_have_round_ticks(low, high, expected):
    axes = Figure().subplots()
    log_scale(axes, "y", low, high)
    shown = [f"{tick:,g}" for tick in axes.get_yticks() if axes.get_ylim()[0] <= tick <= axes.get_ylim()[1]]
    assert shown == expected and axes.get_yscale() == "log"


@pytest.mark.parametrize("values, top", [([0], 10), ([9.9], 10), ([10], 10), ([10.1], 20), ([100], 100)])
def test_percent_axes_end_at_a_round_number_above_all(values, top):
    assert percent_top(values) == top


def test_ordered_colours_differ():
    colours = [ordered_colour(index, 12) for index in range(12)]
    assert len(set(colours)) == 12 and ordered_colour(0, 1) == colours[0]


def test_matplotlib_is_imported_only_when_something_is_drawn():
    code = (
        "import sys, lost_reg.charts, lost_reg.artifacts.figures, lost_reg.report.report\n"
        "print(sorted({'torch', 'matplotlib', 'timm'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.stdout == "[]\n", result.stderr
