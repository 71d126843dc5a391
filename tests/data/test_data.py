import hashlib
import io
import re
import tarfile

import numpy as np
import pytest
import torch
from experiments import compose_command
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console
from torchvision import datasets, transforms
from torchvision.datasets.utils import extract_archive

from kdexp.commands.dry_run import preview
from kdexp.data import torchvision_sets
from kdexp.data.augmentation import NumberedViews
from kdexp.data.dataset import ImageDataset
from kdexp.data.digits import Digits
from kdexp.data.draws import stratified_draw
from kdexp.data.fingerprint import fingerprint
from kdexp.data.images import RawImages
from kdexp.data.load import load
from kdexp.data.split import Split
from kdexp.data.torchvision_sets import CIFAR10, CIFAR100, MNIST, FashionMNIST, extracting_safely
from kdexp.errors import DataUnavailable, InvalidArguments

CPU = torch.device("cpu")
MEAN, STD = [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]
COLOUR = {
    "val_fraction": 0.25,
    "split_seed": 0,
    "student_fraction": 1.0,
    "mean": MEAN,
    "std": STD,
    "crop_padding": 0,
    "flip": False,
}
GREY = COLOUR | {"mean": [0.5], "std": [0.5]}

few = settings(max_examples=25, deadline=None)


class Small(ImageDataset):
    """60 training and 8 test images of 3×4×4 in 5 uneven classes."""

    num_classes, in_channels, image_size = 5, 3, 4

    def read(self):
        generator = torch.Generator().manual_seed(7)
        pixels = torch.randint(256, (68, 3, 4, 4), generator=generator, dtype=torch.uint8)
        raw = RawImages(pixels, torch.tensor([0, 0, 0, 1, 1, 2, 3, 4, 4, 4] * 7)[:68])
        return raw[torch.arange(60)], raw[torch.arange(60, 68)]


class Numbered(Small):
    """A data set with the same labels, in which every pixel of training image i is i."""

    def read(self):
        train, test = super().read()
        return RawImages(torch.arange(60, dtype=torch.uint8).view(60, 1, 1, 1).expand(60, 3, 4, 4), train.labels), test


@pytest.fixture
def raw():
    return Small(**COLOUR).read()[0]


def small(**changed):
    return Small(**COLOUR | changed)


def numbers(split):
    """Returns the numbers of the images of `Numbered` in a split, in order."""
    return [round(float(value) * 255) for images in split.in_order(16) for value in images[:, 0, 0, 0]]


def numbered(**changed):
    return load(Numbered(**COLOUR | {"mean": [0.0] * 3, "std": [1.0] * 3} | changed), CPU)


