"""Mistyped commands and the sentences that refuse them: exit code 2, nothing written, no traceback."""

import importlib
import os
import pkgutil
import random
import shlex
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kdexp
from kdexp.commands import export, report
from kdexp.commands import main as cli
from kdexp.commands import store as inventory
from kdexp.commands.command import read_command
from kdexp.configuration import classifiers, compose
from kdexp.configuration.compose import Composer
from kdexp.configuration.flags import read_flags
from kdexp.configuration.jobs import expand
from kdexp.configuration.overrides import Overrides
from kdexp.configuration.quoting import as_word
from kdexp.errors import InvalidArguments

SWEEPS = [
    ("seed=0,1", "seed=0,1: several values need -m: kdexp -m seed=0,1"),
    ("epochs=3 seed=0,1", "several values need -m: kdexp -m epochs=3 seed=0,1"),
    ("seed=range(0,3)", "several values need -m: kdexp -m 'seed=range(0,3)'"),
    ("distillation=kd,at", "several values need -m: kdexp -m distillation=kd,at"),
    ("seed=choice(1,2)", "several values need -m"),
    ("seed=[0,1]", "seed=[0, 1]: must be a whole number; several values need -m: kdexp -m seed=0,1"),
    ("-m seed=[0,1]", "must be a whole number; several values need -m: kdexp -m seed=0,1"),
    ("controls=self_teacher,random_teacher", "a list is written 'controls=[self_teacher,random_teacher]'; to try several"),
    ("output_dir=a,b", "one text with a comma is written \"output_dir='a,b'\""),
    (
        "-m distillation.alpha=interval(0,1)",
        "interval(...) has no list of values to sweep; search=tpe (or search=random) searches an interval",
    ),
    ("-m seed=range(0)", "seed=range(0): has no values"),
    ("-m seed=range(5,1)", "seed=range(5,1): has no values"),
    ("-m seed=range(0,inf)", "seed=range(0,inf): has no end"),
    ("-m seed=range(0,5,0)", "seed=range(0,5,0): has no end"),
    ("-m seed=range(5,1) teacher_seed=range(0,99999)", "99,999 jobs (teacher_seed 99,999) are more than 10,000"),
    ("-m seed=range(5,1) epochz=3", "epochz: unknown key; did you mean epochs?"),
    ("-m seed=choice()", "'seed=choice()' can't be read: empty choice is not legal"),
    ("-m seed=tag(x,1)", "'seed=tag(x,1)' can't be read: "),
    ("seed=extend_list(1)", "Unknown function 'extend_list'; a text with brackets is written \"seed='extend_list(1)'\""),
    ("-m distillation=glob(x*)", "distillation=glob(x*): matches no option; known: at, "),
    ("-m seed=glob(*)", "seed=glob(*): glob(...) chooses options of a group, and this is not a group"),
    ("-m seed=range(0,1000000000)", "1,000,000,000 jobs (seed 1,000,000,000) are more than 10,000 in one command"),
    ("-m seed=range(0,500) teacher_seed=range(0,500)", "250,000 jobs (seed 500 × teacher_seed 500)"),
    ("-m distillation.alpha=range(0,1,1e-300)", "10^15 or more jobs"),
    ("-m seed=0,1 seed=2,3", "seed: given 2 times (seed=0,1, seed=2,3); keep one"),
    ("-m seed=0,1 seed=2", "seed: given 2 times (seed=0,1, seed=2); keep one"),
    ("epochs=0 epochs=-1", "epochs=-1: must be at least 1"),
    ("-m seed=0,0", "seed: 0 is given twice; keep one"),
    ("-m seed=1,1.0", "seed: 1 and 1.0 are the same value; keep one"),
    ("-m distillation.alpha=0.1,1e-1", "distillation.alpha: 0.1 is given twice"),
    ("-m hydra.launcher.max_learners=1,2", "Hydra's own settings can't differ between jobs"),
    ("hydra.launcher.workers=1,2", "hydra.launcher.workers=1,2: is the same for all jobs of a command; give one value"),
    (
        "logger=mlflow,wandb",
        "logger=mlflow,wandb: is the same for all jobs of a command; a list is written 'logger=[mlflow,wandb]'",
    ),
    ("-m search=random,tpe seed=0,1", "search=random,tpe: a command is one search; choose one"),
    ("search=random,tpe seed=0,1", "search=random,tpe: is the same for all jobs of a command; give one value"),
    (
        "-m search=random search.trials=2,3 epochs=1,2",
        "search.trials=2,3: is the same for all jobs of a command; give one value",
    ),
    (
        "search=random search.seeds=2,3 epochs=1,2",
        "search.seeds=2,3: is the same for all jobs of a command; a list is written 'search.seeds=[2,3]'",
    ),
    (
        "search=tpe distillation.alpha=uniform(0,1)",
        "Unknown function 'uniform'; a search takes 'distillation.alpha=interval(LOW,HIGH)',",
    ),
    ("search=tpe distillation.temperature=log(interval(1,9))", "or 'distillation.temperature=tag(log,interval(LOW,HIGH))'"),
    (
        "search=tpe distillation.alpha=interval(0)",
        "missing a required argument: 'end'; a search takes 'distillation.alpha=interval(",
    ),
    ("-m distillation=kd,hint student=lightnn", "hint compares maps of one size, not 16×2×2"),
    ("-m distillation=kd,hint student=lightnn seed=0,1", "(with distillation=hint)"),
    ("-m seed=0,1 distillation.temperature=1,0", "distillation.temperature=0: must be above 0\n"),
    ("-m distillation=choice(kd,hint) distillation.weight=3", "run them separately: kdexp -m distillation=kd and kdexp -m"),
]

