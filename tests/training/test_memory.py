"""The shipped CIFAR experiments fit into the memory of a GPU with 4 GB."""

import gc

import pytest
import torch
from loops import look_up, quiet_training
from on_meta import META, Peak, images_of, let_meta_train, prepared_from
from shipped import options

from kdexp.data.split import Split
from kdexp.device.precision import Precision
from kdexp.experiment.plan import Plan
from kdexp.training.learner import Learner

CARD = 4 * 2**30
BESIDE = 2**29
"""Bytes of a GPU that tensors can't use: CUDA's context, and the kernels of its libraries."""
EXPERIMENTS = [name for name in options("experiment") if not name.startswith(("mnist", "digits"))]
"""Those on CIFAR; the first lines of the tests hold that."""
NINE = [
    ("distillation=kd", f"distillation.temperature={t}", f"distillation.alpha={a}") for t in (1, 4, 8) for a in (0.1, 0.5, 0.9)
]
CUDA = torch.device("cuda")
needs_cuda = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.fixture
def planned(make_experiment, monkeypatch):
    """Composes a shipped experiment that needs no data for its specs, and whose learners record no epochs."""
    monkeypatch.setattr(Plan, "_data_identity", lambda self, student_fraction: {"student_fraction": student_fraction})
    monkeypatch.setattr(Learner, "record_epoch", lambda self, numbers, validated: self.history.append({}))
    return lambda name, *overrides: make_experiment(f"experiment={name}", "dataset.root=nowhere", *overrides)


def nine_points(planned):
    """The experiment of the sweep, and its learners of one seed."""
    points = [planned("cifar10_tutorial_sweep", *point) for point in NINE]
    entries = [points[0].entry("baseline"), *(point.entry("distilled") for point in points)]
    for number, entry in enumerate(entries):
        entry.job = str(number)
    return points[0], entries


def take_two_steps(experiment, entries, precision, steps=2):
    """Trains on 50,000 images, with a table of the teacher's outputs where images repeat, and evaluates; 10,000 test images."""
    place = precision.device if precision.device.type == "meta" else torch.device("cpu")
    learners, teacher, split = prepared_from(experiment, entries, images_of(experiment.shape, 50_000, place), precision)
    ways = {"augmented": False, "memory_format": precision.memory_format}
    tested = Split(images_of(experiment.shape, 10_000, place), experiment.dataset, precision.device, **ways)
    validation = Split(images_of(experiment.shape, 500, place), experiment.dataset, precision.device, **ways)
    if teacher:
        look_up(teacher, split)
    size = experiment.settings.batch_size
    quiet_training(learners, split, teacher, validation, epochs=1, batch_size=size, limit_batches=steps)
    assert [learner.traceback for learner in learners if learner.failure] == []
    assert len(tested) == 10_000


def groups(experiment):
    """The entries that train together: the teacher alone, then its students."""
    students = [experiment.entry(role) for role in experiment.roles if role != "teacher"]
    return [[experiment.entry("teacher")], students]


def peak_on_meta(experiment, entries):
    with Peak() as peak:
        take_two_steps(experiment, entries, Precision("fp32", META, fast=True))
    return peak.most


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_tensors_of_every_cifar_experiment_fit_into_four_gigabytes(planned, monkeypatch, name):
    let_meta_train(monkeypatch)
    experiment = planned(name)
    assert experiment.config["choices"]["dataset"].startswith("cifar")
    for entries in groups(experiment):
        most = peak_on_meta(experiment, entries)
        assert 2**29 < most < CARD - BESIDE, f"{[entry.role for entry in entries]}: {most / 2**30:.2f} GiB"


@pytest.mark.slow
def test_tensors_of_a_lockstep_sweep_fit_into_four_gigabytes(planned, monkeypatch):
    let_meta_train(monkeypatch)
    most = peak_on_meta(*nine_points(planned))
    assert 2**29 < most < CARD - BESIDE, f"{most / 2**30:.2f} GiB"


@pytest.fixture
def small_card():
    """A GPU of which PyTorch uses no more than one with 4 GB would have."""
    free_all()
    torch.cuda.set_per_process_memory_fraction((CARD - BESIDE) / torch.cuda.get_device_properties(CUDA).total_memory)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)
    free_all()


def free_all():
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()


@pytest.mark.parametrize("name", [pytest.param(name, marks=needs_cuda) for name in EXPERIMENTS])
def test_every_cifar_experiment_trains_on_a_gpu_with_four_gigabytes(planned, small_card, name):
    experiment = planned(name)
    for entries in groups(experiment):
        take_two_steps(experiment, entries, Precision.pick("auto", CUDA))
        print(f"{name} {[entry.role for entry in entries]}: {torch.cuda.max_memory_reserved() / 2**30:.2f} GiB")
        free_all()


@pytest.mark.parametrize("graph", [pytest.param(graph, marks=needs_cuda) for graph in (False, True, "auto")])
def test_a_lockstep_sweep_trains_on_a_gpu_with_four_gigabytes(planned, small_card, graph):
    precision = Precision.pick("auto", CUDA, fast=True, graph=graph)
    precision.set()
    take_two_steps(*nine_points(planned), precision, steps=8)
    print(f"nine points and a baseline, graph={graph}: {torch.cuda.max_memory_reserved() / 2**30:.2f} GiB")
