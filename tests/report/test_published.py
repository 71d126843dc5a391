"""Published numbers next to measured ones: distances, where they are shown, what is refused."""

import csv
import json
import math

import pytest
from crafted_sweeps import CraftedSweep, right_first
from experiments import compose_command
from hypothesis import given
from hypothesis import strategies as st

from kdexp.errors import InvalidArguments
from kdexp.report.published import PublishedTable, Reference, departures, explain, reference, unsourced
from kdexp.report.rows import Row
from kdexp.report.table import COLUMNS, METHOD_ROOM, fitting, markdown, readable, table_width
from kdexp.sweep import fold, read
from kdexp.sweep.table import columns_of, text
from kdexp.validation.validator import validate

SOURCE = {"source": "Somebody 2020", "metric": "top-1 % after the last epoch"}
NUMBERS = {
    **SOURCE,
    "teacher": 95,
    "baseline": {"mean": 80.0, "std": 1.0, "n": 4},
    "distilled": {
        "kd": [
            {"mean": 84.0, "std": 1.2, "n": 4, "where": {"temperature": 4.0}},
            {"mean": 83.0, "where": {"temperature": 20.0}},
        ],
        "hint": {"mean": 81.0, "std": 0.5, "source": "Somebody Else 2021"},
    },
}


def number(mean, std=None, n=None):
    return Reference(mean, std, n, "a", "b")


def test_distances_computed_by_hand():
    # √(0.01²/3 + 0.012²/4) = 0.0083267
    assert number(0.84, 0.012, 4).distance(0.85, 0.01, 3) == pytest.approx(0.01 / 0.0083267, rel=1e-4)
    assert number(0.86, 0.012, 4).distance(0.85, 0.01, 3) == pytest.approx(-0.01 / 0.0083267, rel=1e-4)
    assert number(0.84).distance(0.85, 0.01, 4) == pytest.approx(2.0), "an unknown published spread counts as 0"
    assert number(0.84, 0.005).distance(0.85, None, 1) == pytest.approx(2.0), "one seed has no spread; no n counts as 1"
    assert number(0.84, 0.01, 4).distance(0.85, None, 1) == pytest.approx(2.0)
    assert number(0.84).distance(0.85, None, 1) is None and number(0.84, 0.0).distance(0.85, 0.0, 3) is None


@given(st.floats(0, 1), st.floats(0, 1), st.floats(1e-4, 0.1), st.floats(1e-4, 0.1), st.integers(2, 9), st.integers(1, 9))
def test_the_distance_is_antisymmetric_and_grows_with_seeds(ours, theirs, s, t, n, m):
    there, back = number(theirs, t, m).distance(ours, s, n), number(ours, s, n).distance(theirs, t, m)
    assert there == pytest.approx(-back)
    assert abs(number(theirs, t, m).distance(ours, s, n + 1)) >= abs(there)
    assert there * math.sqrt(s**2 / n + t**2 / m) == pytest.approx(ours - theirs)


def test_numbers_are_found_by_role_method_and_settings():
    found = PublishedTable(**NUMBERS)
    assert found.reference("teacher", {}) == Reference(0.95, None, None, *SOURCE.values())
    assert found.reference("baseline", {}) == Reference(0.80, 0.01, 4, *SOURCE.values())
    assert found.reference("distilled.kd", {"temperature": 4}).mean == 0.84
    assert found.reference("distilled.kd", {"temperature": 20.0}, ["temperature"]).mean == 0.83
    assert found.reference("distilled.hint", {}).source == "Somebody Else 2021"
    for row, settings in (("distilled.kd", {"temperature": 8.0}), ("distilled.cosine", {}), ("self_teacher", {}), ("kd", {})):
        assert found.reference(row, settings) is None
    assert found.reference("distilled.kd", {"temperature": 4.0, "alpha": 0.5}, ["alpha"]) is None


