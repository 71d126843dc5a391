"""`dataset.labels`: few labelled images, served again and again, and all images without labels beside them."""

import pytest
import torch
from experiments import COMPOSER
from hypothesis import given
from hypothesis import strategies as st

from kdexp.data.draws import in_turn
from kdexp.data.epoch import UnlabelledViews
from kdexp.data.views import PLAIN, STRONG, WEAK, WEAK2
from kdexp.validation.validator import Validator

FEW = ("dataset.labels=40", "dataset.student_fraction=1", "strong@dataset.strong_view=geometric", "dataset.crop_padding=1")
BOTH = UnlabelledViews((WEAK, STRONG), 3)


def split_of(make_experiment, *words):
    return make_experiment(*FEW, *words).data.train


def batches(split, seed=3, epoch=2, size=32, **more):
    return list(split.batches(size, seed=seed, epoch=epoch, **more))


def pixels(split, index):
    return split.images(index, None)


@given(st.data(), st.lists(st.integers(0, 50), min_size=1, max_size=8).filter(any))
def test_classes_have_as_many_labels_as_each_other_as_far_as_they_can(data, counts):
    total = data.draw(st.integers(0, sum(counts)))
    allotted = in_turn(total, counts)
    assert sum(allotted) == total and all(0 <= number <= count for number, count in zip(allotted, counts, strict=True))
    open_ones = [number for number, count in zip(allotted, counts, strict=True) if number < count]
    assert all(number >= max(allotted) - 1 for number in open_ones), "no class has two more than one that has images left"
    assert open_ones == sorted(open_ones, reverse=True), "the rest goes to the first ones"


def test_labels_are_drawn_by_their_seed_from_what_validation_and_the_limit_leave(make_experiment):
    data = make_experiment(*FEW, "dataset.limit=200").data
    assert data.train is data.student_train and len(data.train) == 40 and data.train.unlabelled_images == 200
    assert data.train.labels.bincount().tolist() == [4] * 10
    again, other = (make_experiment(*FEW, "dataset.limit=200", f"dataset.label_seed={seed}").data.train for seed in (0, 1))
    ours = pixels(data.train, torch.arange(40))
    assert torch.equal(ours, pixels(again, torch.arange(40)))
    assert not torch.equal(ours, pixels(other, torch.arange(40)))
    whole = make_experiment("dataset.student_fraction=1", "dataset.limit=200").data.train
    everything = pixels(whole, torch.arange(200)).flatten(1)
    found = [(everything == image).all(1).nonzero().flatten().tolist() for image in ours.flatten(1)]
    assert all(len(rows) == 1 for rows in found)
    assert torch.equal(whole.labels[torch.tensor(found).flatten()], data.train.labels)


