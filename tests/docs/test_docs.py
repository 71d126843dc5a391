"""The commands and the code of README.md and docs/, as they stand there."""

import io
import os
import re
import shlex
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch
from crafted import as_run, craft, spec_of
from doc_pages import PAGES, ROOT, blocks
from experiments import COMPOSER, SHORT, compose_command
from folders import picture
from PIL import Image
from rich.console import Console
from safetensors.torch import save_file

import kdexp.distillation
from kdexp.commands import export, predict
from kdexp.commands.run import run
from kdexp.configuration.jobs import expand
from kdexp.configuration.nodes import build
from kdexp.data.shape import Shape
from kdexp.deployment.formats import FORMATS
from kdexp.network.build import build_network
from kdexp.search import settings as search_settings
from kdexp.search.plan import plan_search
from kdexp.validation import settings
from kdexp.validation.jobs import compose_and_check
from kdexp.validation.validator import validate

LINES = [line for page in PAGES for block in blocks(page, "sh") for line in re.sub(r"\\\n\s*", "", block).splitlines()]
INLINE = [text for page in PAGES.values() for text in re.findall(r"`(kdexp (?:-m |[a-z_]+=)[^`]*)`", page) if "…" not in text]
PREDICTIONS = [line for line in "".join(blocks("docs/deployment.md", "sh")).splitlines() if line.startswith("kdexp-predict")]
EXPORTS = [line.partition("  #")[0] for line in LINES if line.startswith("kdexp-export")]
ALL_COMMANDS = [line for line in dict.fromkeys([*LINES, *INLINE]) if line.split()[:1] == ["kdexp"]]
COMMANDS = [
    command for command in ALL_COMMANDS if not re.search("--config-dir|METHOD|FOLDER|=mine|distillation.methods=", command)
]
OWN_FILES = {
    match[1]: block
    for kind in ("python", "yaml")
    for block in blocks("docs/extending.md", kind)
    if (match := re.match(r"# (mine/\S+)", block))
}


def test_pages_have_commands():
    assert len(COMMANDS) >= 25 and len(OWN_FILES) == 4


def test_the_readme_is_short():
    assert len(PAGES["README.md"].splitlines()) <= 150


def write_checkpoints(words):
    """The files that a command names as checkpoints, with weights for its own networks."""
    for word in [word for word in words if ".checkpoint=" in word]:
        config = COMPOSER.compose([other for other in words if other != word])
        dataset, role = build(config["dataset"]), word.partition(".")[0]
        network = build_network(config[role], Shape(dataset.num_classes, dataset.in_channels, dataset.image_size))
        path = Path(word.partition("=")[2])
        path.parent.mkdir(parents=True, exist_ok=True)
        prefix = next((word.partition("=")[2] for word in words if ".checkpoint_prefix=" in word), "")
        weights = {f"{prefix}{name}": value for name, value in network.state_dict().items()}
        save_file(weights, path) if path.suffix == ".safetensors" else torch.save({"model": weights, "epoch": 240}, path)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_valid(command, tmp_path, monkeypatch):
    for part, name, number in product(("train", "test"), ("cat", "dog"), range(10)):
        (folder := tmp_path / "photos" / part / name).mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.png").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(settings, "is_installed", lambda name: True)
    words = shlex.split(command, comments=True)[1:]
    write_checkpoints(words)
    if any(word.startswith("search=") for word in words):
        monkeypatch.setattr(search_settings, "find_spec", lambda name: name)  # Optuna need not be there
        _, problems = plan_search(words, COMPOSER, words)
    else:
        jobs = expand(words[1:]) if words[:1] == ["-m"] else [words]
        _, problems = compose_and_check(jobs, COMPOSER)
    assert problems == []


