"""Sweeps over methods and draws of labels: rows are averaged over the draws, and the table says how many labels there were."""

import pytest
from each_method import FEW_LABELS

from kdexp.sweep.comparison import fold
from kdexp.sweep.read import read
from kdexp.sweep.remarks import remarks

pytestmark = pytest.mark.usefixtures("without_pictures")

WORDS = (
    "-m",
    "distillation=fixmatch",
    "distillation.unlabelled_ratio=1",
    "~teacher",
    "epochs=1",
    "limit_batches=2",
    "diagnosis=never",
)


def table_of(here, tmp_path, *words):
    policy = [FEW_LABELS[-1]] * (not any("strong_view=" in word for word in words))
    code, printed = here(*WORDS, *FEW_LABELS[:-1], *policy, *words)
    assert code == 0, printed
    (table,) = fold(read([tmp_path / "outputs"])).tables
    return table


@pytest.mark.slow
def test_rows_are_averaged_over_draws_of_labels_that_follow_the_seed(here, tmp_path):
    table = table_of(here, tmp_path, "seed=0,1", "dataset.label_seed=${seed}", "controls=[strong_labels,all_labels]")
    assert [(row.role, row.n, row.method) for row in table.rows] == [
        ("baseline", 2, "CE"),
        ("distilled", 2, "CE + FixMatch"),
        ("strong_labels", 2, "CE, strong views"),
        ("all_labels", 2, "CE"),
    ]
    sentence = "Labels of 30 of 90 training images (dataset.label_seed=0,1), and of 100 for validation."
    assert sentence in remarks(table) and table.columns == []
    assert "Configurations tried: baseline 1, fixmatch 1." in remarks(table)
    (page,) = (tmp_path / "outputs").glob("sweeps/*/report.html")
    assert sentence in page.read_text()


@pytest.mark.slow
def test_one_seed_with_several_draws_has_a_row_for_each(here, tmp_path):
    table = table_of(here, tmp_path, "dataset.label_seed=0,1")
    assert table.columns == ["dataset.label_seed"]
    assert [(row.role, row.n, row.settings["dataset.label_seed"]) for row in table.rows] == [
        ("baseline", 1, 0),
        ("baseline", 1, 1),
        ("distilled", 1, 0),
        ("distilled", 1, 1),
    ]


@pytest.mark.slow
def test_policies_of_strong_views_are_settings_of_what_reads_them(here, tmp_path):
    table = table_of(here, tmp_path, "strong@dataset.strong_view=geometric,fixmatch", "controls=[strong_labels]")
    assert table.columns == ["strong_view"]
    assert [(row.role, row.settings.get("strong_view")) for row in table.rows] == [
        ("baseline", None),
        *((role, policy) for role in ("distilled", "strong_labels") for policy in ("geometric", "fixmatch")),
    ]
