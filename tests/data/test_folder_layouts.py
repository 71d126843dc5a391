"""Folders of images as people arrange them: how they are read, and how bad ones are refused with a fix."""

import os
import shutil
import socket
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from folders import CPU, SMALL, folder, picture
from PIL import Image, ImageOps

from kdexp.data.load import load
from kdexp.data.placement import Placement
from kdexp.data.torchvision_sets import CIFAR10, CIFAR100, MNIST

KINDS = {".png": "PNG", ".jpg": "JPEG", ".jfif": "JPEG", ".heic": "PNG"}


def build(root, *names):
    """Creates files by name: `a/` is a folder, `a/*` four different images, `a.png` an image, anything else a text file."""
    root.mkdir(exist_ok=True)
    for name in names:
        paths = [f"{name[:-1]}{number}.png" for number in range(4)] if name.endswith("*") else [name]
        for path in paths:
            file = root / path
            (file if path.endswith("/") else file.parent).mkdir(parents=True, exist_ok=True)
            if path.endswith("/"):
                continue
            if kind := KINDS.get(file.suffix):
                picture([*os.fsencode(path)]).save(file, format=kind)
            else:
                file.write_text("x")
    return root


def parted(*parts, classes=("cat", "dog")):
    """Names of four images of each class in each part."""
    return [f"{part}/{name}/*" for part in parts for name in classes]


BOTH = parted("train", "test")
QUARTER = {"test_fraction": 0.25}


def used(root, **changed):
    """Returns the numbers of training, validation and test images, and the notes without the one on counts."""
    dataset = folder(root, **{"val_fraction": 0.25} | changed)
    assert dataset.missing() == ""
    data = load(dataset, CPU)
    counts = [len(split) if split is not None else 0 for split in (data.train, data.validation, data.test)]
    return counts, [note.replace(f"{root}", "own") for note in data.notes[1:]]


def problem(root, **changed):
    """Returns why a root is refused, without the path of the folder above it."""
    return folder(root, **changed).missing().partition(": ")[2].replace(f"{root.parent}/", "")


LAYOUTS = {
    "train and test": (BOTH, {}, [6, 2, 8], []),
    "capitals": (parted("TRAIN", "Test"), {}, [6, 2, 8], []),
    "-ing": (parted("Training", "testing"), {}, [6, 2, 8], []),
    "sets": (parted("training_set", "test set"), {}, [6, 2, 8], []),
    "valid": (
        parted("train", "test", "valid"),
        {},
        [8, 8, 8],
        ["valid/ is used for validation (dataset.val_fraction is ignored)"],
    ),
    "validation": (
        parted("train", "test", "Validation"),
        {"val_fraction": 0.0},
        [8, 0, 8],
        ["Validation/ is not used (dataset.val_fraction=0)"],
    ),
    "val tests": (
        parted("train", "val"),
        {},
        [6, 2, 8],
        ["no test/ found: val/ is used for testing; validation images are drawn from train/"],
    ),
    "val tests, nothing validates": (
        parted("train", "val"),
        {"val_fraction": 0.0},
        [8, 0, 8],
        ["no test/ found: val/ is used for testing"],
    ),
    "val validates, test drawn": (
        parted("train", "val"),
        QUARTER,
        [6, 8, 2],
        ["val/ is used for validation (dataset.val_fraction is ignored)"],
    ),
    "unlabelled test": (
        [*parted("train", "val"), "test/1.png"],
        {},
        [6, 2, 8],
        ["test/ holds images (1.png) but no class folders: val/ is used for testing; validation images are drawn from train/"],
    ),
    "unlabelled test, others drawn": (
        [*parted("train"), "test/1.png"],
        QUARTER,
        [4, 2, 2],
        ["test/ holds images (1.png) but no class folders, and is not used"],
    ),
    "twice nested": (
        [*parted("seg_train/seg_train", "seg_test/seg_test"), "seg_pred/1.png"],
        {},
        [6, 2, 8],
        ["not used: seg_pred/", "reading seg_test/seg_test/", "reading seg_train/seg_train/"],
    ),
    "subfolders of a class": (
        ["cat/b/*", "cat/a/deep/*", "dog/*"],
        QUARTER,
        [6, 3, 3],
        ["in own/, images in subfolders belong to the class folder above them: cat/a/deep, cat/b"],
    ),
    "a class named train": (["bus/*", "car/*", "train/*"], QUARTER, [6, 3, 3], ["train/ is read as a class like the others"]),
    "leftovers": (
        [*BOTH, "__MACOSX/train/._1.png", "train/cat/1.xml", "train/cat/Thumbs.db", "train/labels/1.txt", "test/@eaDir/1.png"],
        {},
        [6, 2, 8],
        ["5 other files and folders are ignored: own/train/labels/, own/train/cat/1.xml, own/train/cat/Thumbs.db and 2 more"],
    ),
    "one leftover": (
        [*BOTH, "test/cat/.DS_Store"],
        {},
        [6, 2, 8],
        ["1 other file or folder is ignored: own/test/cat/.DS_Store"],
    ),
    "without a class": (
        [*BOTH, "train/stray.png"],
        {},
        [6, 2, 8],
        ["1 image directly in train/ is in no class folder and not used: stray.png"],
    ),
    "jfif": ([*BOTH, "test/cat/a.jfif"], {}, [6, 2, 9], []),
}


