"""`dataset.unlabelled_root`: a folder of images without classes, as unlabelled images next to the training images."""

import shutil

import numpy as np
import pytest
import torch
from experiments import COMPOSER
from folders import BRIEF, SMALL, picture, write_classes
from PIL import Image

from kdexp.data.digits import Digits
from kdexp.data.epoch import UnlabelledViews
from kdexp.data.views import PLAIN, WEAK
from kdexp.errors import DataUnavailable
from kdexp.validation.validator import Validator

WHOLE = ("dataset.student_fraction=1", "dataset.crop_padding=1")
BOTH = UnlabelledViews((PLAIN, WEAK), 2)


def write(folder, images, name="image"):
    """Grey images uint8 [N, 1, H, W] as PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    for row, image in enumerate(images):
        Image.fromarray(image[0].numpy()).save(folder / f"{name}{row:04}.png")


def noise(count, seed=0, size=8):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (count, 1, size, size), dtype=np.uint8))


def digits():
    node = COMPOSER.compose(["dataset.student_fraction=1"])["dataset"]
    return Digits(**{name: value for name, value in node.items() if name != "_target_"})


@pytest.fixture
def folder(tmp_path):
    """Seven images of noise, two of them in a subfolder."""
    images = noise(7)
    write(tmp_path / "more", images[:5])
    write(tmp_path / "more" / "deeper" / "still", images[5:])
    return tmp_path / "more"


def batches(split, **more):
    return list(split.batches(32, seed=3, epoch=1, **more))


@pytest.mark.parametrize("labels", ["null", "40"])
def test_unlabelled_are_the_training_images_and_those_of_the_folder(make_experiment, folder, labels):
    words = (*WHOLE, f"dataset.labels={labels}")
    plain = make_experiment(*words).data
    data = make_experiment(*words, f"dataset.unlabelled_root={folder}").data
    assert data.train is data.student_train and data.folder_images == 7
    assert data.train.unlabelled_images == len(data.train.unlabelled) == 907
    assert data.fingerprint == plain.fingerprint and len(data.unlabelled) == 64 and not plain.unlabelled
    ours, theirs = batches(data.train, unlabelled=BOTH), batches(plain.train)
    assert len(ours) == len(theirs) == 29
    for batch, other in zip(ours, theirs, strict=True):
        assert torch.equal(batch.image, other.image) and torch.equal(batch.index, other.index), "labelled ones as ever"
        assert torch.equal(batch.label, other.label) and len(batch.unlabelled.index) == 2 * len(batch.index)
    index = torch.cat([batch.unlabelled.index for batch in ours])
    assert index[:907].unique().tolist() == list(range(907)), "each once before any twice"
    seen = torch.empty(907, 1, 8, 8)
    for batch in ours:
        seen[batch.unlabelled.index] = batch.unlabelled.views[PLAIN]
    scaled = data.train.scaled(seen[900:])
    assert torch.equal(scaled.mul(255).round().byte(), noise(7)), "by name, those in subfolders last"


def test_students_that_see_some_training_images_see_all_of_the_folder(make_experiment, folder):
    data = make_experiment(f"dataset.unlabelled_root={folder}", "dataset.student_fraction=0.1").data
    assert (len(data.student_train), data.student_train.unlabelled_images) == (90, 97)
    assert (len(data.train), data.train.unlabelled_images) == (900, 907)


def test_images_become_what_the_data_sets_own_are(make_experiment, tmp_path):
    (tmp_path / "mixed" / "a").mkdir(parents=True)
    picture(0, 40, 20).save(tmp_path / "mixed" / "wide.jpg")
    picture(1, 8, 8, "L").save(tmp_path / "mixed" / "a" / "grey.bmp")
    (tmp_path / "mixed" / "readme.txt").write_text("not an image")
    data = make_experiment(*WHOLE, f"dataset.unlabelled_root={tmp_path}/mixed").data
    assert data.folder_images == 2 and data.train._whole.pixels.images.shape[1:] == (1, 10, 10)
    assert any("1 other file or folder is ignored" in note for note in data.notes)


def test_validation_images_are_left_out_and_training_images_are_not(make_experiment, tmp_path):
    dataset = digits()
    train, _ = dataset.read()
    held_out = dataset.held_out(train.labels)
    write(tmp_path / "copies", torch.cat([train.images[held_out][:3], noise(2), train.images[~held_out][:4]]))
    data = make_experiment(*WHOLE, f"dataset.unlabelled_root={tmp_path}/copies").data
    assert data.folder_images == 6 and data.train.unlabelled_images == 906
    assert "3 images are validation images, and left out" in data.notes[0]


def test_test_images_are_refused(here, tmp_path, folder):
    _, test = digits().read()
    write(folder, test.images[:4], "test")
    code, printed = here(*WHOLE, f"dataset.unlabelled_root={folder}", f"output_dir={tmp_path}/out")
    sentence = "4 of its 11 images are test images of this data set, by which learners are judged"
    assert code == 2 and sentence in " ".join(printed.err.split()), printed.err
    assert "test0000.png" in printed.err and not (tmp_path / "out" / "runs").exists()


def test_unreadable_images_are_reported_as_everywhere(make_experiment, folder):
    (folder / "broken.png").write_bytes(b"<html>")
    with pytest.raises(DataUnavailable, match=r"1 image can't be read: .*broken\.png \(a web page, not an image\)"):
        _ = make_experiment(f"dataset.unlabelled_root={folder}").data


def test_what_shows_without_opening_images_is_refused_before(tmp_path, folder):
    (tmp_path / "empty" / "in").mkdir(parents=True)
    (tmp_path / "notes.txt").write_text("")
    write(tmp_path / "raw", noise(1))
    (tmp_path / "raw" / "photo.heic").write_bytes(b"")
    sentences = {
        "mor": "no such folder; did you mean more?",
        "notes.txt": "is not a folder",
        "empty": "holds no images; these end in .bmp",
        "raw": ".heic can't be read",
    }
    for name, sentence in sentences.items():
        (problem,) = map(str, Validator().problems(COMPOSER.compose([f"dataset.unlabelled_root={tmp_path}/{name}"])))
        assert problem.startswith(f"dataset.unlabelled_root='{tmp_path}/{name}': ") and sentence in problem
    assert not Validator().problems(COMPOSER.compose([f"dataset.unlabelled_root={folder}"]))


def test_a_folder_that_memory_cannot_hold_is_refused(make_experiment, folder, monkeypatch):
    monkeypatch.setattr("kdexp.data.placement.available_memory", lambda: 500)
    with pytest.raises(DataUnavailable, match=r"dataset\.unlabelled_root: its 7 images need 448 bytes of memory"):
        _ = make_experiment(f"dataset.unlabelled_root={folder}", "memory=ram").data


def test_labels_are_not_needed_and_all_labels_is_then_the_baseline(folder):
    words = ("distillation=fixmatch", "strong@dataset.strong_view=geometric", *WHOLE)
    assert not Validator().problems(COMPOSER.compose([*words, f"dataset.unlabelled_root={folder}"]))
    (without,) = map(str, Validator().problems(COMPOSER.compose(words)))
    assert "or give more images without: dataset.unlabelled_root=FOLDER" in without
    controls = [*words, f"dataset.unlabelled_root={folder}", "controls=[all_labels]"]
    (refused,) = map(str, Validator().problems(COMPOSER.compose(controls)))
    assert "=all_labels: is the baseline, since all images have their labels" in refused


def test_content_and_not_path_is_in_the_key_of_learners_that_read_it(make_experiment, folder, tmp_path):
    fixmatch = (*WHOLE, "distillation=fixmatch", "strong@dataset.strong_view=geometric", "dataset.labels=40", "~teacher")
    shutil.copytree(folder, tmp_path / "copy")
    write(tmp_path / "other", noise(7, seed=1))
    places = (folder, tmp_path / "copy", tmp_path / "other", "null")
    plans = [make_experiment(*fixmatch, f"dataset.unlabelled_root={place}") for place in places]
    here, copied, other, none = (plan.spec("distilled") for plan in plans)
    assert here.key == copied.key and len({here.key, other.key, none.key}) == 3
    assert len({plan.spec("baseline").key for plan in plans}) == 1
    assert none.unlabelled is None and "unlabelled" not in none.values()


@pytest.mark.slow
def test_a_run_tells_how_many_images_there_were_and_a_method_that_reads_none_says_so(here, tmp_path, folder):
    words = (*WHOLE, f"dataset.unlabelled_root={folder}", "dataset.labels=40", *BRIEF, f"output_dir={tmp_path}/out")
    code, printed = here(*words, "distillation=kd", columns=250)
    assert code == 0 and "no learner of this run reads these images" in printed.out
    assert "Labels of 40 of 900 training images (dataset.label_seed=0), and of 100 for validation." in printed.out
    code, printed = here(*words, "distillation=kd", "distillation.unlabelled_ratio=1", columns=250)
    assert code == 0 and "no learner" not in printed.out and printed.out.count("reused, trained") == 2, printed.out
    assert f"and of 100 for validation, and 7 unlabelled images of {folder}." in printed.out
    code, printed = here(*words, "distillation=kd", "distillation.unlabelled_ratio=1", "dry_run=true", columns=250)
    assert code == 0 and "to be trained" not in printed.out and printed.out.count("stored") >= 3, "noted by the run"


@pytest.mark.slow
def test_images_on_disk_in_ram_and_on_the_device_are_the_same(make_experiment, tmp_path):
    for part in ("train", "test"):
        write_classes(tmp_path / "own" / part, images=8)
    write(tmp_path / "more", noise(9, size=12))
    words = (*SMALL, "dataset=image_folder", f"dataset.root={tmp_path}/own", f"dataset.unlabelled_root={tmp_path}/more")
    found = {memory: make_experiment(*words, f"memory={memory}", "workers=1").data for memory in ("device", "ram", "disk")}
    ours = list(found["device"].train.batches(5, seed=0, epoch=0, unlabelled=BOTH))
    assert len(ours[-1].index) == 2, "a smaller last batch"
    for memory in ("ram", "disk"):
        assert found[memory].unlabelled == found["device"].unlabelled and found[memory].folder_images == 9
        for mine, other in zip(ours, found[memory].train.batches(5, seed=0, epoch=0, unlabelled=BOTH), strict=True):
            assert torch.equal(mine.image, other.image)
            assert all(torch.equal(mine.unlabelled.views[view], other.unlabelled.views[view]) for view in BOTH.views)
    again = make_experiment(*words, "memory=disk", "workers=1")
    found["disk"].close()
    assert again.unread.unlabelled == found["device"].unlabelled, "noted for dry runs"
