"""Elements, tables, charts, images and dates of pages."""

import base64
import io
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pages import Page

from kdexp.page.curves import Curve, Trained, draw_curves
from kdexp.page.document import days, document
from kdexp.page.dots import Dots, draw_dots
from kdexp.page.heatmap import Heat, heatmap
from kdexp.page.html import tag
from kdexp.page.marks import BASELINE, TEACHER, marks
from kdexp.page.png import data_uri
from kdexp.page.table import Heading, Line, data_table

NASTY = st.text(st.sampled_from("<>&\"'/=a\n$ é"), max_size=12)


@given(NASTY, NASTY)
def test_every_text_is_escaped(name, tip):
    found = Page(str(tag("p", name, tag("b", tip), data_tip=tip)))
    assert [each for each, _ in found.tags] == ["p", "b"] and found.tags[0][1]["data-tip"] == tip
    assert "".join(data for *_, data in found.text) == name + tip


@given(NASTY)
def test_names_are_escaped_in_every_part(name):
    mark = marks(["kd"])["kd"]
    parts = [
        data_table([Heading(name, True)], [Line([name], {name: name}, name, name, True)], "rows"),
        heatmap([name], [(name, [Heat(1.0, name, name, name)])], (name, name), 0.0),
        draw_curves([Trained(name, mark, Curve([1, 2], [50.0, 60.0], [1.0, 1.0]))], name or "accuracy", name),
        draw_dots([Dots(name, [50.0], name, name)], [(mark, name)], name, name),
    ]
    page = Page(document(name, parts))
    known = {"div", "table", "thead", "tbody", "tr", "th", "td", "button", "a", "small", "figure", "figcaption"}
    known |= {"svg", "g", "line", "path", "text", "rect", "ul", "li", "span"} | {tag for tag, _ in Page(document("x", [])).tags}
    assert {tag for tag, _ in page.tags} <= known


def test_curves_have_the_numbers_of_every_epoch_on_hover():
    html = draw_curves([Trained("kd", marks(["kd"])["kd"], Curve([1, 2], [50.0, 61.25], [0.0, 1.5]))], "accuracy", "of x")
    assert [told["data-tip"] for _, told in Page(html).tags if "data-tip" in told] == [
        "epoch 1\nkd: 50.00 ± 0.00 %",
        "epoch 2\nkd: 61.25 ± 1.50 %",
    ]


def test_a_curve_of_a_single_epoch_and_long_ones_are_drawn():
    for epochs in (1, 1000):
        curve = Curve(list(range(1, epochs + 1)), [50.0] * epochs, [0.0] * epochs)
        page = Page(draw_curves([Trained("kd", BASELINE, curve)], "accuracy", "of x"))
        assert 1 <= len([told for _, told in page.tags if "data-tip" in told]) <= 200
        assert 1 <= len([told for _, told in page.tags if told.get("class") == "mark b"]) - 1 <= 8


def test_colours_of_a_map_grow_with_the_distance_from_the_middle():
    html = heatmap(["1", "2"], [("a", [Heat(2.0, "+2"), Heat(-1.0, "−1")]), ("b", ["failed", Heat(0.0, "0")])], ("x", "y"), 0.0)
    assert re.findall(r'class="(more|less)" style="--share:(\d+)%"', html) == [("more", "78"), ("less", "39"), ("more", "0")]


def test_teacher_and_baseline_are_no_method():
    assert marks([]) == {"teacher": TEACHER, "baseline": BASELINE}


@pytest.mark.parametrize("channels", [1, 3])
def test_images_keep_their_pixels(channels):
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, channels), np.uint8)
    file = base64.b64decode(data_uri(pixels).partition(",")[2])
    with Image.open(io.BytesIO(file)) as image:
        assert (np.asarray(image).reshape(pixels.shape) == pixels).all()


@pytest.mark.parametrize(
    ("times", "written"),
    [
        (["2026-11-26 19:44"], "26 November 2026"),
        (["2026-11-26 19:44", "2026-11-25 01:00", "2026-11-26 20:00"], "25 to 26 November 2026"),
        (["2026-11-30 19:44", "2026-12-01 01:00"], "30 November to 1 December 2026"),
        (["2026-12-31 19:44", "2027-01-01 01:00"], "31 December 2026 to 1 January 2027"),
        (["some day"], "some day"),
        ([], ""),
    ],
)
def test_days_as_people_write_them(times, written):
    assert days(times) == written