@pytest.mark.parametrize(("names", "changed", "counts", "notes"), LAYOUTS.values(), ids=LAYOUTS)
def test_a_layout_is_read_with_notes_on_what_may_surprise(tmp_path, names, changed, counts, notes):
    assert used(build(tmp_path / "own", *names), **changed) == (counts, notes)


LOOKED_FOR = "looked for train/CLASS/ and test/CLASS/, or CLASS/ with images"
DEEPER = f"the images are in a folder below; use {{}} ({LOOKED_FOR})"
REFUSED = {
    "ambiguous": ([*BOTH, "Training/cat/*"], "", "has Training/ and train/, which mean the same; remove or rename all but one"),
    "no train": (parted("test", "val"), "", f"has test/ and val/ but no train/; {LOOKED_FOR}"),
    "too high": (parted("photos/train", "photos/test"), "", DEEPER.format("dataset.root=own/photos")),
    "too high next to others": (
        [*parted("photos/train", "photos/test"), "more/1.png"],
        "",
        DEEPER.format("dataset.root=own/photos"),
    ),
    "two too high": (["a b/photos/cat/*", "a b/photos/dog/*", "a b/x.txt"], "", DEEPER.format("'dataset.root=own/a b/photos'")),
    "commas": (parted("a,b/train", "a,b/test"), "", DEEPER.format("""'dataset.root="own/a,b"'""")),
    "class": (
        BOTH,
        "train/cat",
        f"holds images (0.png, 1.png and 2 more) but no class folders; use dataset.root=own ({LOOKED_FOR})",
    ),
    "class without parts": (["cat/*", "dog/*"], "dog", "use dataset.root=own ("),
    "train itself": (BOTH, "train", "dataset.test_fraction=0.2 to hold out 20 % for testing, or use dataset.root=own"),
    "unlabelled test": (
        [*parted("train"), "test/1.png", "test/2.png"],
        "",
        "test/ holds images (1.png, 2.png) but no class folders; dataset.test_fraction=0.2 draws test images from train/",
    ),
    "unlabelled": (
        ["train/cat.1.png", "train/dog.1.png", "test/1.png", "train.csv"],
        "",
        f"train/ holds images (cat.1.png, dog.1.png) but no class folders; {LOOKED_FOR}, tables of labels are not read",
    ),
    "parts in classes": (
        ["cat/train/*", "cat/test/*", "dog/train/*", "dog/test/*"],
        "",
        "train/ and test/ are inside the classes",
    ),
    "images alone": (["1.png"], "", f"holds images (1.png) but no class folders ({LOOKED_FOR})"),
    "packed": (["photos.zip", "readme.txt"], "", f"holds no images; {LOOKED_FOR}; unpack photos.zip first"),
    "an archive": (
        ["photos.tar.gz"],
        "photos.tar.gz",
        f"is an archive: unpack it; give a folder, dataset.root=FOLDER ({LOOKED_FOR})",
    ),
    "a file": (["photos.txt"], "photos.txt", f"is not a folder; give a folder, dataset.root=FOLDER ({LOOKED_FOR})"),
    "empty class": ([*BOTH, "train/ant/1.txt", "test/ant/*"], "", "no images in own/train/ant (only 1.txt); images end in .b"),
    "heic": (
        [*BOTH, "train/cat/a.heic", "test/dog/b.HEIC"],
        "",
        ".heic can't be read (own/train/cat/a.heic); convert to PNG or JPEG, for example with ImageMagick: "
        "magick FILE FILE.png; .heic can't be read (own/test/dog/b.HEIC)",
    ),
    "case": (
        [*parted("train"), *parted("test", classes=("Cat", "dog "))],
        "",
        "(only in train/: cat, dog, only in test/: Cat, dog ); write 'cat' and 'Cat' alike; write 'dog' and 'dog ' alike",
    ),
    "many classes": (
        [f"{part}/{part}{number:03}/1.png" for part in ("train", "test") for number in range(200)],
        "",
        "(only in train/: train000, train001, train002, train003, train004 and 195 more, only in test/: test000, ",
    ),
}