WORDS = [
    ("help", "'help' is not KEY=VALUE; see kdexp --help"),
    ("store", "'store' is not KEY=VALUE; did you mean kdexp-store?"),
    ("kd", "'kd' is not KEY=VALUE; did you mean distillation=kd?"),
    ("resnet20", "'resnet20' is not KEY=VALUE; did you mean student=resnet20?"),
    ("epochs:10", "'epochs:10' is not KEY=VALUE; did you mean epochs=10?"),
    ("epochs 10", "epochs 10: settings are written without spaces: epochs=10"),
    ("epochs = 10", "epochs = 10: settings are written without spaces: epochs=10"),
    ("lr =0.1", "lr =0.1: settings are written without spaces: optimizer.lr=0.1"),
    ("=", "'=' names no key; write KEY=VALUE"),
    ("+=1", "'+=1' names no key"),
    ("~", "'~' names no key"),
    ("~seed~", "'~seed~' can't be read: '~seed~' is not a key"),
    ("++seed", "'++seed' is not KEY=VALUE"),
    ("seed=", "seed='': must be a whole number"),
    ("seed=1e400", "seed=inf: must be a whole number"),
    ("+seed=1", "seed: exists already; to change it leave the + out: seed=1"),
    ("~batch_size", "batch_size: missing"),
    ("~epochs", "epochs: missing"),
    ("~published", "published: can't be removed: its value is null"),
    ("~nothing", "nothing: unknown key"),
    ("seed=${x}", "seed='${x}': Interpolation key 'x' not found"),
    ("seed=${seed}", "seed='${seed}': Recursive interpolation detected"),
    ("store=${oc.env:NO_SUCH_NAME}", "Environment variable 'NO_SUCH_NAME' not found"),
    (f"seed={'9' * 5000}", "has 5,005 characters; at most 4,000 are read"),
    (f"student={'a' * 3000}", "no such option"),
    (f"student.checkpoint={'a' * 3000}", "no such file"),
    (f"output_dir={'a' * 3000}", "can't be a folder: File name too long"),
    (f"seed={'[' * 900}", "can't be read"),
    ("output_dir=2024", "output_dir=2024: must be a text; quote it: \"output_dir='2024'\""),
    ("store=1e3", "store=1000.0: must be a text; quote it: \"store='1e3'\""),
    ("dataset=image_folder dataset.root=2024", "quote it: \"dataset.root='2024'\""),
    ("seed=[1", "'seed=[1' can't be read: '[' is not closed; add ']'"),
    ("seed=1]", "']' has no opening bracket before it"),
    ("controls=[a,,b]", "',' or ':' is out of place"),
    ("store=a#b", "'#' must be inside quotes; write \"store='a#b'\""),
    ("output_dir=/home/josé", "'é' must be inside quotes; write \"output_dir='/home/josé'\""),
    ("output_dir=a=b", "write \"output_dir='a=b'\""),
    ("store=it's", "the quote ' is not closed; write "),
    ("store=a\0b", "must be inside quotes"),
    ("store='a\0b'", "must not contain a NUL character"),
]