def normalised_by_hand(pixels):
    """Normalises images, bit-equal to ToTensor and Normalize, as another test shows."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return (pixels.float() / 255 - mean) / std


BORDERS = {"black": {"constant_values": 0}, "reflect": {"mode": "reflect"}, "grey": {"constant_values": 128}}
"""How NumPy pads for each `crop_mode`."""


def view_by_hand(pixels, padding, flips, number, border="black"):
    """Returns a view of one uint8 image [C, H, W]: padded, crops numbered row by row, mirrored or not."""
    size, span = pixels.shape[1], 2 * padding + 1
    offset, mirrored = divmod(number, 2) if flips else (number, 0)
    top, left = divmod(offset, span)
    padded = np.pad(pixels.numpy(), ((0, 0), (padding, padding), (padding, padding)), **BORDERS[border])
    cropped = padded[:, top : top + size, left : left + size]
    return torch.from_numpy((cropped[:, :, ::-1] if mirrored else cropped).copy())


def epoch_of(split, batch_size=16, seed=0, epoch=0, limit=None):
    return list(split.batches(batch_size, seed=seed, epoch=epoch, limit=limit))


def rows_of(batches):
    return torch.cat([batch.index for batch in batches]).tolist()


def test_the_digits_are_1000_training_and_797_test_images_of_8x8():
    train, test = Digits(**GREY).read()
    assert train.images.shape == (1000, 1, 8, 8)
    assert test.images.shape == (797, 1, 8, 8)
    assert train.images.dtype == test.images.dtype == torch.uint8
    assert train.labels.dtype == test.labels.dtype == torch.int64
    assert len(train.labels) == 1000
    assert len(test.labels) == 797


def test_the_digits_use_the_whole_range_of_bytes():
    train, _ = Digits(**GREY).read()
    assert (int(train.images.min()), int(train.images.max())) == (0, 255)


def test_the_digits_for_training_are_100_of_each_class():
    train, test = (part.labels.bincount(minlength=10) for part in Digits(**GREY).read())
    assert train.tolist() == [100] * 10
    assert (train + test).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_no_digit_is_in_both_parts():
    train, test = ({image.numpy().tobytes() for image in part.images} for part in Digits(**GREY).read())
    assert len(train) == 1000
    assert not train & test


def test_the_digits_are_always_the_same():
    once, again = (fingerprint(*Digits(**GREY).read()) for _ in range(2))
    assert once == again == "1dca70032de1c0576f0b25ab333236c0a0984dced0bca7cdcc1c234bedac92ac"


@pytest.mark.parametrize("part", ["images", "labels"])
def test_a_fingerprint_notices_every_pixel_and_label(raw, part):
    before = fingerprint(raw)
    getattr(raw, part).view(-1)[-1] += 1
    assert fingerprint(raw) != before


def test_a_fingerprint_notices_order_and_shape(raw):
    turned = RawImages(raw.images.transpose(2, 3), raw.labels)
    flat = RawImages(raw.images.reshape(60, 3, 2, 8), raw.labels)
    backwards = raw[torch.arange(60).flip(0)]
    assert len({fingerprint(each) for each in (raw, turned, flat, backwards)}) == 4


@few
@given(st.lists(st.integers(0, 4), max_size=40), st.floats(0, 1), st.integers(0, 1000))
def test_a_draw_marks_the_rounded_fraction_of_every_class(labels, fraction, seed):
    labels = torch.tensor(labels, dtype=torch.long)
    mask = stratified_draw(labels, fraction, seed)
    assert mask.shape == labels.shape
    assert mask.dtype == torch.bool
    for label in range(5):
        assert int(mask[labels == label].sum()) == round(fraction * int((labels == label).sum()))


@few
@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.floats(0, 1), st.integers(0, 1000))
def test_a_draw_depends_on_its_seed_alone(labels, fraction, seed):
    torch.manual_seed(0)
    once = stratified_draw(torch.tensor(labels), fraction, seed)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    assert torch.equal(stratified_draw(torch.tensor(labels), fraction, seed), once)
    assert torch.equal(torch.get_rng_state(), state)


def test_another_seed_draws_others():
    labels = torch.zeros(100, dtype=torch.long)
    assert not torch.equal(stratified_draw(labels, 0.5, 0), stratified_draw(labels, 0.5, 1))


@pytest.mark.parametrize(("fraction", "drawn"), [(0.0, 0), (1.0, 60)])
def test_a_fraction_may_draw_everything_or_nothing(raw, fraction, drawn):
    assert int(stratified_draw(raw.labels, fraction, 3).sum()) == drawn


def test_the_split_depends_on_the_split_seed_alone():
    torch.manual_seed(0)
    plain = numbered(student_fraction=0.5)
    torch.manual_seed(1)
    changed = numbered(student_fraction=0.5, crop_padding=2, flip=True)
    other = numbered(student_fraction=0.5, split_seed=1)
    assert numbers(changed.validation) == numbers(plain.validation)
    assert numbers(changed.student_train) == numbers(plain.student_train)
    assert numbers(other.validation) != numbers(plain.validation)
    assert numbers(other.student_train) != numbers(plain.student_train)


def test_another_split_seed_draws_other_student_images_from_the_same_training_images():
    first, other = (numbered(val_fraction=0.0, student_fraction=0.5, split_seed=seed) for seed in (0, 1))
    assert numbers(first.train) == numbers(other.train)
    assert numbers(first.student_train) != numbers(other.student_train)


def test_fewer_images_for_the_student_do_not_move_the_validation_split():
    assert numbers(numbered(student_fraction=0.2).validation) == numbers(numbered().validation)


def test_validation_and_training_images_are_all_images_once():
    data = numbered()
    assert sorted(numbers(data.train) + numbers(data.validation)) == list(range(60))
    assert data.validation.labels.bincount().tolist() == [round(0.25 * n) for n in (18, 12, 6, 6, 18)]


def test_the_students_images_are_among_the_teachers_and_not_in_validation():
    data = numbered(student_fraction=0.5)
    student = set(numbers(data.student_train))
    assert student < set(numbers(data.train))
    assert not student & set(numbers(data.validation))
    kept = data.train.labels.bincount()
    assert data.student_train.labels.tolist() == [Small(**COLOUR).read()[0].labels[n].item() for n in sorted(student)]
    assert data.student_train.labels.bincount().tolist() == [round(0.5 * int(n)) for n in kept]


def test_a_student_that_sees_all_shares_the_teachers_images():
    data = numbered(student_fraction=1.0)
    assert data.student_train is data.train


def test_without_a_validation_fraction_there_is_no_validation_split():
    data = numbered(val_fraction=0.0)
    assert data.validation is None
    assert len(data.train) == 60


def test_only_training_images_are_augmented():
    data = load(small(crop_padding=1, flip=True, student_fraction=0.5), CPU)
    assert data.train.views == data.student_train.views == 18
    assert data.validation.views == data.test.views == 1


def test_loaded_data_carries_the_fingerprint_of_both_parts():
    assert load(small(), CPU).fingerprint == fingerprint(*small().read())


def test_normalised_images_are_bit_equal_to_torchvisions(raw):
    pipeline = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    expected = torch.stack([pipeline(Image.fromarray(image.permute(1, 2, 0).numpy())) for image in raw.images])
    split = Split(raw, small(), CPU, augmented=False)
    assert torch.equal(torch.cat(list(split.in_order(7))), expected)
    assert torch.equal(normalised_by_hand(raw.images), expected)


def test_grey_images_are_bit_equal_to_torchvisions():
    dataset = Digits(**GREY | {"mean": [0.3047], "std": [0.3758]})
    train, _ = dataset.read()
    train = train[torch.arange(50)]
    pipeline = transforms.Compose([transforms.ToTensor(), transforms.Normalize([0.3047], [0.3758])])
    expected = torch.stack([pipeline(Image.fromarray(image[0].numpy())) for image in train.images])
    (images,) = Split(train, dataset, CPU, augmented=False).in_order(50)
    assert torch.equal(images, expected)


@pytest.mark.parametrize("crop_padding", [0, 1])
def test_an_epoch_serves_every_row_exactly_once_with_its_image_and_label(raw, crop_padding):
    split = Split(raw, small(crop_padding=crop_padding), CPU, augmented=True)
    batches = epoch_of(split)
    assert sorted(rows_of(batches)) == list(range(60))
    assert rows_of(batches) != list(range(60))
    assert [len(batch.label) for batch in batches] == [16, 16, 16, 12]
    assert all(torch.equal(batch.label, raw.labels[batch.index]) for batch in batches)


def test_batches_without_augmentation_hold_the_plain_images(raw):
    split = Split(raw, small(), CPU, augmented=True)
    for batch in epoch_of(split):
        assert batch.view is None
        assert torch.equal(batch.image, normalised_by_hand(raw.images[batch.index]))


@few
@given(st.integers(0, 1000), st.integers(0, 300))
def test_order_and_views_depend_on_seed_and_epoch_alone(seed, epoch):
    split = Split(small().read()[0], small(crop_padding=1, flip=True), CPU, augmented=True)
    torch.manual_seed(0)
    once = epoch_of(split, seed=seed, epoch=epoch)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    again = epoch_of(split, batch_size=60, seed=seed, epoch=epoch)
    assert torch.equal(torch.get_rng_state(), state)
    assert rows_of(again) == rows_of(once)
    assert torch.cat([batch.view for batch in once]).tolist() == again[0].view.tolist()
    assert rows_of(epoch_of(split, seed=seed, epoch=epoch + 1)) != rows_of(once)
    assert rows_of(epoch_of(split, seed=seed + 1, epoch=epoch)) != rows_of(once)


@pytest.mark.parametrize(
    ("batch_size", "limit", "sizes"),
    [(16, None, [16, 16, 16, 12]), (16, 2, [16, 16]), (16, 9, [16, 16, 16, 12]), (30, None, [30, 30]), (100, None, [60])],
)
def test_steps_are_the_batches_of_an_epoch(raw, batch_size, limit, sizes):
    split = Split(raw, small(), CPU, augmented=True)
    assert [len(batch.index) for batch in epoch_of(split, batch_size, limit=limit)] == sizes
    assert split.steps(batch_size, limit) == len(sizes)


def test_a_limit_keeps_the_first_batches(raw):
    split = Split(raw, small(), CPU, augmented=True)
    assert rows_of(epoch_of(split, limit=2)) == rows_of(epoch_of(split))[:32]


@pytest.mark.parametrize(
    ("padding", "flips", "views"), [(0, False, 1), (0, True, 2), (1, False, 9), (1, True, 18), (4, False, 81), (4, True, 162)]
)
def test_padding_and_flipping_determine_the_number_of_views(raw, padding, flips, views):
    dataset = small(crop_padding=padding, flip=flips)
    split = Split(raw, dataset, CPU, augmented=True)
    assert split.views == views
    assert Split(raw, dataset, CPU, augmented=False).views == 1


@pytest.mark.parametrize(
    ("padding", "flips", "border"),
    [
        (0, True, "black"),
        (1, False, "black"),
        (1, True, "black"),
        (2, True, "reflect"),
        (3, False, "reflect"),
        (1, True, "grey"),
    ],
)
def test_every_numbered_view_is_the_padded_cropped_and_mirrored_image(raw, padding, flips, border):
    split = Split(raw, small(crop_padding=padding, flip=flips, crop_mode=border), CPU, augmented=True)
    seen = set()
    for epoch in range(8):
        for batch in epoch_of(split, batch_size=60, epoch=epoch):
            views = batch.view.tolist()
            pixels = [
                view_by_hand(raw.images[row], padding, flips, view, border)
                for row, view in zip(batch.index, views, strict=True)
            ]
            assert torch.equal(batch.image, normalised_by_hand(torch.stack(pixels)))
            seen |= set(views)
    assert seen == set(range(split.views))


def test_a_reflected_border_is_torchvisions():
    pixels = torch.arange(5 * 5, dtype=torch.uint8).view(1, 1, 5, 5)
    ours = NumberedViews(5, 2, border="reflect").prepare(pixels)
    assert torch.equal(ours, transforms.functional.pad(pixels, 2, padding_mode="reflect"))


def test_a_border_without_padding_or_wider_than_the_image_is_refused():
    with pytest.raises(InvalidArguments, match="crop_mode='reflect': is what crop_padding adds, and that is 0; set both"):
        small(crop_mode="reflect")
    with pytest.raises(InvalidArguments, match="crop_padding=4: must be less than 4, the size of the images, with crop_mode"):
        small(crop_mode="reflect", crop_padding=4)
    with pytest.raises(InvalidArguments, match="crop_mode='mirror': must be one of black, reflect, grey"):
        small(crop_mode="mirror", crop_padding=1)


def test_an_image_has_different_views_in_one_epoch_and_another(raw):
    split = Split(raw, small(crop_padding=2, flip=True), CPU, augmented=True)
    views = [torch.empty(60, dtype=torch.long) for _ in range(2)]
    for epoch, found in enumerate(views):
        for batch in epoch_of(split, epoch=epoch):
            found[batch.index] = batch.view
    assert (views[0] != views[1]).sum() > 30


@pytest.mark.parametrize(("padding", "flips"), [(0, False), (0, True), (1, False), (2, True)])
def test_images_in_order_are_the_originals_even_of_an_augmented_split(raw, padding, flips):
    split = Split(raw, small(crop_padding=padding, flip=flips), CPU, augmented=True)
    assert torch.equal(torch.cat(list(split.in_order(16))), normalised_by_hand(raw.images))


@pytest.mark.parametrize(("padding", "flips"), [(0, False), (1, False), (0, True), (1, True)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_images_have_the_requested_memory_format(raw, padding, flips, layout):
    split = Split(raw, small(crop_padding=padding, flip=flips), CPU, augmented=True, memory_format=layout)
    images = [*(batch.image for batch in epoch_of(split)), *split.in_order(16)]
    assert all(image.is_contiguous(memory_format=layout) for image in images)


@pytest.mark.parametrize("name", ["mean", "std"])
def test_normalisation_needs_one_entry_per_channel(name):
    with pytest.raises(InvalidArguments, match=rf"^{name}=\[0.5\]: must have 3 entries, one per channel$"):
        small(**{name: [0.5]})


@pytest.mark.parametrize(
    ("name", "value"), [("std", [1.0, 0.0, 1.0]), ("val_fraction", 1.0), ("student_fraction", 0.0), ("crop_padding", -1)]
)
def test_values_that_no_split_can_use_are_refused(name, value):
    with pytest.raises(InvalidArguments, match=f"^{name}="):
        small(**{name: value})


@pytest.mark.parametrize(
    ("family", "given", "folder"),
    [
        (MNIST, GREY, "MNIST/raw"),
        (FashionMNIST, GREY, "FashionMNIST/raw"),
        (CIFAR10, COLOUR, "cifar-10-batches-py"),
        (CIFAR100, COLOUR, "cifar-100-python"),
    ],
)
def test_a_folder_without_data_is_reported_with_a_fix(tmp_path, family, given, folder):
    dataset = family(**given, root=str(tmp_path), download=False)
    assert dataset.missing() == (
        f"no {family.__name__} in dataset.root={str(tmp_path)!r} (looked for {folder}/); "
        "add dataset.download=true, or dataset.root=FOLDER that holds it"
    )
    assert family(**given, root=str(tmp_path), download=True).missing() == ""
    (tmp_path / folder).mkdir(parents=True)
    absent = f"there is no {folder}/{next(iter(family.digests))} (dataset.download=true fetches it; "
    assert f"{family.__name__} in dataset.root={str(tmp_path)!r} can't be read: {absent}" in dataset.missing()
    for name in family.digests:
        (tmp_path / folder / name).touch()
    assert dataset.missing() == ""


def test_reading_a_folder_without_data_is_refused(tmp_path):
    with pytest.raises(DataUnavailable) as refusal:
        CIFAR10(**COLOUR, root=str(tmp_path), download=False).read()
    assert str(refusal.value) == (
        f"CIFAR10 in dataset.root={str(tmp_path)!r} can't be read: there is no cifar-10-batches-py/data_batch_1 "
        "(dataset.download=true fetches it; dataset.root=FOLDER names another place)"
    )


@pytest.fixture
def mnist(tmp_path, monkeypatch):
    """Three training and two test images in MNIST's file format, whose digests count as the published ones."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    written = {}
    for part, images in (("train", 3), ("t10k", 2)):
        labels, pixels = bytes(range(images)), bytes(number for number in range(images) for _ in range(28 * 28))
        written[f"{part}-labels-idx1-ubyte"] = bytes([0, 0, 8, 1]) + images.to_bytes(4) + labels
        written[f"{part}-images-idx3-ubyte"] = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4) for n in (images, 28, 28)) + pixels
    for name, content in written.items():
        (raw / name).write_bytes(content)
    monkeypatch.setattr(MNIST, "digests", {name: hashlib.sha256(content).hexdigest() for name, content in written.items()})
    return MNIST(**GREY, root=str(tmp_path), download=True)


