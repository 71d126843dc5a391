"""Slow: the default run as shipped, and real data where `KDEXP_DATA` names a folder that torchvision can read."""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from experiments import compose_command

from kdexp.distillation.base import Progress
from kdexp.experiment.experiment import Experiment
from kdexp.experiment.obtain import obtain
from kdexp.models.tutorial import DeepNN

pytestmark = pytest.mark.slow
DATA = Path(os.environ.get("KDEXP_DATA", "data"))


def needs(folder):
    return pytest.mark.skipif(not (DATA / folder).is_dir(), reason=f"set KDEXP_DATA to a folder that holds {folder}")


@pytest.mark.alone
@pytest.mark.exhaustive  # .ci/run makes the same run
def test_the_default_run_is_short_and_ends_with_a_table(tmp_path):
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "kdexp", f"output_dir={tmp_path}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert time.perf_counter() - start < 180, "a quarter of a minute where nothing else runs"
    table = done.stdout[done.stdout.index("digits, seed 0") :].splitlines()
    assert [line.split()[0] for line in table[4:7]] == ["teacher", "baseline", "distilled"]


@pytest.mark.exhaustive
def test_distillation_helps_by_default_on_validation_data(tmp_path, make_experiment):
    gains = []
    for seed in range(5):
        overrides = [f"output_dir={tmp_path}", "device=cpu", f"seed={seed}"]
        experiment = Experiment(compose_command(overrides), make_experiment().journal)
        _, baseline, distilled = (entry.stored.result["history"][-1]["validation_accuracy"] for entry in obtain(experiment))
        gains.append(100 * (distilled - baseline))
    assert statistics.mean(gains) > 1


@needs("cifar-10-batches-py")
def test_on_cifar10_the_first_twenty_steps_equal_the_tutorials_own_pipeline(make_experiment):
    """The plain pipeline: PIL images, ToTensor, Normalize, a DataLoader, NCHW, torch's Adam, the same order of images."""
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    experiment = make_experiment("experiment=cifar10_tutorial", f"dataset.root={DATA}", "dataset.download=false")
    order = torch.randperm(50_000, generator=torch.Generator().manual_seed(42 * 1_000_003))
    norm = transforms.Normalize(experiment.dataset.mean, experiment.dataset.std)
    source = datasets.CIFAR10(str(DATA), transform=transforms.Compose([transforms.ToTensor(), norm]))
    torch.manual_seed(42)
    model = DeepNN(num_classes=10, in_channels=3, image_size=32, dropout=0.1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    loader = DataLoader(source, batch_size=128, sampler=order[: 20 * 128].tolist(), generator=torch.Generator())
    plain = []
    for image, label in loader:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(image), label)
        loss.backward()
        optimizer.step()
        plain.append(loss.item())

    (learner,), _ = prepare_teacher(experiment)
    learner.train()
    for step, batch in enumerate(experiment.data.train.batches(128, seed=42, epoch=0, limit=20)):
        learner.step(batch, None, Progress(0.0, 10, step))
    ours = [float(row[:-1].sum()) for row in learner.log.trace]
    torch.testing.assert_close(torch.tensor(ours), torch.tensor(plain), rtol=1e-6, atol=1e-6)


def prepare_teacher(experiment):
    """Returns the teacher as a learner, before its training."""
    from kdexp.training.prepare import prepare

    return prepare([experiment.entry("teacher")], None, experiment.shape, experiment.precision, experiment.data.train.labels)


@needs("MNIST/raw")
def test_mnist_reads_and_trains(make_experiment):
    experiment = make_experiment("experiment=mnist_keras", f"dataset.root={DATA}", "limit_batches=60", "epochs=1")
    entries = obtain(experiment)
    assert (len(experiment.data.train), len(experiment.data.test)) == (60_000, 10_000)
    assert all(entry.stored.result["test"]["last"]["top1"] > 0.5 for entry in entries)


@needs("cifar100")
def test_cifar100_reads_from_class_folders(make_experiment):
    data = make_experiment(
        "dataset=cifar100", "teacher=deepnn", "student=lightnn", f"dataset.root={DATA}", "dataset.download=false"
    ).data
    assert len(data.test) == 10_000 and len(data.test.labels.unique()) == 100


@needs("FashionMNIST/raw")
def test_fashion_mnist_is_the_published_one(make_experiment):
    networks = ("teacher=keras_teacher", "student=keras_student")
    data = make_experiment("dataset=fashion_mnist", *networks, f"dataset.root={DATA}", "dataset.download=false").data
    assert (len(data.test), data.test.labels.bincount().tolist()) == (10_000, [1_000] * 10)


@needs("cifar100")
def test_class_folders_read_as_ones_own_images_are_the_same_pixels(make_experiment):
    networks = ("teacher=deepnn", "student=lightnn", f"dataset.root={DATA}")
    own = make_experiment("dataset=image_folder", *networks, f"dataset.root={DATA}/cifar100", "dataset.image_size=32")
    assert own.data.fingerprint == make_experiment("dataset=cifar100", *networks).data.fingerprint
