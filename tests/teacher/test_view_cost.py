"""On CUDA a teacher of augmented images runs in the step or fills a table, whichever is measured to be quicker."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loops import fresh

from kdexp.experiment.journal import lookup_words
from kdexp.teacher import lookup, view_cost
from kdexp.teacher.cache import OutputCache
from kdexp.teacher.lookup import LookupSource, choose_lookup
from kdexp.teacher.output_table import LOGITS
from kdexp.teacher.view_cost import BATCHES, ViewCosts, new_share

WORDS = ("batch_size=8", "dataset.crop_padding=1", "dataset.flip=true", "distillation=kd")
"""18 views of 90 images."""


@pytest.fixture
def school(make_experiment):
    """A teacher as if on CUDA, its images, and where its outputs may be found."""
    experiment = make_experiment(*WORDS)
    _, teacher = fresh(experiment, "distilled")
    teacher.precision = replace(teacher.precision, device=torch.device("cuda"))
    return teacher, experiment.data.student_train, LookupSource("key", OutputCache(), None)


@pytest.fixture
def clock(monkeypatch):
    """Has the measured works take these seconds, one after the other."""

    def set_to(*seconds):
        left = list(seconds)
        monkeypatch.setattr(view_cost, "seconds_of", lambda work, device: [work(), left.pop(0)][1])

    return set_to


@pytest.fixture
def uncast(school, monkeypatch):
    """Runs the teacher on the CPU although its precision says CUDA."""
    teacher = school[0]
    ask, real = teacher.ask, teacher.precision
    cpu = replace(real, device=torch.device("cpu"))

    def ask_on_cpu(image):
        teacher.precision = cpu
        try:
            return ask(image)
        finally:
            teacher.precision = real

    monkeypatch.setattr(teacher, "ask", ask_on_cpu)


def chosen(school, epochs=10):
    return choose_lookup(*school, epochs)


def test_a_table_that_is_quicker_is_chosen_with_both_figures(school, uncast, clock):
    clock(8 * 0.002, 8 * 0.0015, 8 * 0.0001)
    found = chosen(school, epochs=200)
    assert found.kind == "views" and found.table is not None
    share = new_share(18, 200)
    expected = 1000 * (share * 0.0015 + (1 - share) * 0.0001)
    assert lookup_words(found, 90, full_epochs=True).startswith(
        f"teacher's outputs: computed once per view, since each image has 18 views and a batch takes 2 ms in the step, "
        f"{expected:.3g} ms with a table of views (logits"
    )
    assert found.table.missing_share(LOGITS) == pytest.approx(1 - 8 * BATCHES / (18 * 90)), "what was measured is not lost"


def test_a_teacher_that_is_quicker_in_the_step_gives_its_table_back(school, uncast, clock):
    clock(8 * 0.0002, 8 * 0.0015, 8 * 0.0003)
    found = chosen(school)
    assert found.kind == "live" and found.table is None
    assert school[2].cache.find("key", []) is None
    words = lookup_words(found, 90, full_epochs=True)
    assert words.startswith("teacher: runs on every batch, since a batch takes 0.2 ms in the step, ")


def test_views_that_an_earlier_job_computed_count_as_known(school, uncast, clock):
    teacher, split, _ = school
    clock(80.0, 16.0, 8.0)
    first = chosen(school)
    for epoch in range(60):  # nearly all views have been shown then
        first.table.compute_missing(split, split.epoch(0, epoch), [LOGITS], teacher.ask, 8)
    missing = first.table.missing_share(LOGITS)
    clock(8.0, 1.6, 1.6)
    assert missing < 0.05
    costs = view_cost.measure(teacher, split, first.table, epochs=10)
    share = new_share(18, 10, missing)
    assert costs.live == 1.0 and costs.table == pytest.approx(share * 1.0 + (1 - share) * 0.2)


@pytest.mark.parametrize("epochs", [0, 10])
def test_nothing_is_measured_on_a_cpu_or_without_epochs(make_experiment, monkeypatch, epochs):
    def measured(*_):
        raise AssertionError("measured")

    monkeypatch.setattr(lookup, "measure", measured)
    experiment = make_experiment(*WORDS)
    _, teacher = fresh(experiment, "distilled")
    found = choose_lookup(teacher, experiment.data.student_train, LookupSource("key", OutputCache(), None), epochs)
    assert found.kind == "views" and found.reason == "each image has 18 views"


def test_a_recorded_step_replays_the_teacher_unless_it_can_not_be_recorded(school, uncast, monkeypatch):
    teacher, split, _ = school
    teacher.precision = replace(teacher.precision, graph=True)
    image, recorded = split.images(torch.arange(8), torch.zeros(8, dtype=torch.long)), []
    monkeypatch.setattr(view_cost, "record_graph", lambda work, generators: recorded.append(work) or "replay")
    assert view_cost._in_a_step(teacher, split, image) == "replay" and len(recorded) == 1

    def refuses(work, generators):
        raise RuntimeError("can't be recorded")

    monkeypatch.setattr(view_cost, "record_graph", refuses)
    assert view_cost._in_a_step(teacher, split, image)().logits.shape == (8, 10)


@settings(max_examples=50)
@given(st.integers(2, 200), st.integers(1, 300))
def test_the_share_of_new_views_is_the_expected_one(views, epochs):
    unseen, drawn = 1.0, 0.0
    for _ in range(epochs):
        drawn += unseen
        unseen *= 1 - 1 / views
    assert new_share(views, epochs) == pytest.approx(drawn / epochs)
    assert 0 < new_share(views, epochs) <= 1 + 1e-12


def test_costs_are_said_with_three_digits():
    assert str(ViewCosts(0.00041234, 0.0009)) == "a batch takes 0.412 ms in the step, 0.9 ms with a table of views"