SYNONYMS = [
    ("teacher=resnet18", "teacher='resnet18': no such option; did you mean teacher=torchvision teacher.name=resnet18?"),
    ("student=EfficientNet-B0", "did you mean student=torchvision student.name=efficientnet_b0?"),
    ("+teacher@teacher.teacher=resnet50", "+teacher@teacher.teacher=torchvision teacher.teacher.name=resnet50?"),
    ("model=resnet18", "did you mean student=torchvision student.name=resnet18?"),
    ("arch=resnet20", "did you mean student=resnet20?"),
    ("method=DKD", "did you mean distillation=dkd?"),
    ("distillation=KD", "distillation='KD': no such option; did you mean kd?"),
    ("optimizer=SGD", "did you mean sgd?"),
    ("optimizer=null", "optimizer='null': no such option; known: adam"),
    ("schedule=null", "did you mean constant?"),
    ("distillation=null", "did you mean none?"),
    ("dataset=CIFAR-10", "did you mean cifar10?"),
    ("dataset=FashionMNIST", "did you mean fashion_mnist?"),
    ("teacher=ResNet-32x4", "did you mean resnet32x4?"),
    ("student=WRN-40-2", "did you mean wrn_40_2?"),
    ("teacher.pretrained=true", "did you mean teacher.checkpoint=FILE?"),
    ("teacher=torchvision teacher.pretrained=true", "did you mean teacher.weights=DEFAULT?"),
    ("T=4", "T: unknown key; did you mean distillation.temperature?"),
    ("distillation.tau=4", "did you mean distillation.temperature?"),
    ("learning_rate=0.1", "did you mean optimizer.lr?"),
    ("teacher_optimizer.learning_rate=0.1", "did you mean teacher_optimizer.lr?"),
    ("optim.wd=0.1", "did you mean optimizer.weight_decay?"),
    ("+optimizer.learning_rate=0.1", "optimizer.learning_rate: unknown key; did you mean lr?"),
    ("batchSize=64", "did you mean batch_size?"),
    ("gpu=0", "did you mean device=cuda?"),
    ("cuda=false", "did you mean device=cpu?"),
    ("amp=true", "did you mean precision=bf16?"),
    ("num_workers=4", "did you mean workers?"),
    ("dataset=mnist data_dir=/x", "did you mean dataset.root?"),
    ("data.root=/x", "did you mean dataset.root, which not every dataset has?"),
    ("protocols=crd", "protocols: unknown key; did you mean protocol?"),
    ("Experiment=digits_ssl", "Experiment: unknown key; did you mean experiment?"),
    ("searches=tpe", "searches: unknown key; did you mean search?"),
    ("launcher=local", "launcher: unknown key; workers are chosen with hydra/launcher=local"),
    ("launcher.workers=2", "launcher.workers: unknown key; workers are chosen with hydra/launcher=local"),
    ("search=random n_trials=5 seed=0,1", "n_trials: unknown key; a search has search.trials=20 trials"),
    ("optimiser.lr=1", "optimiser.lr: unknown key; did you mean optimizer.lr? see kdexp --help"),
    ("resume=true", "a run that was interrupted resumes by itself"),
]

