"""A user's own images: layouts, formats, bad input, storage, random crops, and complete runs on tiny folders."""

import os
import shutil
import struct
import warnings

import numpy as np
import pytest
import torch
from experiments import COMPOSER, said
from folders import BRIEF, CPU, GIVEN, SMALL, folder, picture, write_classes
from PIL import Image
from torchvision import transforms

import kdexp
from kdexp.commands import main as cli
from kdexp.commands.run import run
from kdexp.data import image_folder
from kdexp.data import split as resident
from kdexp.data.augmentation import ResizedCrops
from kdexp.data.class_folders import EXTENSIONS
from kdexp.data.decoding import decode, read_square
from kdexp.data.fingerprint import normalisation
from kdexp.data.image_folder import ImageFolder
from kdexp.data.images import ImageFiles, RawImages
from kdexp.data.load import load
from kdexp.data.split import Split
from kdexp.device.memory import available_memory
from kdexp.errors import DataUnavailable, InvalidArguments


@pytest.fixture
def root(tmp_path):
    """`own/train` and `own/test` with two classes."""
    write_classes(tmp_path / "own" / "train")
    write_classes(tmp_path / "own" / "test", images=2)
    return tmp_path / "own"


def pixels_of(path):
    return torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)


# Layouts


def test_train_and_test_are_read_with_classes_numbered_by_name(root):
    dataset = folder(root)
    assert dataset.missing() == ""
    assert (dataset.classes, dataset.num_classes) == (["cat", "dog"], 2)
    train, test = dataset.read()
    assert (train.labels.tolist(), test.labels.tolist()) == ([0] * 4 + [1] * 4, [0, 0, 1, 1])
    assert torch.equal(train.images[5], pixels_of(root / "train" / "dog" / "01.png"))
    assert torch.equal(test.images[1], pixels_of(root / "test" / "cat" / "01.png"))


def test_the_order_of_the_file_system_does_not_matter(root, monkeypatch):
    once = load(folder(root), CPU).fingerprint
    listing = os.scandir, os.listdir

    class Backwards(list):
        __enter__, __exit__ = (lambda self: self), (lambda self, *_: None)

    monkeypatch.setattr(os, "scandir", lambda path=".": Backwards(reversed(list(listing[0](path)))))
    monkeypatch.setattr(os, "listdir", lambda path=".": list(reversed(listing[1](path))))
    assert [path.name for path in root.iterdir()] == listing[1](root)[::-1]
    assert load(folder(root), CPU).fingerprint == once


@pytest.mark.parametrize("place", [".", "train"])
def test_without_a_test_folder_a_share_of_every_class_is_drawn_for_testing(tmp_path, place):
    write_classes(tmp_path / "own" / place, ("a", "b", "c"), images=10)
    drawn = [folder(tmp_path / "own", test_fraction=0.3, split_seed=seed).read() for seed in (0, 0, 1)]
    (train, test), (_, again), (_, other) = drawn
    assert (train.labels.bincount().tolist(), test.labels.bincount().tolist()) == ([7] * 3, [3] * 3)
    apart = {image.numpy().tobytes() for part in (train, test) for image in part.images}
    assert len(apart) == 30
    assert torch.equal(test.images, again.images) and not torch.equal(test.images, other.images)


def test_symlinked_class_folders_and_images_are_followed(root, tmp_path):
    plain = load(folder(root), CPU).fingerprint
    shutil.move(root / "train" / "dog", tmp_path / "elsewhere")
    (root / "train" / "dog").symlink_to(tmp_path / "elsewhere")
    shutil.move(root / "test" / "cat" / "00.png", tmp_path / "one.png")
    (root / "test" / "cat" / "00.png").symlink_to(tmp_path / "one.png")
    assert folder(root).missing() == ""
    assert load(folder(root), CPU).fingerprint == plain


def test_hidden_files_and_leftovers_are_ignored(root):
    (root / "train" / ".cache").mkdir()
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._00.png"):
        (root / "train" / "cat" / name).write_bytes(b"x")
    assert folder(root).missing() == ""
    assert len(folder(root).read()[0].labels) == 8


