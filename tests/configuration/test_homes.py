"""`~` at the start of a path, wherever a user can write one."""

import argparse

import pytest
import yaml
from experiments import COMPOSER
from folders import folder

from kdexp.commands import export, predict, report, store
from kdexp.commands.command import read_command
from kdexp.configuration.compose import Composer
from kdexp.configuration.flags import read_flags
from kdexp.configuration.quoting import expand_home
from kdexp.configuration.roles import node_at
from kdexp.deployment.load import load
from kdexp.report.shortened import shortenings
from kdexp.store.learners import LearnerStore


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "at home"))
    return tmp_path / "at home"


FOLDER = ("dataset=image_folder", "dataset.root=/photos")
PAIRED = ("+teacher@teacher.teacher=mlp_wide", "+distillation@teacher.distillation=kd")
TYPED = {
    "output_dir": ("output_dir=~/x",),
    "store": ("store=~/x",),
    "dataset.root": ("dataset=mnist", "dataset.root=~/x"),
    "teacher.checkpoint": ("teacher.checkpoint=~/x",),
    "student.checkpoint": ("student.checkpoint=~/x",),
    "teacher.teacher.checkpoint": (*PAIRED, "teacher.teacher.checkpoint=~/x"),
    "teacher.members.0.checkpoint": (
        "teacher=ensemble",
        "teacher.members=[{_target_: kdexp.models.mlp.MLP, hidden: [8], checkpoint: ~/x},mlp_small]",
    ),
    "distillation.own": ("+distillation.own=~/x",),
}


@pytest.mark.parametrize(("key", "words"), TYPED.items())
@pytest.mark.parametrize("quoted", [False, True])
def test_every_typed_path_begins_at_home(home, key, words, quoted):
    *others, path = words
    path = path.replace("~/x", "'~/x'") if quoted else expand_home(path)
    assert node_at(COMPOSER.compose([*others, path]), key) == f"{home}/x"


def test_a_path_in_a_file_of_ones_own_begins_at_home(home, tmp_path):
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    content = {"store": "~/s", "dataset": {"root": "~"}, "teacher": {"checkpoint": "~/t"}, "published": None}
    text = "# @package _global_\ndefaults: [{override /dataset: mnist}]\n" + yaml.safe_dump(content)
    (tmp_path / "own" / "experiment" / "mine.yaml").write_text(text)
    flags = read_flags([f"--config-dir={tmp_path}/own", "experiment=mine", "output_dir=~/o", "--cfg", "job"])
    (job,) = read_command(flags, Composer(flags.config_dir, flags.config_name)).jobs
    found = [job.config["store"], job.config["dataset"]["root"], job.config["teacher"]["checkpoint"], job.config["output_dir"]]
    assert found == [f"{home}/s", f"{home}", f"{home}/t", f"{home}/o"]


SPELLINGS = {
    "~/a,~/b": "'{0}/a','{0}/b'",
    "~": "'{0}'",
    "~/a,b": "'{0}/a,b'",
    "~/it's": "'{0}/it\\'s'",
    "choice(~/a, ~/b)": "choice('{0}/a', '{0}/b')",
    "[~/a,/b~,c]": "['{0}/a',/b~,c]",
    "['~/a']": "['~/a']",
    "a~b": "a~b",
    "~nobody-here/x": "'~nobody-here/x'",
    "~\0": "'~\0'",
}


@pytest.mark.parametrize(("value", "expected"), SPELLINGS.items())
def test_lists_and_sweeps_of_paths_begin_at_home(home, value, expected):
    assert expand_home(f"dataset.root={value}") == f"dataset.root={expected.format(home)}"


def test_a_sweep_over_two_folders_has_two_jobs(home, here):
    code, shown = here("-m", "dataset=mnist", "dataset.root=~/a,~/b", "dry_run=true", columns=160)
    assert code == 0 and f"{home}/b" in shown.out, shown.err


COMMANDS = {
    ("export", "run"): (export.parser, ["~/x"]),
    ("export", "output"): (export.parser, ["RUN", "--output=~/x"]),
    ("export", "root"): (export.parser, ["RUN", "--root=~/x"]),
    ("predict", "run"): (predict.parser, ["~/x", "IMAGE"]),
    ("predict", "images"): (predict.parser, ["RUN", "~/x"]),
    ("predict", "csv"): (predict.parser, ["RUN", "IMAGE", "--csv=~/x"]),
    ("report", "folders"): (report._parser, ["~/x"]),
    ("report", "output"): (report._parser, ["DIR", "--output=~/x"]),
    ("store", "store"): (store._parser, ["list", "--store=~/x"]),
}


@pytest.mark.parametrize(("command", "name", "parser", "words"), [(*key, *value) for key, value in COMMANDS.items()])
def test_every_path_of_the_other_commands_begins_at_home(home, capsys, command, name, parser, words):
    value = vars(parser().parse_args(words))[name]
    assert (value[0] if isinstance(value, list) else value) == home / "x"
    with pytest.raises(SystemExit, match="2"):
        parser().parse_args([word.replace("~", "~nobody-here") for word in words])
    assert "there is no user 'nobody-here' on this machine" in capsys.readouterr().err


@pytest.mark.parametrize("parser", [export.parser, predict.parser, report._parser, store._parser])
def test_the_table_of_paths_is_complete(parser):
    """Every argument that names a file or folder is in `COMMANDS`: other texts are roles, modules, keys."""
    listed = {name for (_, name), (made, _) in COMMANDS.items() if made is parser}
    others = {"role", "epoch", "module", "device", "format", "pictures", "key", "keys"}

    def texts(made):
        for action in made._actions:
            if isinstance(action, argparse._SubParsersAction):
                for inner in action.choices.values():
                    yield from texts(inner)
            elif action.nargs != 0 and action.type in (None, export.expanded):
                yield action.dest

    assert set(texts(parser())) - others - {"help", "version"} == listed


def test_folders_that_python_code_names_begin_at_home(home):
    with pytest.raises(FileNotFoundError, match=f"{home}/run"):
        load("~/run")
    assert LearnerStore("~/s").root.parent == home / "s"
    assert folder("~/photos").root == home / "photos"


def test_a_table_finds_the_experiments_in_a_folder_at_home(home):
    (home / "own" / "experiment").mkdir(parents=True)
    (home / "own" / "experiment" / "mine.yaml").write_text("epochs: 9\n")
    choices = {"experiment": "mine", "protocol": None}
    config = {"limit_batches": None, "dataset": {}, "epochs": 2, "teacher_epochs": 2, "choices": choices}
    assert shortenings(config, ["--config-dir=~/own"]) == ["epochs=2 (mine has 9)"]
