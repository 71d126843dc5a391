"""What `kdexp.load` returns: a network that sees images as the run's test images were, and refuses others."""

import io
import json

import pytest
import torch
from crafted import as_run, craft
from experiments import COMPOSER, SHORT
from exported import each_format
from folders import BRIEF, SMALL, picture
from PIL import Image
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import kdexp
from kdexp.commands.export import main
from kdexp.commands.run import run
from kdexp.configuration.nodes import build
from kdexp.data.shape import Shape
from kdexp.errors import BadResult, UnfitImage

EVALUATED = 500
"""Batch size of the evaluation: other batches round differently."""


def run_folder(folder, *overrides):
    run(COMPOSER.compose([f"output_dir={folder}", *overrides]), console=Console(file=io.StringIO()))
    return next((folder / "runs").iterdir())


def stored_logits(run):
    """The test logits of a run's distilled student, as they were stored."""
    table = json.loads((run / "table.json").read_text())
    (key,) = (row["key"] for row in table["rows"] if row["role"] == "distilled")
    return load_file(run / table["store"] / key / "logits.safetensors")["last"]


def answers(student, images):
    with torch.no_grad():
        return torch.cat([student(student.preprocess(images[i : i + EVALUATED])) for i in range(0, len(images), EVALUATED)])


@pytest.mark.slow
def test_preprocessed_digits_give_the_logits_of_the_run(tmp_path):
    finished = run_folder(tmp_path, *SHORT)
    student, expected = kdexp.load(finished), stored_logits(finished)
    pixels = build(COMPOSER.compose([])["dataset"]).read()[1].images
    assert torch.equal(answers(student, pixels), expected)
    assert torch.equal(answers(student, [Image.fromarray(image[0].numpy()) for image in pixels]), expected)
    assert torch.equal(answers(student, pixels.div(255)), expected)


@pytest.mark.slow
@pytest.mark.parametrize("crop", ["dataset.resized_crop=[0.5,1.0]", "dataset.resized_crop=null"])
def test_preprocessed_images_of_a_folder_give_the_logits_of_the_run(tmp_path, crop):
    paths = []
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / "photos" / part / name).mkdir(parents=True)
            for number in range(8):
                paths.append(tmp_path / "photos" / part / name / f"{number}.png")
                picture([number, len(paths)], 20 + 3 * number, 40 - number).save(paths[-1])
    words = ("dataset=image_folder", f"dataset.root={tmp_path / 'photos'}", *SMALL, *BRIEF, "dataset.in_channels=3", crop)
    finished = run_folder(tmp_path / "out", *words)
    student, expected, tested = kdexp.load(finished), stored_logits(finished), paths[16:]
    assert torch.equal(answers(student, tested), expected)
    assert torch.equal(answers(student, [Image.open(path) for path in tested]), expected)
    main([str(finished), "--format", "safetensors"])
    assert torch.equal(answers(kdexp.load(finished / "student.safetensors"), tested), expected)


@pytest.fixture
def student(tmp_path):
    """An untrained network for colour images of 8×8."""
    shape = Shape(num_classes=4, in_channels=3, image_size=8)
    return kdexp.load(craft(tmp_path / "store", shape=shape))


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        (torch.zeros(2, 3, 9, 8), r"shape \[2, 3, 9, 8\], but the network was trained on \[N, 3, 8, 8\]: .*resize=True"),
        (torch.zeros(2, 1, 8, 8), r"shape \[2, 1, 8, 8\], but the network was trained on \[N, 3, 8, 8\]"),
        (torch.zeros(3, 8, 8), r"shape \[3, 8, 8\], but"),
        (picture(0), r"Image is no tensor: student.preprocess\(image\) makes one of it"),
    ],
)
def test_images_of_another_size_are_refused(student, images, sentence):
    with pytest.raises(UnfitImage, match=sentence):
        student(images)


def test_images_of_another_size_are_resized_on_request(student):
    images = torch.randint(0, 256, (5, 3, 20, 30), dtype=torch.uint8)
    with torch.no_grad():
        resized = student(images, resize=True)
        assert torch.equal(resized, student(student.preprocess(images)))
        fitting = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)
        assert torch.equal(student(fitting, resize=True), student(fitting))


def metadata_of(path):
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            return file.metadata()
    if path.suffix == ".onnx":
        import onnx

        return {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    extra = {"preprocessing": "", "mean": ""}
    torch.export.load(path, extra_files=extra)
    return extra


@pytest.mark.slow
@each_format
def test_every_exported_file_says_how_images_are_preprocessed(tmp_path, name):
    learner = craft(tmp_path / "store")
    main([str(as_run(tmp_path, ("distilled", learner.name))), "--format", name])
    (path,) = tmp_path.glob("student.*")
    metadata = metadata_of(path)
    assert json.loads(metadata["preprocessing"]) == {
        "orientation": "exif",
        "transparency": "on white",
        "mode": "L",
        "resize": 8,
        "interpolation": "bilinear, antialiased",
        "crop": 8,
        "range": [0, 1],
        "layout": "NCHW",
        "normalise": name == "safetensors",
    }
    assert json.loads(metadata["mean"]) == [0.5]


def altered(path, **changes):
    """Writes a safetensors file again, with other metadata."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    changed = {name: value for name, value in (metadata | changes).items() if value is not None}
    save_file(load_file(path), path, changed)
    return path


def test_files_with_impossible_preprocessing_are_refused(tmp_path):
    learner, path = craft(tmp_path / "store"), tmp_path / "net.safetensors"
    main([str(learner), "--format", "safetensors", "--output", str(path)])
    assert kdexp.load(altered(path, preprocessing=None)).preprocess(picture(0)).shape == (1, 1, 8, 8)
    assert kdexp.load(altered(path, preprocessing='{"resize": 9}')).preprocessing.resize == 9
    for bad in ('{"resize": 7}', '{"resize": "8"}', "{}", "8"):
        with pytest.raises(BadResult, match="is damaged"):
            kdexp.load(altered(path, preprocessing=bad))
