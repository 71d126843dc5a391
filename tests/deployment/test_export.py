"""`kdexp-export`: its files predict like the network, and a failed export leaves nothing behind."""

import io
import json
import subprocess
import sys

import pytest
import torch
from crafted import KEY, as_run, craft, rewrite
from experiments import COMPOSER, SHORT, compose_command
from exported import each_format, opened
from rich.console import Console
from safetensors import safe_open
from torch import nn

import kdexp
from kdexp.commands.export import main
from kdexp.commands.run import run
from kdexp.data.shape import Shape
from kdexp.deployment import formats
from kdexp.deployment.formats import FORMATS
from kdexp.validation.validator import validate

LIGHT = {"_target_": "kdexp.models.tutorial.LightNN", "dropout": 0.1}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of one short run, read by all tests and changed by none."""
    folder = tmp_path_factory.mktemp("finished")
    run(COMPOSER.compose([f"output_dir={folder}", *SHORT]), console=Console(file=io.StringIO()))
    return next((folder / "runs").iterdir())


@pytest.fixture
def export(capsys):
    """Runs the command; returns its exit code, standard output and standard error."""

    def call(*words):
        try:
            main([str(word) for word in words])
            code = 0
        except SystemExit as stop:
            code = stop.code
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


@pytest.mark.slow
@each_format
def test_the_exported_file_predicts_like_the_student(finished, export, tmp_path, name):
    path = tmp_path / f"out{FORMATS[name].suffix}"
    code, printed, error = export(finished, "--format", name, "--output", path)
    assert (code, error) == (0, "") and [found.name for found in tmp_path.iterdir()] == [path.name]
    answers, student = opened(name, path), kdexp.load(finished)
    for images in (torch.rand(1, 1, 8, 8), torch.rand(33, 1, 8, 8)):
        with torch.no_grad():
            torch.testing.assert_close(answers(images), student(images), rtol=0, atol=1e-6 if name == "onnx" else 0)
    accuracy = json.loads((finished / "table.json").read_text())["rows"][-1]["test_top1"]
    assert f"test accuracy {100 * accuracy:.2f} %" in printed and "8,970 parameters" in printed and str(path) in printed
    assert f"{path.stat().st_size / 1e6:.3f} MB" in printed and " ms for one image" in printed
    assert FORMATS[name].usage(path) in printed


@pytest.mark.slow
@each_format
def test_networks_with_convolutions_and_dropout_are_exported(export, tmp_path, name):
    learner = craft(tmp_path, model=LIGHT, shape=Shape(num_classes=4, in_channels=3, image_size=8))
    path = tmp_path / f"net{FORMATS[name].suffix}"
    assert export(learner, "--format", name, "--output", path)[0] == 0
    answers, student, images = opened(name, path), kdexp.load(learner), torch.rand(5, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(answers(images), student(images), rtol=0, atol=1e-5)
        torch.testing.assert_close(answers(images), answers(images), rtol=0, atol=0)


@pytest.mark.slow
def test_graphs_carry_metadata(export, tmp_path):
    onnx = pytest.importorskip("onnx")
    learner = craft(tmp_path)
    export(learner, "--format", "onnx", "--output", tmp_path / "net.onnx")
    export(learner, "--format", "torch_export", "--output", tmp_path / "net.pt2")
    model = onnx.load(tmp_path / "net.onnx")
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    extra = {"learner": "", "num_classes": ""}
    torch.export.load(tmp_path / "net.pt2", extra_files=extra)
    assert metadata["learner"] == extra["learner"] == KEY and metadata["num_classes"] == extra["num_classes"] == "10"
    (image,), (logits,) = model.graph.input, model.graph.output
    sizes = [[size.dim_param or size.dim_value for size in put.type.tensor_type.shape.dim] for put in (image, logits)]
    assert (image.name, logits.name, sizes) == ("image", "logits", [["batch", 1, 8, 8], ["batch", 10]])
    assert "Cast" not in {node.op_type for node in model.graph.node}


def test_a_safetensors_file_holds_only_the_deployed_network_and_its_metadata(finished, export, tmp_path):
    path = tmp_path / "student.safetensors"
    export(finished, "--format", "safetensors", "--output", path)
    row = json.loads((finished / "table.json").read_text())["rows"][-1]
    with safe_open(path, "pt") as file:
        about, names = file.metadata(), set(file.keys())
    assert names == set(kdexp.load(finished).network.state_dict())
    assert json.loads(about["model"]) == {"_target_": "kdexp.models.mlp.MLP", "hidden": [64, 64]}
    assert (about["num_classes"], about["in_channels"], about["image_size"]) == ("10", "1", "8")
    assert about["learner"] == row["key"] and float(about["test_top1"]) == row["test_top1"]
    assert about["kdexp"] == kdexp.__version__ and about["epoch"] == "last"
    images = torch.randint(0, 256, (6, 1, 8, 8), dtype=torch.uint8)
    assert torch.equal(kdexp.load(path)(images), kdexp.load(finished)(images))


@pytest.mark.slow
def test_a_safetensors_file_is_a_checkpoint(finished, export, tmp_path):
    path = tmp_path / "net.safetensors"
    export(finished, "--format", "safetensors", "--output", path)
    config = compose_command([f"student.checkpoint={path}", "teacher=mlp_small", f"teacher.checkpoint={path}"])
    assert validate(config) == []


@pytest.mark.parametrize(("role", "name"), [("distilled", "student"), ("baseline", "baseline"), ("teacher", "teacher")])
def test_the_file_is_next_to_the_run_and_named_by_the_role(export, tmp_path, role, name):
    craft(tmp_path / "store")
    folder = as_run(tmp_path, (role, KEY))
    assert export(folder, "--format", "safetensors", "--role", role)[0] == 0
    assert (tmp_path / f"{name}.safetensors").is_file()


def test_a_stored_learner_is_exported_to_the_current_folder(export, tmp_path, monkeypatch):
    learner = craft(tmp_path / "store")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert export(learner, "--format", "safetensors")[0] == 0
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["student.safetensors"]


def test_the_best_epoch_can_be_exported(finished, export, tmp_path):
    path = tmp_path / "best.safetensors"
    assert export(finished, "--format", "safetensors", "--epoch", "best", "--output", path)[0] == 0
    images = torch.rand(6, 1, 8, 8)
    assert torch.equal(kdexp.load(path)(images), kdexp.load(finished, epoch="best")(images))


def test_an_existing_file_is_replaced_only_on_request(export, tmp_path):
    learner, path = craft(tmp_path / "store"), tmp_path / "net.safetensors"
    path.write_text("mine")
    code, _, error = export(learner, "--format", "safetensors", "--output", path)
    assert (code, path.read_text()) == (2, "mine")
    fix = "add --force to replace it, or choose another file with --output FILE"
    assert error == f"kdexp-export: {path} exists already; {fix}\n"
    assert export(learner, "--format", "safetensors", "--output", path, "--force")[0] == 0
    assert kdexp.load(path)(torch.rand(1, 1, 8, 8)).shape == (1, 10)


class Off(formats.Safetensors):
    """A format whose logits are multiplied by a factor, or whose export is interrupted."""

    tolerance = 1e-4

    def __init__(self, factor):
        self.factor = factor

    def write(self, student, path):
        path.write_text("half")
        if self.factor is None:
            raise KeyboardInterrupt
        self.network = student.predictor

    def open(self, path, modules=()):
        return lambda image: self.network(image) * self.factor


@pytest.mark.parametrize(
    ("factor", "code", "sentence"),
    [
        (1.001, 1, "its logits differ by 1.0e-03 of the largest one, and rounding explains at most 0.0001"),
        (float("nan"), 1, "its logits differ by nan of the largest one"),
        (torch.ones(2, 1, 1), 1, "for 1 images its logits are [2, 1, 10] instead of [1, 10]"),
        (None, 130, "interrupted; nothing was written"),
    ],
)
def test_a_failed_export_leaves_an_existing_file_unchanged(export, tmp_path, monkeypatch, factor, code, sentence):
    monkeypatch.setitem(FORMATS, "safetensors", Off(factor))
    learner, path = craft(tmp_path / "store"), tmp_path / "net.safetensors"
    path.write_text("mine")
    found, printed, error = export(learner, "--format", "safetensors", "--output", path, "--force")
    assert (found, printed, error.count("\n")) == (code, "", 1) and sentence in error
    assert path.read_text() == "mine" and {entry.name for entry in tmp_path.iterdir()} == {"net.safetensors", "store"}


def test_rounding_is_no_failure(export, tmp_path, monkeypatch):
    monkeypatch.setitem(FORMATS, "safetensors", Off(1.00001))
    code, printed, _ = export(craft(tmp_path), "--format", "safetensors", "--output", tmp_path / "net.safetensors")
    assert code == 0 and "at most 1e-05 of the largest logit apart" in printed


class Undecided(nn.Module):
    """A network that can't be traced: its computation depends on the values of the images."""

    def __init__(self, *, num_classes, in_channels, image_size):
        super().__init__()
        self.head = nn.Linear(in_channels * image_size**2, num_classes)

    def forward(self, image):
        return self.head(image.flatten(1) if image.mean() > 0 else -image.flatten(1))


