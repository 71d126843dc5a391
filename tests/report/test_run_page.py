"""report.html of a single run."""

import base64
import io
import re

import numpy as np
import pytest
import torch
from experiments import SHORT, compose_command
from pages import Page
from PIL import Image
from rich.console import Console

from kdexp.commands import run as command
from kdexp.commands.run import run
from kdexp.configuration.nodes import build
from kdexp.errors import CorruptEntry, ImageLost
from kdexp.page.marks import BASELINE, TEACHER, marks
from kdexp.report.origin import dataset_name, outcome
from kdexp.report.page import _right_alone, write_page
from kdexp.report.page_answers import Answers, accuracy_by_class, confused_pairs, decisive_images
from kdexp.report.page_table import page_table
from kdexp.report.rows import Row
from kdexp.report.table import columns_for, percent
from kdexp.text.glossary import RUNS

SIZES = {"teacher": "wide", "baseline": "small", "distilled": "small"}
LABELS = torch.tensor([0, 0, 1, 1, 2])


def answering(*said):
    """Logits [N, K] that answer these classes."""
    return torch.eye(3)[list(said)]


def answers(distilled=(0, 0, 1, 2, 2), baseline=(0, 1, 1, 1, 0), **others):
    found = {"teacher": answering(0, 0, 1, 1, 2), "baseline": answering(*baseline), "distilled": answering(*distilled)}
    looks = {"teacher": TEACHER, "baseline": BASELINE, **marks(["kd"])}
    return Answers(found | others, LABELS, {role: looks.get(role, looks["kd"]) for role in found}, ["<ape>", "bee", "cat"])


def test_accuracy_on_every_class():
    page = Page(accuracy_by_class(answers()))
    tips = [told["data-tip"] for _, told in page.tags if "data-tip" in told]
    assert tips == [
        "<ape>: 2 test images\nteacher: 100.00 %\nbaseline: 50.00 %\ndistilled: 100.00 %",
        "bee: 2 test images\nteacher: 100.00 %\nbaseline: 100.00 %\ndistilled: 50.00 %",
        "cat: 1 test image\nteacher: 100.00 %\nbaseline: 0.00 %\ndistilled: 100.00 %",
    ]
    assert [text for text in page.all("span") if text[0] in "+−"] == ["+50.0", "−50.0", "+100.0"]


def test_of_many_classes_those_that_changed_are_drawn():
    labels = torch.arange(40)
    theirs = torch.eye(40)
    ours = theirs.clone()
    ours[35] = theirs[0]
    found = Answers(
        {"baseline": theirs, "distilled": ours}, labels, {"baseline": BASELINE, "distilled": TEACHER}, [f"c{k}" for k in labels]
    )
    html = accuracy_by_class(found)
    assert html.count("data-tip") == 20 and "c35: 1 test image" in html
    assert "on the 20 of 40 classes on which distillation changed most" in html


def test_the_pairs_that_the_student_confuses():
    (html,) = confused_pairs(answers(distilled=(1, 1, 0, 2, 2)))
    page = Page(html)
    assert [text for text in page.all("th") if " and " in text] == ["<ape> and bee", "bee and cat"]
    assert page.all("td") == ["0", "1", "3", "0", "0", "1"]


def test_nothing_is_said_of_a_student_that_confuses_nothing():
    assert list(confused_pairs(answers(distilled=LABELS.tolist()))) == []


def test_images_that_only_one_of_the_two_has_right():
    class Data:
        mean, std = [0.5], [0.25]

        class test:
            labels = LABELS

            @staticmethod
            def images(rows, _):
                return (rows.float().view(-1, 1, 1, 1).expand(-1, 1, 4, 4) / 10 - 0.5) / 0.25

    html = "".join(decisive_images(answers(), Data))
    assert "Right only with distillation: 2 test images." in html and "Right only without distillation: one test image." in html
    told = [re.sub(r"<[^>]*>", " ", each).split() for each in re.findall(r"<figcaption>(.*?)</figcaption>", html)]
    assert told[-1] == ["bee", "baseline:", "bee", "distilled:", "cat"]
    assert sorted(each[0] for each in told[:2]) == ["&lt;ape&gt;", "cat"]


@pytest.mark.parametrize(
    ("points", "words"),
    [(1.234, "1.23 points more than"), (-0.5, "0.50 points less than"), (0.0, "as much as"), (0.004, "as much as")],
)
def test_the_outcome_in_words(points, words):
    assert f"reaches 90.00 % on the test images, {words} its baseline, the same student" in outcome(
        "KD", "net", "90.00", points
    )