@pytest.fixture
def no_network(monkeypatch):
    """Fails the test if torchvision downloads anything."""

    def fetch(*words, **named):
        pytest.fail(f"downloads {words}")

    for module in (datasets.mnist, datasets.cifar):
        monkeypatch.setattr(module, "download_and_extract_archive", fetch)


def test_intact_files_are_read_without_the_network(mnist, no_network):
    train, test = mnist.read()
    assert (train.labels.tolist(), test.labels.tolist()) == ([0, 1, 2], [0, 1])
    assert torch.equal(train.images[2], torch.full((1, 28, 28), 2, dtype=torch.uint8))


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: content[:-1] + b"!"])
@pytest.mark.parametrize("name", sorted(MNIST.digests))
def test_a_truncated_or_changed_file_of_mnist_is_named_and_not_decoded(mnist, no_network, monkeypatch, name, damage):
    path = mnist.root / "MNIST" / "raw" / name
    path.write_bytes(damaged := damage(path.read_bytes()))
    real = torchvision_sets.idx_tensor
    monkeypatch.setattr(torchvision_sets, "idx_tensor", lambda content: pytest.fail() if content == damaged else real(content))
    with pytest.raises(DataUnavailable) as refusal:
        mnist.read()
    assert str(refusal.value) == (
        f"MNIST in dataset.root={str(mnist.root)!r} can't be read: MNIST/raw/{name} is damaged, "
        "its sha256 is not the published file's (delete it, and dataset.download=true fetches it again)"
    )


