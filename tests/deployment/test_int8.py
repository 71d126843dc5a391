"""Networks with 8-bit integers: the exported file, and the row of a run's table."""

import io
import json
from dataclasses import asdict
from types import SimpleNamespace

import pytest
import torch
import yaml
from crafted import as_run, craft
from experiments import COMPOSER, SHORT, said
from rich.console import Console
from safetensors.torch import load_file
from torch import nn

import kdexp
from kdexp.commands import run_data
from kdexp.commands.export import main
from kdexp.commands.run import run
from kdexp.configuration.nodes import build
from kdexp.data.preprocessing import Preprocessing
from kdexp.data.shape import Shape
from kdexp.deployment import export_int8
from kdexp.deployment.formats import FORMATS, Exportable
from kdexp.deployment.int8 import OnnxNetwork, logits_on, stored_bytes
from kdexp.deployment.predictor import Predictor
from kdexp.deployment.quantisation import QUANTISATION
from kdexp.errors import BadResult
from kdexp.experiment.obtain import obtain
from kdexp.report.latency import measure
from kdexp.report.remarks import remarks
from kdexp.report.rows import make_rows
from kdexp.report.table import draw_table
from kdexp.store.stored import QUANTISED
from kdexp.sweep.axes import axis_values
from kdexp.sweep.comparison import fold
from kdexp.sweep.read import read
from kdexp.tasks.classification import agreement, metrics
from kdexp.validation.validator import validate

needs_onnx = pytest.mark.skipif(bool(FORMATS["onnx"].missing()), reason="without the extra onnx")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of one short run."""
    folder = tmp_path_factory.mktemp("finished")
    words = ("epochs=20", "teacher_epochs=2", "device=cpu")
    run(COMPOSER.compose([f"output_dir={folder}", *words]), console=Console(file=io.StringIO()))
    return next((folder / "runs").iterdir())


@pytest.fixture
def refused(capsys):
    """Runs kdexp-export, which must fail; returns its exit code and its error message."""

    def call(*words):
        with pytest.raises(SystemExit) as stop:
            main([str(word) for word in words])
        printed = capsys.readouterr()
        assert printed.out == "" and printed.err.count("\n") == 1
        return stop.value.code, printed.err

    return call


@pytest.mark.slow
@needs_onnx
def test_the_int8_file_is_compared_with_fp32_on_test_images(finished, tmp_path, capsys):
    import onnx

    path = tmp_path / "net.onnx"
    main([str(finished), "--format", "onnx", "--int8", "--output", str(path)])
    printed = capsys.readouterr().out
    assert [entry.name for entry in tmp_path.iterdir()] == ["net.onnx"]
    test = build(COMPOSER.compose([])["dataset"]).read()[1]
    images = test.images.div(255)
    with torch.no_grad():
        ours, theirs = kdexp.load(finished)(images), OnnxNetwork(path)(images)
    top1, exact = (metrics(logits, test.labels)["top1"] for logits in (theirs, ours))
    same = agreement(ours, theirs)
    assert same > 0.9 and not torch.equal(ours, theirs)
    assert f"test accuracy {100 * top1:.2f} %, {100 * exact:.2f} % in fp32" in printed
    assert f"the same class for {100 * same:.2f} % of 797 test images" in printed
    assert (
        "calibrated on 90 training images" in printed
        and "net.onnx: mlp_small trained by 0.1 CE + 0.9 KD, T=4, now in 8-bit" in printed
    )
    model = onnx.load(path)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert (metadata["precision"], float(metadata["test_top1"])) == ("int8", top1)
    assert json.loads(metadata["preprocessing"])["crop"] == 8


@pytest.mark.slow
@needs_onnx
def test_an_int8_file_that_classifies_differently_is_not_kept(finished, tmp_path, refused, monkeypatch):
    monkeypatch.setattr(export_int8, "LEAST_AGREEMENT", 1.01)
    path = tmp_path / "net.onnx"
    path.write_text("mine")
    code, error = refused(finished, "--format", "onnx", "--int8", "--output", path, "--force")
    assert code == 1 and "the int8 file was not kept: it gives " in error and "of 797 test images another class" in error
    assert path.read_text() == "mine" and [entry.name for entry in tmp_path.iterdir()] == ["net.onnx"]


class Normed(nn.Module):
    """A convolution with batch norm, whose statistics are not the initial ones."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Linear(6, 4)
        self.norm.running_mean.uniform_()
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, image):
        return self.head(self.norm(self.conv(image)).relu().mean((2, 3)))


