"""The pictures of a sweep: their content, whose numbers are those of the comparison."""

import re
import subprocess
import sys

import numpy as np
import pytest
from crafted_sweeps import CraftedSweep, right_first
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import rc_context

from kdexp.report.table import signed
from kdexp.sweep import fold, read
from kdexp.sweep.origins import Origins
from kdexp.sweep.pictures.cost import draw_parameters
from kdexp.sweep.pictures.differences import caption, draw_differences
from kdexp.sweep.pictures.drawing import draw_all
from kdexp.sweep.pictures.lines import draw_line
from kdexp.sweep.pictures.maps import draw_map
from kdexp.sweep.pictures.slices import failures, slices
from kdexp.sweep.pictures.style import SETTINGS, apart, finish
from kdexp.sweep.remarks import span
from kdexp.sweep.shown import chosen, front, name_of

TEMPERATURES, ALPHAS = (20.0, 1.0, 4.0), (0.5, 0.1)


def craft(root, temperatures=TEMPERATURES, alphas=ALPHAS, seeds=(0, 1), skip=(), fail=(), lost=(), **changes):
    """A sweep over temperature and alpha in this order; validation data choose the highest temperature and alpha."""
    sweep, draws = CraftedSweep(root), np.random.default_rng(0)
    for temperature in temperatures:
        for alpha in alphas:
            for seed in seeds:
                right = (draws.random(200) < 0.7 + temperature / 100).astype(np.int64)
                told = {"distillation__temperature": temperature, "distillation__alpha": alpha, "seed": seed, **changes}
                words = (f"distillation.temperature={temperature:g}", f"distillation.alpha={alpha}", f"seed={seed}")
                if (temperature, alpha, seed) not in skip:
                    failed = ("distilled",) if (temperature, alpha) in fail else lost
                    better = right_first(150 + seed, 200)
                    shown = (temperature + alpha) / 100
                    sweep.job(*words, distilled=right, baseline=better, validation=shown, failed=failed, **told)
    return sweep


def folded(sweep):
    """A crafted sweep after reading, and its only table."""
    found = read([sweep.close()])
    (table,) = fold(found).tables
    return found, table


def drawn(sweep):
    """Every picture of a crafted sweep by name."""
    found = read([sweep.close()])
    (pictures,) = draw_all(fold(found), Origins(found))
    return {picture.name: picture for picture in pictures}


def words(picture):
    """The text in a picture, in order."""
    return re.findall(r"<text[^>]*>([^<]*)</text>", picture.svg.decode())


def words_of_slice(sweep):
    """The text in the map or the line that a crafted sweep makes, and the table."""
    found, table = folded(sweep)
    ((piece,), _) = slices(table)
    with rc_context(SETTINGS):
        line = len(piece.axes) == 1
        figure = draw_line(piece, table) if line else draw_map(piece, table, failures(piece, found))
        return words(finish(figure, "", "")), table


@pytest.mark.slow
def test_both_files_of_every_picture(tmp_path):
    pictures = drawn(craft(tmp_path))
    assert list(pictures) == ["differences", "map_kd", "parameters", "curves"]
    for picture in pictures.values():
        assert picture.png.startswith(b"\x89PNG\r\n") and b"<svg" in picture.svg[:800] and picture.caption
        assert b"<dc:date>" not in picture.svg


@pytest.mark.slow
def test_the_differences_are_those_of_the_comparison(tmp_path):
    _, table = folded(craft(tmp_path))
    with rc_context(SETTINGS):
        text = words(finish(draw_differences(table), "", caption(table)))
    assert len(table.compared) == 1
    for row in table.compared:
        numbers = f"{signed(row.difference.mean)} ({span(row.difference.over_seeds_and_images)})"
        assert numbers in text and " ".join(name_of(row, table).split()) in text
    assert {"over seeds alone", "over seeds and test images", "single seeds", "test accuracy − baseline, points"} <= set(text)


def test_of_many_differences_the_first_are_drawn_and_the_caption_says_so(tmp_path):
    _, table = folded(craft(tmp_path, alphas=(0.1,)))
    assert "The first" not in caption(table)
    table.rows += [table.compared[0]] * 40
    assert caption(table).endswith("The first 30 of 41 differences.")
    assert len(draw_differences(table).axes[0].get_yticks()) == 30


@pytest.mark.slow
def test_the_same_sweep_gives_the_same_bytes(tmp_path):
    sweep = craft(tmp_path, temperatures=(1.0,), seeds=(0,))
    assert drawn(sweep) == drawn(sweep)


@pytest.mark.slow
def test_the_map_holds_the_numbers_of_the_comparison(tmp_path):
    text, table = words_of_slice(craft(tmp_path, skip={(4.0, 0.5, 1)}))
    rows = [row for row in table.rows if row.role == "distilled"]
    assert len(rows) == 6
    for row in rows:
        assert signed(row.difference.mean) in text
        spread = "(n=1)" if row.n == 1 else f"± {row.difference.std:.2f}"
        assert spread in text
    assert "kd, n = 1 to 2; framed: chosen on validation images" in text


@pytest.mark.slow
def test_the_axes_are_in_order_of_value(tmp_path):
    text = words_of_slice(craft(tmp_path))[0]
    assert text[:3] == ["1", "4", "20"] and text[3] == "temperature"
    assert text.index("0.1") < text.index("0.5") < text.index("alpha")