def test_an_absent_file_is_downloaded_if_allowed_and_named_if_not(mnist, monkeypatch):
    path = mnist.root / "MNIST" / "raw" / "t10k-labels-idx1-ubyte"
    content = path.read_bytes()
    path.unlink()
    monkeypatch.setattr(datasets, "MNIST", lambda root, train, download: path.write_bytes(content) if download else None)
    assert not mnist.present()
    assert mnist.read()[1].labels.tolist() == [0, 1] and mnist.present()
    mnist.download = False
    path.unlink()
    with pytest.raises(DataUnavailable, match="there is no MNIST/raw/t10k-labels-idx1-ubyte"):
        mnist.read()


def write_escaping_archive(path):
    with tarfile.open(path, "w:gz") as archive:
        entry = tarfile.TarInfo("../escaped.txt")
        entry.size = 1
        archive.addfile(entry, io.BytesIO(b"x"))


def test_no_archive_writes_outside_its_folder(tmp_path):
    write_escaping_archive(tmp_path / "a.tar.gz")
    before = tarfile.TarFile.extraction_filter
    with pytest.raises(tarfile.OutsideDestinationError), extracting_safely():
        extract_archive(str(tmp_path / "a.tar.gz"), str(tmp_path / "inside"))
    assert not (tmp_path / "escaped.txt").exists()
    assert tarfile.TarFile.extraction_filter is before


