"""Small experiments that all tests build on."""

import io
import os

import pytest
import torch
from rich.console import Console

from kdexp.config import compose_command
from kdexp.experiment import Experiment
from kdexp.journal import Journal

# Two test processes side by side must not fight for the cores, and bitwise equality needs one number of threads.
torch.set_num_threads(int(os.environ.get("KDEXP_TEST_THREADS", "1")))

SHORT = ("epochs=2", "teacher_epochs=2", "limit_batches=3", "device=cpu")


@pytest.fixture
def make_experiment(tmp_path):
    """Composes a short experiment on the embedded digits, its store in the test's own folder."""

    def make(*overrides: str) -> Experiment:
        config = compose_command([f"output_dir={tmp_path}", *SHORT, *overrides])
        return Experiment(config, Journal(Console(file=io.StringIO(), width=80)))

    return make


def said(experiment: Experiment) -> str:
    """Everything an experiment has printed."""
    return experiment.journal.console.file.getvalue()
