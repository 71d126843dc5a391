"""The `kdexp` command line: help, refusals, dry runs, exit codes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from experiments import SHORT

from kdexp.commands.help import help_text
from kdexp.commands.process import INTERRUPTED
from kdexp.configuration.jobs import expand
from kdexp.configuration.shipped import conf_dir

KDEXP = [sys.executable, "-m", "kdexp"]


def kdexp(*words, cwd, columns=80):
    environment = os.environ | {"COLUMNS": str(columns), "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run([*KDEXP, *words], capture_output=True, text=True, cwd=cwd, env=environment, timeout=300)


def test_all_problems_at_once(refused):
    printed = refused(
        "dataset=cifr10", "distillation.temprature=3", "distillation.alpha=2", "+extra=1", "epochs=0", "optimizer.lr=nan"
    )
    for piece in ("cifr10", "temprature", "alpha=2", "extra", "epochs=0", "optimizer.lr=nan"):
        assert piece in printed
    assert "6 problems" in printed


def test_a_missing_device_is_refused(refused, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "device='cuda': this machine has no such device for PyTorch; here: cpu" in refused("device=cuda")


def test_a_checkpoint_of_another_architecture_is_refused(refused, tmp_path_factory):
    import torch

    path = tmp_path_factory.mktemp("weights") / "other.pt"
    torch.save({"weight": torch.zeros(3)}, path)
    printed = refused(f"teacher.checkpoint={path}")
    assert "does not fit MLP" in printed and "features.1.weight (model 256×64, file none)" in printed


@pytest.mark.alone
def test_help_is_one_screen_and_quick(tmp_path):
    start = time.perf_counter()
    shown = kdexp("--help", cwd=tmp_path)
    seconds = time.perf_counter() - start
    assert shown.returncode == 0
    lines = shown.stdout.splitlines()
    assert len(lines) <= 45 and max(map(len, lines)) <= 120
    for word in ("Examples", "dataset       cifar10", "student       the same networks", "dry_run", "TAB completion"):
        assert word in shown.stdout
    assert seconds < 3, "a loose floor: half a second where nothing else runs"


@pytest.mark.slow
@pytest.mark.parametrize("words", [["--help"], ["--cfg", "job"], ["-sc", "query=bash"]])
def test_help_configuration_and_completion_do_not_import_torch(words, tmp_path):
    code = """
import sys
from kdexp.commands.main import main
try:
    main()
finally:
    assert "torch" not in sys.modules