def test_overrides_that_make_a_different_experiment():
    neutral = ["experiment=a", "sweep=b", "distillation=kd", "protocol=p", "seed=3", "dataset.root=x", "precision=bf16"]
    neutral += ["--config-dir", "-m", "hydra/launcher=lockstep", "distillation.temperature=3", "teacher.checkpoint=file"]
    assert departures(neutral) == []
    departing = ["epochs=2", "student=vgg8", "+student.extra=1", "~teacher", "dataset.val_fraction=0.1", "optimizer.lr=1"]
    assert departures([*neutral, *departing]) == departing
    config = {"published": NUMBERS, "choices": {"distillation": "kd"}, "distillation": {"temperature": 4.0}}
    assert reference(config, "distilled", neutral[:7]).mean == 0.84
    assert reference(config, "distilled", ["epochs=2"]) is None
    assert reference(config, "distilled", ["distillation.alpha=0.5"]) is None
    assert reference(config, "baseline", ["distillation.alpha=0.5"]).mean == 0.80
    assert reference({**config, "published": None}, "distilled", []) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "sentences"),
    [
        ({"source": "a"}, ["published.metric: missing"]),
        ({**SOURCE, "teachr": 5}, ["published.teachr: unknown key; did you mean teacher?"]),
        ({**SOURCE, "teacher": 101}, ["published.teacher.mean=101: must be at least 0 and at most 100"]),
        ({**SOURCE, "teacher": True}, ["published.teacher.mean=True: must be a finite number"]),
        ({**SOURCE, "baseline": {"std": 1.0}}, ["published.baseline.mean: missing"]),
        ({**SOURCE, "baseline": {"mean": 5, "n": 0}}, ["published.baseline.n=0: must be at least 1"]),
        (
            {**SOURCE, "unsourced": {"dkd": "weight", "kd": ["alpha"]}},
            ["published.unsourced.dkd='weight': must be a list, written [weight]"],
        ),
        ({**SOURCE, "unsourced": ["dkd"]}, ["published.unsourced=['dkd']: must be a node with keys of its own"]),
        ({**SOURCE, "distilled": 74.0}, ["published.distilled=74.0: must be numbers under the names of methods"]),
        (
            {**SOURCE, "teacher": "high", "distilled": {"kd": [{"mean": 5, "sdt": 1}], "at": {"mean": 5, "where": 3}}},
            [
                "published.teacher.mean='high': must be a finite number",
                "published.distilled.kd.sdt: unknown key; did you mean std?",
                "published.distilled.at.where=3: must be a node with keys of its own",
            ],
        ),
        (5, ["published=5: must be null or have the keys source"]),
    ],
)
def test_bad_numbers_are_refused_all_at_once(given, sentences):
    config = compose_command([])
    config.published = given
    found = list(map(str, validate(config)))
    assert len(found) == len(sentences)
    for sentence, complaint in zip(sentences, found, strict=True):
        assert complaint.startswith(sentence)
    if isinstance(given, dict):
        with pytest.raises(InvalidArguments):
            PublishedTable(**given)


def test_unknown_spreads_are_explained():
    assert list(explain([("teacher", None, 1)], [])) == []
    told = " ".join(explain([("teacher", number(0.9), 1)], []))
    assert told == "Published: a; b."
    told = " ".join(explain([("teacher", number(0.9), 1), ("kd", number(0.8, 0.01), 3)], []))
    assert "√(s²/n + s²/n)" in told and "that of a single run" in told and "counts as 0" not in told
    assert "no published spread" in " ".join(explain([("kd", number(0.8), 3)], []))
    assert "the spread over our seeds" in " ".join(explain([("kd", number(0.8, 0.01, 3), 1)], []))
    other = Reference(0.8, 0.01, 3, "c", "b")
    assert "Published (at): c; b." in list(explain([("kd", number(0.8, 0.01, 3), 3), ("at", other, 3)], []))
    assert "epochs=2 differs from the published setup" in next(explain([], ["epochs=2"]))


@pytest.fixture
def sweep(tmp_path):
    """Three seeds with 84, 85 and 86 of 100 right, each with the published numbers."""
    sweep = CraftedSweep(tmp_path)
    for seed in range(3):
        sweep.job(f"seed={seed}", seed=seed, distilled=right_first(84 + seed), published=NUMBERS)
    return sweep


