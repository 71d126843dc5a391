"""RandAugment as part of a data set: after or before crops, chosen by an option, part of a learner's key."""

import pytest
import torch
from experiments import compose_command

from kdexp.configuration.nodes import build
from kdexp.data.augmentation import NumberedViews, ResizedCrops, StrongViews
from kdexp.data.digits import Digits
from kdexp.data.randaugment.policy import RandAugment
from kdexp.data.split import Split
from kdexp.errors import InvalidArguments
from kdexp.experiment.obtain import obtain
from kdexp.sweep.axes import axis_values, varied
from kdexp.validation.validator import validate

GEOMETRIC = "strong@dataset.strong=geometric"
CPU = torch.device("cpu")
SHIFT = {
    "draws": 1,
    "probability": [1.0, 1.0],
    "operations": {"translate_x": {"values": [0.25]}},
    "cutout": None,
    "fill": [7],
    "cutout_fill": [0],
    "cutout_inclusive": False,
    "before_crop": False,
}
"""Every image two of eight pixels to the left."""


def dataset(*words):
    return build(compose_command(["dataset.val_fraction=0", *words])["dataset"])


def pixels():
    return torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8) * 3


def shifted(images):
    return torch.cat([images[..., 2:], torch.full_like(images[..., :2], 7)], 3)


def test_strong_views_are_crops_that_are_changed_further():
    weak = NumberedViews(8, 1, flip=True)
    strong = StrongViews(weak, RandAugment(**SHIFT))
    choice = strong.draw(50, torch.Generator().manual_seed(0))
    numbers = weak.draw(50, torch.Generator().manual_seed(0))
    assert torch.equal(choice[:, 0].long(), numbers)
    rows = torch.zeros(50, dtype=torch.long)
    assert torch.equal(
        strong.cut(strong.prepare(pixels()), rows, choice), shifted(weak.cut(weak.prepare(pixels()), rows, numbers))
    )


def test_operations_before_a_crop_see_the_whole_image():
    weak = NumberedViews(8, 1, border="reflect")
    strong = StrongViews(weak, RandAugment(**SHIFT | {"before_crop": True}))
    choice = strong.draw(50, torch.Generator().manual_seed(0))
    rows = torch.zeros(50, dtype=torch.long)
    expected = weak.cut(weak.prepare(shifted(pixels())), rows, choice[:, 0].long())
    assert torch.equal(strong.cut(strong.prepare(pixels()), rows, choice), expected)


@pytest.mark.parametrize("before_crop", [False, True])
def test_without_a_choice_images_are_unaugmented(before_crop):
    for weak in (NumberedViews(8, 2), NumberedViews(8), ResizedCrops(8, (0.3, 1.0), flip=True)):
        strong = StrongViews(weak, RandAugment(**SHIFT | {"before_crop": before_crop}))
        assert torch.equal(strong.cut(strong.prepare(pixels()), torch.tensor([0]), None), pixels())


@pytest.mark.parametrize("before_crop", [False, True])
def test_resized_crops_are_changed_as_bytes(before_crop):
    crops = ResizedCrops(8, (1.0, 1.0), flip=False)  # the whole image, up to its aspect ratio
    strong = StrongViews(crops, RandAugment(**SHIFT | {"before_crop": before_crop}))
    generator = torch.Generator().manual_seed(0)
    choice, maps = strong.draw(20, generator), crops.draw(20, torch.Generator().manual_seed(0))
    rows = torch.zeros(20, dtype=torch.long)
    first = shifted(pixels()) if before_crop else pixels()
    expected = crops.cut(first, rows, maps)
    expected = expected if before_crop else shifted(expected.round().to(torch.uint8))
    assert torch.equal(strong.cut(pixels(), rows, choice), expected)


def test_an_epoch_has_the_same_strong_views_in_batches_of_any_size():
    digits = dataset("strong@dataset.strong=geometric", "dataset.crop_padding=1")
    split = Split(digits.read()[0][torch.arange(40)], digits, CPU, augmented=True)
    whole, parts = (list(split.batches(size, seed=3, epoch=2)) for size in (40, 7))
    assert torch.equal(torch.cat([part.image for part in parts]), whole[0].image)
    assert split.views is None and whole[0].view is None
    plain = Split(digits.read()[0][torch.arange(40)], digits, CPU, augmented=False)
    assert not torch.equal(next(plain.in_order(40))[whole[0].index], whole[0].image)
    assert torch.equal(next(plain.in_order(40)), next(split.in_order(40)))


def test_only_a_strong_augmentation_that_does_something_is_part_of_the_key(make_experiment):
    def key(*words):
        return make_experiment(*words).spec("baseline").key

    usual = key()
    assert key("strong@dataset.strong=none") == usual
    others = [key(f"strong@dataset.strong={name}") for name in ("fixmatch", "usb", "torchssl")]
    others.append(key("strong@dataset.strong=usb", "dataset.strong.draws=2"))
    others.append(key("dataset.crop_padding=1"))
    others.append(key("dataset.crop_padding=1", "dataset.crop_mode=reflect"))
    assert len({usual, *others}) == 1 + len(others)


def test_images_of_other_than_one_or_three_channels_are_refused():
    class Two(Digits):
        in_channels = 2

    shared = {"val_fraction": 0.1, "split_seed": 0, "student_fraction": 1.0, "crop_padding": 0, "flip": False}
    strong = {"_target_": "kdexp.data.randaugment.policy.RandAugment", **SHIFT}
    with pytest.raises(InvalidArguments, match="^strong: works on images of 1 or 3 channels, not 2"):
        Two(mean=None, std=None, strong=strong, **shared)


def test_a_bad_list_is_refused_next_to_other_problems():
    config = compose_command(["strong@dataset.strong=fixmatch", "dataset.strong.draws=-1", "dataset.val_fraction=2"])
    found = {str(problem).partition(":")[0] for problem in validate(config)}
    assert found == {"dataset.strong.draws=-1", "dataset.val_fraction=2"}
    config = compose_command(["strong@dataset.strong=fixmatch", "dataset.strong._target_=kdexp.data.digits.Digits"])
    assert "must be a class derived from kdexp.data.randaugment.policy.RandAugment" in str(validate(config)[0])


@pytest.mark.parametrize(
    "word", ["strong=fixmatch", "dataset.strong=fixmatch", "augmentation=randaugment", "dataset.cutout=16"]
)
def test_who_guesses_the_setting_learns_its_name(refused, word):
    assert "is chosen with strong@dataset.strong=OPTION, such as fixmatch" in " ".join(refused(word).split())


def test_lists_are_one_column_of_a_sweep_and_their_numbers_only_within_one():
    def settings(*words):
        return "baseline", axis_values(compose_command(list(words)), "baseline")

    lists = [settings(f"strong@dataset.strong={name}") for name in ("none", "fixmatch", "usb")]
    assert varied([settings(), *lists]) == ["strong"]
    draws = [settings("strong@dataset.strong=usb", f"dataset.strong.draws={number}") for number in (1, 2)]
    assert varied(draws) == ["strong.draws"]
    assert varied([settings(), lists[0]]) == []


@pytest.mark.slow
def test_a_run_trains_on_strong_views_and_finds_the_learner_again(make_experiment):
    options = ("limit_batches=2", "epochs=2", "dataset.student_fraction=1.0")
    plain, strong = (obtain(make_experiment(*options, *words), ["baseline"]) for words in ((), (GEOMETRIC,)))
    assert plain[0].stored.result["history"] != strong[0].stored.result["history"]
    again = make_experiment(*options, GEOMETRIC)
    assert again.store.find(again.spec("baseline").key) is not None