@pytest.mark.slow
def test_cells_of_failed_jobs_say_so_and_other_missing_cells_are_empty(tmp_path):
    skip = {(4.0, 0.5, 0), (4.0, 0.5, 1)}
    text = words_of_slice(craft(tmp_path, skip=skip, fail={(20.0, 0.1)}))[0]
    assert text.count("failed") == 1
    assert len([word for word in text if re.fullmatch(r"[+−]\d+\.\d\d", word)]) == 4


@pytest.mark.slow
def test_a_column_of_failed_jobs_is_shown(tmp_path):
    fail = {(20.0, 0.1), (20.0, 0.5)}
    text = words_of_slice(craft(tmp_path, fail=fail))[0]
    assert text[:3] == ["1", "4", "20"] and text.count("failed") == 2


@pytest.mark.slow
def test_one_setting_makes_a_line_with_the_baseline(tmp_path):
    text, _ = words_of_slice(craft(tmp_path, alphas=(0.1,)))
    assert {"1", "4", "20", "temperature", "baseline, n = 2", "chosen on validation images"} <= set(text)


@pytest.mark.slow
def test_a_baseline_that_varies_too_is_a_line(tmp_path):
    sweep = CraftedSweep(tmp_path)
    for lr in (0.1, 0.2):
        sweep.job(f"optimizer.lr={lr}", optimizer__lr=lr)
    text = words_of_slice(sweep)[0]
    assert "baseline" in text and {"0.1", "0.2", "lr"} <= set(text)


@pytest.mark.slow
def test_other_settings_cut_a_method_into_maps(tmp_path):
    sweep = CraftedSweep(tmp_path)
    for hidden in ([16], [32]):
        for temperature in (1.0, 4.0):
            for alpha in (0.1, 0.5):
                changes = {"distillation__temperature": temperature, "distillation__alpha": alpha, "student__hidden": hidden}
                sweep.job(f"{hidden} {temperature} {alpha}", **changes)
    assert [piece.fixed for piece in slices(folded(sweep)[1])[0]] == ["hidden=[16]", "hidden=[32]"]
    assert {"map_kd_1", "map_kd_2"} <= set(drawn(sweep))


def test_more_than_two_settings_are_refused_in_a_sentence(tmp_path):
    sweep = CraftedSweep(tmp_path)
    for number in (1, 2):
        told = {"distillation__temperature": float(number), "distillation__alpha": number / 10, "optimizer__lr": number / 100}
        sweep.job(f"{number}", **told)
    assert slices(folded(sweep)[1]) == (
        [],
        ["No map of kd: it varies in lr, temperature, alpha; two numeric settings make a map."],
    )


@pytest.mark.slow
def test_without_a_baseline_the_map_shows_accuracy(tmp_path):
    text, table = words_of_slice(craft(tmp_path, lost=("baseline",)))
    assert "test accuracy, %" in text
    assert all(f"{100 * row.test_mean:.2f}" in text for row in table.rows if row.role == "distilled")


def test_the_front_uses_rows_that_are_best_on_validation_data(tmp_path):
    rows = chosen(folded(craft(tmp_path))[1])
    assert [row.role for row in rows] == ["teacher", "baseline", "distilled"]
    assert rows[-1].mark and rows[-1].settings["distillation.temperature"] == 20


def test_every_point_is_inside_the_picture(tmp_path):
    _, table = folded(craft(tmp_path))
    (axes,) = draw_parameters(table).axes
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    assert all(left < row.parameters < right and low < 100 * row.test_mean < high for row in table.rows)


@pytest.mark.slow
def test_latency_is_drawn_where_it_was_measured(tmp_path):
    sweep = craft(tmp_path, alphas=(0.1,), latency=True)
    for number, path in enumerate(sorted(sweep.folder.glob("*/table.json"))):
        path.write_text(path.read_text().replace('"role"', f'"latency_ms": {number + 1}, "role"'))
    pictures = drawn(sweep)
    assert "latency, ms for one image (median)" in words(pictures["latency"])


POINTS = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=12)


@pytest.mark.slow
@given(POINTS)
def test_the_front_consists_of_points_that_no_point_beats(points):
    def beaten(ours):
        return any(their[0] <= ours[0] and their[1] >= ours[1] and their != ours for their in points)

    found = front(points)
    assert sorted(found) == [index for index, point in enumerate(points) if not beaten(point)]
    assert [points[index] for index in found] == sorted(points[index] for index in found)


@pytest.mark.slow
def test_names_are_not_parsed_as_formulas(tmp_path):
    sweep = CraftedSweep(tmp_path)
    sweep.job("a", choices={**sweep.config()["choices"], "distillation": "a/$x_1$"})
    sweep.job("b", distillation__temperature=2.0, choices={**sweep.config()["choices"], "distillation": "a/$x_1$"})
    pictures = drawn(sweep)
    assert "line_a__x_1_" in pictures and "a/$x_1$" in words(pictures["line_a__x_1_"])


@pytest.mark.slow
def test_the_table_alone_needs_no_matplotlib():
    code = "import sys, kdexp.commands.report; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("validation", [None, 0.5])
def test_curves_are_of_validation_or_training_accuracy(tmp_path, validation):
    sweep = CraftedSweep(tmp_path)
    for seed in (0, 1):
        sweep.job(f"seed={seed}", seed=seed, validation=validation)
    text = words(drawn(sweep)["curves"])
    assert ("training accuracy, %" if validation is None else "validation accuracy, %") in text


def test_long_labels_need_more_room_than_short_ones():
    places = [11.34, 11.49, 12.54]  # logarithms of 83,892, 97,460 and 278,324 parameters
    assert apart(places, 3) and not apart(places, len("278,324"))
    assert apart([11.34, 12.0, 12.54], len("278,324")) and apart([1.0], 9)