def test_an_epoch_has_the_steps_of_all_images_in_full_batches_of_whole_permutations(make_experiment):
    split = split_of(make_experiment)
    found = batches(split)
    assert len(found) == split.steps(32) == 29 and all(len(batch.index) == 32 for batch in found)
    rows = torch.cat([batch.index for batch in found])
    for once in rows[: len(rows) // 40 * 40].split(40):
        assert once.unique().tolist() == list(range(40))
    assert torch.equal(split.labels[rows], torch.cat([batch.label for batch in found]))
    assert len({tuple(once.tolist()) for once in rows.split(40)}) == 29 * 32 // 40 + 1, "another order every time"
    assert not torch.equal(rows, torch.cat([batch.index for batch in batches(split, epoch=3)]))
    limited = batches(split, limit=2)
    assert len(limited) == 2 and torch.equal(torch.cat([batch.index for batch in limited])[:40].sort().values, torch.arange(40))


def test_one_pass_over_all_images_is_that_of_images_that_all_have_labels(make_experiment):
    ours, theirs = (make_experiment(*FEW, f"dataset.labels={labels}", "dataset.limit=320").data for labels in ("320", "null"))
    assert torch.equal(ours.train.labels, theirs.train.labels)
    for mine, other in zip(batches(ours.train), batches(theirs.train), strict=True):
        assert torch.equal(mine.index, other.index) and torch.equal(mine.image, other.image)


def test_no_labelled_draw_depends_on_unlabelled_images(make_experiment):
    split = split_of(make_experiment)
    for views in ((), (WEAK2,), (STRONG,)):
        for ours, theirs in zip(batches(split, views=views), batches(split, views=views, unlabelled=BOTH), strict=True):
            assert torch.equal(ours.image, theirs.image) and torch.equal(ours.index, theirs.index)
            assert all(torch.equal(ours.seen(view), theirs.seen(view)) for view in views)
            assert ours.unlabelled is None and theirs.unlabelled is not None


def test_unlabelled_images_are_all_images_in_the_views_that_are_read(make_experiment):
    split = split_of(make_experiment)
    found = [batch.unlabelled for batch in batches(split, unlabelled=UnlabelledViews((PLAIN, WEAK, STRONG), 3))]
    index = torch.cat([part.index for part in found])
    assert len(index) == 29 * 96 and index[:900].unique().tolist() == list(range(900)), "each once before any twice"
    whole = make_experiment(*FEW, "dataset.labels=null").data.train
    for part in found:
        assert torch.equal(part.views[PLAIN], pixels(whole, part.index))
        assert (part.views[WEAK] != part.views[PLAIN]).flatten(1).any(1).float().mean() > 0.5
        assert (part.views[STRONG] != part.views[WEAK]).flatten(1).any(1).float().mean() > 0.9
    for ours, theirs in zip(found, batches(split, unlabelled=UnlabelledViews((STRONG,), 3)), strict=True):
        assert torch.equal(ours.views[STRONG], theirs.unlabelled.views[STRONG]), "whatever else is read"


def test_images_are_stored_once(make_experiment):
    data = make_experiment(*FEW).data
    stored = data.all_labels.pixels.images
    assert data.train.pixels.whole.images is stored and stored.dtype == torch.uint8 and len(stored) == 900


@pytest.mark.parametrize("memory", ["ram"])
def test_batches_of_images_in_ram_are_those_of_images_on_the_device(make_experiment, monkeypatch, memory):
    monkeypatch.setattr("kdexp.data.pixels.BLOCK_BYTES", 64 * 200)  # several blocks
    ours, theirs = split_of(make_experiment), split_of(make_experiment, f"memory={memory}")
    assert theirs.pixels.resident is False
    for mine, other in zip(batches(ours, unlabelled=BOTH), batches(theirs, unlabelled=BOTH), strict=True):
        assert torch.equal(mine.image, other.image) and torch.equal(mine.label, other.label)
        assert all(torch.equal(mine.unlabelled.views[view], other.unlabelled.views[view]) for view in BOTH.views)


def test_a_part_of_an_epoch_is_a_batch(make_experiment):
    """Recorded steps make batches from positions that the device counts."""
    split = split_of(make_experiment)
    images = split.epoch(3, 2, 29 * 32, (), BOTH)
    one, other = split.batch(images.at(torch.arange(32, 64))), batches(split, unlabelled=BOTH)[1]
    assert torch.equal(one.image, other.image) and torch.equal(one.unlabelled.index, other.unlabelled.index)
    assert torch.equal(one.unlabelled.views[STRONG], other.unlabelled.views[STRONG])
    kept = images.at(torch.arange(29 * 32))
    kept.copy_(split.epoch(3, 5, 29 * 32, (), BOTH))
    assert torch.equal(
        split.batch(kept.at(slice(32, 64))).unlabelled.index, batches(split, epoch=5, unlabelled=BOTH)[1].unlabelled.index
    )


def problems(*words):
    return [str(problem) for problem in Validator().problems(COMPOSER.compose(words))]


REFUSED = [
    (
        ["dataset.labels=40"],
        "dataset.labels=40: teacher and students learn from the same labels; add dataset.student_fraction=1",
    ),
    (["dataset.labels=0"], "dataset.labels=0: must be"),
    (["distillation=fixmatch"], "distillation: learns from images without labels, and here all have one; choose how many"),
    (
        ["distillation=fixmatch", *FEW[:2]],
        "distillation: reads strong views, and there is no RandAugment for these; strong@dataset.strong_view=fixmatch",
    ),
    (["distillation=fixmatch", *FEW[:2], "strong@dataset.strong_view=none"], "there is no RandAugment for these"),
    (["distillation.student_view=strong"], "distillation: reads strong views, and there is no RandAugment"),
    ([*FEW, "dataset.strong_view.draws=-1"], "dataset.strong_view.draws=-1: must be"),
]


@pytest.mark.parametrize(("words", "sentence"), REFUSED, ids=[" ".join(words) for words, _ in REFUSED])
def test_what_cannot_be_is_refused(words, sentence):
    assert any(sentence in problem for problem in problems(*words)), problems(*words)


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [(901, "dataset.labels=901 is more than the 900 training images"), (9, "less than one for each of the 10 classes")],
)
def test_numbers_that_the_images_do_not_allow_are_refused(here, tmp_path, labels, sentence):
    code, printed = here(*FEW, f"dataset.labels={labels}", f"output_dir={tmp_path}")
    assert code and sentence in " ".join(printed.err.split())
    assert "Traceback" not in printed.err


def test_accepted():
    assert problems("distillation=fixmatch", *FEW) == []
    assert problems("distillation=kd", "views=same", *FEW) == []
    assert problems("distillation=hint", "teacher=resnet14", "student=resnet8", "distillation.student_view=strong", *FEW) == []


def test_a_dry_run_names_the_policy_and_refuses_impossible_numbers(here, make_experiment, tmp_path):
    words = ("distillation=fixmatch", *FEW[:3], "~teacher", f"output_dir={tmp_path}", "dry_run=true")
    _ = make_experiment().data  # notes the images in the store
    code, printed = here(*words, columns=200)
    assert code == 0 and "options: distillation=fixmatch strong@dataset.strong_view=geometric" in printed.out
    assert "dataset.strong_view.draws" not in printed.out
    code, printed = here(*words, "dataset.labels=901")
    assert code == 2 and "dataset.labels=901 is more than the 900 training images" in " ".join(printed.err.split())


@pytest.mark.parametrize(
    ("word", "fix"),
    [
        ("dataset.num_labels=40", "dataset.labels"),
        ("dataset.strong_view=fixmatch", "strong@dataset.strong_view=OPTION"),
        ("strong_view=fixmatch", "strong@dataset.strong_view=OPTION"),
        ("strong@dataset.strong_view=fixmach", "fixmatch"),
    ],
)
def test_what_people_type_instead(refused, word, fix):
    assert fix in " ".join(refused(word).split())