@pytest.mark.parametrize(("names", "inside", "sentence"), REFUSED.values(), ids=REFUSED)
def test_a_bad_root_is_refused_with_a_fix(tmp_path, names, inside, sentence):
    root = build(tmp_path / "own", *names) / inside
    found = folder(root).missing().replace(f"{tmp_path}/", "")
    assert sentence in found and found.startswith(f"dataset.root='{root.relative_to(tmp_path)}': ")


def test_a_root_above_the_current_folder_is_suggested_as_a_relative_path(tmp_path, monkeypatch):
    monkeypatch.chdir(build(tmp_path / "own", *BOTH) / "train" / "cat")
    assert "; use dataset.root=../.. (" in folder(Path()).missing()


def test_a_folder_without_read_permission_is_named(tmp_path, monkeypatch):
    root, scan, locked = build(tmp_path / "own", *BOTH), os.scandir, [""]

    def guarded(path):
        if Path(path).name == locked[0]:
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", guarded)
    for locked[0], place in (("own", "own"), ("train", "own/train"), ("dog", "own/train/dog")):
        found = problem(root)
        assert f"{place} can't be read (Permission denied)" in found or f"can't be read: {place} (Permission denied)" in found


# Classes


def test_classes_that_are_numbers_are_in_the_order_of_numbers(tmp_path):
    names = [str(number) for number in range(12)]
    root = build(tmp_path / "own", *parted("train", "test", classes=names))
    assert folder(root).classes == names
    assert torch.equal(folder(root).read()[0].labels, torch.arange(12).repeat_interleave(4))
    assert used(root)[1] == ["classes are numbered as numbers (2 before 10), not as text as in torchvision's ImageFolder"]
    for part in ("train", "test"):
        (root / part / "7").rename(root / part / "seven")
    assert folder(root).classes == sorted({*names, "seven"} - {"7"})


@pytest.mark.parametrize("names", [["01", "02", "10"], ["007", "8", "09"], ["-1", "0", "1"]])
def test_leading_zeros_and_signs_are_numbers_too(tmp_path, names):
    root = build(tmp_path / "own", *parted("train", "test", classes=names))
    assert folder(root).classes == names


def test_two_spellings_of_one_accented_name_are_one_class(tmp_path):
    root = build(
        tmp_path / "own", *parted("train", classes=("caf\u00e9", "tea")), *parted("test", classes=("cafe\u0301", "tea"))
    )
    assert used(root) == ([6, 2, 8], [])
    assert folder(root).classes == ["caf\u00e9", "tea"]
    build(root, "train/cafe\u0301/*")
    assert "own/train has 2 folders named caf\u00e9, encoded differently; merge or rename them" in problem(root)