"""
    environment = os.environ | {"COMP_LINE": "kdexp distill", "COMP_POINT": "13"}
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_completion_completes(tmp_path):
    code = "from kdexp.commands.main import main; main()"
    environment = os.environ | {"COMP_LINE": "kdexp distillation=", "COMP_POINT": "19"}
    done = subprocess.run(
        [sys.executable, "-c", code, "-sc", "query=bash"], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert {"distillation=kd", "distillation=hint"} <= set(done.stdout.split())


@pytest.mark.slow
def test_a_dry_run_shows_everything_and_leaves_nothing(here, tmp_path):
    code, shown = here("dry_run=true", "distillation=hint", columns=120)
    assert code == 0, shown.err
    for piece in ("85,002", "84,480", "8,970", "to be trained", "options: distillation=hint", "nothing was trained or written"):
        assert piece in shown.out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_dry_run_fits_a_screen_and_shows_what_is_not_as_by_default(here):
    words = ["experiment=simkd_resnet32x4_resnet8x4", "distillation=simkd", "optimizer.lr=0.2", "dataset.root=none", "epochs=3"]
    lines = here("dry_run=true", *words)[1].out.splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= 90
    shown = " ".join(" ".join(lines).split())
    assert "options: experiment=simkd_resnet32x4_resnet8x4 protocol=simkd" in shown and "student=resnet8x4" in shown
    assert "epochs=3 batch_size=64" in shown and "optimizer.lr=0.2" in shown and "distillation.kd_weight=0" in shown
    assert "--cfg job" in shown and "recipe" not in shown and "teacher_epochs" not in shown and "momentum" not in shown


@pytest.mark.slow
def test_a_dry_run_of_the_default_has_no_differences(here):
    shown = here("dry_run=true")[1].out
    assert "options: as by default\nvalues:  as by default\n" in shown
    for removed in ("teacher=null", "~teacher"):
        code, printed = here("dry_run=true", removed, "teacher=mlp_small")
        assert code == 0 and f"{removed} is not used, teacher=mlp_small comes after it" in printed.err
    without = here("dry_run=true", "distillation=mutual", "teacher=null")[1].out
    assert "options: distillation=mutual teacher=null\nvalues:  as by default\n" in without


@pytest.mark.slow
def test_a_dry_run_of_a_sweep_leaves_nothing_either(here, tmp_path):
    code, shown = here("-m", "dry_run=true", "seed=0,1", "distillation.temperature=1,4")
    assert code == 0 and shown.out.count("dry run:") == 1
    assert "4 jobs, 7 distinct learners, 7 of them to be trained; no estimate of the time" in shown.out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_dry_run_of_a_sweep_shows_what_is_stored_and_estimates_the_rest(here):
    assert here(*ONCE)[0] == 0
    shown = here("-m", "dry_run=true", *ONCE, "seed=0,1", "distillation.temperature=1,4")[1].out
    assert "4 jobs, 7 distinct learners, 4 of them to be trained: about 0." in shown
    assert here("-m", "dry_run=true", *ONCE, "seed=0")[1].out.count("nothing") == 2


@pytest.mark.slow
def test_a_dry_run_shows_which_learners_are_stored(here):
    assert here(*ONCE)[0] == 0
    shown = here(*ONCE, "dry_run=true", "distillation=hint", columns=120)[1].out
    assert shown.count("stored 20") == 2 and shown.count("to be trained") == 1


ONCE = ("epochs=1", "teacher_epochs=1", "device=cpu")
DIVERGES = ("epochs=2", "optimizer=sgd", "optimizer@teacher_optimizer=adam")


def test_a_failed_learner_is_exit_3_and_a_row(here):
    code, shown = here(*DIVERGES, "optimizer.lr=1e30")
    assert code == 3, shown.err
    assert "baseline failed: ce loss became" in shown.out


@pytest.mark.slow
def test_in_a_sweep_one_failing_job_does_not_stop_the_others(here, without_pictures):
    code, shown = here("-m", *DIVERGES, "teacher_epochs=2", "optimizer.lr=1e30,0.05")
    assert code == 3
    assert "1/2  optimizer.lr=1e+30: failed: baseline failed: ce loss became" in shown.out
    assert "2/2  optimizer.lr=0.05: teacher" in shown.out and "1 of 2 jobs" in shown.out


@pytest.mark.slow
def test_own_options_come_from_a_config_dir(here, tmp_path):
    own = tmp_path / "own" / "student"
    own.mkdir(parents=True)
    (own / "tiny.yaml").write_text("_target_: kdexp.models.mlp.MLP\nhidden: [8]\ncheckpoint: null\n")
    code, shown = here("--config-dir", "own", "student=tiny", "dry_run=true", columns=120)
    assert code == 0, shown.err
    assert "tiny" in shown.out and "610" in shown.out
    assert here("--config-dir", "own", "student=tiny", *SHORT)[0] == 0
    (command,) = tmp_path.glob("outputs/runs/*/command.txt")
    assert command.read_text().startswith("kdexp --config-dir own student=tiny epochs=2")


def test_help_lists_every_network_by_number():
    listed = " ".join(help_text().split())
    assert all(f" {path.stem}" in listed for path in (Path(conf_dir()) / "teacher").glob("*.yaml"))
    assert "resnet8x4, resnet14, " in listed and "wrn_28_4, wrn_28_10, " in listed


def test_help_lists_own_options_too(tmp_path):
    (tmp_path / "student").mkdir()
    (tmp_path / "student" / "tiny.yaml").touch()
    assert "timm, tiny, torchvision" in help_text(str(tmp_path))


@pytest.mark.slow
def test_unreadable_data_are_refused_with_exit_2(here, tmp_path):
    (tmp_path / "data" / "cifar-10-batches-py").mkdir(parents=True)
    code, shown = here("dataset=cifar10", "dataset.download=false", "teacher=deepnn", "student=lightnn")
    assert code == 2 and "Traceback" not in shown.err
    assert "CIFAR10 in dataset.root='data' can't be read" in shown.err
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("words", "jobs"),
    [
        (["seed=1,2", "epochs=3"], [["seed=1", "epochs=3"], ["seed=2", "epochs=3"]]),
        (["seed=range(0,2)"], [["seed=0"], ["seed=1"]]),
        (["optimizer=adam,sgd", "~teacher"], [["optimizer=adam", "~teacher"], ["optimizer=sgd", "~teacher"]]),
        (["+a=1,2"], [["+a=1"], ["+a=2"]]),
        (["student.hidden=[1,2],[3]"], [["student.hidden=[1,2]"], ["student.hidden=[3]"]]),
    ],
)
def test_a_multirun_is_expanded_as_hydra_does(words, jobs):
    assert expand(words) == jobs


@pytest.mark.slow
@pytest.mark.alone
def test_an_interrupted_run_says_so_and_is_exit_130(tmp_path):
    run = subprocess.Popen(
        [*KDEXP, "epochs=100000", "teacher_epochs=1"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Where the tests themselves run in the background, SIGINT is ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        assert run.stdout is not None
        while "training baseline" not in run.stdout.readline():
            assert run.poll() is None
        run.send_signal(signal.SIGINT)
        _, printed = run.communicate(timeout=20)
    finally:
        run.kill()
        run.communicate()
    assert run.returncode == INTERRUPTED
    assert printed.startswith("interrupted;") and "Traceback" not in printed
