"""What is printed to be typed into a shell is in quotes where a shell would read it as something else."""

import ast
import re
import shlex
from pathlib import Path

import pytest
from crafted_sweeps import CraftedSweep
from experiments import said
from hypothesis import given
from hypothesis import strategies as st

from kdexp.commands.help import help_text
from kdexp.configuration.quoting import as_word
from kdexp.sweep import fold, read
from kdexp.sweep.repeat import commands
from kdexp.sweep.table import text

ROOT = Path(__file__).parents[2]
BARE = re.compile(r"(?<![\w.@'\"])[a-z_][\w.@]*=(?:\[(?!\")|\$\{|\{(?!\}))")
"""An override whose value begins with a bracket or `${`, without a quote before it."""


def printed_texts(file):
    """The texts in a source file, without docstrings; what an f-string fills in is an X."""
    tree = ast.parse(file.read_text())
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docstrings = {id(node.body[0].value) for node in ast.walk(tree) if isinstance(node, documented) and _is_text(node.body[0])}
    docstrings |= {id(node.value) for node in ast.walk(tree) if _is_text(node)}
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "X" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings | parts:
            yield node.value


def _is_text(node):
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


@pytest.mark.parametrize("text", ["controls=[int8]", "add teacher_seed=${seed}", "(a.b={c: 1})", "`x@y=[1]`"])
def test_a_bare_bracket_is_found(text):
    assert BARE.search(text) and not BARE.search(re.sub(r"([a-z.@]+[=])", r"'\1", text))


def test_no_message_has_a_bare_bracket():
    files = (ROOT / "kdexp").rglob("*.py")
    assert [f"{file.name}: {text}" for file in files for text in printed_texts(file) if BARE.search(text)] == []


def test_no_page_and_no_comment_of_an_option_has_a_bare_bracket():
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "conf").rglob("*.yaml")]
    assert len(pages) > 100
    for page in pages:
        for line in re.sub(r"```python.*?```", "", page.read_text(), flags=re.S).splitlines():
            assert not BARE.search(line), f"{page.name}: {line}"


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0\r\n"), max_size=20))
def test_any_text_is_one_word(value):
    assert len(shlex.split(as_word("store", value))) == 1


def test_the_help_names_the_teachers_seed_as_a_shell_takes_it():
    assert "'teacher_seed=${seed}'" in help_text()


def test_a_sweep_says_how_a_teacher_per_seed_is_trained(tmp_path):
    sweep = CraftedSweep(tmp_path)
    for seed in (0, 1):
        sweep.job(f"{seed}", seed=seed)
    assert "'teacher_seed=${seed}'" in text(fold(read([sweep.close()])))


REFUSED = [
    (["controls=a,b"], "'controls=[a,b]'"),
    (["--store", "a b"], "'store=a b'"),
    (["store:a$b"], "'store=a$b'"),
    (["distillation=mutual", "+distillation.peer={a:3}"], "'distillation.peer=${student}'"),
    (["teacher=ensemble", "teacher.members=[]"], "'teacher.members=[resnet20,vgg8]'"),
    (["-m", "student.hidden=8,9", "--optimizer.lr", "0.1"], "optimizer.lr=0.1"),
]


@pytest.mark.parametrize(("words", "fix"), REFUSED)
def test_a_refusal_suggests_what_a_shell_takes(refused, words, fix):
    assert fix in refused(*words)


def test_a_folder_as_a_checkpoint_is_named_as_a_shell_takes_it(refused, tmp_path, monkeypatch):
    run = tmp_path.parent / f"{tmp_path.name} a run"
    run.mkdir()
    (run / "table.json").touch()
    assert f"kdexp-export '{run}' --format" in refused(f"student.checkpoint={run}")


def test_a_dry_run_shows_values_as_a_shell_takes_them(here):
    code, shown = here("student.hidden=[8]", "output_dir=a b", "dry_run=true", columns=160)
    assert code == 0 and "'output_dir=a b'" in shown.out and "'student.hidden=[8]'" in shown.out


def test_measured_normalisation_is_printed_as_a_shell_takes_it(make_experiment):
    experiment = make_experiment("dataset.mean=null", "dataset.std=null")
    _ = experiment.data
    words = shlex.split(said(experiment).replace("\n", " "))
    assert any(re.fullmatch(r"dataset\.mean=\[[\d.]+\]", word) for word in words)


def test_commands_that_repeat_jobs_are_split_into_the_same_words(tmp_path):
    sweep = CraftedSweep(tmp_path)
    sweep.job("teacher_seed=${seed}", "output_dir=a b", "student.hidden=[8]")
    (job,) = read([sweep.close()]).jobs
    (command,) = commands([job])
    assert shlex.split(command)[1:] == list(job.overrides)