# Decoding


@pytest.mark.parametrize(("width", "height"), [(8, 8), (16, 16), (37, 23), (23, 37), (5, 3), (8, 200), (101, 9), (7, 1)])
def test_squares_are_bit_equal_to_torchvisions_resize_and_centre_crop(tmp_path, width, height):
    image = picture(3, width, height)
    image.save(tmp_path / "a.png")
    expected = transforms.CenterCrop(8)(transforms.Resize(8)(image))
    assert np.array_equal(read_square(tmp_path / "a.png", 3, 8), np.asarray(expected))


def read_one(path, channels=3):
    (raw,) = decode(ImageFiles([str(path)], torch.zeros(1, dtype=torch.long), channels, 8))
    return raw.images[0]


@pytest.mark.parametrize("suffix", sorted(EXTENSIONS))
def test_every_known_format_is_read(tmp_path, suffix):
    Image.new("RGB", (8, 8), (255, 255, 255)).save(tmp_path / f"a{suffix}")
    assert int(read_one(tmp_path / f"a{suffix}").min()) >= 250


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr"])
@pytest.mark.parametrize("channels", [1, 3])
def test_other_modes_are_converted_as_pillow_does(tmp_path, mode, channels):
    image = picture(1, mode="L" if mode == "LA" else "RGB").convert(mode)
    path = tmp_path / ("a.jpg" if mode in ("CMYK", "YCbCr") else "a.png")
    image.save(path)
    with Image.open(path) as opened:
        plain = opened.convert("RGB") if mode == "RGBA" else opened
        expected = torch.from_numpy(np.array(plain.convert("L" if channels == 1 else "RGB"))).view(8, 8, channels)
    assert torch.equal(read_one(path, channels), expected.permute(2, 0, 1))


def test_grey_colour_and_transparent_files_may_be_in_one_class(root):
    picture(0, 30, 20, "L").save(root / "train" / "cat" / "90.png")
    picture(0, 20, 30, "CMYK").save(root / "train" / "cat" / "91.jpg")
    assert folder(root).read()[0].images.shape == (10, 3, 8, 8)


def test_transparent_pixels_become_white(tmp_path):
    image = Image.new("RGBA", (8, 8), (200, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 4, 8))
    image.save(tmp_path / "a.png")
    left, right = read_one(tmp_path / "a.png").split(4, 2)
    assert (int(left.max()), int(right.min())) == (0, 255)


def test_a_transparent_colour_of_a_palette_becomes_white(tmp_path):
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.save(tmp_path / "a.png", transparency=1)
    assert int(read_one(tmp_path / "a.png").min()) == 255


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_16_bit_images_keep_their_whole_range(tmp_path, name):
    levels = np.array([0, 255, 257, 25_700, 32_768, 65_279, 65_535, 128], dtype=np.uint16)
    if name == "a.pgm":
        (tmp_path / name).write_bytes(b"P5 8 8 65535\n" + np.tile(levels, (8, 1)).astype(">u2").tobytes())
    else:
        Image.fromarray(np.tile(levels, (8, 1))).save(tmp_path / name)
    assert read_one(tmp_path / name, 1)[0, 0].tolist() == [0, 1, 1, 100, 128, 254, 255, 0]


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_32_bits_are_refused_by_name(tmp_path, kind):
    Image.fromarray(np.ones((8, 8), dtype=kind)).save(tmp_path / "a.tif")
    with pytest.raises(DataUnavailable, match=r"a\.tif \(32-bit pixels, whose range is unknown, convert it to 8 or 16 bit\)"):
        read_one(tmp_path / "a.tif")


def test_the_exif_orientation_is_applied(tmp_path):
    image = Image.new("RGB", (8, 8), "white")
    image.paste((0, 0, 0), (0, 0, 8, 4))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the top is on the right
    image.save(tmp_path / "a.jpg", exif=exif, quality=100)
    left, right = read_one(tmp_path / "a.jpg", 1).split(4, 2)
    assert left.min() > 200 and right.max() < 50