FLAGS = [
    ("--epochs 10", "--epochs: settings are written without dashes: epochs=10"),
    ("--lr=0.1", "--lr=0.1: settings are written without dashes: optimizer.lr=0.1"),
    ("-e 5", "-e: settings are written without dashes: epochs=5"),
    ("--batch-size 64 seed=a", "batch_size=64\n  seed='a': must be a whole number"),
    ("--gpu 0", "--gpu: settings are written without dashes: device=cuda"),
    ("--student resnet18", "without dashes: student=torchvision student.name=resnet18"),
    ("--force", "--force: settings are written without dashes: force=true"),
    ("--resume", "--resume: a run that was interrupted resumes by itself"),
    ("--multi", "--multi: no such flag; did you mean --multirun?"),
    ("--nonsense", "--nonsense: no such flag; see kdexp --help"),
    ("--experimental-rerun x.pickle", "--experimental-rerun: would load a pickle, which can run any code"),
    ("--config-path /tmp", "--config-path: kdexp needs its own files; --config-dir FOLDER adds yours"),
    ("--multirun --cfg job", "--multirun and --cfg can't be combined; keep one"),
    ("--info --run", "--run and --info can't be combined"),
    ("--resolve", "--resolve: only works together with --cfg; add --cfg job"),
    ("--package student", "--package: only works together with --cfg"),
    ("--cfg nope", "--cfg='nope': must be one of job, hydra, all"),
    ("--cfg job -p studnt", "--package='studnt': no such part; did you mean student?"),
    ("--cfg job epochz=3", "epochz: unknown key; did you mean epochs?"),
    ("--info defaults epochz=3", "epochz: unknown key"),
    ("--info=x", "--info='x': must be one of all, config"),
    ("--multirun=yes", "--multirun='yes': takes no value"),
    ("-sc", "--shell-completion: needs one of install=bash"),
    ("-sc install=csh", "not install=csh"),
    ("--config-dir nowhere", "--config-dir='nowhere': no such folder"),
    ("-m --config-dir nowhere", "--config-dir='nowhere': no such folder"),
    ("--config-dir=~nobody-here/x", "no such folder"),
    (f"--config-dir {__file__}", "is a file, not a folder"),
    ("--config-dir /tmp --config-dir /", "--config-dir: given twice (/tmp, /); keep one"),
    ("--config-dir", "--config-dir: needs a value"),
    ("--config-name confg", "--config-name='confg': no such file; did you mean config? known: config"),
]

