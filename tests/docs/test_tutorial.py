"""docs/tutorial.md: its commands run in order, as they stand there, apart from the number of epochs."""

import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
from doc_pages import blocks

from kdexp.commands import export, predict, report
from kdexp.commands import main as cli
from kdexp.network.capture import Outputs

PAGE = "docs/tutorial.md"
FILES = {
    match[1]: block
    for kind in ("python", "yaml")
    for block in blocks(PAGE, kind)
    if (match := re.search(r"^# (mine/\S+)$", block, re.M))
}
COMMANDS = [line for block in blocks(PAGE, "sh") for line in block.splitlines()]
MAINS = {"kdexp": cli.main, "kdexp-report": report.main, "kdexp-predict": predict.main}
MAINS["kdexp-export"] = lambda: sys.exit(export.main())
FEW_EPOCHS = ("epochs=2", "teacher_epochs=2")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with the files of the page."""
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])  # to which `--config-dir` adds
    yield tmp_path
    sys.modules.pop("centred", None)


def filled_in(word):
    """A word with the folders that RUN, A and B stand for."""
    runs, sweeps = (sorted(Path("outputs", kind).glob("*")) for kind in ("runs", "sweeps"))
    named = {"outputs/runs/RUN": runs[:1], "outputs/sweeps/A": sweeps[:1], "outputs/sweeps/B": sweeps[1:]}
    return str(named[word][0]) if word in named else word


def headings(table):
    """The first line of a printed table, with single spaces."""
    return " ".join(table.splitlines()[0].split())


@pytest.mark.slow
def test_the_tutorial_runs(folder, call_main):
    pip, *commands = COMMANDS
    assert pip == "pip install -e ." and len(FILES) == 3 and len(commands) >= 12
    exec(next(block for block in blocks(PAGE, "python") if "digit{number}.png" in block), {})
    printed = []
    for command in commands:
        name, *words = map(filled_in, shlex.split(command))
        shorter = FEW_EPOCHS if name == "kdexp" else ()
        code, output = call_main(MAINS[name], name, *words, *shorter)
        assert code in (0, None), f"{command}\n{output}"
        printed.append(" ".join(output.split()))
    for table in re.findall(r"```\n(.*?)```", Path(__file__).parents[2].joinpath(PAGE).read_text(), re.S):
        if table.startswith(" "):
            assert any(headings(table) in output for output in printed), table
    assert any("Shortened: dataset.limit=300" in output for output in printed)
    assert any("'teacher_seed=${seed}'" in output for output in printed)
    assert (folder / "outputs" / "both" / "report.html").is_file()


def test_a_loss_that_is_no_sum_overrides_losses():
    (override,) = [block for block in blocks(PAGE, "python") if block.startswith("class Centred")]
    exec(FILES["mine/centred.py"], names := {})
    exec(override, overriding := dict(names))
    given = {"temperature": 4.0, "alpha": None, "ce_weight": None, "kd_weight": None}
    inherited, own = names["Centred"](**given), overriding["Centred"](**given)
    student, teacher = (Outputs(torch.randn(5, 3), {}) for _ in range(2))
    ours, theirs = (method.losses(None, student, teacher, None) for method in (own, inherited))
    assert list(ours) == list(theirs) == ["centred"] and torch.equal(ours["centred"], theirs["centred"])
    assert own.describe() == inherited.describe() == "centred"