def test_a_network_that_can_not_be_traced_is_refused(export, tmp_path):
    learner = craft(tmp_path / "store", model={"_target_": "test_export.Undecided"})
    words = ("--module", "test_export", "--output", tmp_path / "net.pt2")
    code, _, error = export(learner, "--format", "torch_export", *words)
    assert code == 1 and error.startswith("kdexp-export: Undecided can't be exported as a .pt2 file: ")
    assert error.count("\n") == 1 and [path.name for path in tmp_path.iterdir()] == ["store"]


REFUSALS = [
    (["--format", "tflite"], "argument --format: invalid choice: 'tflite' (choose from"),
    ([], "choose what to write: --format safetensors, torch_export, onnx, or --card, or both (kdexp-export --help)"),
    (["--card", "--output", "~nobody_at_all/x.md"], "there is no user 'nobody_at_all' on this machine"),
    (["--card", "--output", "x.txt"], "--output x.txt: the file's name must end in .md"),
    (["--card", "--role", "baseline", "--epoch", "best"], "has no weights of its 'best' epoch; it has: last"),
    (["--format", "onnx", "--output", "x.pt2"], "--output x.pt2: the file's name must end in .onnx"),
    (["--format", "onnx", "--output", "no/x.onnx"], "the folder no does not exist; choose another one with --output FILE"),
    (["--format", "torch_export", "--output", "folder.pt2"], "folder.pt2 is a folder; choose a file with --output FILE"),
    (
        ["--format", "safetensors", "--role", "distiled"],
        "has no finished 'distiled'; it has: teacher, baseline; add --role baseline",
    ),
    (["--format", "safetensors"], "has no finished 'distilled'; it has: teacher, baseline; add --role baseline"),
    (["--format", "safetensors", "--role", "baseline", "--epoch", "best"], "has no weights of its 'best' epoch; it has: last"),
]