@pytest.mark.slow
@needs_onnx
def test_batch_norm_is_folded_and_weights_are_quantised_per_channel(tmp_path):
    import onnx

    torch.manual_seed(0)
    network = Predictor(Normed(), [0.5] * 3, [0.25] * 3, Preprocessing(3, 8, 8))
    student = Exportable(network, Shape(4, 3, 8), {"classes": None})
    exact, path, images = tmp_path / "fp32.onnx", tmp_path / "int8.onnx", torch.rand(100, 3, 8, 8)
    FORMATS["onnx"].write(student, exact)
    build(QUANTISATION).write(exact, images, path)
    graph = onnx.load(path).graph
    operations = [node.op_type for node in graph.node]
    assert "BatchNormalization" not in operations and operations.count("Conv") == 1
    shapes = {tuple(tensor.dims) for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.INT8}
    assert {(6, 3, 3, 3), (6,)} <= shapes  # weights, and a zero point for each channel
    with torch.no_grad():
        ours, theirs = network(images), OnnxNetwork(path)(images)
    torch.testing.assert_close(theirs, ours, rtol=0, atol=0.03)
    assert not torch.equal(theirs, ours) and 162 < stored_bytes(path) < stored_bytes(exact)


REFUSALS = [
    (["--format", "torch_export", "--int8"], "--int8 needs --format onnx"),
    (["--card", "--root", "x"], "--root is for --int8, which reads the run's images"),
    (["--format", "onnx", "--int8"], "has no config.yaml, which names its images; --int8 needs them, and so a run folder"),
]


@pytest.mark.parametrize(("words", "sentence"), REFUSALS)
def test_refusals_of_int8(tmp_path, monkeypatch, refused, words, sentence):
    monkeypatch.setattr(FORMATS["onnx"], "needs", (), raising=False)
    monkeypatch.chdir(tmp_path)
    code, error = refused(craft(tmp_path / "store"), *words)
    assert code == 2 and sentence in error


@pytest.fixture
def as_config(tmp_path):
    """Writes the configuration of a run into its folder, with other entries for the data set."""

    def write(*overrides, **changes):
        config = COMPOSER.compose([*SHORT, *overrides])
        config["dataset"] = {**config["dataset"], **changes}
        learner = craft(tmp_path / "store")
        folder = as_run(tmp_path, ("distilled", learner.name))
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        return folder

    return write


@pytest.mark.parametrize(
    ("changes", "words", "sentence"),
    [
        ({"_target_": "os.system"}, [], "is refused: it names 'os.system', which is no network or method of kdexp"),
        ({"_target_": "kdexp.data.load.load"}, [], "no ImageDataset"),
        ({"mean": {"_target_": "os.system"}}, [], "is refused: it names 'os.system', which is no network or method of kdexp"),
        ({"mean": "${oc.env:HOME}"}, [], "is given '${oc.env:HOME}', and arguments must be plain values"),
        ({}, [], "the images are not those that"),
        ({}, ["--root", "photos"], "--root photos: the images of"),
    ],
)
def test_images_of_a_run_are_read_with_care(as_config, monkeypatch, refused, changes, words, sentence):
    monkeypatch.setattr(FORMATS["onnx"], "needs", (), raising=False)
    code, error = refused(as_config(**changes), "--format", "onnx", "--int8", *words)
    assert code == 2 and sentence in error


def test_images_that_moved_are_found_in_another_folder(as_config, tmp_path, monkeypatch, refused):
    monkeypatch.setattr(FORMATS["onnx"], "needs", (), raising=False)
    run_folder = as_config("dataset=mnist", root=str(tmp_path / "gone"), download=True)
    code, error = refused(run_folder, "--format", "onnx", "--int8")
    assert code == 2 and "no MNIST in dataset.root=" in error and "; --root FOLDER names where its images are now" in error
    read = []
    others = SimpleNamespace(fingerprint="of other images", close=lambda: None)
    monkeypatch.setattr(run_data, "load", lambda dataset, device: read.append(dataset) or others)
    folder = tmp_path / "here" / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
        (folder / name).touch()
    code, error = refused(run_folder, "--format", "onnx", "--int8", "--root", tmp_path / "here")
    assert code == 2 and "the images are not those that" in error
    assert read[0].root == tmp_path / "here" and read[0].download is False