def test_the_first_of_several_frames_is_read(tmp_path):
    frames = [Image.new("L", (8, 8), grey) for grey in (0, 255)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert int(read_one(tmp_path / "a.gif").max()) == 0


# Bad input


def without_root(sentence, root):
    return sentence.replace(str(root), "own").removeprefix("dataset.root='own': ")


def problem(root, **changed):
    return without_root(folder(root, **changed).missing(), root)


def test_a_missing_folder_is_refused_with_a_suggestion(root):
    assert folder(root.parent / "owm").missing().endswith("/owm': no such folder; did you mean own?")
    assert folder(root.parent / "q").missing().endswith("/q': no such folder")


def test_a_folder_without_classes_is_refused(tmp_path):
    (tmp_path / "own").mkdir()
    assert problem(tmp_path / "own") == "holds no images; looked for train/CLASS/ and test/CLASS/, or CLASS/ with images"
    for part in ("train", "test"):
        (tmp_path / "own" / part).mkdir()
        picture(0).save(tmp_path / "own" / part / "flat.png")
    assert problem(tmp_path / "own", test_fraction=0.5).startswith("train/ holds images (flat.png) but no class folders; ")


def test_test_images_must_come_from_exactly_one_source(root):
    shown = "{}; add dataset.test_fraction=0.2 to hold out 20 % for testing"
    assert problem(root / "train") == shown.format("no train/ and test/ found, only classes (cat, dog)") + (
        f", or use dataset.root={root}"
    )
    assert (
        problem(root, test_fraction=0.2)
        == "has its own test/, which dataset.test_fraction=0.2 would leave unused, set it to null"
    )
    shutil.rmtree(root / "test")
    assert problem(root) == shown.format("no test/ found")


def test_different_classes_in_train_and_test_are_named(root):
    (root / "test" / "cat").rename(root / "test" / "kat")
    assert problem(root) == "train/ and test/ have different classes (only in train/: cat, only in test/: kat)"


def test_empty_classes_are_named_all_at_once(root):
    for name in ("ant", "bee"):
        (root / "train" / name).mkdir()
        write_classes(root / "test", (name,), images=1)
    (root / "train" / "bee" / "notes.txt").write_text("x")
    known = "images end in .bmp, .gif, .jfif, .jpe, .jpeg, .jpg, .pbm, .pgm, .png, .pnm, .ppm, .tif, .tiff, .webp"
    assert problem(root) == f"no images in own/train/ant, own/train/bee (only notes.txt); {known}"


def test_one_class_is_not_enough(tmp_path):
    write_classes(tmp_path / "own", ("cat",))
    assert problem(tmp_path / "own", test_fraction=0.5) == "only one class (cat), there must be at least two"


def test_fractions_that_empty_a_class_or_draw_nothing_are_refused(tmp_path):
    write_classes(tmp_path / "own" / "train", images=1)
    write_classes(tmp_path / "own" / "test", images=1)
    root = tmp_path / "own"
    assert problem(root, val_fraction=0.1) == (
        "dataset.val_fraction=0.1 gives no validation image (at most 1 training images per class), "
        "make it larger, or do without validation: dataset.val_fraction=0"
    )
    assert problem(root, val_fraction=0.6) == "dataset.val_fraction=0.6 leaves no training image of cat, dog, make it smaller"
    assert (
        problem(root, student_fraction=0.1)
        == "dataset.student_fraction=0.1 leaves students no image (at most 1 images per class), make it larger"
    )
    assert problem(root) == ""
    assert problem(root / "train", test_fraction=0.2) == (
        "dataset.test_fraction=0.2 leaves cat, dog without a training or a test image"
    )
    shutil.copy(root / "train" / "cat" / "00.png", root / "train" / "cat" / "01.png")
    assert problem(root, val_fraction=0.6) == "dataset.val_fraction=0.6 leaves no training image of dog, make it smaller"


def test_images_so_large_that_not_even_a_few_fit_into_memory_are_refused(root, monkeypatch):
    monkeypatch.setattr(image_folder, "available_memory", lambda: 400_000_000)
    assert problem(root, image_size=4000) == (
        "12 images of 3×4000×4000 need 0.6 GB of memory, but 0.4 GB are free, choose a smaller dataset.image_size than 4000"
    )
    assert problem(root) == ""


def test_available_memory_is_plausible():
    assert 10**7 < available_memory() < 10**15


def test_unreadable_images_of_both_splits_are_counted_and_named(root):
    (root / "train" / "cat" / "00.png").write_bytes(b"")
    (root / "train" / "dog" / "00.png").write_text("no picture")
    whole = (root / "test" / "dog" / "01.png").read_bytes()
    (root / "test" / "dog" / "01.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataUnavailable) as refusal:
        folder(root).read()
    assert without_root(str(refusal.value), root) == (
        "3 images can't be read: own/train/cat/00.png (the file is empty), "
        "own/train/dog/00.png (not an image that Pillow can read), "
        "own/test/dog/01.png (image file is truncated), repair or remove them"
    )


def test_many_unreadable_images_are_counted_and_the_first_named(root):
    for path in root.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(DataUnavailable, match=r"^12 images can't be read: .*04?\.png .* and 7 more, repair or remove them$"):
        folder(root).read()


def test_a_gigantic_image_and_a_dangling_link_are_named(root):
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    whole = (root / "train" / "cat" / "00.png").read_bytes()
    (root / "train" / "cat" / "00.png").write_bytes(whole[:16] + header + whole[29:])
    (root / "test" / "cat" / "00.png").unlink()
    (root / "test" / "cat" / "00.png").symlink_to("nowhere.png")
    with warnings.catch_warnings(), pytest.raises(DataUnavailable) as refusal:
        warnings.simplefilter("ignore")
        folder(root).read()
    assert str(refusal.value).startswith("2 images can't be read: ")
    assert "train/cat/00.png (" in str(refusal.value) and "test/cat/00.png (" in str(refusal.value)


@pytest.mark.parametrize("area", [[0.5], [0.0, 1.0], [0.9, 0.1], [0.1, 0.2, 0.3]])
def test_impossible_crop_areas_are_refused(root, area):
    with pytest.raises(InvalidArguments, match=r"^resized_crop=\[.*\]: must be \[smallest, largest\]"):
        folder(root, resized_crop=area)


def test_two_kinds_of_crops_exclude_each_other(root):
    with pytest.raises(InvalidArguments, match="^crop_padding=2: must be 0 with resized_crop"):
        folder(root, resized_crop=[0.5, 1.0], crop_padding=2)


def test_validation_images_are_drawn_or_have_a_folder(root):
    assert folder(root, val_fraction=0.25).validates and not folder(root, val_fraction=0.0).validates
    write_classes(root / "val")
    assert folder(root, val_fraction=0.25).validates and not folder(root, val_fraction=0.0).validates


# Normalisation and storage


def test_mean_and_std_are_those_of_the_training_images_without_validation(root):
    dataset = folder(root, val_fraction=0.25, student_fraction=0.5, mean=None, std=None)
    data = load(dataset, CPU)
    kept = torch.cat(list(data.train.in_order(99)))
    torch.testing.assert_close(kept.mean((0, 2, 3)), torch.zeros(3), atol=1e-3, rtol=0)
    torch.testing.assert_close(kept.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-3, rtol=0)
    assert len(data.train) == 6


def test_the_measured_numbers_are_exact_to_four_decimals():
    images = torch.tensor([0, 255, 51, 102], dtype=torch.uint8).view(4, 1, 1, 1).expand(4, 2, 3, 3).clone()
    images[:, 1] = 51
    mean, std = normalisation(images, torch.arange(4))
    assert (mean, std) == ([0.4, 0.2], [round(float(np.std([0, 1, 0.2, 0.4])), 4), 0.0])


def test_given_statistics_are_not_measured(root):
    data = load(folder(root, mean=[0.1, 0.2, 0.3]), CPU)
    assert data.mean == [0.1, 0.2, 0.3]
    assert data.std == load(folder(root), CPU).std


def test_a_constant_channel_needs_a_given_std(root):
    for path in root.rglob("*.png"):
        Image.new("RGB", (8, 8), (0, 255, 51)).save(path)
    with pytest.raises(
        DataUnavailable, match=r"^channel 0 is 0\.0 in all training images, so that dataset\.std must be given$"
    ):
        load(folder(root), CPU)


@pytest.mark.parametrize("changed", [{}, {"crop_padding": 2, "flip": True}, {"resized_crop": [0.3, 1.0], "flip": True}])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_large_splits_are_stored_as_bytes_and_give_the_same_batches(root, monkeypatch, changed, layout):
    dataset = folder(root, val_fraction=0.25, **changed)
    quick = load(dataset, CPU, layout)
    monkeypatch.setattr(resident, "NORMALISED_LIMIT", 0)
    large = load(dataset, CPU, layout)
    assert large.train.pixels.images.dtype == large.test.pixels.images.dtype == torch.uint8
    assert quick.test.pixels.images.dtype == torch.float32
    for one, other in ((quick.train, large.train), (quick.validation, large.validation), (quick.test, large.test)):
        pairs = zip(one.batches(3, seed=1, epoch=2), other.batches(3, seed=1, epoch=2), strict=True)
        assert all(torch.equal(a.image, b.image) and torch.equal(a.label, b.label) for a, b in pairs)
        assert all(torch.equal(a, b) for a, b in zip(one.in_order(3), other.in_order(3), strict=True))
        assert all(image.is_contiguous(memory_format=layout) for image in other.in_order(3))


# Random resized crops


def crops(root, **changed):
    return load(folder(root, **{"resized_crop": [0.25, 1.0], "image_size": 7, "flip": True} | changed), CPU)


def test_with_random_crops_images_are_stored_larger_and_evaluated_on_central_crops(root):
    dataset = folder(root, resized_crop=[0.25, 1.0], image_size=7, mean=[0.0] * 3, std=[1.0] * 3)
    train, test = dataset.read()
    assert test.images.shape[2:] == (8, 8)
    data = load(dataset, CPU)
    assert torch.equal(next(data.test.in_order(99)), test.images[:, :, :7, :7].float() / 255)
    assert torch.equal(next(data.train.in_order(99)), train.images[:, :, :7, :7].float() / 255)
    assert next(data.train.batches(8, seed=0, epoch=0)).image.shape == (8, 3, 7, 7)


def test_random_crops_depend_on_seed_and_epoch_alone(root):
    train = crops(root).train
    together, apart = next(train.batches(8, seed=3, epoch=5)), list(train.batches(3, seed=3, epoch=5))
    assert torch.equal(torch.cat([batch.index for batch in apart]), together.index)
    torch.testing.assert_close(torch.cat([batch.image for batch in apart]), together.image)
    again = next(crops(root).train.batches(8, seed=3, epoch=5))
    assert torch.equal(again.image, together.image)
    for seed, epoch in ((3, 6), (4, 5)):
        other = next(train.batches(8, seed=seed, epoch=epoch))
        assert not torch.allclose(other.image[other.index.argsort()], together.image[together.index.argsort()])


def test_random_crops_are_not_numbered(root):
    train = crops(root).train
    assert train.views is None
    assert next(train.batches(8, seed=0, epoch=0)).view is None


def test_crops_lie_inside_the_image_with_the_requested_area_and_aspect():
    maps = ResizedCrops(8, (0.2, 0.6), flip=True).draw(4000, torch.Generator().manual_seed(0))
    half = torch.stack([maps[:, 1, 1], maps[:, 0, 0].abs()], 1)
    middle = torch.stack([maps[:, 1, 2], maps[:, 0, 2]], 1)
    assert (middle.abs() + half).max() <= 1 + 1e-6
    area, aspect = half.prod(1), half[:, 1] / half[:, 0]
    assert 0.2 - 1e-5 <= area.min() < 0.22 and 0.58 < area.max() <= 0.6 + 1e-5
    assert abs(float(area.mean()) - 0.4) < 0.01
    assert 0.75 - 1e-5 <= aspect.min() < 0.76 and 1.32 < aspect.max() <= 4 / 3 + 1e-5
    assert abs(float((maps[:, 0, 0] < 0).float().mean()) - 0.5) < 0.05
    assert abs(float(middle.mean())) < 0.02 and float(middle.std()) > 0.15


def test_without_mirroring_no_crop_is_mirrored():
    assert (ResizedCrops(8, (0.2, 0.6), flip=False).draw(500, torch.Generator().manual_seed(0))[:, 0, 0] > 0).all()


def test_a_rectangle_that_never_fits_becomes_the_whole_image():
    crop = ResizedCrops(8, (1.0, 1.0), flip=False)
    crop.TRIES = 1
    maps = crop.draw(50, torch.Generator().manual_seed(0))
    assert torch.equal(maps, torch.eye(2, 3).expand(50, 2, 3))


def test_a_crop_of_the_whole_image_and_a_mirrored_half_are_correct():
    pixels = torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    rows, crop = torch.tensor([1, 0]), ResizedCrops(8, (0.1, 1.0), flip=True)
    whole = crop.cut(pixels, rows, torch.eye(2, 3).expand(2, 2, 3))
    torch.testing.assert_close(whole, pixels[rows].float(), atol=1e-3, rtol=0)
    mirrored = crop.cut(pixels, rows, torch.tensor([[-1.0, 0, 0], [0, 1, 0]]).expand(2, 2, 3))
    torch.testing.assert_close(mirrored, pixels[rows].float().flip(3), atol=1e-3, rtol=0)
    crop.size = 4
    right_half = torch.tensor([[0.5, 0, 0.5], [0, 0.5, -0.5]]).expand(2, 2, 3)
    torch.testing.assert_close(crop.cut(pixels, rows, right_half), pixels[rows][:, :, :4, 4:].float(), atol=1e-3, rtol=0)


def test_crops_equal_torchvisions_with_whole_corners_and_no_shrinking():
    ramp = torch.arange(16, dtype=torch.float32).expand(1, 3, 16, 16) * 10
    top, left, height, width = 2, 4, 8, 6
    place = torch.tensor([[[width / 16, 0, (2 * left + width) / 16 - 1], [0, height / 16, (2 * top + height) / 16 - 1]]])
    ours = ResizedCrops(12, (0.1, 1.0), flip=False).cut(ramp, torch.tensor([0]), place)
    theirs = transforms.functional.resized_crop(ramp, top, left, height, width, [12, 12], antialias=False)
    torch.testing.assert_close(ours[:, :, :, 1:-1], theirs[:, :, :, 1:-1], atol=1e-3, rtol=0)


def test_flips_without_crops_mirror_whole_images(root):
    train = load(folder(root, flip=True, mean=[0.0] * 3, std=[1.0] * 3), CPU).train
    plain, seen = torch.cat(list(train.in_order(8))), set()
    for batch in train.batches(8, seed=0, epoch=0):
        for image, row, view in zip(batch.image, batch.index, batch.view, strict=True):
            assert torch.equal(image, plain[row].flip(2) if view else plain[row])
            seen.add(int(view))
    assert seen == {0, 1}


def test_larger_images_are_centre_cropped_even_without_augmentation():
    raw = RawImages(torch.arange(16, dtype=torch.uint8).view(1, 1, 4, 4), torch.zeros(1, dtype=torch.long))
    dataset = ImageFolder(root="nowhere", **GIVEN | {"image_size": 2, "in_channels": 1, "mean": [0.0], "std": [1.0]})
    (image,) = Split(raw, dataset, CPU, augmented=False).in_order(1)
    assert (image * 255).round().flatten().tolist() == [5, 6, 9, 10]


# Whole runs


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Runs a command in the folder that holds `own/`; returns its exit code and what it printed."""

    def run_command(*words):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("COLUMNS", "120")
        monkeypatch.setattr("sys.argv", ["kdexp", "dataset=image_folder", *words])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code, capsys.readouterr()

    return run_command


@pytest.mark.slow
def test_a_command_trains_on_grey_images_and_reuses_its_learners(root, command):
    code, printed = command("dataset.root=own", *SMALL, *BRIEF)
    assert code == 0, printed.err
    assert "normalisation measured on 6 images: 'dataset.mean=[0." in printed.out and "Test accuracy on 4 images" in printed.out
    assert "teacher: reused" in command("dataset.root=own", *SMALL, *BRIEF)[1].out
    assert "stored 20" in command("dataset.root=own", *SMALL, *BRIEF, "dry_run=true")[1].out
    picture(99).save(root / "train" / "cat" / "00.png")
    assert "reused" not in command("dataset.root=own", *SMALL, *BRIEF)[1].out


@pytest.mark.slow
def test_colour_images_train_convolutions_and_the_student_knows_its_classes(tmp_path, root):
    words = ["dataset=image_folder", f"dataset.root={root}", "dataset.image_size=32", "teacher=lightnn", "student=lightnn"]
    words += ["dataset.resized_crop=[0.3,1.0]", "dataset.flip=true", "dataset.val_fraction=0", f"output_dir={tmp_path}", *BRIEF]
    assert run(COMPOSER.compose(words))
    (folder,) = (tmp_path / "runs").iterdir()
    student = kdexp.load(folder)
    assert student.classes == ["cat", "dog"]
    assert student(torch.zeros(3, 3, 32, 32, dtype=torch.uint8)).shape == (3, 2)


def test_other_classes_crops_and_statistics_give_other_learners(root, make_experiment):
    given = ("dataset=image_folder", f"dataset.root={root}", *SMALL)

    def key(*changed):
        return make_experiment(*given, *changed).spec("teacher").key

    plain = key()
    assert key() == plain == key("dataset.flip=false")
    renamed = root.parent / "renamed"
    shutil.copytree(root, renamed)
    for part in ("train", "test"):
        (renamed / part / "dog").rename(renamed / part / "wolf")
    others = [key(f"dataset.root={renamed}"), key("dataset.mean=[0.4]"), key("dataset.resized_crop=[0.5,1.0]")]
    assert len({plain, *others}) == 4


def test_the_measured_statistics_are_printed_and_stored(root, make_experiment):
    experiment = make_experiment("dataset=image_folder", f"dataset.root={root}", *SMALL)
    data = experiment.spec("teacher").data
    assert (data["mean"], data["std"], data["classes"]) == (experiment.data.mean, experiment.data.std, ["cat", "dog"])
    assert f"'dataset.mean=[{experiment.data.mean[0]}]' 'dataset.std=[{experiment.data.std[0]}]'" in said(experiment)


@pytest.mark.slow
def test_a_root_must_be_given(command):
    code, printed = command(*SMALL)
    assert code == 2
    assert printed.err.splitlines()[1:] == ["  dataset.root: must be given, there is no default"]


@pytest.mark.slow
def test_a_root_without_classes_is_refused_without_mention_of_networks(command, tmp_path):
    code, printed = command("dataset.root=photos", "distillation.temperature=0")
    assert code == 2
    assert [line.strip() for line in printed.err.splitlines()] == [
        "kdexp: 2 problems in this command, nothing was run",
        "distillation.temperature=0: must be above 0",
        "dataset.root='photos': no such folder",
    ]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_an_unreadable_image_is_refused_before_there_is_a_run_folder(root, command, tmp_path):
    (root / "train" / "cat" / "00.png").write_bytes(b"")
    code, printed = command("dataset.root=own", *SMALL, *BRIEF)
    assert code == 2 and "Traceback" not in printed.err
    assert "  1 image can't be read: own/train/cat/00.png (the file is empty), repair or remove it" in printed.err
    assert [path.name for path in tmp_path.iterdir()] == ["own"]
    shown = command("dataset.root=own", *SMALL, "dry_run=true")[1].out
    assert shown.count("to be trained") == 3, "nothing is stored, whatever the images are"