def test_a_download_that_would_escape_is_refused(tmp_path, monkeypatch):
    root = tmp_path / "root"
    root.mkdir()
    write_escaping_archive(root / datasets.CIFAR10.filename)
    digest = hashlib.md5((root / datasets.CIFAR10.filename).read_bytes()).hexdigest()
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", digest)
    with pytest.raises(DataUnavailable, match=r"CIFAR10 in dataset\.root=.* can't be read: .*outside the destination"):
        CIFAR10(**COLOUR, root=str(root), download=True).read()
    assert sorted(path.name for path in tmp_path.rglob("*")) == [datasets.CIFAR10.filename, "root"]


@pytest.mark.slow
def test_a_dry_run_downloads_nothing(tmp_path, no_network):
    words = ["dataset=mnist", f"dataset.root={tmp_path}", "teacher=keras_teacher", "student=keras_student", "dry_run=true"]
    screen = io.StringIO()
    preview(compose_command(words), Console(file=screen, width=120))
    assert screen.getvalue().count("to be trained") == 3
    assert "the data are not here yet; a run would download them" in screen.getvalue()
    assert list(tmp_path.iterdir()) == []


def write_class_folders(root, classes, splits=("train", "test")):
    """Writes one PNG per class; class c has the colour (c, c + 1, c + 2) in training, and blue 255 in testing."""
    for split in splits:
        for number in reversed(range(classes)):
            folder = root / "cifar100" / split / f"class{number:03}"
            folder.mkdir(parents=True)
            colour = (number, number + 1, number + 2 if split == "train" else 255)
            Image.new("RGB", (32, 32), colour).save(folder / "0001.png")