def test_nothing_is_counted_where_both_are_right_on_the_same_images():
    assert _right_alone(answers(baseline=(0, 0, 1, 1, 0), distilled=(0, 0, 1, 1, 1))) == "Both are right on the same images"
    assert _right_alone(answers()).startswith(
        "Only the distilled one is right on 2 test images, only the baseline on 1 (p = 1, "
    )


@pytest.mark.parametrize("quantised", [False, True])
def test_the_size_stays_in_sight_next_to_a_quantised_student(quantised):
    rows = [Row(role, "net", "kd", "key") for role in ("distilled", *["int8"] * quantised)]
    assert {column.heading: column.always for column in columns_for(rows)}["MB"] == quantised


@pytest.mark.parametrize(("students", "spare"), [(("small", "small"), True), (("small", "tiny"), False)])
def test_a_narrow_screen_may_leave_out_the_models_that_roles_tell(students, spare):
    rows = [Row("teacher", "big", "CE", "key"), *(Row("baseline", student, "CE", "key") for student in students)]
    table, _ = page_table(rows, columns_for(rows), "rows", RUNS)
    heading = re.search(r"<th ([^>]*)><button type=\"button\">model<", table)[1]
    assert ('data-rank="2"' in heading) == spare


@pytest.fixture
def finished(tmp_path):
    """Runs a short command; returns its folder and what it printed."""

    def make(*overrides):
        screen = io.StringIO()
        run(compose_command([f"output_dir={tmp_path}", *SHORT, *overrides]), overrides, Console(file=screen, width=300))
        (folder,) = (tmp_path / "runs").iterdir()
        return folder, screen.getvalue()

    return make


@pytest.mark.parametrize(
    ("option", "node", "name"),
    [
        ("digits", {}, "digits"),
        ("cifar10", {"root": "data"}, "cifar10"),
        ("image_folder", {"root": "data/flowers/"}, "flowers (image_folder)"),
        ("image_folder", {"root": "."}, "image_folder"),
    ],
)
def test_an_image_folder_is_called_by_its_own_name(option, node, name):
    assert dataset_name({"choices": {"dataset": option}, "dataset": node}) == name


@pytest.mark.slow
def test_the_page_of_a_run_has_the_numbers_of_its_table(finished, monkeypatch):
    rows = []
    monkeypatch.setattr(command, "write_page", lambda *given: (rows.extend(given[1]), write_page(*given)))
    folder, _ = finished("controls=[label_smoothing]", "diagnosis=always", "seed=4")
    html = (folder / "report.html").read_text()
    page = Page(html)
    assert re.fullmatch(r"digits: mlp_wide → mlp_small \(shortened\), seed 4, \d+ \w+ 20\d\d", *page.all("title"))
    assert [row.role for row in rows] == ["teacher", "baseline", "distilled", "label_smoothing"]
    assert all(percent(row.test_top1) in page.all("td") for row in rows)
    assert percent(rows[2].test_top1) in page.of_class("lead") and "over 797 test images" in page.of_class("lead")
    assert "kdexp 'controls=[label_smoothing]' diagnosis=always seed=4" in page.all("code")
    assert len([tag for tag, _ in page.tags if tag == "img"]) <= 16
    assert html.index('class="lead"') < html.index('class="differences"') < html.index('class="plot"')
    keys = {row.role: row.key for row in rows}
    assert all(f"{role} mlp_{size}, {keys[role]} in the store: trained" in html for role, size in SIZES.items())
    assert "Test accuracy on 797 images after the last epoch" in html and page.all("pre")[0].count("\n") > 50


@pytest.mark.slow
def test_images_on_the_page_are_those_of_the_data_set(finished):
    folder, _ = finished()
    _, test = build(compose_command([])["dataset"]).read()
    known = {image.numpy().tobytes() for image in test.images}
    page = Page((folder / "report.html").read_text())
    images = [told["src"] for tag, told in page.tags if tag == "img"]
    assert images
    for source in images:
        with Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) as image:
            assert np.asarray(image).tobytes() in known


@pytest.mark.slow
@pytest.mark.parametrize("error", [CorruptEntry("the logits are damaged"), ImageLost("a.png can't be read any more")])
def test_what_the_page_lacks_does_not_fail_the_run(finished, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(command, "write_page", fail)
    folder, printed = finished()
    assert f"no report.html: {error}" in printed and '"finished"' in (folder / "status.json").read_text()
