"""The command line as a user meets it: help, refusals, dry runs, exit codes."""

import os
import signal
import subprocess
import sys
import time

import pytest

from kdexp import cli
from kdexp.help import help_text

KDEXP = [sys.executable, "-m", "kdexp"]


def kdexp(*words, cwd, columns=80):
    environment = os.environ | {"COLUMNS": str(columns), "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run([*KDEXP, *words], capture_output=True, text=True, cwd=cwd, env=environment, timeout=300)


@pytest.fixture
def here(tmp_path, monkeypatch, capsys):
    """Runs a command in this process, which saves importing torch; returns its exit code and what it printed."""

    def run(*words, columns=80):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setattr(sys, "argv", ["kdexp", *words])
        monkeypatch.setattr(cli, "_exit_codes", [])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code, capsys.readouterr()

    return run


@pytest.fixture
def refused(here, tmp_path):
    """Runs a command that must be refused: exit 2, nothing written; returns what it printed."""

    def run(*words):
        code, printed = here(*words)
        assert code == 2, printed
        assert list(tmp_path.iterdir()) == []
        assert "Traceback" not in printed.err and printed.out == ""
        return printed.err

    return run


REFUSALS = [
    (
        ["distillation=kdd"],
        "distillation='kdd': no such option; did you mean kd? known: cosine, hint, kd, label_smoothing, mse_logits, none",
    ),
    (["dataset=cifar"], "dataset='cifar': no such option; did you mean cifar10? known: cifar10, cifar100, digits"),
    (["student=resnet"], "student='resnet': no such option; known: deepnn, keras_student"),
    (["distillation.temprature=2"], "distillation.temprature: unknown key; did you mean distillation.temperature?"),
    (["+distillation.temprature=2"], "distillation.temprature: unknown key; did you mean temperature? known: temperature"),
    (["temperature=2"], "temperature: unknown key; did you mean distillation.temperature?"),
    (["+temperature=2"], "temperature: unknown key; did you mean distillation.temperature?"),
    (["+epoch=3"], "epoch: unknown key; did you mean epochs?"),
    (["+student.hiden=[3]"], "student.hiden: unknown key; did you mean hidden? known: hidden"),
    (["lr=0.1"], "lr: unknown key; did you mean optimizer.lr?"),
    (["distillation.temperature=hot"], "distillation.temperature='hot': must be a finite number"),
    (["distillation.temperature='4'"], "distillation.temperature='4': must be a finite number"),
    (["distillation.temperature=nan"], "distillation.temperature=nan: must be a finite number"),
    (["distillation.temperature=inf"], "distillation.temperature=inf: must be a finite number"),
    (["distillation.temperature=null"], "distillation.temperature=None: must be a finite number"),
    (["distillation.temperature=true"], "distillation.temperature=True: must be a finite number"),
    (["distillation.temperature=0"], "distillation.temperature=0: must be above 0"),
    (["distillation.alpha=1.5"], "distillation.alpha=1.5: must be at least 0 and at most 1"),
    (["distillation.alpha=-0.1"], "distillation.alpha=-0.1: must be at least 0 and at most 1"),
    (["distillation.ce_weight=1"], "distillation.alpha=0.1: is short for ce_weight=alpha, kd_weight=1-alpha and excludes them"),
    (["distillation=mse_logits", "distillation.weight=0"], "distillation: every weight is 0"),
    (["distillation=hint", "distillation.weight=-1"], "distillation.weight=-1: must be at least 0"),
    (["distillation=hint", "distillation.student_layers=features"], "distillation.student_layers='features': must be a list"),
    (["distillation=hint", "distillation.student_layers=[3]"], "each entry must be a text"),
    (["epochs=0"], "epochs=0: must be at least 1"),
    (["epochs=2.5"], "epochs=2.5: must be a whole number"),
    (["teacher_epochs=-1"], "teacher_epochs=-1: must be at least 1"),
    (["batch_size=0"], "batch_size=0: must be at least 1"),
    (["batch_size=null"], "batch_size=None: must be a whole number"),
    (["seed=one"], "seed='one': must be a whole number"),
    (["seed=-1"], "seed=-1: must be at least 0"),
    (["num_threads=0"], "num_threads=0: must be at least 1"),
    (["limit_batches=0"], "limit_batches=0: must be at least 1"),
    (["force=maybe"], "force='maybe': must be true or false"),
    (["store=null"], "store=None: must be a text"),
    (["optimizer.lr=0"], "optimizer.lr=0: must be above 0"),
    (["optimizer.lr=nan"], "optimizer.lr=nan: must be a finite number"),
    (["teacher_optimizer.lr=-1"], "teacher_optimizer.lr=-1: must be above 0"),
    (["optimizer.weight_decay=-1"], "optimizer.weight_decay=-1: must be at least 0"),
    (["optimizer=sgd", "optimizer.momentum=1"], "optimizer.momentum=1: must be at least 0 and below 1"),
    (["optimizer=sgd", "optimizer.momentum=0", "optimizer.nesterov=true"], "optimizer.nesterov=True: needs a momentum"),
    (["optimizer.betas=[0.9]"], "optimizer.betas=[0.9]: must be two numbers"),
    (["optimizer.clip_norm=0"], "optimizer.clip_norm=0: must be above 0 (or null)"),
    (["schedule=cosine", "schedule.warmup_epochs=-1"], "schedule.warmup_epochs=-1: must be at least 0"),
    (["device=gpu"], "device='gpu': must be one of auto, cpu, cuda, mps"),
    (["precision=fp16"], "precision='fp16': must be one of auto, fp32, tf32, bf16"),
    (["precision=tf32"], "precision='tf32': only CUDA devices have TF32"),
    (["device=cpu", "precision=tf32"], "precision='tf32': only CUDA devices have TF32"),
    (["dataset.val_fraction=1"], "dataset.val_fraction=1: must be at least 0 and below 1"),
    (["dataset.student_fraction=0"], "dataset.student_fraction=0: must be above 0 and at most 1"),
    (["dataset.mean=[0.1,0.2]"], "dataset.mean=[0.1, 0.2]: must have 1 entries, one per channel"),
    (["student.hidden=[0]"], "student.hidden=[0]: each entry must be at least 1"),
    (["student.hidden=64"], "student.hidden=64: must be a list, written [a,b]"),
    (["student=keras_student", "student.channels=[1,2,3]"], "student.channels=[1, 2, 3]: must be two widths"),
    (["student=lightnn", "student.dropout=2"], "student.dropout=2: must be at least 0 and at most 1"),
    (["teacher=null"], "teacher=None: this method learns from a teacher; choose one, or distillation=none"),
    (["teacher_optimizer=sgd"], "teacher_optimizer='sgd': is a group, chosen with optimizer@teacher_optimizer=OPTION"),
    (["teacher.checkpoint=nowhere.pt"], "teacher.checkpoint='nowhere.pt': no such file"),
    (["student._target_=no.such.Net"], "student._target_='no.such.Net': can't be imported"),
    (
        ["distillation=hint", "distillation.student_layers=[feature]"],
        "MLP has no layer 'feature'; did you mean features? known:",
    ),
    (["distillation=hint", "distillation.student_layers=[features,classifier]"], "name 2 and 1 layers"),
    (["distillation=hint", "teacher=keras_teacher", "student=mlp_small"], "hint compares maps of one size, not 64"),
    (["distillation=cosine", "student.hidden=[60]"], "256 (teacher) is no multiple of 60 (student)"),
    (["dataset=cifar10", "dataset.download=false", "dataset.root=nowhere"], "no CIFAR10 in dataset.root='nowhere'"),
    (["dataset=cifar10", "dataset.download=false", "dataset.root=nowhere"], "add dataset.download=true"),
    (["epochs"], "'epochs' is no KEY=VALUE; kdexp --help shows what there is"),
    (["seed=[1"], "'seed=[1' can't be read"),
    (["-m", "seed=[1", "epochs=1,2"], "'seed=[1' can't be read"),
    (["-m", "epochs"], "'epochs' is no KEY=VALUE"),
    (["-m", "distillation.temperature=1,2,hot"], "distillation.temperature='hot': must be a finite number"),
    (["-m", "seed=0,1", "epochs=0"], "kdexp: 2 problems in this command"),
]


@pytest.mark.parametrize(("words", "sentence"), REFUSALS, ids=[" ".join(words) for words, _ in REFUSALS])
def test_refused_with_a_sentence(refused, words, sentence):
    assert sentence in refused(*words)


def test_all_problems_at_once(refused):
    printed = refused(
        "dataset=cifr10", "distillation.temprature=3", "distillation.alpha=2", "+extra=1", "epochs=0", "optimizer.lr=nan"
    )
    for piece in ("cifr10", "temprature", "alpha=2", "extra", "epochs=0", "optimizer.lr=nan"):
        assert piece in printed
    assert "7 problems" in printed  # teacher_epochs follows epochs


def test_a_missing_device_is_refused(refused, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "device='cuda': this machine has no such device for PyTorch; here: cpu" in refused("device=cuda")


def test_a_checkpoint_of_another_architecture_is_refused(refused, tmp_path_factory):
    import torch

    path = tmp_path_factory.mktemp("weights") / "other.pt"
    torch.save({"weight": torch.zeros(3)}, path)
    printed = refused(f"teacher.checkpoint={path}")
    assert "does not fit MLP" in printed and "features.1.weight (model 256×64, file none)" in printed


def test_help_is_one_screen_and_quick(tmp_path):
    start = time.perf_counter()
    shown = kdexp("--help", cwd=tmp_path)
    seconds = time.perf_counter() - start
    assert shown.returncode == 0
    lines = shown.stdout.splitlines()
    assert len(lines) <= 45 and max(map(len, lines)) <= 120
    for word in ("Examples", "dataset       cifar10", "distillation  cosine", "dry_run", "TAB completion"):
        assert word in shown.stdout
    assert seconds < 3, "a loose floor: half a second where nothing else runs"


@pytest.mark.parametrize("words", [["--help"], ["--cfg", "job"], ["-sc", "query=bash"]])
def test_what_only_talks_does_not_import_torch(words, tmp_path):
    code = "import sys; from kdexp.cli import main; main(); assert 'torch' not in sys.modules"
    environment = os.environ | {"COMP_LINE": "kdexp distill", "COMP_POINT": "13"}
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr


def test_completion_completes(tmp_path):
    code = "from kdexp.cli import main; main()"
    environment = os.environ | {"COMP_LINE": "kdexp distillation=", "COMP_POINT": "19"}
    done = subprocess.run(
        [sys.executable, "-c", code, "-sc", "query=bash"], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert {"distillation=kd", "distillation=hint"} <= set(done.stdout.split())


def test_a_dry_run_shows_everything_and_leaves_nothing(here, tmp_path):
    code, shown = here("dry_run=true", "distillation=hint", columns=120)
    assert code == 0, shown.err
    for piece in ("85,002", "84,480", "8,970", "to be trained", "student_fraction: 0.1", "nothing was trained or written"):
        assert piece in shown.out
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_of_a_sweep_leaves_nothing_either(here, tmp_path):
    code, shown = here("-m", "dry_run=true", "seed=0,1")
    assert code == 0 and shown.out.count("dry run:") == 2
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_knows_what_the_store_holds(here):
    assert here("epochs=1", "device=cpu")[0] == 0
    shown = here("epochs=1", "device=cpu", "dry_run=true", "distillation=hint", columns=120)[1].out
    assert shown.count("there since") == 2 and shown.count("to be trained") == 1


DIVERGES = ("epochs=2", "optimizer=sgd", "optimizer@teacher_optimizer=adam")


def test_a_failed_learner_is_exit_3_and_a_row(here):
    code, shown = here(*DIVERGES, "optimizer.lr=1e30")
    assert code == 3, shown.err
    assert "baseline failed: ce loss became" in shown.out


@pytest.mark.slow
def test_in_a_sweep_one_failing_job_does_not_stop_the_others(tmp_path):
    shown = kdexp("-m", *DIVERGES, "optimizer.lr=1e30,0.05", cwd=tmp_path)
    assert shown.returncode == 3
    assert shown.stdout.count("run folder:") == 2 and "vs base" in shown.stdout.split("run folder:")[2]


def test_own_options_come_from_a_config_dir(here, tmp_path):
    own = tmp_path / "own" / "student"
    own.mkdir(parents=True)
    (own / "tiny.yaml").write_text("_target_: kdexp.models.mlp.MLP\nhidden: [8]\ncheckpoint: null\n")
    code, shown = here("--config-dir", "own", "student=tiny", "dry_run=true", columns=120)
    assert code == 0, shown.err
    assert "tiny" in shown.out and "610" in shown.out


def test_help_lists_own_options_too(tmp_path):
    (tmp_path / "student").mkdir()
    (tmp_path / "student" / "tiny.yaml").touch()
    assert "timm, tiny, torchvision" in help_text(str(tmp_path))


def test_data_that_turn_out_unreadable_are_exit_2(here, tmp_path):
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
    assert cli.expand(words) == jobs


@pytest.mark.slow
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
        _, complaint = run.communicate(timeout=20)
    finally:
        run.kill()
        run.communicate()
    assert run.returncode == cli.INTERRUPTED
    assert complaint.startswith("interrupted;") and "Traceback" not in complaint