@pytest.mark.slow
@needs_onnx
def test_the_int8_row_is_made_from_the_distilled_student(make_experiment):
    experiment = make_experiment("controls=[int8]", "latency=true")
    entries = obtain(experiment)
    distilled, quantised = entries[2:]
    assert quantised.role == "int8" and quantised.spec.teacher == distilled.spec.key and not quantised.reused
    assert distilled.spec.key == make_experiment().spec("distilled").key
    network = OnnxNetwork(quantised.stored.path / QUANTISED)
    stored = load_file(quantised.stored.path / "logits.safetensors")
    assert torch.equal(stored["last"], logits_on(experiment.data.test, network))
    assert quantised.stored.result["test"]["last"] == metrics(stored["last"], stored["labels"])
    assert "int8: quantising mlp_small, calibrated on 90 training images" in said(experiment)
    speeds = measure({entry.role: entry.stored for entry in entries}, experiment)
    assert speeds["baseline"] == speeds["distilled"] != speeds["int8"]
    row, fp32 = make_rows(entries, experiment)[3], make_rows(entries, experiment)[2]
    assert (row.parameters, row.macs, row.precision) == (fp32.parameters, fp32.macs, "int8") and row.size_mb < fp32.size_mb / 2
    headings = [
        str(column.header).replace("\n", " ") for column in draw_table(make_rows(entries, experiment), experiment, 80).columns
    ]
    assert {"MB", "ms / image"} <= set(headings)
    assert any(line.startswith("int8: the distilled student in 8-bit integers") for line in remarks(entries, experiment))
    again = make_experiment("controls=[int8]")
    assert [entry.reused for entry in obtain(again)] == [True] * 4


@pytest.mark.slow
@needs_onnx
def test_a_quantised_row_that_fails_fails_alone(make_experiment, monkeypatch):
    def broken(*_):
        raise NotImplementedError("no such operation\nmore")

    monkeypatch.setattr("kdexp.deployment.quantisation.Quantisation.write", broken)
    *others, quantised = obtain(make_experiment("controls=[int8]"))
    assert all(entry.stored for entry in others) and quantised.stored is None
    assert quantised.failure == "can't be quantised: no such operation (NotImplementedError; log.txt has its traceback)"


def problems_of(*overrides):
    return [str(problem) for problem in validate(COMPOSER.compose([*SHORT, *overrides]))]


def test_int8_is_refused_before_training_where_it_can_not_be_made(monkeypatch):
    monkeypatch.setattr(FORMATS["onnx"], "needs", ("onnx_of_tomorrow",), raising=False)
    assert problems_of("controls=[int8]") == ['controls=int8: needs onnx_of_tomorrow: pip install "kdexp[onnx]"']
    monkeypatch.setattr(FORMATS["onnx"], "needs", (), raising=False)
    assert problems_of("controls=[int8]") == []
    assert problems_of("controls=[int8]", "distillation=none") == [
        "controls=int8: quantises the distilled student; choose a method: distillation=kd"
    ]


def test_a_quantised_network_has_the_settings_of_the_distilled_student():
    config = COMPOSER.compose(["distillation.temperature=3"])
    assert axis_values(config, "int8") == axis_values(config, "distilled")
    assert axis_values(config, "int8")["distillation.temperature"] == 3


@pytest.mark.slow
@needs_onnx
def test_sweeps_compare_quantised_students_with_their_baselines(here, tmp_path):
    words = ("seed=0,1", "controls=[int8]", "hydra/launcher=lockstep", "store=store", "output_dir=out")
    code, printed = here("-m", *words, *SHORT)
    assert code == 0, printed
    (table,) = fold(read([tmp_path / "out"])).tables
    (row,) = (row for row in table.rows if row.role == "int8")
    assert row.seeds == [0, 1] and row.difference.over_seeds and row.difference.over_seeds_and_images
    assert "int8" in printed.out and len(asdict(row)["keys"]) == 2


@pytest.mark.slow
@needs_onnx
def test_a_quantised_network_is_not_loaded_as_a_module(make_experiment):
    entry = obtain(make_experiment("controls=[int8]"))[-1]
    with pytest.raises(BadResult, match="int8.onnx is for onnxruntime; the network that it was made from can be loaded"):
        kdexp.load(entry.stored.path)