SETTINGS = [
    (
        "distillation@baseline=kd",
        "baseline: learns from a teacher, and the baseline has none; choose distillation@baseline=none",
    ),
    ("distillation@label_smoothing=hint", "choose distillation@label_smoothing=label_smoothing"),
    ("student._target_=os", "student._target_='os': is a module; name a class or a function in it"),
    ("student._target_=math.pi", "student._target_='math.pi': is a value of type float"),
    ("student._target_=5", "student._target_=5: must be a text, MODULE.CLASS"),
    ("student._target_=builtins.dict", "student._target_='builtins.dict': must be a torch.nn.Module"),
    ("optimizer._target_=os._exit", "optimizer._target_='os._exit': must be a class"),
    ("dataset._target_=torch.nn.Linear", "must be a class derived from kdexp.data.dataset.ImageDataset"),
    ("distillation._target_=torch.nn.Linear", "must be a class derived from kdexp.distillation.base.distiller.Distiller"),
    ("store=", "store='': must name a folder; this one is empty"),
    ("output_dir=", "output_dir='': must name a folder"),
    (f"output_dir={__file__}", "is a file; name a folder"),
    (f"store={__file__}/x", "test_bad_commands.py is a file; name a folder"),
    ("output_dir=~nobody-here/x", "output_dir='~nobody-here/x': there is no user 'nobody-here' on this machine"),
    ("store='~nobody-here/x'", "store='~nobody-here/x': there is no user 'nobody-here'"),
    ("controls=[self_teacher,self_teacher]", "controls=self_teacher: given more than once; keep one"),
    ("controls=[[1]]", "controls=[[1]]: each entry must be one of random_teacher"),
    ("published={1:2}", "published={1: 2}: must be null or have the keys source"),
    ("hydra.run.dir=x", "hydra.run.dir: has no effect; kdexp names its folders itself, output_dir=FOLDER chooses"),
    ("-m hydra.sweep.dir=x", "hydra.sweep.dir: has no effect"),
    ("hydra.verbose=true", "hydra.verbose: has no effect in kdexp"),
    ("hydra.job.chdir=true", "hydra.job.chdir: has no effect in kdexp"),
    ("hydra.searchpath=[/x]", "hydra.searchpath: has no effect; --config-dir FOLDER adds your own options"),
    ("hydra=5", "hydra: has no effect"),
    ("-m hydra.launcher=local seed=0,1", "hydra.launcher: is a group of settings; hydra/launcher=local chooses one"),
    ("hydra.launcher=null", "hydra.launcher: is a group of settings; hydra/launcher=local chooses one"),
    ("search=random hydra.launcher=local epochs=1,2", "hydra.launcher: is a group of settings"),
    ("hydra.launcher=local --cfg hydra", "hydra.launcher: is a group of settings"),
    ("-m hydra.sweeper=search seed=0,1", "hydra.sweeper: has no effect in kdexp"),
    ("-m hydra.launcher.workers=2", "hydra/launcher=local, hydra/launcher=slurm, hydra/launcher=ray have workers"),
    ("hydra.mode=always", "hydra.mode='always': Invalid value 'always', expected one of"),
    ("hydra/launcher=nope", "hydra/launcher='nope': no such option; known: basic, local, lockstep, ray, slurm"),
    ("hydra/launcher=lockstep", "hydra/launcher=lockstep: trains the jobs of a sweep together; add -m"),
    ("-m hydra/launcher=lockstep hydra.launcher.max_learners=abc", "hydra.launcher.max_learners='abc': must be a whole"),
    ("-m hydra.launcher.max_learners=2", "hydra/launcher=lockstep has max_learners"),
]

FOLLOW_ONS = [
    ("dataset=image_folder dataset.root=a(b", "'dataset.root=a(b' can't be read: '(' is not closed; add ')'"),
    ("student=nope student.depth=3 student.hidden=[0]", "student='nope': no such option"),
    ("dataset=cifr10 teacher=deepnn student=lightnn", "dataset='cifr10': no such option; did you mean cifar10?"),
    ("output_dir=" + __file__, "output_dir="),
]
"""Commands with one mistake: one problem is reported."""


BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60))
YAML = [
    ("student: [8]\n\thidden: [8]\n", 2, "starts with a tab; YAML indents with spaces"),
    ("a: 1\nhidden: !!python/object/apply:os.system ['exit 1']\n", 2, "the tag !!python/object/apply:os.system is refused"),
    ("hidden: !mine [8]\n", 1, "the tag !mine is refused"),
    ("a: 1\nb: 2\na: 3\n", 3, "found duplicate key a"),
    (b"a: 1\nb: caf\xe9\n", 2, "is not UTF-8 text (byte 0xe9); save it as UTF-8"),
    ("a: 1\n".encode("utf-16"), 1, "is not UTF-8 text (byte 0xff)"),
    (
        "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60)),
        None,
        "more than 10,000 values",
    ),
    ("a: &a [*a]\n", 1, "an alias refers to what it is part of"),
    ("a: " + "[" * 3000 + "]" * 3000, 1, "is nested too deeply; at most 50 levels"),
    ("".join(" " * n + "a:\n" for n in range(300)), None, "is nested too deeply"),
    ("- a\n- b\n", 1, "holds a list, not KEY: VALUE lines"),
    ("hello\n", 1, "holds a single value"),
    ("1: a\n", 1, "a key is not a text"),
    ("? [a]\n: b\n", 1, "a key is not a text"),
    ("a: [8\n", 2, "expected ',' or ']'"),
    ("a: 1\n---\nb: 2\n", 2, "found another document"),
    ("a: 1\n#" + "x" * 200_000, None, "at most 200,000 are read"),
    ("", None, "names no class; it needs a line _target_: MODULE.CLASS"),
    ("hidden: [8]\n", None, "names no class"),
    (
        "a: 1\ndefaults:\n  - /model/mlp_smal@_here_\n",
        3,
        "its defaults name 'model/mlp_smal', which does not exist;",
    ),
    ("defaults: mlp_wide\n", None, "defaults must be a list"),
    ("defaults: [mine]\n", None, "refers to itself, or is nested too deeply"),
    ("_target_: kdexp.models.mlp.MLP\nhidden: ${nope}\ncheckpoint: null\n", None, "Interpolation key 'nope' not found"),
]
GOOD = "_target_: kdexp.models.mlp.MLP\nhidden: [8]\ncheckpoint: null\n"


@pytest.fixture(scope="module")
def composer():
    """One composer for all commands without files of their own, which reuses what it composed."""
    return Composer()


@pytest.fixture(autouse=True)
def _composes_once(composer, monkeypatch):
    monkeypatch.setattr(cli, "Composer", lambda *where: composer if where == (None, "config") else Composer(*where))


@pytest.fixture
def own(tmp_path_factory):
    """Writes an option `student=mine` into a folder of its own; returns that folder."""

    def write(content, name="own", file="mine.yaml"):
        folder = tmp_path_factory.mktemp("options") / name
        (folder / "student").mkdir(parents=True)
        (folder / "student" / file).write_bytes(content.encode() if isinstance(content, str) else content)
        return folder

    return write


def typed(line):
    """The words of a line of these tables; words contain no spaces."""
    return line.split(" ")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "sentence"),
    [*SWEEPS, *WORDS, *SYNONYMS, *FLAGS, *SETTINGS, *FOLLOW_ONS],
    ids=lambda text: text[:60].replace("\0", "NUL"),
)
def test_refused_with_a_sentence(refused, line, sentence):
    assert sentence in refused(*typed(line))


@pytest.mark.slow
@pytest.mark.parametrize(("line", "_"), FOLLOW_ONS, ids=lambda text: text[:40])
def test_consequences_of_a_mistake_are_not_reported(refused, line, _):
    assert "1 problem " in refused(*typed(line))


@pytest.mark.slow
@pytest.mark.parametrize(("content", "line", "sentence"), YAML, ids=lambda text: str(text)[:30])
def test_a_bad_option_file_is_refused_by_file_and_line(refused, own, content, line, sentence):
    folder = own(content)
    begin = time.process_time()
    printed = refused("--config-dir", str(folder), "student=mine")
    assert "1 problem " in printed and sentence in printed
    assert f"{folder}/student/mine.yaml{f', line {line}' if line else ''}" in printed
    assert time.process_time() - begin < 5, "a loose floor: half a second where nothing else runs"


@pytest.mark.slow
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("nowhere")], ids=["fifo", "folder", "link"])
def test_an_option_that_is_not_a_regular_file_is_refused(refused, own, make):
    folder = own(GOOD)
    make(folder / "student" / "odd.yaml")
    assert f"{folder}/student/odd.yaml: " in refused("--config-dir", str(folder), "student=odd")


@pytest.mark.slow
def test_an_option_that_would_never_be_read_is_refused(refused, own):
    assert "is not read; rename it to mine.yaml" in refused("--config-dir", str(own(GOOD, file="mine.yml")), "student=mine")
    printed = refused("--config-dir", str(own(GOOD, file="resnet8.yaml")), "student=resnet8")
    assert "kdexp has an option of that name" in printed