@pytest.mark.slow
def test_the_default_command_runs(tmp_path):
    assert "kdexp\n" in blocks("README.md", "sh")[0]
    assert run(compose_command([f"output_dir={tmp_path}", *SHORT]), console=Console(file=io.StringIO()))


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", "docs/deployment.md"])
def test_the_student_is_loaded_in_five_lines(tmp_path, page):
    run(compose_command([f"output_dir={tmp_path}", *SHORT]), console=Console(file=io.StringIO()))
    (folder,) = (tmp_path / "runs").iterdir()
    code = blocks(page, "python")[0]
    assert "outputs/runs/RUN" in code and len([line for line in code.splitlines() if line]) <= 5
    names = {}
    exec(code.replace("outputs/runs/RUN", str(folder)), names)
    assert names["classes"].shape == (16,)


def craft_run():
    """`outputs/runs/RUN` with an untrained student for colour images of 8×8 with two named classes."""
    shape = Shape(num_classes=2, in_channels=3, image_size=8)
    data = spec_of(shape=shape)["data"] | {"classes": ["cat", "dog"], "resized_crop": [0.5, 1.0]}
    learner = craft(Path("outputs/runs/RUN"), shape=shape, data=data)
    return as_run(Path("outputs/runs/RUN"), ("distilled", learner.name), store="learner")


@pytest.mark.slow
@pytest.mark.parametrize("file", ["student.onnx", "student.md"])
def test_the_student_is_exported_by_one_command(tmp_path, monkeypatch, file):
    pytest.importorskip("onnxruntime")
    wanted = "--card" if file.endswith(".md") else "--format onnx"
    (command,) = [words for words in EXPORTS if wanted in words and "--int8" not in words]
    monkeypatch.chdir(tmp_path)
    run_folder = craft_run()
    export.main(shlex.split(command)[1:])
    assert (run_folder / file).is_file()


def test_every_export_of_the_page_is_valid(tmp_path, monkeypatch):
    monkeypatch.setattr(FORMATS["onnx"], "needs", (), raising=False)
    monkeypatch.chdir(tmp_path)
    craft_run()
    for command in EXPORTS:
        arguments = export.parser().parse_args(shlex.split(command)[1:])
        assert list(export.problems(arguments, export.destination(arguments))) == []


@pytest.mark.slow
def test_the_exported_student_needs_fifteen_lines_and_no_kdexp(tmp_path, monkeypatch, capsys):
    """The code of the page gives the logits of kdexp's own student, for large, small, turned and grey images."""
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    run_folder = craft_run()
    export.main([str(run_folder), "--format", "onnx", "--output", "student.onnx"])
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(0, 61, 40).save("cat.jpg", exif=exif.tobytes())
    picture(1, 5, 9, "L").save("dog.png")
    (code,) = [block for block in blocks("docs/deployment.md", "python") if "onnxruntime" in block]
    assert "kdexp" not in code and "torch" not in code and len([line for line in code.splitlines() if line]) <= 15
    names, student = {}, kdexp.load(run_folder)
    capsys.readouterr()
    exec(code, names)
    with torch.no_grad():
        expected = student(student.preprocess(["cat.jpg", "dog.png"]))
    torch.testing.assert_close(torch.from_numpy(names["logits"]), expected, rtol=0, atol=1e-5)
    assert capsys.readouterr().out == f"{[student.classes[number] for number in expected.argmax(1)]}\n"


@pytest.mark.slow
def test_files_are_classified_by_the_commands_of_the_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    craft_run()
    Path("photos").mkdir()
    Path("more").mkdir()
    picture(0).save("photos/a.png")
    picture(1).save("more/cat.jpg")
    for command in PREDICTIONS:
        with pytest.raises(SystemExit, match="0"):
            predict.main(shlex.split(command)[1:])
    assert "more/cat.jpg" in capsys.readouterr().out
    assert len(Path("classes.csv").read_text().splitlines()) == 3


