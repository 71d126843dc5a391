"""The README's commands and code, as they stand there."""

import io
import os
import re
import shlex
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import yaml
from conftest import SHORT
from crafted import KEY, as_run, craft
from rich.console import Console

import kdexp.distillation
from kdexp import cli, export
from kdexp.config import compose_command
from kdexp.run import run
from kdexp.validation import validate

README = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = {kind: re.findall(rf"```{kind}\n(.*?)```", README, re.S) for kind in ("sh", "python", "yaml")}
LINES = [line for block in BLOCKS["sh"] for line in block.splitlines()]
ALL_COMMANDS = [line for line in LINES if line.split()[:1] == ["kdexp"]]
COMMANDS = [command for command in ALL_COMMANDS if "--config-dir" not in command]
OWN_FILES = {
    match[1]: block for kind in ("python", "yaml") for block in BLOCKS[kind] if (match := re.match(r"# (mine/\S+)", block))
}


def test_the_readme_has_commands():
    assert len(COMMANDS) >= 11 and len(BLOCKS["python"]) == 3 and len(BLOCKS["yaml"]) == 5


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_valid(command, tmp_path, monkeypatch):
    for part, name, number in product(("train", "test"), ("cat", "dog"), range(10)):
        (folder := tmp_path / "photos" / part / name).mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.png").touch()
    monkeypatch.chdir(tmp_path)
    words = shlex.split(command)[1:]
    jobs = cli.expand(words[1:]) if words[:1] == ["-m"] else [words]
    for job in jobs:
        assert validate(compose_command(job)) == []


def test_the_default_command_runs(tmp_path):
    assert COMMANDS[0] == "kdexp"
    assert run(compose_command([f"output_dir={tmp_path}", *SHORT]), console=Console(file=io.StringIO()))


def test_the_student_is_taken_away_in_five_lines(tmp_path):
    run(compose_command([f"output_dir={tmp_path}", *SHORT]), console=Console(file=io.StringIO()))
    (folder,) = (tmp_path / "runs").iterdir()
    code = BLOCKS["python"][0]
    assert "outputs/runs/RUN" in code and len([line for line in code.splitlines() if line]) <= 5
    names = {}
    exec(code.replace("outputs/runs/RUN", str(folder)), names)
    assert names["classes"].shape == (16,)


def test_the_student_is_exported_by_one_command(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    (command,) = [line for line in LINES if line.startswith("kdexp-export")]
    monkeypatch.chdir(tmp_path)
    craft(Path("outputs/runs/RUN"))
    as_run(Path("outputs/runs/RUN"), ("distilled", KEY), store="learner")
    export.main(shlex.split(command, comments=True)[1:])
    assert Path("outputs/runs/RUN/student.onnx").is_file()


def test_the_method_of_the_readme_is_one_file_and_one_yaml(tmp_path, monkeypatch):
    package, options = tmp_path / "package", tmp_path / "conf" / "distillation"
    package.mkdir(), options.mkdir(parents=True)
    (package / "mine.py").write_text(BLOCKS["python"][1])
    (options / "mine.yaml").write_text(BLOCKS["yaml"][0])
    monkeypatch.setattr(kdexp.distillation, "__path__", [*kdexp.distillation.__path__, str(package)])
    words = ["distillation=mine", "distillation.weight=10", f"output_dir={tmp_path}", *SHORT]
    config = compose_command(words, config_dir=str(tmp_path / "conf"))
    assert validate(config) == []
    screen = io.StringIO()
    assert run(config, console=Console(file=screen, width=80))
    assert "CE + 10 mine" in screen.getvalue()
    sys.modules.pop("kdexp.distillation.mine")


def test_the_folder_of_ones_own_is_complete(tmp_path):
    """Run as the installed script runs, which has not the current folder on its path as `python -m` has."""
    assert len(OWN_FILES) == 5
    for name, block in OWN_FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(block)
    student = tmp_path / "mine/conf/student/tiny.yaml"
    (tmp_path / "mine/conf/teacher").mkdir()
    (tmp_path / "mine/conf/teacher/tiny.yaml").write_text(student.read_text())
    (command,) = [command for command in ALL_COMMANDS if "--config-dir" in command]
    script = [sys.executable, "-P", "-c", "from kdexp.cli import main; main()", *shlex.split(command)[1:], *SHORT]
    package = str(Path(kdexp.__file__).parent.parent)
    done = subprocess.run(
        script, cwd=tmp_path, env=os.environ | {"PYTHONPATH": package}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "agree" in done.stdout and "tiny" in done.stdout and "Traceback" not in done.stderr


def test_the_changelog_names_the_version():
    assert f"## {kdexp.__version__}" in (Path(__file__).parent.parent / "CHANGELOG.md").read_text()


def test_the_readme_links_to_files_that_exist():
    for link in re.findall(r"\]\(((?!http)[^)#]+)\)", README):
        assert (Path(__file__).parent.parent / link).exists(), link


def test_every_option_of_the_readme_exists():
    for name in re.findall(r"experiment=(\w+)", README):
        assert (Path(__file__).parent.parent / "conf" / "experiment" / f"{name}.yaml").is_file()
    assert yaml.safe_load(BLOCKS["yaml"][0])["_target_"] == "kdexp.distillation.mine.Mine"
