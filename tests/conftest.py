"""Fixtures that all tests share; other shared code is in `support/`."""

import gc
import io
import os
import subprocess
import sys
from contextlib import ExitStack, suppress

import pytest
import torch
from drawing import drawn_once
from experiments import COMPOSER, SHORT
from rich.console import Console

from kdexp.commands import main as cli
from kdexp.commands import run
from kdexp.configuration.compose import Composer
from kdexp.experiment.experiment import Experiment
from kdexp.experiment.journal import Journal

# Two test processes must not compete for the cores, and bitwise equality needs a fixed number of threads.
torch.set_num_threads(int(os.environ.get("KDEXP_TEST_THREADS", "1")))

# Nothing that tests write must survive a power cut; the tests of flushing patch this themselves.
os.fsync = lambda _number: None

run.draw_curves = drawn_once(run.draw_curves)

with suppress(ImportError):  # the tests that need a GPU do without
    from hypothesis import HealthCheck, settings

    # A property must not fail because an example was slow while another process had the core.
    settings.register_profile("steady", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("steady")


OF_TORCH = (r"default:::torch(\.|$)", r"default:(?s).*Triggered internally")
"""Warnings from PyTorch's Python code, and from its C++ code, which are attributed to whoever called it."""


def pytest_collection_modifyitems(items):
    """On CUDA, PyTorch's own warnings are no errors: which there are depends on the driver, the libraries and the GPU."""
    for item in items:
        if item.get_closest_marker("gpu"):
            for warnings in OF_TORCH:
                item.add_marker(pytest.mark.filterwarnings(warnings))


def pytest_collection_finish():
    """Looks for cycles less often, and not among modules and collected tests: that is a tenth of the time of short tests."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000)


@pytest.fixture
def make_experiment(tmp_path):
    """Composes a short experiment on the embedded digits, its store in the test's own folder."""

    def make(*overrides: str) -> Experiment:
        config = COMPOSER.compose([f"output_dir={tmp_path}", *SHORT, *overrides])
        return Experiment(config, Journal(Console(file=io.StringIO(), width=80)))

    return make


@pytest.fixture
def here(tmp_path, monkeypatch, capsys):
    """Runs a command in this process, which saves importing torch; returns its exit code and output."""

    def run(*words, columns=80):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setattr(sys, "argv", ["kdexp", *words])
        monkeypatch.setattr(cli, "Composer", lambda *where: COMPOSER if where == (None, "config") else Composer(*where))
        longest_number = sys.get_int_max_str_digits()
        with pytest.raises(SystemExit) as stop:
            cli.main()
        sys.set_int_max_str_digits(longest_number)
        return stop.value.code, capsys.readouterr()

    return run


@pytest.fixture
def without_pictures(monkeypatch):
    """Leaves out the pictures of sweeps, which take longer to draw than short jobs to train."""
    monkeypatch.setattr("kdexp.sweep.page.available", lambda: False)


@pytest.fixture
def call_main(monkeypatch, capsys):
    """Calls the `main` of a command with words; returns its exit code and all that it printed, without a traceback."""

    def call(main, *words, columns=80):
        monkeypatch.setattr(sys, "argv", [*map(str, words)])
        monkeypatch.setenv("COLUMNS", str(columns))
        with pytest.raises(SystemExit) as stop:
            main()
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return stop.value.code, printed.out + printed.err

    return call


@pytest.fixture
def refused(here, tmp_path):
    """Runs a command that must be refused with exit code 2 and nothing written; returns what it printed."""

    def run(*words):
        code, printed = here(*words)
        assert code == 2, printed
        assert list(tmp_path.iterdir()) == []
        assert "Traceback" not in printed.err and printed.out == ""
        return printed.err

    return run


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """The environment variables of users of a SLURM cluster on this machine."""
    pytest.importorskip("submitit")
    import slurm_cluster

    if why := slurm_cluster.missing():
        pytest.skip(why)
    with ExitStack() as bed:
        try:
            environment = bed.enter_context(slurm_cluster.cluster(tmp_path_factory.mktemp("slurm") / "bed"))
        except (OSError, subprocess.SubprocessError) as error:  # a container may not let its daemons start
            pytest.skip(f"no SLURM cluster starts here: {error}")
        yield environment


@pytest.fixture
def user(tmp_path, cluster):
    """A user of the SLURM cluster in the test's own folder."""
    from slurm_cluster import ClusterUser

    return ClusterUser(tmp_path, cluster)