@pytest.mark.slow
def test_the_page_preprocesses_images_of_any_size(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    student = kdexp.load(craft_run())
    picture(0, 30, 20).save("cat.jpg")
    picture(1, 9, 9).save("dog.png")
    (code,) = [block for block in blocks("docs/deployment.md", "python") if "student.preprocess" in block]
    exec(code, names := {"student": student, "Image": Image, "tensor": torch.rand(4, 3, 20, 30)})
    assert names["logits"].shape == (4, 2)


METHODS = [
    ("README.md", "Mine", 0, [], "0.1 CE + 0.9 KD + mine"),
    ("docs/extending.md", "Mine", 0, ["distillation.weight=10"], "CE + 10 mine"),
    ("docs/extending.md", "Standardised", 1, [], "0.1 CE + 9 standardised"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("page", "method", "position", "values", "row"), METHODS)
def test_a_method_is_one_file_and_one_yaml(tmp_path, monkeypatch, page, method, position, values, row):
    name = method.lower()
    package, options = tmp_path / "package", tmp_path / "conf" / "distillation"
    package.mkdir(), options.mkdir(parents=True)
    (code,) = [block for block in blocks(page, "python") if f"class {method}" in block]
    (package / f"{name}.py").write_text(code)
    (options / f"{name}.yaml").write_text(blocks(page, "yaml")[position])
    monkeypatch.setattr(kdexp.distillation, "__path__", [*kdexp.distillation.__path__, str(package)])
    words = [f"distillation={name}", *values, f"output_dir={tmp_path}", *SHORT]
    config = compose_command(words, config_dir=str(tmp_path / "conf"))
    assert validate(config) == []
    screen = io.StringIO()
    assert run(config, console=Console(file=screen, width=140))
    assert row in screen.getvalue()
    del sys.modules[f"kdexp.distillation.{name}"]
    delattr(kdexp.distillation, name)


@pytest.mark.slow
def test_the_folder_of_ones_own_is_complete(tmp_path):
    """Run as the installed script runs, which has not the current folder on its path as `python -m` has."""
    assert len(OWN_FILES) == 4
    for name, block in OWN_FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(block)
    (command,) = [line for line in "".join(blocks("docs/extending.md", "sh")).splitlines() if "--config-dir" in line]
    words = [word for word in shlex.split(command)[1:] if word != "epochs=20"]
    script = [sys.executable, "-P", "-c", "from kdexp.commands.main import main; main()", *words, *SHORT]
    package = str(Path(kdexp.__file__).parent.parent)
    done = subprocess.run(
        script, cwd=tmp_path, env=os.environ | {"PYTHONPATH": package}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "agree" in done.stdout and "tiny" in done.stdout and "Traceback" not in done.stderr


def test_every_named_script_exists():
    named = {name for text in PAGES.values() for name in re.findall(r"\bpython ((?:benchmarks|docs)/\w+\.py)", text)}
    assert "benchmarks/gpu.py" in named
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []


def test_the_changelog_names_the_version():
    assert f"## {kdexp.__version__}" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings_that_exist(page):
    for link in re.findall(r"\]\(((?!http)[^)]+)\)", PAGES[page]):
        file, _, heading = link.partition("#")
        target = ROOT / Path(page).parent / file if file else ROOT / page
        assert target.exists(), link
        titles = re.findall(r"^#+ (.*)$", target.read_text(), re.M) if heading else []
        assert not heading or heading in [re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles], link


@pytest.mark.parametrize("page", PAGES)
def test_every_named_option_exists(page):
    of_ones_own = set(re.findall(r"^# mine/conf/experiment/(\w+)\.yaml$", PAGES[page], re.M))
    for group, name in re.findall(r"\b(experiment|protocol|sweep)=(\w+)", PAGES[page]):
        if name in of_ones_own:
            continue
        assert (ROOT / "conf" / group / f"{name}.yaml").is_file(), name


def test_the_table_of_methods_names_every_method():
    (table,) = re.findall(r"\| compares \|.*?\n\n", PAGES["README.md"], re.S)
    assert sorted(re.findall(r"`(\w+)`", table)) == sorted(path.stem for path in (ROOT / "conf/distillation").glob("*.yaml"))