@pytest.mark.slow
def test_an_experiment_without_its_first_line_is_refused_with_that_line(refused, own):
    (folder := own(GOOD) / "experiment").mkdir()
    (folder / "first.yaml").write_text("# mine\n# @package _global_\nepochs: 3\n")
    printed = refused("--config-dir", str(folder.parent), "experiment=first")
    assert "first.yaml, line 1: an experiment's file begins with the line # @package _global_" in printed


@pytest.mark.slow
@pytest.mark.parametrize("name", ["with space", "josé", ",'[%#={$?:\\", "a=b", "~tilde", "${x}"])
@pytest.mark.parametrize("words", [(), ("-m", "seed=0,1")], ids=["run", "multirun"])
def test_a_folder_of_options_may_have_any_name(here, own, name, words):
    folder = own("\ufeff# @package student\n" + GOOD, name)
    code, shown = here("--config-dir", str(folder), *words, "student=mine", "dry_run=true")
    assert code == 0, shown.err


@pytest.mark.slow
def test_a_users_own_config_file_can_be_composed(here, refused, own):
    folder = own(GOOD)
    (folder / "mine.yaml").write_text("defaults: [config, _self_]\nepochs: 3\n")
    code, shown = here("--config-dir", str(folder), "--config-name", "mine", "dry_run=true")
    assert code == 0 and "values:  as by default" in shown.out and shown.out.count(" 3 to be trained") == 2
    (folder / "broken.yaml").write_text("a: 1\n\tb: 2\n")
    for words in ((), ("seed=1",), ("student=mine", "eopchs=2"), ("-m", "seed=0,1")):
        printed = refused("--config-dir", str(folder), "--config-name", "broken", *words)
        assert "--config-name='broken': " in printed and "broken.yaml, line 2: starts with a tab" in printed


def test_a_good_command_is_composed_by_hydra_once(monkeypatch):
    composed, real = [], compose.compose_whole
    monkeypatch.setattr(
        compose, "compose_whole", lambda overrides, **where: composed.append(overrides) or real(overrides, **where)
    )
    read_command(read_flags(["student=lightnn", "dataset=cifar10", "epochs=3", "--cfg", "job"]), Composer())
    assert composed == [("student=lightnn", "dataset=cifar10")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "jobs"),
    [
        ("distillation=glob(k*)", 1),
        ("seed=shuffle(1,2)", 2),
        ("seed=sort(3,1)", 2),
        ("distillation.alpha=range(0,1,0.25)", 4),
        ("teacher=mlp_wide,mlp_small", 2),
        ("seed=0,1 seed=0,1", 2),
        ("hydra/launcher=lockstep hydra.launcher.max_learners=2 seed=0,1", 2),
        ("hydra.mode=MULTIRUN seed=0,1", 2),
    ],
)
def test_sweeps_that_work(here, words, jobs):
    code, shown = here("-m", "dry_run=true", *typed(words))
    assert code == 0 and (f"{jobs} jobs," in shown.out or jobs == 1), shown.err


def test_a_large_sweep_is_counted_without_being_made():
    begin = time.process_time()
    with pytest.raises(Exception, match="jobs"):
        expand(["seed=range(0,100000000000)", "teacher_seed=range(0,100000000000)"])
    assert time.process_time() - begin < 1


@pytest.mark.slow
def test_a_mistake_in_every_job_is_explained_once(composer):
    made = Overrides(composer, [])
    composed = [made.compose([f"seed={seed}", "epochz=3", "distillation=kdd"]) for seed in range(200)]
    assert {len(each.problems) for each in composed} == {2}
    assert len(made._explained) == 2