@pytest.mark.slow
def test_names_that_are_not_utf8_or_not_printable_are_escaped(tmp_path, here):
    names = [os.fsdecode(b"caf\xe9"), "tea\n"]
    build(tmp_path / "own", *parted("train", "test", classes=names), os.fsdecode(b"train/tea\n/\xff.txt"))
    assert folder(tmp_path / "own").classes == [r"caf\xe9", r"tea\n"]
    words = ["dataset=image_folder", "dataset.root=own", *SMALL, "epochs=1", "teacher_epochs=1", "device=cpu"]
    code, printed = here(*words, columns=200)
    assert code == 0
    assert r"in 2 classes (caf\xe9, tea\n)" in printed.out and r"own/train/tea\n/\xff.txt" in printed.out


# Files that are no images, or not to be opened


def test_paths_that_are_not_regular_files_are_never_opened(tmp_path):
    root = build(tmp_path / "own", *BOTH, "train/dog/x.jpg/")
    cat = root / "train" / "cat"
    os.mkfifo(cat / "f.png"), os.mkfifo(cat / "notes")
    for name, target in (("l.png", "l.png"), ("n.png", "nowhere"), ("d.png", "/dev/zero"), ("up", "..")):
        (cat / name).symlink_to(target)
    (cat / "fine.png").symlink_to("0.png")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(os.path.relpath(cat / "s.png"))
    expected = {
        *("own/train/cat/d.png (a device, not a file)", "own/train/cat/f.png (a FIFO, not a file)"),
        *("own/train/cat/l.png (a link that leads to itself)", "own/train/cat/n.png (a link to a file that does not exist)"),
        "own/train/cat/s.png (a socket, not a file)",
    }
    found = problem(root)
    assert all(sentence in found for sentence in expected) and "and 2 more; repair or remove them" in found
    with pytest.raises(RuntimeError, match=r"^5 images can't be read: .*d\.png \(a device, not a file\)"):
        folder(root).read()


def bomb(side):
    """A PNG of 45 bytes that claims that many pixels along each side."""
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (header, b"IDAT")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


