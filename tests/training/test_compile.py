"""Compiled forward passes: their outputs, their names, and where they are refused."""

import pytest
import torch
from each_method import PAIR
from loops import fresh, quiet_training
from own_networks import StagedNet
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from kdexp.deployment.rebuild import deployed_network
from kdexp.device import precision as device
from kdexp.experiment.obtain import obtain
from kdexp.experiment.starts import start_notes
from kdexp.network.capture import Capture

LAYERS = ["stages.0", "stages.0.1", "stages.0.2.input", "stages.2", "head.input"]


@pytest.fixture
def no_compiler(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found\nSet TORCHDYNAMO_VERBOSE=1")

    monkeypatch.setattr(torch, "compile", fail)
    device.compiler_problem.cache_clear()
    yield
    device.compiler_problem.cache_clear()


def test_compile_is_refused_without_a_compiler(no_compiler, refused):
    assert (
        "compile=True: torch.compile can't be used here (InvalidCxxCompiler: No working C++ compiler found); fix that, or "
        "leave compile=false"
    ) in " ".join(refused("compile=true", "device=cpu").split())


def test_graph_is_refused_without_cuda(refused):
    said = " ".join(refused("graph=true", "device=cpu").split())
    assert "graph=True: only CUDA devices replay graphs, and this is cpu; leave graph=false" in said


def test_less_exact_settings_are_separate_learners(make_experiment):
    asked = [(), ("fast=true",), ("compile=true",), ("graph=true",), ("fast=true", "compile=true", "graph=true")]
    specs = [make_experiment(*ways).spec("baseline") for ways in asked]
    assert [spec.precision for spec in specs] == [
        "fp32",
        "fp32 fast",
        "fp32 compiled",
        "fp32 graph",
        "fp32 fast compiled graph",
    ]
    assert len({spec.key for spec in specs}) == len(specs)


def test_a_compiled_network_stays_compiled_while_its_steps_are_inspected(make_experiment, monkeypatch):
    """Inside a dispatch mode, torch runs it uncompiled."""
    inspected = []

    class Uncompiled:
        def __init__(self, run):
            self.run = run

        def __call__(self, image):
            inspected.append(is_in_torch_dispatch_mode())
            return self.run(image)

    monkeypatch.setattr(torch, "compile", lambda run, **_: Uncompiled(run))
    monkeypatch.setattr("kdexp.training.recorded_steps.record_graph", lambda work, generators: work)
    experiment = make_experiment(*PAIR, "batch_size=16", "limit_batches=null", "compile=true", "graph=true", "fast=true")
    (learner,), _ = fresh(experiment, "baseline")
    quiet_training([learner], experiment.data.student_train, None, None, epochs=1, batch_size=16)
    assert len(inspected) >= 6 and not any(inspected) and not learner.remark


def test_auto_is_off_on_a_cpu_and_on_with_cuda(make_experiment):
    here, cuda = make_experiment(), make_experiment("device=cuda")
    assert (here.settings.fast, here.settings.graph) == ("auto", "auto")
    assert here.precision.label == make_experiment("fast=false", "graph=false").precision.label == "fp32"
    assert cuda.precision.label == "tf32 fast graph" and cuda.precision.auto == ("fast", "graph")
    assert here.spec("distilled").key == make_experiment("fast=false", "graph=false").spec("distilled").key


@pytest.mark.parametrize(
    ("words", "label", "said"),
    [
        ((), "tf32 fast graph", "tf32, recorded steps, channels-last memory, fused optimizers (fast=auto graph=auto; "),
        (("fast=false",), "tf32 graph", "tf32, recorded steps, fused optimizers (graph=auto; "),
        (("graph=false", "precision=bf16"), "bf16 fast", "bf16, channels-last memory, fused optimizers (fast=auto; "),
        (("graph=true", "compile=true"), "tf32 fast compiled graph", "tf32, recorded steps, compiled networks, channels-last"),
    ],
)
def test_what_was_left_to_the_device_is_said_in_a_line(make_experiment, words, label, said):
    experiment = make_experiment("device=cuda", *words)
    assert experiment.precision.label == label
    (line,) = start_notes(experiment)
    assert line.startswith(f"cuda: {said}") and line.endswith("=auto; false goes without)")


@pytest.mark.parametrize("words", [("device=cuda", "fast=true", "graph=false"), ("device=cpu",)])
def test_nothing_is_said_where_nothing_was_left_to_the_device(make_experiment, words):
    assert start_notes(make_experiment(*words)) == []


def test_a_misspelled_auto_is_answered_with_what_there_is(refused):
    said = " ".join(refused("graph=auot", "fast=1").split())
    assert "graph='auot': must be true or false or auto" in said and "fast=1: must be true or false or auto" in said


@pytest.mark.exhaustive
def test_a_compiled_capture_equals_the_plain_one_and_keeps_nothing():
    torch.manual_seed(0)
    network = StagedNet(num_classes=10, in_channels=1, image_size=8)
    network.dropout.p = 0.0
    names, probe, image = list(network.state_dict()), torch.randn(2, 1, 8, 8), torch.randn(6, 1, 8, 8)
    plain, compiled = (Capture(network, LAYERS, probe, compiled=way) for way in (False, True))
    for training in (True, False, True):
        network.train(training)
        ours, theirs = compiled(image), plain(image)
        torch.testing.assert_close(ours.logits, theirs.logits, rtol=1e-4, atol=1e-5)
        assert ours.features.keys() == theirs.features.keys() == set(LAYERS)
        for name, value in theirs.features.items():
            torch.testing.assert_close(ours.features[name], value, rtol=1e-4, atol=1e-5)
        network(image)  # nobody asks for layers here
    assert list(network.state_dict()) == names
    assert compiled._current_call == {}
    bare = Capture(network, [], probe, compiled=True)  # the very same network, asked for other layers
    assert bare(image).features == {} and compiled(image).features.keys() == set(LAYERS)


@pytest.mark.exhaustive
@pytest.mark.parametrize("method", ["at", "mutual"])
def test_a_compiled_training_is_stored_and_loaded_like_any_other(make_experiment, monkeypatch, method):
    monkeypatch.setattr("kdexp.training.recorded_steps.record_graph", lambda work, generators: work)
    ways = ("fast=true", "optimizer.lr=0.0009765625", "batch_size=16", "limit_batches=4")
    usual = obtain(make_experiment(*PAIR, f"distillation={method}", *ways))[-1]
    entry = obtain(make_experiment(*PAIR, f"distillation={method}", *ways, "compile=true", "graph=true"))[-1]
    assert not entry.failure and entry.spec.precision == "fp32 fast compiled graph"
    assert list(entry.stored.tensors("last")) == list(usual.stored.tensors("last"))
    assert isinstance(deployed_network(entry.stored), torch.nn.Module)
    for ours, theirs in zip(entry.stored.result["history"], usual.stored.result["history"], strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-2)
