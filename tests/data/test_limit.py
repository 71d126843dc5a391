"""`dataset.limit`: fewer training images, for teacher and students alike."""

import torch
from experiments import said
from folders import SMALL, write_classes
from hypothesis import given
from hypothesis import strategies as st

from kdexp.data.draws import allot, draw_by_class


@given(st.data(), st.lists(st.integers(0, 200), min_size=1, max_size=8).filter(any))
def test_every_class_gets_its_share_and_at_least_one(data, counts):
    total = data.draw(st.integers(sum(map(bool, counts)), sum(counts)))
    allotted = allot(total, counts)
    assert sum(allotted) == total
    assert all(min(count, 1) <= number <= count for number, count in zip(allotted, counts, strict=True))
    quotas = [total * count / sum(counts) for count in counts]
    if min((quota for quota in quotas if quota), default=1) >= 1:
        assert all(abs(number - quota) < 1 for number, quota in zip(allotted, quotas, strict=True))


def test_fewer_images_are_among_more_images():
    labels = torch.arange(60) % 3
    few, more = (draw_by_class(labels, [number] * 3, seed=5) for number in (4, 9))
    assert few.sum() == 12 and bool((few <= more).all())


def test_teacher_and_students_see_fewer_images_and_evaluation_sees_all(make_experiment):
    whole, limited = (make_experiment(f"dataset.limit={limit}", "dataset.student_fraction=0.5").data for limit in ("null", 200))
    assert len(limited.train) == 200 and len(limited.student_train) == 100
    assert limited.train.labels.bincount().tolist() == [20] * 10
    assert torch.equal(limited.validation.labels, whole.validation.labels) and len(limited.test) == len(whole.test)
    assert (limited.fingerprint, limited.mean, limited.std) == (whole.fingerprint, whole.mean, whole.std)


def test_only_a_limit_that_is_set_is_part_of_the_key(make_experiment):
    specs = {limit: make_experiment(f"dataset.limit={limit}").spec("teacher") for limit in ("null", 200, 300)}
    assert "limit" not in specs["null"].data and specs[200].data["limit"] == 200
    assert len({spec.key for spec in specs.values()}) == 3


def test_images_are_measured_and_counted_as_they_are_used(make_experiment, tmp_path):
    for part, name, images in (("train", "cat", 4), ("train", "dog", 12), ("test", "cat", 2), ("test", "dog", 2)):
        write_classes(tmp_path / "photos" / part, [name], images)
    words = (*SMALL, "dataset=image_folder", f"dataset.root={tmp_path}/photos", "dataset.limit=8")
    experiment = make_experiment(*words)
    assert experiment.data.train.labels.bincount().tolist() == [2, 6]
    text = " ".join(said(experiment).split())
    assert "8 of 12 training, 4 validation and 4 test images" in text and "measured on 12 images" in text
    dry = make_experiment(*words, "dry_run=true")
    assert (dry.unread.images, dry.unread.measured) == (8, 12)


def test_a_dry_run_refuses_a_limit_that_its_images_cannot_have(here, make_experiment, tmp_path):
    _ = make_experiment().data  # notes the images in the store
    code, printed = here("dataset.limit=901", f"output_dir={tmp_path}", "dry_run=true")
    assert code == 2 and "dataset.limit=901 is more than the 900 training images" in printed.err