@pytest.mark.slow
def test_the_last_of_two_overrides_wins_and_the_other_is_named(here):
    code, shown = here("seed=1", "epochs=3", "seed=2", "student=lightnn", "student=mlp_small", "dry_run=true")
    assert code == 0 and "seed=2 epochs=3" in shown.out
    assert shown.err == (
        "seed=1 is not used, seed=2 comes after it\nstudent=lightnn is not used, student=mlp_small comes after it\n"
    )


def test_a_tilde_is_replaced_by_the_home_folder(here, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "at home"))
    code, shown = here("output_dir=~/x", "store=~/y z", "dry_run=true")
    assert code == 0, shown.err
    assert f"output_dir={tmp_path}/at home/x" in " ".join(shown.out.split())


@pytest.mark.parametrize(
    "text", ["2024", "a b", "a,b", "it's", 'say "x"', "a$b", "a!b", "`a`", "\\", "a\\", "'\"", "[1]", "josé", "true"]
)
def test_a_quoted_word_is_read_as_that_text(composer, text):
    (word,) = shlex.split(as_word("store", text))
    assert composer.compose([word])["store"] == text


def test_the_names_of_classifiers_are_those_that_the_libraries_list():
    from torchvision import models

    assert classifiers.names("torchvision") == set(models.list_models(module=models))
    timm = pytest.importorskip("timm")
    assert classifiers.names("timm") == set(timm.list_models())
    assert classifiers.library_of("convnext_atto") == ("timm", "convnext_atto")
    assert classifiers.library_of("ViT-B-16") == ("torchvision", "vit_b_16")


@pytest.mark.parametrize("main", [cli.main, export.main, inventory.main, report.main])
def test_every_command_tells_its_version(main, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["command", "--version"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code in (0, None)
    assert capsys.readouterr().out == f"kdexp {kdexp.__version__}\n"


def test_importing_a_module_starts_nothing(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["kdexp", "--help", "this would be refused"])
    for module in pkgutil.walk_packages(kdexp.__path__, "kdexp."):
        importlib.import_module(module.name)


@pytest.mark.slow
def test_only_the_configuration_is_shown(capsys, monkeypatch):
    for words, shown in (
        (["--cfg", "job", "-p", "student.hidden", "student.hidden=[7]"], "# @package student.hidden\n- 7\n"),
        (["--cfg", "job", "--resolve", "-p", "store", "output_dir=3"], "3/store\n"),
    ):
        monkeypatch.setattr(sys, "argv", ["kdexp", *words])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert stop.value.code == 0
        assert capsys.readouterr().out == shown


PIECES = [
    *("seed", "student", "distillation", "teacher", "optimizer.lr", "hydra", "hydra/launcher", "controls", "store", "model"),
    *("=", "==", "+", "++", "~", "@", ".", "/", ":", ",", "[", "]", "{", "}", "(", ")", "'", '"', "\\", "$", "${", "${seed}"),
    *(
        "0",
        "-1",
        "1e400",
        "nan",
        "null",
        "true",
        "kd",
        "range(",
        "choice(",
        "glob(*)",
        "interval(0,1)",
        "sort(",
        " ",
        "\t",
        "\n",
    ),
    *("é", "\0", "#", "%", "!", "*", "?", "~x", "--x", "_target_", "???", "${oc.env:X}", "${now:%Y}", "{a:1}", "{1:2}", "''"),
]


@pytest.mark.slow
@settings(max_examples=60, derandomize=True)
@given(words=st.lists(st.lists(st.sampled_from(PIECES), max_size=6).map("".join), min_size=1, max_size=2))
def test_every_command_is_composed_or_refused(composer, words):
    made = Overrides(composer, words)
    try:
        jobs = expand(words, composer.options)
    except InvalidArguments as refused:
        assert all(str(problem) for problem in refused.problems)
        jobs = []
    for job in random.Random(0).sample(jobs, min(len(jobs), 3)):
        composed = made.compose(job)
        assert isinstance(composed.config, dict)
        assert all(str(problem).isprintable() or "\n" in "".join(words) for problem in composed.problems)