@pytest.mark.parametrize(("words", "sentence"), REFUSALS)
def test_exports_that_can_not_work_are_refused_in_one_sentence(export, tmp_path, monkeypatch, words, sentence):
    monkeypatch.setattr(FORMATS["onnx"], "needs", (), raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.pt2").mkdir()
    craft(tmp_path / "store")
    before = sorted(tmp_path.iterdir())
    folder = as_run(tmp_path, ("teacher", KEY), ("baseline", KEY))
    code, printed, error = export(folder, *words)
    assert (code, printed, error.count("\n")) == (2, "", 1)
    assert error.startswith("kdexp-export: ") and sentence in error
    assert sorted(tmp_path.iterdir()) == sorted([*before, tmp_path / "table.json"])


def test_all_problems_of_a_command_are_reported_at_once(export, tmp_path, monkeypatch):
    monkeypatch.setattr(FORMATS["onnx"], "needs", ("onnx_of_tomorrow",), raising=False)
    monkeypatch.chdir(tmp_path)
    code, _, error = export("nowhere", "--format", "onnx", "--output", "x")
    assert code == 2 and error.splitlines() == [
        "kdexp-export: no folder nowhere; RUN is a folder in outputs/runs/, or a learner's folder in outputs/store/learner/",
        'kdexp-export: --format onnx needs onnx_of_tomorrow: pip install "kdexp[onnx]"',
        "kdexp-export: --output x: the file's name must end in .onnx",
    ]


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ([], "is neither a finished run (table.json) nor a stored learner (result.json)"),
        (["command.txt"], "is a run that did not finish (no table.json); the command in its command.txt finishes it"),
        (["table.json"], "table.json is damaged: Expecting property name"),
        (["result.json"], "result.json is damaged: Expecting property name"),
    ],
)
def test_other_folders_are_refused(export, tmp_path, monkeypatch, files, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    for name in files:
        (tmp_path / "run" / name).write_text("{")
    code, _, error = export("run", "--format", "safetensors")
    assert (code, error.count("\n")) == (2, 1) and sentence in error


def test_a_run_whose_learner_left_the_store_is_refused(export, tmp_path):
    folder = as_run(tmp_path, ("distilled", KEY))
    code, _, error = export(folder, "--format", "safetensors")
    place = tmp_path / "store" / "learner" / KEY
    assert (code, error) == (
        2,
        f"kdexp-export: the distilled learner of {folder} is not in its store ({place}); "
        "the command in its command.txt trains it again\n",
    )


def test_a_result_without_an_accuracy_is_refused(export, tmp_path):
    learner = craft(tmp_path)
    rewrite(learner, test={})
    code, _, error = export(learner, "--format", "safetensors", "--output", tmp_path / "net.safetensors")
    assert (code, error) == (2, f"kdexp-export: {learner / 'result.json'} is damaged: test.last: missing\n")


def test_damaged_weights_are_named(export, tmp_path):
    learner = craft(tmp_path)
    (learner / "last.safetensors").write_bytes(b"x")
    code, _, error = export(learner, "--format", "safetensors", "--output", tmp_path / "net.safetensors")
    assert (code, error) == (2, f"kdexp-export: {learner / 'last.safetensors'} is missing or damaged\n")


def test_a_network_whose_code_changed_since_is_refused(export, tmp_path):
    edited = {"_target_": "kdexp.models.mlp.MLP", "hidden": [6]}
    wider = craft(tmp_path / "a", model=edited, network={"_target_": "kdexp.models.mlp.MLP", "hidden": [5]})
    renamed = craft(tmp_path / "b", model={"_target_": "kdexp.models.mlp.MLP", "width": 5}, network=edited)
    output = tmp_path / "net.safetensors"
    assert "does not fit MLP: 3 tensors differ" in export(wider, "--format", "safetensors", "--output", output)[2]
    error = export(renamed, "--format", "safetensors", "--output", output)[2]
    assert "describes a network that this version of kdexp can't build: width: unknown key" in error


@pytest.mark.slow
def test_the_help_does_not_import_torch():
    check = "import sys, kdexp.commands.export as e; e.parser().format_help(); assert not {'torch', 'onnx'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True)
    shown = subprocess.run(
        [sys.executable, "-m", "kdexp.commands.export", "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert "--format {safetensors,torch_export,onnx}" in shown