def cifar100(root):
    return CIFAR100(**COLOUR, root=str(root), download=False)


def test_cifar100_is_read_from_class_folders_numbered_by_name(tmp_path):
    write_class_folders(tmp_path, 100)
    dataset = cifar100(tmp_path)
    assert dataset.missing() == ""
    train, test = dataset.read()
    classes = torch.arange(100)
    for part, blue in ((train, classes + 2), (test, torch.full((100,), 255))):
        assert part.images.dtype == torch.uint8
        assert torch.equal(part.labels, classes)
        colours = torch.stack([classes, classes + 1, blue], 1).view(100, 3, 1, 1).expand(100, 3, 32, 32)
        assert torch.equal(part.images, colours.to(torch.uint8))


@pytest.mark.parametrize("classes", [99, 101])
def test_cifar100_with_another_number_of_class_folders_is_refused(tmp_path, classes):
    write_class_folders(tmp_path, classes, splits=["train"])
    with pytest.raises(DataUnavailable, match=rf"train must hold 100 class folders, but holds {classes}$"):
        cifar100(tmp_path).read()


def test_cifar100_without_a_test_folder_is_refused(tmp_path):
    write_class_folders(tmp_path, 100, splits=["train"])
    with pytest.raises(DataUnavailable, match=r"test must hold 100 class folders, but holds 0$"):
        cifar100(tmp_path).read()


