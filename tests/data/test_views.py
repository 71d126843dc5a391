"""The named views of a batch: what each shows, and that the draws of one never depend on another."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from kdexp.data.batch import Batch
from kdexp.data.preprocessing import Preprocessing
from kdexp.data.views import MIXED, PLAIN, STRONG, STRONG2, VIEWS, WEAK, WEAK2, folded, mixed

OTHERS = tuple(view for view in VIEWS if view != WEAK)
CROPS = ["dataset.crop_padding=1", "dataset.resized_crop=[0.4,1.0]"]
POLICY = "strong@dataset.strong_view=geometric"


def split_of(make_experiment, *words):
    return make_experiment(POLICY, *words).data.student_train


def batches(split, views, **more):
    return list(split.batches(32, seed=3, epoch=2, views=views, **more))


@pytest.mark.parametrize("crop", CROPS)
def test_each_view_shows_what_its_name_says(make_experiment, crop):
    split = split_of(make_experiment, crop)
    for batch in batches(split, OTHERS):
        assert batch.seen(WEAK) is batch.image
        assert torch.equal(batch.seen(PLAIN), split.images(batch.index, None))
        assert torch.equal(batch.seen(MIXED), mixed(batch.image, batch.share))
        for view in (WEAK2, STRONG, STRONG2):
            different = (batch.seen(view) != batch.image).flatten(1).any(1)
            assert different.float().mean() > 0.5, "another draw for most images"
        assert (batch.seen(STRONG) != batch.seen(STRONG2)).flatten(1).any(1).float().mean() > 0.9


@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("views", [(PLAIN,), (WEAK2,), (STRONG,), (STRONG2,), (MIXED,), OTHERS])
def test_no_draw_depends_on_which_views_are_read(make_experiment, crop, views):
    split = split_of(make_experiment, crop)
    for ours, usual, everything in zip(batches(split, views), batches(split, ()), batches(split, OTHERS), strict=True):
        assert torch.equal(ours.image, usual.image) and torch.equal(ours.index, usual.index)
        assert ours.views.keys() == set(views) and not usual.views and usual.share is None
        assert all(torch.equal(images, everything.views[view]) for view, images in ours.views.items())


def test_every_step_of_every_epoch_and_seed_has_its_own_share(make_experiment):
    split = split_of(make_experiment)
    draws = [
        [batch.share.item() for batch in split.batches(8, seed=s, epoch=e, views=(MIXED,))] for s, e in ((0, 0), (0, 1), (1, 0))
    ]
    shares = [share for drawn in draws for share in drawn]
    assert len(set(shares)) == len(shares) == 3 * split.steps(8)
    assert draws[0] == [batch.share.item() for batch in split.batches(8, seed=0, epoch=0, views=(MIXED,))], (
        "and drawn again, the same"
    )
    assert min(shares) >= 0.5 and max(shares) <= 1 and max(shares) - min(shares) > 0.3


@pytest.mark.parametrize("crop", CROPS)
def test_images_in_ram_give_the_views_of_images_on_the_device(make_experiment, crop):
    resident, other = (split_of(make_experiment, crop, f"memory={where}") for where in ("device", "ram"))
    assert resident.pixels.resident and not other.pixels.resident
    for ours, theirs in zip(batches(resident, OTHERS), batches(other, OTHERS), strict=True):
        assert all(torch.equal(ours.seen(view), theirs.seen(view)) for view in VIEWS)


def test_a_batch_of_one_part_of_an_epoch_is_that_of_the_epochs_batches(make_experiment):
    split = split_of(make_experiment, CROPS[0])
    images = split.epoch(3, 2, None, OTHERS)
    positions = torch.arange(32, 64)
    one, other = split.batch(images.at(positions)), batches(split, OTHERS)[1]
    assert all(torch.equal(one.seen(view), other.seen(view)) for view in VIEWS) and torch.equal(one.share, other.share)


@given(st.integers(1, 6), st.floats(0, 1), st.integers(0, 99))
def test_mixup_keeps_sums_and_bounds_and_is_linear(count, share, seed):
    images = torch.rand(count, 2, 3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    share = folded(torch.tensor([share], dtype=torch.float64))
    found = mixed(images, share)
    assert 0.5 <= share <= 1
    assert_close(found.sum(0), images.sum(0))  # each image is the partner of one other
    assert found.min() >= images.min() - 1e-12 and found.max() <= images.max() + 1e-12
    assert_close(mixed(2 * images + 1, share), 2 * found + 1)
    assert_close(found[0], share * images[0] + (1 - share) * images[-1])


@given(st.floats(0, 1))
def test_folding_is_idempotent_and_symmetric(share):
    share = torch.tensor([share], dtype=torch.float64)
    assert_close(folded(folded(share)), folded(share))
    assert_close(folded(1 - share), folded(share))


@given(st.integers(1, 5), st.floats(0.5, 1))
def test_the_loss_of_mixed_labels_is_that_of_the_mixed_targets(count, share):
    generator = torch.Generator().manual_seed(count)
    logits = torch.randn(count, 4, generator=generator, dtype=torch.float64)
    label, share = torch.arange(count) % 4, torch.tensor([share], dtype=torch.float64)
    batch = Batch(logits, label, label, views={MIXED: logits}, share=share)
    targets = torch.nn.functional.one_hot(label, 4).double()
    cross_entropy = torch.nn.functional.cross_entropy
    loss = batch.as_seen(MIXED).label_loss(lambda labels: cross_entropy(logits, labels))
    assert loss.shape == ()
    assert_close(loss, cross_entropy(logits, share * targets + (1 - share) * targets.roll(1, 0)))
    assert torch.equal(batch.label_loss(lambda labels: cross_entropy(logits, labels)), cross_entropy(logits, label))


@pytest.mark.parametrize("words", [["dataset.resized_crop=[0.4,1.0]"], []], ids=["crops", "as they are"])
def test_other_images_are_made_like_the_sets_own(make_experiment, words):
    """Folders store images with a margin for crops; sets of fixed size do not."""
    steps = Preprocessing.of(make_experiment(*words).spec("distilled").data)
    assert (steps.resize, steps.crop) == (8, 8)


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("own", [(), ("strong@dataset.strong=fixmatch",), ("strong@dataset.strong=torchssl",)])
@pytest.mark.parametrize("crop", [("dataset.crop_padding=1",), ("dataset.crop_padding=1", "dataset.crop_mode=reflect"), ()])
def test_a_policy_of_strong_views_changes_no_other_view(make_experiment, own, crop, before):
    """Whether RandAugment acts before or after crops decides how images are stored, for all views."""
    words, views = (*own, *crop), (PLAIN, WEAK2)
    usual = make_experiment(*words).data.student_train
    split = split_of(make_experiment, f"dataset.strong_view.before_crop={before}", *words)
    assert split.strong is not None and split.views == usual.views
    for ours, theirs in zip(batches(split, (*views, STRONG)), batches(usual, views), strict=True):
        assert torch.equal(ours.image, theirs.image)
        assert all(torch.equal(ours.seen(view), theirs.seen(view)) for view in views)


def test_strong_views_are_those_of_the_policy_on_a_crop(make_experiment):
    """Without operations other than a cutout of everything, an image is black wherever it was."""
    black = ["dataset.strong_view.draws=0", "dataset.strong_view.cutout.between=[1.0,1.0]", "dataset.crop_padding=1"]
    split = split_of(make_experiment, *black)
    batch = batches(split, (STRONG,))[0]
    covered = split.scaled(batch.seen(STRONG)) == 0
    assert covered.float().mean() > 0.75 > (split.scaled(batch.image) == 0).float().mean()
