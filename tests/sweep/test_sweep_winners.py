"""Remarks on the winner of a sweep: the number of candidates, and the command that checks it."""

import shlex

import pytest
from crafted_sweeps import CraftedSweep, right_first
from rich.console import Console

from kdexp.configuration.compose import Composer
from kdexp.configuration.jobs import expand
from kdexp.sweep import fold, read, show
from kdexp.sweep.origins import Origins
from kdexp.sweep.page import page
from kdexp.sweep.remarks import remarks
from kdexp.sweep.table import text
from kdexp.validation.jobs import compose_and_check

HEAD = "is the best of {} configurations with the same networks, so its difference is probably too high"


def swept(tmp_path, temperatures=(1, 2, 8), seeds=(0, 1, 2), words=(), **changes):
    """A folder of a sweep over temperatures, the later the better on validation data."""
    sweep = CraftedSweep(tmp_path)
    for temperature in temperatures:
        for seed in seeds:
            overrides = (*words, f"distillation.temperature={temperature}", f"seed={seed}")
            told = {"distilled": right_first(84 + seed % 3), "validation": 0.5 + temperature / 100, **changes}
            sweep.job(*overrides, seed=seed, distillation__temperature=float(temperature), **told)
    return sweep.close()


def winners(folder):
    """The sentences about chosen configurations, each with its command."""
    (table,) = fold(read([folder])).tables
    return [remark.split("\n  ") for remark in remarks(table) if "is the best of" in remark]


def jobs_of(command):
    """The composed jobs of a command as it would be pasted; they must be valid."""
    program, *words = shlex.split(command)
    assert program == "kdexp" and "-m" in words
    configs, problems = compose_and_check(expand([word for word in words if word != "-m"]), Composer())
    assert problems == []
    return configs


@pytest.mark.slow
def test_the_winner_is_said_to_be_one_of_many_with_a_command_for_new_seeds(tmp_path):
    ((sentence, command),) = winners(swept(tmp_path))
    assert sentence == f"★ {HEAD.format(3)}. For an unbiased estimate, train it with new seeds:"
    assert command == "kdexp -m distillation.temperature=8 seed=3,4,5"
    assert [(job["seed"], job["distillation"]["temperature"]) for job in jobs_of(command)] == [(3, 8), (4, 8), (5, 8)]


@pytest.mark.parametrize(
    ("seeds", "fresh"),
    [((0, 1), "2,3,4"), ((1, 2, 4, 7), "0,3,5,6"), ((42, 43, 44), "0,1,2"), ((0,), "1,2,3"), ((0, 1, 2, 3, 4), "5,6,7,8,9")],
)
def test_new_seeds_are_as_many_as_were_used_but_at_least_three(tmp_path, seeds, fresh):
    ((_, command),) = winners(swept(tmp_path, seeds=seeds))
    assert command.endswith(f" seed={fresh}")


def test_a_seed_that_any_job_has_is_not_new(tmp_path):
    folder = swept(tmp_path, seeds=(0,))
    sweep = CraftedSweep(tmp_path, "other")
    sweep.job("epochs=3", "seed=1", epochs=3, seed=1, state="failed", failed=("distilled",))
    (table,) = fold(read([folder, sweep.close(("seed=2",))])).tables
    (command,) = [row.fresh_command for row in table.rows if row.mark == "★"]
    assert command.endswith(" seed=3,4,5")


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("experiment=digits_sweep", "num_threads=1", "distillation.alpha=0.5"),
        ("hydra/launcher=lockstep", "teacher_seed=${seed}", "distillation=hint"),
        ("distillation=sp", "distillation.student_layers=[features.1]", "distillation.teacher_layers=[features.1]"),
        ("controls=[self_teacher]", "store=a folder"),
    ],
)
def test_the_command_for_new_seeds_can_be_pasted(tmp_path, words):
    ((_, command),) = winners(swept(tmp_path, words=words))
    _, *given = shlex.split(command)
    assert [word for word in given if word != "-m"] == [*words, "distillation.temperature=8", "seed=3,4,5"]
    assert {job["distillation"]["temperature"] for job in jobs_of(command)} == {8}


def test_the_best_of_each_method_is_said_to_be_one_of_many_too(tmp_path):
    sweep = CraftedSweep(tmp_path)
    for weight in (1, 2):
        hint = {"_target_": "Hint", "weight": weight}
        sweep.job(f"hint {weight}", choices__distillation="hint", distillation=hint, validation=0.4 + weight / 100)
    for temperature in (1.0, 2.0):
        sweep.job(f"kd {temperature}", distillation__temperature=temperature, validation=0.6 + temperature / 10)
    ((sentence, _),) = winners(sweep.close())
    assert sentence.startswith(f"★ {HEAD.format(4)} (☆ too).")


def test_students_that_do_not_compete_have_a_winner_each(tmp_path):
    sweep = CraftedSweep(tmp_path)
    for share, count in ((0.1, 2), (1.0, 3)):
        for temperature in range(count):
            words = (f"dataset.student_fraction={share}", f"distillation.temperature={1 + temperature}")
            changes = {"dataset__student_fraction": share, "distillation__temperature": 1.0 + temperature}
            sweep.job(*words, validation=0.5 + temperature / 10, **changes)
    found = winners(sweep.close())
    assert [HEAD.format(count) in sentence for count, (sentence, _) in zip((2, 3), found, strict=True)] == [True, True]
    assert "student_fraction=0.1" in found[0][0] and "dataset.student_fraction=1.0 distillation.temperature=3" in found[1][1]


@pytest.mark.parametrize("changes", [{"temperatures": (4,)}, {"validation": None}])
def test_without_a_choice_there_is_no_remark_on_it(tmp_path, changes):
    assert winners(swept(tmp_path, **changes)) == []


def test_the_command_is_unwrapped_on_the_screen_in_markdown_and_on_the_page(tmp_path, capsys):
    words = ("epochs=30", "teacher_epochs=30", "batch_size=16", "optimizer.lr=0.01", "distillation.alpha=0.25")
    sweep = read([swept(tmp_path, words=words)])
    comparison = fold(sweep)
    command = f"kdexp -m {' '.join(words)} distillation.temperature=8 seed=3,4,5"
    show(comparison, Console(width=60, highlight=False))
    assert f"\n  {command}\n" in capsys.readouterr().out
    assert f"new seeds:\n  {command}\n" in text(comparison)
    assert f'new seeds:<code class="command">{command}</code></li>' in page(comparison, Origins(sweep))
