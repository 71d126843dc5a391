"""Shortened runs: what counts as such, and where it is said."""

import json

import pytest
from crafted_sweeps import CraftedSweep
from shipped import CONF

from kdexp.report.rows import Row
from kdexp.report.shortened import planned_epochs, shortenings
from kdexp.report.table import readable, table_width
from kdexp.report.write import write_table
from kdexp.sweep import fold, read
from kdexp.sweep.table import text, title
from kdexp.sweep.write import write


def job(**changes):
    choices = {"experiment": None, "protocol": None}
    return {"limit_batches": None, "dataset": {}, "epochs": 240, "teacher_epochs": 240, "choices": choices, **changes}


@pytest.mark.parametrize(
    ("option", "key", "number"),
    [
        ("experiment/mnist_keras", "epochs", 3),
        ("experiment/mnist_keras", "teacher_epochs", 5),
        ("experiment/simkd_resnet32x4_resnet8x4", "epochs", 240),  # through protocol simkd, which is based on crd
        ("experiment/kim2021_wrn_16_4_wrn_16_2", "epochs", 200),
        ("experiment/digits_sweep", "epochs", None),
        ("experiment/none_of_ours", "epochs", None),
    ],
)
def test_an_experiments_own_epochs_are_found(option, key, number):
    assert planned_epochs(option, key, [CONF]) == number


def test_complete_runs_are_not_shortened():
    assert shortenings(job()) == []
    assert shortenings(job(epochs=1)) == [], "without an experiment any number of epochs is as good"
    assert shortenings(job(epochs=300, choices={"experiment": None, "protocol": "crd"})) == []


def test_fewer_epochs_than_the_experiment_has_and_limited_batches_are_named():
    experiment = {"experiment": "simkd_resnet32x4_resnet8x4", "protocol": "simkd"}
    name = "simkd_resnet32x4_resnet8x4"
    assert shortenings(job(epochs=60, teacher_epochs=60, choices=experiment)) == [f"epochs=60 ({name} has 240)"]
    assert shortenings(job(epochs=240, teacher_epochs=60, choices=experiment)) == [f"teacher_epochs=60 ({name} has 240)"]
    assert shortenings(job(limit_batches=2)) == ["limit_batches=2 (at most 2 batches per epoch)"]
    assert shortenings(job(dataset={"limit": 90})) == ["dataset.limit=90 (of the training images)"]


def test_an_experiment_in_a_folder_of_ones_own_is_found(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "own.yaml").write_text("defaults: [mnist_keras]\nteacher_epochs: 9\n")
    own = {"experiment": "own", "protocol": None}
    words = ["--config-dir", str(tmp_path)]
    assert shortenings(job(epochs=2, teacher_epochs=8, choices=own), words) == [
        "epochs=2 (own has 3)",
        "teacher_epochs=8 (own has 9)",
    ]
    assert shortenings(job(epochs=2, choices=own), [f"--config-dir={tmp_path}"]) == ["epochs=2 (own has 3)"]
    for broken in ("[", "defaults: 3", "defaults: [own, other]", "\xff" * 200_000):
        (tmp_path / "experiment" / "own.yaml").write_text(broken)
        (tmp_path / "experiment" / "other.yaml").write_text("defaults: [own]")
        assert shortenings(job(epochs=2, choices=own), words) == []


@pytest.fixture
def sweep(tmp_path):
    return CraftedSweep(tmp_path)


def test_every_table_of_a_sweep_says_so(sweep, tmp_path):
    sweep.job("a", limit_batches=3, dataset__student_fraction=0.1)
    comparison = fold(read([sweep.close()]))
    (table,) = comparison.tables
    assert title(table).endswith("(shortened)")
    assert "limit_batches=3" in text(comparison) and "Students see 10 % of the teacher's training images" in text(comparison)
    write(comparison, tmp_path / "report")
    assert "limit_batches=3" in (tmp_path / "report" / "sweep.csv").read_text()
    assert "limit_batches=3" in json.dumps(
        json.loads((tmp_path / "report" / "sweep.json").read_text())["tables"][0]["shortened"]
    )


def test_a_sweep_of_which_some_jobs_are_shortened_says_that(sweep):
    sweep.job("a", limit_batches=3)
    sweep.job("b", distillation__temperature=2.0)
    (table,) = fold(read([sweep.close()])).tables
    assert title(table).endswith("(partly shortened)") and table.partly_shortened


def test_a_complete_sweep_says_nothing_of_it(sweep):
    sweep.job("a")
    comparison = fold(read([sweep.close()]))
    assert "shortened" not in text(comparison) and "Students see" not in text(comparison)


def test_the_files_of_a_run_say_so(tmp_path, make_experiment):
    row = Row("distilled", "net", "KD", "k", shortened="limit_batches=2 (at most 2 batches per epoch)")
    write_table(tmp_path, [row], make_experiment("limit_batches=2"), ["Shortened: limit_batches=2."])
    assert "Shortened" in (tmp_path / "table.md").read_text()
    assert all("limit_batches=2" in (tmp_path / f"table.{kind}").read_text() for kind in ("csv", "json"))


@pytest.mark.parametrize("width", [60, 80, 120])
def test_latency_is_shown_at_any_width_if_it_was_measured(width):
    row = Row("distilled", "mlp_small", "0.1 CE + 0.9 KD, T=4", "k", parameters=8970, test_top1=0.9, difference=1.0, n=1)
    row.compression, row.train_seconds = 9.5, 8.3
    assert not any("image" in column.heading for column in readable([row], width))
    row.latency_ms, row.images_per_second = 0.03, 2e6
    shown = readable([row], width)
    assert sum("image" in column.heading for column in shown) == 2
    others = [column for column in shown if column.heading != "method"]
    assert table_width([row], others) < width


def test_a_sweep_has_a_column_of_measured_latencies(sweep):
    folder = sweep.job("a", latency=True)
    content = json.loads((folder / "table.json").read_text())
    for row in content["rows"]:
        row["latency_ms"] = 0.25
    (folder / "table.json").write_text(json.dumps(content))
    (table,) = fold(read([sweep.close()])).tables
    assert {row.latency_ms for row in table.rows} == {0.25} and "ms / image" in text(fold(read([sweep.folder])))
