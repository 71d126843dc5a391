"""From jobs on disk to rows: averages, comparisons, choices, and what is left out for which reason."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from crafted import alter, signed
from crafted_sweeps import CraftedSweep, right_first
from hypothesis import given
from hypothesis import strategies as st

from kdexp.store.spec import FORMAT
from kdexp.sweep import NothingToReport, fold, read
from kdexp.sweep.difference import Pairs
from kdexp.sweep.observations import Observation
from kdexp.sweep.read import Job, Result
from kdexp.sweep.remarks import _pairing, missing, remarks


@pytest.fixture
def sweep(tmp_path):
    return CraftedSweep(tmp_path)


def folded(*folders):
    """The comparison, and the rows of its only table by role and temperature."""
    comparison = fold(read(folders))
    (table,) = comparison.tables
    return comparison, {(row.role, row.settings.get("distillation.temperature")): row for row in table.rows}


def said(comparison):
    return "\n".join(sentence for table in comparison.tables for sentence in remarks(table))


def three_seeds(sweep, temperatures=(4.0,), **more):
    """Baselines of 80, 81, 82 % and students 2, 3, 4 points above, and one point less for every later temperature."""
    for later, temperature in enumerate(temperatures):
        for seed in range(3):
            ours, theirs = right_first(82 + 2 * seed - later), right_first(80 + seed)
            words = (f"distillation.temperature={temperature:g}", f"seed={seed}")
            told = {"validation": 0.6 - later / 10, **more}
            sweep.job(*words, seed=seed, distillation__temperature=temperature, distilled=ours, baseline=theirs, **told)
    return sweep.close()


def test_seeds_are_averaged_and_differences_are_paired(sweep):
    comparison, rows = folded(three_seeds(sweep))
    assert len(rows) == 3 and comparison.complete
    row = rows["distilled", 4.0]
    assert (row.n, row.seeds, row.test) == (3, [0, 1, 2], [0.82, 0.84, 0.86])
    assert (row.test_mean, row.test_std) == (pytest.approx(0.84), pytest.approx(0.02))
    found = row.difference
    assert found.points == pytest.approx([2, 3, 4]) and (found.mean, found.std) == (pytest.approx(3), pytest.approx(1))
    assert (found.over_seeds.low, found.over_seeds.high) == pytest.approx((3 - 4.3027 / 3**0.5, 3 + 4.3027 / 3**0.5), abs=1e-4)
    # Accuracies of 82, 84, 86 and 80, 81, 82: on a line, and unpaired their spread is √(2² + 1²) with 4 degrees of freedom.
    assert (found.correlation, found.unpaired) == (pytest.approx(1), pytest.approx(5**0.5 * 2.7764 / 4.3027, rel=1e-4))
    assert found.over_seeds.sufficient_n == 3 and found.test_images == 100


def test_one_teacher_and_one_baseline_per_seed_have_one_line_each(sweep):
    _, rows = folded(three_seeds(sweep, temperatures=(1.0, 4.0)))
    assert rows["teacher", None].n == 1 and rows["baseline", None].n == 3
    assert rows["distilled", 1.0].n == rows["distilled", 4.0].n == 3


def test_the_interval_with_images_is_never_narrower(sweep):
    _, rows = folded(three_seeds(sweep))
    seeds, both = rows["distilled", 4.0].difference.intervals
    assert both.low <= seeds.low < seeds.high <= both.high


def observed(seed, ours, theirs):
    """An observation with this accuracy and without logits."""

    def result(points):
        return Result(f"{seed}", Path("nowhere"), "small", "CE", "digits", {"seed": seed}, 1, points / 100, None)

    return Observation("distilled", result(ours), result(theirs), 0, Job(Path("job"), (), "finished", ""))


@pytest.mark.parametrize(
    ("ours", "theirs", "sentence"),
    [
        ([82, 84, 86], [80, 81, 82], "narrowed the interval (r = +1.00): unpaired, it would be 1.4 times as wide"),
        (
            [70, 71, 70.2],
            [69.9, 70.1, 69.8],
            "widened the interval (r = +0.87): unpaired, it would be 0.88 ",
        ),
        (
            [70, 70, 72, 72],
            [70, 71, 70, 71],
            "widened the interval (r = +0.00): unpaired, it would be 0.77 ",
        ),
        ([70, 71, 72], [72, 71, 70], "widened the interval (r = −1.00): unpaired, it would be 0.46 times"),
        ([70, 72, 71], [70, 70.66, 70.43], "hardly changed the interval over seeds (r = +0.99)."),
    ],
)
def test_the_effect_of_pairing_is_stated(ours, theirs, sentence):
    pairs = Pairs.of([observed(seed, *both) for seed, both in enumerate(zip(ours, theirs, strict=True))])
    difference = pairs.difference()
    pairs.add_intervals(difference, 0.95, images=False)
    assert _pairing(difference).startswith(f" Pairing by seed {sentence}")


@given(st.lists(st.integers(0, 40), min_size=2, max_size=8), st.integers(0, 20))
def test_an_interval_moves_with_the_students_and_turns_with_the_sign(points, shift):
    def interval(ours, theirs):
        pairs = Pairs.of([observed(seed, ours(point), theirs(point)) for seed, point in enumerate(points)])
        difference = pairs.difference()
        pairs.add_intervals(difference, 0.95, images=False)
        return np.array([difference.over_seeds.low, difference.over_seeds.high])

    plain = interval(lambda point: 30 + point, lambda _: 30)
    assert interval(lambda point: 30 + point + shift, lambda _: 30) == pytest.approx(plain + shift)
    assert interval(lambda _: 30, lambda point: 30 + point) == pytest.approx(-plain[::-1])


def test_validation_chooses_and_only_the_chosen_has_an_interval(sweep):
    comparison, rows = folded(three_seeds(sweep, temperatures=(1.0, 4.0, 8.0)))
    assert [rows["distilled", t].mark for t in (1.0, 4.0, 8.0)] == ["★", "", ""]
    assert [bool(rows["distilled", t].difference.intervals) for t in (1.0, 4.0, 8.0)] == [True, False, False]
    assert rows["distilled", 1.0].difference.level == 0.95
    assert "Configurations tried: baseline 1, kd 3." in said(comparison)


def test_a_configuration_with_fewer_seeds_is_not_chosen(sweep):
    sweep.job("lucky", seed=0, distillation__temperature=9.0, validation=0.99)
    _, rows = folded(three_seeds(sweep))
    assert rows["distilled", 4.0].mark == "★" and rows["distilled", 9.0].mark == ""


def test_ties_on_validation_data_are_stated(sweep):
    for temperature in (1.0, 2.0):
        sweep.job(f"t={temperature}", distillation__temperature=temperature, validation=0.7)
    assert "temperature=1 is the first of 2 configurations with the same validation mean" in said(folded(sweep.close())[0])


def test_without_validation_data_nothing_is_marked_and_the_intervals_are_corrected(sweep):
    comparison, rows = folded(three_seeds(sweep, temperatures=(1.0, 4.0), validation=None))
    assert {row.mark for row in rows.values()} == {""}
    assert rows["distilled", 4.0].difference.level == pytest.approx(0.975)
    for words in (
        "No best configuration is marked",
        "dataset.val_fraction=0",
        "have 97.5 % intervals, jointly 95 % (Bonferroni)",
    ):
        assert words in said(comparison)


def test_the_best_of_each_method_is_marked(sweep):
    for seed in range(2):
        for weight in (1, 2):
            hint = {"_target_": "Hint", "weight": weight}
            changes = {"choices__distillation": "hint", "distillation": hint, "validation": 0.4 + weight / 100}
            sweep.job(f"hint {weight} {seed}", seed=seed, **changes)
    comparison, _ = folded(three_seeds(sweep, temperatures=(1.0, 4.0)))
    marks = {row.mark: row.settings for row in comparison.tables[0].rows if row.mark}
    assert marks["★"]["distillation.temperature"] == 1.0 and marks["☆"]["distillation.weight"] == 2
    assert "baseline 1, hint 2, kd 2" in said(comparison)
    assert comparison.tables[0].columns == ["distillation.weight", "distillation.temperature"]


def test_one_seed_has_no_interval_over_seeds(sweep):
    sweep.job("a", distilled=right_first(90), baseline=right_first(80))
    comparison, rows = folded(sweep.close())
    found = rows["distilled", 4.0].difference
    assert found.over_seeds is None and found.std is None and found.within_noise is None
    # Ten of a hundred images changed: the standard error of the mean is √(0.1·0.9/100).
    assert found.over_seeds_and_images.high - 10 == pytest.approx(196 * math.sqrt(0.09 / 100), rel=0.1)
    assert "n = 1: a single seed" in said(comparison) and "the variation over seeds is unknown" in said(comparison)
    comparison.tables[0].searched.append("Search (grid): kd 2 trials.")
    assert "leave search.fresh_seeds out" in said(comparison) and "-m seed=" not in said(comparison)


def test_within_noise_names_the_sufficient_number_of_seeds(sweep):
    for seed, count in enumerate((79, 83, 81)):
        sweep.job(f"seed={seed}", seed=seed, distilled=right_first(count), baseline=right_first(80))
    comparison, rows = folded(sweep.close())
    found = rows["distilled", 4.0].difference
    assert found.within_noise and found.mean == pytest.approx(1) and found.std == pytest.approx(2)
    # 18 seeds: 2.110 · 2 / √18 = 0.995 < 1; 17 seeds: 2.120 · 2 / √17 = 1.028.
    assert found.over_seeds.sufficient_n == 18
    assert "within noise" in said(comparison)


def test_a_distilled_student_is_compared_with_the_baseline_of_its_own_optimizer(sweep):
    for lr, base in ((0.1, 70), (0.01, 80)):
        for seed in range(2):
            sweep.job(f"lr={lr} {seed}", seed=seed, optimizer__lr=lr, baseline=right_first(base), distilled=right_first(82))
    comparison, _ = folded(sweep.close())
    found = {(row.role, row.settings["optimizer.lr"]): row for row in comparison.tables[0].rows if row.role != "teacher"}
    assert found["distilled", 0.1].difference.mean == pytest.approx(12)
    assert found["distilled", 0.01].difference.mean == pytest.approx(2)
    assert comparison.tables[0].columns == ["optimizer.lr"]


def test_a_tuned_baseline_is_named_if_the_winner_has_another(sweep):
    for lr, base, validation in ((0.1, 70, 0.9), (0.01, 80, 0.8)):
        sweep.job(f"lr={lr}", optimizer__lr=lr, baseline=right_first(base), validation=validation)
    key = sweep.keys["baseline"]
    result = json.loads((sweep.store / key / "result.json").read_text())
    result["history"][-1]["validation_accuracy"] = 0.99
    (sweep.store / key / "result.json").write_text(json.dumps(signed(result)))
    assert "★ minus the best baseline on validation data, ☆ baseline CE lr=0.01: +5.00 points" in said(folded(sweep.close())[0])


def test_nothing_is_chosen_across_training_data(sweep):
    for fraction, base in ((0.1, 70), (1.0, 90)):
        for temperature in (1.0, 2.0):
            words, right = f"{fraction} {temperature}", {"baseline": right_first(base), "distilled": right_first(base + 1)}
            changes = {"distillation__temperature": temperature, "dataset__student_fraction": fraction}
            sweep.job(words, **right, **changes)
    comparison, _ = folded(sweep.close())
    assert [row.settings["dataset.student_fraction"] for row in comparison.tables[0].rows if row.mark == "★"] == [0.1, 1.0]
    assert "is the first of 2" in said(comparison) and "Against the baseline" not in said(comparison)


def test_teachers_that_vary_with_the_seed_are_averaged(sweep):
    for seed in range(3):
        sweep.job(f"seed={seed}", seed=seed, teacher_seed=seed)
    comparison, rows = folded(sweep.close())
    assert rows["teacher", None].n == 3 and rows["distilled", 4.0].n == 3
    assert "share one teacher" not in said(comparison)


def test_teachers_crossed_with_seeds_are_configurations(sweep):
    for seed in range(2):
        for teacher_seed in range(2):
            sweep.job(f"{seed} {teacher_seed}", seed=seed, teacher_seed=teacher_seed)
    comparison = fold(read([sweep.close()]))
    distilled = [row for row in comparison.tables[0].rows if row.role == "distilled"]
    assert [(row.n, row.settings["teacher_seed"]) for row in distilled] == [(2, 0), (2, 1)]
    assert "teacher_seed" in comparison.tables[0].columns


def test_rows_that_differ_only_in_source_code_are_numbered(sweep):
    for source in "ab":
        sweep.job(source, source=source)
    comparison = fold(read([sweep.close()]))
    assert comparison.tables[0].columns == ["variant"]
    assert "differ in sources.kdexp.distillation.kd" in said(comparison).replace("teacher, ", "")


def test_another_data_set_has_a_table_of_its_own(sweep):
    sweep.job("a")
    sweep.job("b", data={"fingerprint": "e" * 64}, choices__dataset="digits")
    assert [table.dataset for table in fold(read([sweep.close()])).tables] == ["digits ffffff", "digits eeeeee"]


def test_merged_sweeps_count_shared_results_once(tmp_path):
    first, second = CraftedSweep(tmp_path, "first"), CraftedSweep(tmp_path, "second")
    for sweep, seeds in ((first, (0, 1)), (second, (1, 2))):
        for seed in seeds:
            sweep.job(f"seed={seed}", seed=seed)
    _, rows = folded(first.close(), second.close())
    assert rows["distilled", 4.0].seeds == [0, 1, 2]
    assert folded(first.folder, first.folder)[1]["distilled", 4.0].seeds == [0, 1]
    assert folded(tmp_path)[1]["distilled", 4.0].seeds == [0, 1, 2], "a folder of sweeps"
    assert folded(first.folder / "001")[1]["distilled", 4.0].seeds == [1], "a single run"


def test_jobs_that_another_sweep_finished_are_not_missing(tmp_path):
    first, second = CraftedSweep(tmp_path, "first"), CraftedSweep(tmp_path, "second")
    first.job("seed=0", state="running")
    second.job("seed=0")
    assert not fold(read([first.close()])).complete
    assert folded(first.folder, second.close())[0].complete


def test_jobs_that_did_not_finish_are_listed_with_their_reason(sweep):
    sweep.job("lr=1", "seed=0")
    sweep.job("lr=1", "seed=1", seed=1, state="failed", reason="distilled: ce loss became nan in epoch 1", failed=["distilled"])
    sweep.job("lr=1", "seed=2", seed=2, state="running")
    sweep.job("lr=1", "seed=3", seed=3, state="interrupted", reason="Ctrl-C")
    comparison, rows = folded(sweep.close(["lr=1", "seed=4"], ["lr=1", "seed=5"]))
    assert not comparison.complete and rows["distilled", 4.0].n == 1 and rows["baseline", None].n == 2
    assert missing(comparison) == [
        "1 of 6 jobs are finished; marks and intervals use these only.",
        "  001 seed=1: failed: distilled: ce loss became nan in epoch 1",
        "  002 seed=2: killed: the same command will resume it",
        "  003 seed=3: interrupted: Ctrl-C",
        "  never started: 004, 005",
    ]


def test_no_finished_job_has_no_marks(sweep):
    sweep.job("seed=0", state="running")
    assert missing(fold(read([sweep.close()])))[0] == "0 of 1 jobs are finished."


def test_failed_configurations_count_as_tried(sweep):
    sweep.job("a", distillation__temperature=9.0, state="failed", failed=["distilled"])
    comparison, rows = folded(three_seeds(sweep))
    assert ("distilled", 9.0) not in rows and "kd 2" in said(comparison)


def test_runs_without_a_status_are_judged_by_their_table(sweep):
    folder = sweep.job("a", failed=["distilled"])
    (folder / "status.json").unlink()
    (folder / "command.txt").write_text("kdexp seed=0 'controls=[from_scratch]'\n")
    (job,) = read([folder]).jobs
    assert (job.state, job.reason) == ("failed", "distilled failed: ce loss became nan")
    assert job.overrides == ("seed=0", "controls=[from_scratch]")
    (folder / "table.json").unlink()
    assert read([folder]).jobs[0].state == "killed"


def test_a_baseline_that_failed_for_one_seed_does_not_split_the_configuration(sweep):
    for seed in range(3):
        failed = ["baseline"] if seed == 1 else []
        sweep.job(f"seed={seed}", seed=seed, failed=failed, state="failed" if failed else "finished")
    comparison, rows = folded(sweep.close())
    row = rows["distilled", 4.0]
    assert row.seeds == [0, 1, 2] and row.difference.seeds == [0, 2]
    assert "1 of its 3 seeds have no finished baseline" in said(comparison)


def test_one_student_with_two_baselines_is_compared_with_each(sweep):
    for temperature in (1.0, 2.0):
        sweep.job(f"baseline {temperature}", baseline=right_first(80), baseline__temperature=temperature)
    comparison = fold(read([sweep.close()]))
    assert len([row for row in comparison.tables[0].rows if row.role == "distilled"]) == 2


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "result.json").write_text('{"spec"'), "is damaged"),
        (lambda folder: (folder / "result.json").write_bytes(b"\xff\xfe"), "is damaged"),
        (lambda folder: (folder / "result.json").write_text("[]"), "is damaged"),
        (lambda folder: alter(folder / "result.json", '"top1": ', '"top1": 0'), "is damaged"),
        (lambda folder: alter(folder / "result.json", '"small"', '"tiny"'), "was changed after it was written"),
        (shutil.rmtree, "No such file or directory"),
        (
            lambda folder: (folder / "result.json").write_text('{"spec": {"format": 1}}'),
            f"has the format 1, and this version of kdexp reads {FORMAT}",
        ),
    ],
)
def test_a_result_that_can_not_be_used_is_listed_and_not_counted(sweep, damage, words):
    folder = three_seeds(sweep)
    damage(sweep.store / sweep.keys["distilled"])
    comparison, rows = folded(folder)
    assert rows["distilled", 4.0].n == 2 and not comparison.complete
    (sentence,) = comparison.unusable
    assert words in sentence and sweep.keys["distilled"] in sentence and "the same command will train it again" in sentence


def test_a_damaged_result_is_found_in_another_store(tmp_path):
    damaged, intact = CraftedSweep(tmp_path / "a"), CraftedSweep(tmp_path / "b")
    for sweep in (damaged, intact):
        sweep.job("seed=0")
    (damaged.store / damaged.keys["distilled"] / "result.json").unlink()
    comparison, rows = folded(damaged.close(), intact.close())
    assert comparison.complete and rows["distilled", 4.0].n == 1


@pytest.mark.parametrize("damage", ["missing", "cut", "others"])
def test_without_logits_a_result_has_only_the_interval_over_seeds(sweep, damage):
    folder = three_seeds(sweep)
    logits = sweep.store / sweep.keys["distilled"] / "logits.safetensors"
    if damage == "missing":
        logits.unlink()
    else:
        others = sweep.store / sweep.keys["teacher"] / "logits.safetensors"
        logits.write_bytes(logits.read_bytes()[:-100] if damage == "cut" else others.read_bytes())
    comparison, rows = folded(folder)
    found = rows["distilled", 4.0].difference
    assert found.over_seeds and found.over_seeds_and_images is None
    assert "logits are missing, damaged, or too many to read" in said(comparison)


def test_folders_without_runs_are_refused_all_at_once(tmp_path):
    with pytest.raises(NothingToReport) as refused:
        read([tmp_path, tmp_path / "nowhere"])
    assert str(refused.value).splitlines() == [
        f"'{tmp_path}': has neither a sweep nor runs; name an output_dir, or a folder in its runs/ or sweeps/",
        f"'{tmp_path}/nowhere': no such folder",
    ]


def test_a_sweep_that_never_started_is_no_error(sweep):
    comparison = fold(read([sweep.close(["seed=0"])]))
    assert comparison.tables == [] and missing(comparison)[1:] == ["  never started: 000"]