def test_cifar100_with_class_folders_without_images_is_refused(tmp_path):
    write_class_folders(tmp_path, 100)
    for image in tmp_path.glob("cifar100/train/class00[12]/*.png"):
        image.unlink()
    with pytest.raises(DataUnavailable, match=r"no images in .*train/class001, .*train/class002$"):
        cifar100(tmp_path).read()


def test_cifar100_with_damaged_images_is_refused(tmp_path):
    write_class_folders(tmp_path, 100)
    for name in ("train/class007", "test/class003"):
        (tmp_path / "cifar100" / name / "0001.png").write_bytes(b"no picture")
    with pytest.raises(DataUnavailable, match=r"^2 images can't be read: .*train/class007/0001\.png .*test/class003/0001\.png"):
        cifar100(tmp_path).read()


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"val_fraction": 0.95}, "dataset.val_fraction=0.95 leaves no training image of class 2, class 3, make it smaller"),
        (
            {"val_fraction": 0.01},
            "dataset.val_fraction=0.01 gives no validation image (at most 18 training images per class), make it larger",
        ),
        (
            {"val_fraction": 0.0, "student_fraction": 0.01},
            "dataset.student_fraction=0.01 leaves students no image (at most 18 images per class)",
        ),
        ({"limit": 46}, "dataset.limit=46 is more than the 45 training images; null takes all of them"),
        ({"limit": 4}, "dataset.limit=4 can't have an image of each of the 5 classes, make it larger"),
    ],
)
def test_fractions_that_empty_a_class_or_draw_nothing_are_refused(changed, sentence):
    with pytest.raises(DataUnavailable, match=f"^{re.escape(sentence)}"):
        load(small(**changed), CPU)


def test_normalisation_can_be_measured_for_any_data_set():
    data = load(Digits(**GREY | {"val_fraction": 0.0, "mean": None, "std": None}), CPU)
    assert (data.mean, data.std) == ([0.3047], [0.3758])
    assert load(Digits(**GREY), CPU).mean == [0.5]