CONTENTS = {
    "eps.png": (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n",
        "an EPS or PDF file, which must be converted to PNG or JPEG",
    ),
    "phone.jpg": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC image, which must be converted to PNG or JPEG"),
    "page.jpg": (b"<!DOCTYPE html><html>", "a web page, not an image"),
    "lfs.png": (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer, not an image: git lfs pull fetches it"),
    "text.gif": (b"hello", "not an image that Pillow can read"),
    "bomb.png": (bomb(50_000), "2,500,000,000 pixels, more than 178,956,970; make it smaller"),
    "none.bmp": (b"", "the file is empty"),
}


@pytest.mark.slow
@pytest.mark.parametrize("where", ["device", "disk"])
def test_the_real_kind_of_an_unreadable_file_is_named(tmp_path, where, capfd):
    root = build(tmp_path / "own", *BOTH)
    for name, (content, _) in CONTENTS.items():
        (root / "train" / "cat" / name).write_bytes(content)
    with pytest.raises(RuntimeError, match=r"^7 images can't be read: ") as refusal:
        load(folder(root), CPU, placement=Placement(where, 1))
    named = [f"{name} ({why})" for name, (_, why) in sorted(CONTENTS.items())]
    assert all(words in str(refusal.value) for words in named[:5])
    assert capfd.readouterr().err == ""


def test_a_wrong_suffix_does_no_harm(tmp_path):
    root = build(tmp_path / "own", *BOTH)
    picture(1).save(root / "train" / "cat" / "0.png", format="BMP")
    assert torch.equal(folder(root).read()[0].images[0], torch.from_numpy(np.array(picture(1))).permute(2, 0, 1))


def damage(root):
    """Writes a TIFF file that libtiff warns about, and Exif data that end too early or can't be read at all."""
    picture(2, 64, 64, "1").save(root / "train" / "cat" / "a.tif", compression="group4")
    content = bytearray((root / "train" / "cat" / "a.tif").read_bytes())
    for place in range(len(content) // 3, len(content) // 3 + 40):
        content[place] ^= 0xFF
    (root / "train" / "cat" / "a.tif").write_bytes(content)
    for name, exif in (("short", b"MM\0*\0\0\0\x08\0\x05\x01\x12"), ("other", b"nothing!")):
        picture([*name.encode()]).save(root / "train" / "dog" / f"{name}.jpg", exif=b"Exif\0\0" + exif)


@pytest.mark.parametrize("where", ["device", "disk"])
def test_messages_of_image_libraries_become_a_sentence(tmp_path, where, capfd):
    root = build(tmp_path / "own", *BOTH)
    damage(root)
    data = load(folder(root), CPU, placement=Placement(where, 1))
    data.close()
    python, native = data.warnings
    assert python.startswith("1 image was read, but may be damaged: ") and "short.jpg (Corrupt EXIF data. " in python
    assert native.startswith("some images may be damaged, the image library printed ") and "Fax4Decode: " in native
    assert capfd.readouterr().err == ""


def test_an_image_with_unreadable_exif_data_is_still_read(tmp_path, monkeypatch):
    root, upright = build(tmp_path / "own", *parted("train", "val")), ImageOps.exif_transpose
    damaged = str(root / "train" / "cat" / "1.png")
    monkeypatch.setattr(ImageOps, "exif_transpose", lambda image: 1 / (image.filename != damaged) and upright(image))
    data = load(folder(root), CPU)
    assert data.warnings == [f"1 image was read, but may be damaged: {damaged} (damaged Exif data (division by zero))"]
    monkeypatch.undo()
    assert load(folder(root), CPU).fingerprint == data.fingerprint


def test_a_huge_image_and_a_transparent_palette_cause_no_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    root = build(tmp_path / "own", *BOTH)
    Image.new("P", (4, 4)).save(root / "train" / "cat" / "p.png", transparency=b"\0\x80")
    assert load(folder(root), CPU).warnings == []


# Images that occur twice


@pytest.mark.parametrize("where", ["device", "disk"])
def test_equal_images_are_counted_and_named(tmp_path, where):
    root = build(tmp_path / "own", *BOTH)
    shutil.copy(root / "train" / "cat" / "1.png", root / "test" / "cat" / "8.png")
    picture([*b"train/dog/2.png"]).save(root / "train" / "cat" / "9.bmp")
    data = load(folder(root), CPU, placement=Placement(where, 1))
    data.close()
    assert [sentence.replace(f"{tmp_path}/", "") for sentence in data.warnings] == [
        "1 test image is also among the training or validation images (at 8×8 pixels): "
        "own/test/cat/8.png = own/train/cat/1.png; remove one of each pair, or the test accuracy is too high",
        "1 image is in two classes (at 8×8 pixels): own/train/dog/2.png = own/train/cat/9.bmp; remove the wrong ones",
    ]


def test_validation_images_that_equal_training_images_are_named_too(tmp_path):
    root = build(tmp_path / "own", *parted("train", "val", "test"))
    for number in range(4):
        shutil.copy(root / "train" / "cat" / f"{number}.png", root / "val" / "cat" / f"{number}.png")
    (sentence,) = load(folder(root, val_fraction=0.1), CPU).warnings
    assert sentence.startswith("4 validation images are also among the training images ") and " and 1 more; " in sentence


# The folder of validation images


def test_a_validation_folder_is_used_for_validation(tmp_path):
    root = build(tmp_path / "own", *parted("train", "val", "test"))
    data = load(folder(root, val_fraction=0.1, mean=[0.0] * 3, std=[1.0] * 3), CPU)
    shown = next(data.validation.in_order(99)) * 255
    expected = [np.array(Image.open(path)) for name in ("cat", "dog") for path in sorted((root / "val" / name).iterdir())]
    assert np.array_equal(shown.round().permute(0, 2, 3, 1).numpy().astype(np.uint8), np.stack(expected))
    assert len(data.train) == 8
    measured = load(folder(root, val_fraction=0.1), CPU).mean
    shutil.rmtree(root / "val")
    assert load(folder(root, val_fraction=0.0), CPU).mean == measured


def test_the_choice_of_validation_images_is_part_of_the_key(tmp_path, make_experiment):
    root = build(tmp_path / "own", *parted("train", "val", "test"))
    given = ("dataset=image_folder", f"dataset.root={root}", *SMALL)
    with_val, without = make_experiment(*given), make_experiment(*given, "dataset.val_fraction=0")
    assert with_val.spec("teacher").key != without.spec("teacher").key
    assert with_val.spec("teacher").key == make_experiment(*given, "dataset.val_fraction=0.5").spec("teacher").key


def test_other_classes_in_the_validation_folder_are_named(tmp_path):
    root = build(tmp_path / "own", *BOTH, *parted("val", classes=("cat", "cow")))
    expected = "train/ and val/ have different classes (only in train/: dog, only in val/: cow)"
    assert problem(root, val_fraction=0.1) == expected
    assert problem(root, val_fraction=0.0) == ""


# Where it is said


@pytest.mark.slow
@pytest.mark.parametrize("words", [["seed=0"], ["-m", "seed=0,1"], ["dry_run=true"], ["-m", "seed=0,1", "dry_run=true"]])
def test_notes_and_warnings_are_printed_once(tmp_path, here, words):
    root = build(tmp_path / "own", *parted("train", "val"), "train/cat/notes.txt")
    shutil.copy(root / "train" / "cat" / "1.png", root / "val" / "cat" / "8.png")
    brief = ["epochs=1", "teacher_epochs=1", "distillation=none", "device=cpu", "~teacher"]
    if "dry_run=true" in words:  # it reads no images, and repeats what a run has found out
        assert here("dataset=image_folder", "dataset.root=own", *SMALL, *brief)[0] == 0
    code, printed = here("dataset=image_folder", "dataset.root=own", *SMALL, *brief, *words, columns=200)
    assert code == 0, printed.err
    for line in (
        "own: 6 training, 2 validation and 9 test images in 2 classes (cat, dog)",
        "no test/ found: val/ is used for testing; validation images are drawn from train/",
        "1 other file or folder is ignored: own/train/cat/notes.txt",
        "warning: 1 test image is also among the training or validation images (at 8×8 pixels): own/val/cat/8.png = "
        "own/train/cat/1.png; remove one of each pair, or the test accuracy is too high",
    ):
        assert printed.out.splitlines().count(line) == 1


GIVEN = {
    "val_fraction": 0.0,
    "split_seed": 0,
    "student_fraction": 1.0,
    "mean": None,
    "std": None,
    "crop_padding": 0,
    "flip": False,
}


@pytest.mark.parametrize("download", [True, False])
@pytest.mark.parametrize("family", [CIFAR10, CIFAR100, MNIST])
@pytest.mark.parametrize("names", [BOTH, ["cat/*", "dog/*"]])
def test_sets_of_torchvision_do_not_mistake_folders_of_images_for_their_own(tmp_path, family, names, download):
    root = build(tmp_path / "own", *names)
    dataset = family(root=str(root), download=download, **GIVEN)
    assert f"holds folders of images, not {family.__name__} as torchvision keeps it" in dataset.missing()
    assert dataset.missing().endswith("; dataset=image_folder reads them")
    build(root, f"{family.folder}/")
    assert "folders of images" not in dataset.missing()


def test_a_torchvision_root_must_be_a_folder_or_not_exist(tmp_path):
    build(tmp_path, "cifar.tar.gz")
    assert "is an archive: unpack it" in CIFAR10(root=str(tmp_path / "cifar.tar.gz"), download=True, **GIVEN).missing()
    assert CIFAR10(root=str(tmp_path / "new"), download=True, **GIVEN).missing() == ""
