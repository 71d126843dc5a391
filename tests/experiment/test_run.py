"""Results of a run: its folder, its table, and a student that can be loaded."""

import csv
import json
import math
import re
from pathlib import Path
from traceback import extract_stack
from types import SimpleNamespace

import pytest
import torch
from experiments import SHORT, compose_command
from rich.console import Console

import kdexp
from kdexp.commands.run import claim_folder, run
from kdexp.distillation.base import distiller
from kdexp.report.remarks import remarks
from kdexp.report.rows import Row
from kdexp.report.table import COLUMNS, draw_table, duration, fitting, markdown
from kdexp.training.entry import Entry


@pytest.fixture
def finished(tmp_path):
    """Runs a short command; returns its folder and what it printed."""

    def make(*overrides, width=80):
        with (tmp_path / "screen.txt").open("w") as screen:
            config = compose_command([f"output_dir={tmp_path}", *SHORT, *overrides])
            run(config, overrides, Console(file=screen, width=width))
        newest = max((tmp_path / "runs").iterdir(), key=lambda folder: folder.stat().st_mtime_ns)
        return newest, (tmp_path / "screen.txt").read_text()

    return make


def test_the_files_of_a_run_folder(finished):
    folder, _ = finished("seed=3", "diagnosis=always")
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "config.yaml",
        "command.txt",
        "provenance.json",
        "log.txt",
        "status.json",
        "metrics.csv",
        "table.csv",
        "table.json",
        "table.md",
        "curves.png",
        "report.html",
        "diagnosis.json",
    }
    assert json.loads((folder / "provenance.json").read_text())["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "choices" in (folder / "config.yaml").read_text()
    assert (folder / "command.txt").read_text() == "kdexp seed=3 diagnosis=always\n"
    with (folder / "metrics.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [(line["role"], line["epoch"]) for line in lines] == [
        (role, str(epoch)) for role in ("teacher", "baseline", "distilled") for epoch in (1, 2)
    ]
    distilled = lines[-1]
    assert float(distilled["loss"]) == pytest.approx(float(distilled["ce"]) + float(distilled["kd"]))


def under_the_table(experiment, seconds, reused=False):
    stored = SimpleNamespace(result={"training_only_parameters": 0, "train_seconds": seconds})
    spec = SimpleNamespace(averaging=None)
    return "\n".join(remarks([Entry("baseline", "", "", spec, stored=stored, reused=reused)] * 2, experiment))


@pytest.mark.parametrize(
    ("overrides", "seconds", "reused", "told"),
    [
        ([], 31, False, True),
        ([], 29, False, False),
        ([], 31, True, False),
        (["precision=fp32"], 31, False, False),
        (["fast=true"], 31, False, False),
        (["precision=bf16"], 31, False, False),
    ],
)
def test_a_long_run_in_fp32_on_a_cpu_that_computes_bf16_is_told_so(
    make_experiment, monkeypatch, overrides, seconds, reused, told
):
    monkeypatch.setattr("kdexp.report.remarks.cpu_computes_bf16", lambda: True)
    assert ("precision=bf16 fast=true" in under_the_table(make_experiment(*overrides), seconds, reused)) == told


def test_nothing_is_said_of_bf16_where_the_cpu_does_not_compute_it(make_experiment, monkeypatch):
    for capabilities, told in (({}, False), ({"avx512_f": True, "avx512_bf16": False}, False), ({"amx_bf16": True}, True)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=capabilities: found, raising=False)
        assert ("bf16" in under_the_table(make_experiment(), 60)) == told


@pytest.mark.slow
def test_the_calls_from_a_run_to_the_loss_are_the_documented_ones(finished, monkeypatch):
    loss, stacks = distiller.soft_target_loss, []

    def noted(*words):
        stacks.append([(frame.name, frame.filename) for frame in extract_stack()[:-1]])
        return loss(*words)

    monkeypatch.setattr(distiller, "soft_target_loss", noted)
    finished()
    package = Path(kdexp.__file__).parent
    called = [(name, Path(file).relative_to(package).as_posix()) for name, file in stacks[0] if package in Path(file).parents]
    section = (package.parent / "docs" / "architecture.md").read_text().split("## From the command line to the loss")[1]
    documented = re.findall(r"^\| `(?:\w+\.)?(\w+)` \| `([\w/]+\.py)` \|", section.partition("\n## ")[0], re.MULTILINE)
    assert called == documented and len(called) <= 8 and len({file for _, file in called}) <= 5


@pytest.mark.slow
def test_two_runs_never_share_a_folder(tmp_path):
    config = compose_command([])
    assert len({claim_folder(tmp_path, config) for _ in range(3)}) == 3


@pytest.mark.slow
def test_all_tables_agree(finished):
    folder, screen = finished()
    rows = json.loads((folder / "table.json").read_text())["rows"]
    with (folder / "table.csv").open() as file:
        as_csv = list(csv.DictReader(file))
    for row, line in zip(rows, as_csv, strict=True):
        assert float(line["test_top1"]) == row["test_top1"]
        assert f"{100 * row['test_top1']:.2f}" in screen
        assert f"{100 * row['test_top1']:.2f}" in (folder / "table.md").read_text()
    log = (folder / "log.txt").read_text()
    assert "vs base" in log and f"{100 * rows[0]['test_top1']:.2f}" in log


def test_the_rows_follow_from_the_stored_logits(finished):
    folder, _ = finished("distillation=hint")
    table = json.loads((folder / "table.json").read_text())
    teacher, baseline, distilled = table["rows"]
    assert distilled["difference"] == pytest.approx(100 * (distilled["test_top1"] - baseline["test_top1"]))
    assert distilled["compression"] == pytest.approx(teacher["parameters"] / distilled["parameters"])
    assert (teacher["parameters"], distilled["parameters"], distilled["training_only_parameters"]) == (85_002, 8_970, 16_640)
    assert distilled["size_mb"] == pytest.approx(4 * 8_970 / 1e6)
    assert (teacher["macs"], distilled["macs"]) == (64 * 256 + 256 * 256 + 2560, 64 * 64 + 64 * 64 + 640)
    from safetensors.torch import load_file

    logits = {row["role"]: load_file(folder / table["store"] / row["key"] / "logits.safetensors") for row in table["rows"]}
    labels, answers = logits["distilled"]["labels"], {role: stored["last"].argmax(1) for role, stored in logits.items()}
    assert distilled["test_top1"] == pytest.approx(float((answers["distilled"] == labels).double().mean()))
    assert distilled["agreement"] == pytest.approx(float((answers["distilled"] == answers["teacher"]).double().mean()))


LONG = ("run folder", "teacher's", "  epoch", "Test", "Students", "n =")
"""The first words of lines that a terminal wraps."""


def test_on_eighty_columns_nothing_is_cut(finished):
    _, screen = finished("distillation=hint", "distillation.kd_weight=0.9", "distillation.ce_weight=0.1")
    lines = [line for line in screen.splitlines() if not line.startswith(LONG)]
    assert max(map(len, lines)) <= 80
    assert "distilled trained 25,610 parameters, 16,640 of them only for training." in screen
    for word in ("role", "model", "method", "params", "smaller", "test %", "vs base", "time", "distilled", "8,970"):
        assert word in screen
    assert "…" not in screen


@pytest.mark.slow
def test_a_wider_terminal_shows_more(finished):
    narrow, wide = (finished(width=width)[1] for width in (80, 200))
    assert "NLL" not in narrow and "NLL" in wide and "as teacher %" in wide


@pytest.mark.slow
def test_latency_is_measured_on_request_only(finished):
    plain = json.loads((finished()[0] / "table.json").read_text())["rows"][0]
    timed = json.loads((finished("latency=true")[0] / "table.json").read_text())["rows"]
    assert plain["latency_ms"] is None and all(row["latency_ms"] > 0 and row["images_per_second"] > 0 for row in timed)
    of_teacher, *of_students = ((row["latency_ms"], row["images_per_second"]) for row in timed)
    assert of_students[0] == of_students[1] != of_teacher


@pytest.mark.slow
def test_without_validation_data_the_column_is_empty(finished):
    row = json.loads((finished("dataset.val_fraction=0")[0] / "table.json").read_text())["rows"][1]
    assert row["validation_top1"] is None and row["best_epoch_test_top1"] is None


@pytest.mark.slow
def test_the_share_of_the_students_images_is_stated(finished):
    assert "Students saw 90 of the teacher's 900 images" in finished()[1]
    assert "Students saw" not in finished("dataset.student_fraction=1")[1]


@pytest.mark.slow
def test_a_run_without_a_teacher(finished):
    folder, _ = finished("~teacher", "distillation=none")
    (row,) = json.loads((folder / "table.json").read_text())["rows"]
    assert row["role"] == "baseline" and row["compression"] is None and row["agreement"] is None


@pytest.mark.slow
def test_a_teacher_from_a_checkpoint_is_not_trained(finished, tmp_path):
    trained, _ = finished()
    network = kdexp.load(trained, role="teacher").network
    torch.save({"state_dict": {f"module.{name}": value for name, value in network.state_dict().items()}}, tmp_path / "t.pt")
    folder, screen = finished(f"teacher.checkpoint={tmp_path}/t.pt")
    rows = [json.loads((path / "table.json").read_text())["rows"][0] for path in (trained, folder)]
    assert rows[0]["test_top1"] == rows[1]["test_top1"] and rows[1]["train_seconds"] == 0
    assert "comes from a checkpoint" in screen
    assert rows[0]["key"] != rows[1]["key"]


@pytest.mark.slow
def test_a_student_starts_from_its_checkpoint(finished, tmp_path):
    from safetensors.torch import save_file

    network = kdexp.load(finished("epochs=30", "limit_batches=null")[0], role="baseline").network
    save_file(network.state_dict(), tmp_path / "s.safetensors")
    folder, _ = finished(f"student.checkpoint={tmp_path}/s.safetensors", "epochs=1", "optimizer.lr=1e-9")
    rows = json.loads((folder / "table.json").read_text())["rows"]
    assert rows[1]["test_top1"] == rows[2]["test_top1"] > 0.8


@pytest.mark.slow
@pytest.mark.parametrize("method", ["kd", "hint"])
@pytest.mark.parametrize("epoch", ["last", "best"])
def test_load_gives_the_network_of_the_table(finished, make_experiment, method, epoch):
    folder, _ = finished(f"distillation={method}")
    student = kdexp.load(folder, epoch=epoch)
    row = json.loads((folder / "table.json").read_text())["rows"][-1]
    _, test = make_experiment().dataset.read()
    assert not student.training and test.images.dtype == torch.uint8
    with torch.no_grad():
        from_bytes, from_floats = student(test.images), student(test.images / 255)
    assert torch.equal(from_bytes, from_floats)
    accuracy = float((from_bytes.argmax(1) == test.labels).double().mean())
    assert accuracy == pytest.approx(row["test_top1" if epoch == "last" else "best_epoch_test_top1"])


@pytest.mark.slow
def test_load_takes_a_store_folder_and_refuses_others(finished, tmp_path):
    folder, _ = finished()
    table = json.loads((folder / "table.json").read_text())
    stored = folder / table["store"] / table["rows"][1]["key"]
    assert torch.equal(kdexp.load(stored).network.classifier.bias, kdexp.load(folder, role="baseline").network.classifier.bias)
    with pytest.raises(FileNotFoundError, match="neither a finished run"):
        kdexp.load(tmp_path)
    with pytest.raises(KeyError, match="no finished 'peer'"):
        kdexp.load(folder, role="peer")


def test_durations_are_readable():
    assert [duration(s) for s in (None, 8.26, 65, 3599, 3700)] == ["–", "8.3s", "1m05s", "59m59s", "1h01m"]


def test_a_failed_row_says_why():
    rows = [Row("baseline", "net", "CE", "k", status="failed: ce loss became nan in epoch 1, step 3")]
    assert "ce loss became nan" in markdown(rows, COLUMNS)
    assert all(column.always for column in fitting(rows, 40, COLUMNS))


@pytest.mark.slow
def test_no_number_of_a_row_is_infinite(finished):
    rows = json.loads((finished()[0] / "table.json").read_text())["rows"]
    assert all(math.isfinite(v) for row in rows for v in row.values() if isinstance(v, int | float))


def test_the_drawn_table_is_titled_by_data_and_seed(make_experiment):
    assert draw_table([Row("baseline", "net", "CE", "k", n=1)], make_experiment("seed=7"), 80).title == "digits, seed 7"