def test_a_sweep_shows_published_next_to_measured_numbers(sweep):
    comparison = fold(read([sweep.close()]))
    (table,) = comparison.tables
    rows = {row.role: row for row in table.rows}
    assert rows["teacher"].standard_errors is None and rows["teacher"].published.mean == 0.95
    assert rows["baseline"].standard_errors == pytest.approx(0.0)
    assert rows["distilled"].standard_errors == pytest.approx(1.2010, rel=1e-3)
    shown = {column.heading: column.text(rows["distilled"]) for column in columns_of(table)}
    assert shown["test %"] == "85.00 ± 1.00" and shown["published"] == "84.00 ± 1.20" and shown["Δ in SE"] == "+1.2"
    assert {"published", "Δ in SE"} <= {column.heading for column in fitting(table.rows, 80, columns_of(table))}
    assert "Published: Somebody 2020; top-1 % after the last epoch." in text(comparison)


@pytest.mark.slow
def test_files_and_page_have_published_numbers_too(sweep):
    from kdexp.commands.report import print_report

    folder = sweep.close()
    assert print_report([folder], folder) == 0
    told = json.loads((folder / "sweep.json").read_text())["tables"][0]["rows"][-1]
    assert told["published"]["mean"] == 0.84 and told["published"]["n"] == 4
    with (folder / "sweep.csv").open() as file:
        line = list(csv.DictReader(file))[-1]
    assert (float(line["published"]), float(line["published_std"]), line["published_n"]) == (0.84, 0.012, "4")
    assert float(line["standard_errors"]) == told["standard_errors"] == pytest.approx(1.2010, rel=1e-3)
    for name in ("sweep.md", "report.html"):
        shown = (folder / name).read_text()
        assert "84.00 ± 1.20" in shown and "Δ in SE" in shown and "Somebody 2020" in shown


def test_each_published_temperature_has_its_own_number(tmp_path):
    sweep = CraftedSweep(tmp_path)
    for temperature in (4.0, 20.0, 8.0):
        word = f"distillation.temperature={temperature:g}"
        sweep.job(word, distillation__temperature=temperature, published=NUMBERS)
    (table,) = fold(read([sweep.close()])).tables
    found = [row.published and row.published.mean for row in table.rows if row.role == "distilled"]
    assert found == [0.84, 0.83, None]


def test_a_different_experiment_has_no_published_numbers(tmp_path):
    sweep = CraftedSweep(tmp_path)
    sweep.job("epochs=3", epochs=3, published=NUMBERS)
    comparison = fold(read([sweep.close()]))
    (table,) = comparison.tables
    assert all(row.published is None for row in table.rows)
    assert "Published numbers are hidden: epochs=3 differs" in text(comparison)
    assert "| published |" not in text(comparison)


DEFAULT = "distillation.{} is the default of {}: no source gives a value for this experiment."
UNSOURCED = {**NUMBERS, "unsourced": {"kd": ["temperature"], "hint": ["weight"], "gone": ["weight"]}}


@pytest.mark.parametrize(
    ("method", "words", "said"),
    [
        ("kd", [], ["temperature=4.0"]),
        ("kd", ["seed=3", "distillation=kd", "distillation.alpha=0.5"], ["temperature=4.0"]),
        ("kd", ["distillation.temperature=4"], []),
        ("kd", ["epochs=3"], []),
        ("hint", [], []),
        ("mse_logits", [], []),
    ],
)
def test_settings_without_a_source_are_named_as_defaults(method, words, said):
    config = {"published": UNSOURCED, "choices": {"distillation": method}, "distillation": {"temperature": 4.0, "alpha": 0.1}}
    assert unsourced(config, words) == [DEFAULT.format(setting, method) for setting in said]
    assert unsourced({**config, "published": None}, words) == unsourced({**config, "published": NUMBERS}, words) == []


def test_defaults_are_named_once_below_a_sweeps_table(tmp_path):
    sweep = CraftedSweep(tmp_path)
    for seed in range(2):
        sweep.job(f"seed={seed}", seed=seed, published=UNSOURCED)
    assert text(fold(read([sweep.close()]))).count(DEFAULT.format("temperature=4.0", "kd")) == 1


@pytest.mark.slow
def test_defaults_are_named_before_a_run_starts(own, here, tmp_path):
    (tmp_path / "own" / "experiment" / "other.yaml").write_text(
        "# @package _global_\ndefaults: [pair]\npublished: {unsourced: {kd: [temperature]}}\n"
    )
    words = [word.replace("pair", "other") for word in own]
    code, shown = here(*words, columns=120)
    sentence = DEFAULT.format("temperature=4.0", "kd")
    assert code == 0 and 0 < shown.out.index(sentence) < shown.out.index("training teacher")
    assert sentence not in here(*words, "distillation.temperature=4", columns=120)[1].out


def test_without_published_numbers_there_are_no_remarks_on_them(tmp_path):
    sweep = CraftedSweep(tmp_path)
    sweep.job("epochs=3")
    assert "ublished" not in text(fold(read([sweep.close()])))


@pytest.fixture
def own(tmp_path):
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    published = json.dumps({**NUMBERS, "teacher": {"mean": 70.0, "std": 10.0}})
    lines = ["# @package _global_", "epochs: 2", "limit_batches: 3", "device: cpu", f"published: {published}"]
    (tmp_path / "own" / "experiment" / "pair.yaml").write_text("\n".join(lines))
    return "--config-dir", "own", "experiment=pair", "diagnosis=never"


@pytest.mark.slow
def test_a_run_shows_published_numbers_which_change_no_learner(own, here, tmp_path, monkeypatch):
    monkeypatch.setattr("kdexp.commands.run.draw_curves", lambda *_: None)
    code, shown = here(*own)
    assert code == 0 and max(map(len, shown.out.splitlines()[-20:])) <= 100
    assert "84.00 ± 1.20" in shown.out and "Published: Somebody 2020; top-1 % after the last epoch." in shown.out
    (path,) = tmp_path.glob("outputs/runs/*/table.json")
    rows = json.loads(path.read_text())["rows"]
    assert [row["published"] for row in rows] == [0.70, 0.80, 0.84]
    for row, error in zip(rows, (0.10, 0.01 / 2, 0.012 / 2), strict=True):
        assert row["standard_errors"] == pytest.approx((row["test_top1"] - row["published"]) / error)
    code, again = here(*own, "published=null")
    assert code == 0 and again.out.count(": reused, ") == 3 and "ublished" not in again.out.replace("published=null", "")
    code, other = here(*own, "batch_size=16")
    assert code == 0 and "84.00" not in other.out
    assert "Published numbers are hidden: batch_size=16 differs from the published setup." in other.out


@pytest.mark.parametrize("model", ["net", "resnet32x4", "mobilenetv2_half"])
def test_a_narrow_terminal_shows_published_numbers_and_the_method(model):
    row = Row("distilled", model, "CE + KD", "k", parameters=7_000_000, test_top1=0.5, difference=1.0, train_seconds=9000, n=1)
    row.compression, row.published, row.published_std = 6.0, 0.4, 0.05
    shown = [column.heading for column in readable([row], 80)]
    method = 80 - table_width([row], [column for column in readable([row], 80) if column.heading != "method"])
    assert {"params", "method", "test %", "vs base", "published"} <= set(shown) and method > METHOD_ROOM
    row.published = row.published_std = None
    assert {"smaller", "time"} <= {column.heading for column in readable([row], 80)}


def test_columns_of_published_numbers_appear_only_with_numbers():
    row = Row("distilled", "net", "KD", "k", test_top1=0.5, n=1)
    assert "published" not in markdown([row], COLUMNS)
    row.published, row.published_std, row.standard_errors = 0.4, 0.05, 2.0
    assert "| 40.00 ± 5.00 | +2.0 |" in markdown([row], COLUMNS)
