"""kdexp-store: listing, verifying and removing what is stored."""

import os
import re
import subprocess
import sys
import time

import pytest
import torch
from crafted import craft, rewrite, spec_of

from kdexp.commands import store as inventory
from kdexp.experiment.obtain import obtain
from kdexp.store.learners import LearnerStore
from kdexp.store.outputs import OutputStore


@pytest.fixture
def store(tmp_path, make_experiment):
    """A store with a teacher, a baseline, a distilled student, an unfinished learner and a killed process's leftover."""
    experiment = make_experiment()
    entries = obtain(experiment)
    experiment.store.keep_progress("0123456789abcdef", {"history": []})
    (experiment.store.root / "aaaa000000000000.draft-12345678").mkdir()
    return experiment.store, {entry.role: entry.spec.key for entry in entries}


@pytest.fixture
def kdexp_store(tmp_path, call_main):
    def call(*words, columns=100):
        return call_main(inventory.main, "kdexp-store", *words, "--store", tmp_path / "store", columns=columns)

    return call


@pytest.mark.slow
def test_list_shows_everything_with_size_and_age(store, kdexp_store):
    code, shown = kdexp_store("list")
    assert code == 0
    for key in store[1].values():
        assert key in shown
    for word in ("mlp_wide", "0.1 CE + 0.9 KD, T=4", "digits", "unfinished", "leftover", "5 in", " MB", "0 min"):
        assert word in shown, shown
    teacher = next(line for line in shown.splitlines() if store[1]["teacher"] in line)
    assert teacher.split()[-4] == "1", "it teaches one student"


METHODS = (
    ("mlp_small", "CE"),
    ("mobilenetv2_half", "0.1 CE + 0.9 KD, T=4"),
    ("resnet110x2", "CE, balanced"),
    ("resnet14", "0.1 CE + 0.9 KD + 1000 AT, T=4"),
)


def test_each_learner_has_one_line_of_80_columns(tmp_path, kdexp_store):
    """Cells are whole, but for keys and spaces of methods; a method that can't fit loses its end, which wide terminals show."""
    named = {craft(tmp_path / "store", seed=seed): names for seed, names in enumerate(METHODS)}
    for learner, (model, method) in named.items():
        rewrite(learner, model=model, method=method)

    def listed(columns):
        code, shown = kdexp_store("list", columns=columns)
        assert code == 0 and max(map(len, shown.splitlines()[:7])) <= columns
        return {line.split()[0]: line for line in shown.splitlines() if line.strip()[:8] in {path.name[:8] for path in named}}

    narrow, wide = listed(80), listed(200)
    assert set(narrow) == {path.name[:8] for path in named} and set(wide) == {path.name for path in named}
    for learner, (model, method) in named.items():
        for cell in (model, "digits", "50.00"):
            assert cell in narrow[learner.name[:8]].split()
        assert method in wide[learner.name] and method.replace(" ", "") in narrow[learner.name[:8]]
    long = "CE + RKD + 0.5 logit MSE + 0.8 CRD + 20 attention, T=4"
    rewrite(learner, method=long)
    assert "CE+RKD+0.5logit" in listed(80)[learner.name[:8]] and "…" in listed(80)[learner.name[:8]]
    assert long in listed(200)[learner.name]


def test_keys_with_the_same_beginning_are_told_apart(tmp_path, kdexp_store):
    folder = tmp_path / "store" / "learner"
    for key in ("0123456789abcdef", "0123456789abcdee"):
        (folder / key).mkdir(parents=True)
    shown = kdexp_store("list", columns=30)[1]
    assert "0123456789abcdef" in shown and "0123456789abcdee" in shown


@pytest.mark.slow
def test_show_prints_the_spec_and_its_provenance(store, kdexp_store):
    key = store[1]["distilled"]
    code, shown = kdexp_store("show", key[:8])
    assert code == 0
    for word in ("temperature: 4.0", "torch:", "threads: 1", f"teacher: {store[1]['teacher']}", "top1:"):
        assert word in shown


@pytest.mark.slow
def test_verify_names_damaged_items(store, kdexp_store):
    assert kdexp_store("verify") == (0, "3 finished, 1 leftover, 1 unfinished\n")
    damaged = store[0].root / store[1]["baseline"] / "last.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    code, shown = kdexp_store("verify")
    assert code == 1 and f"{damaged} is missing or damaged" in shown and "prune --damaged" in shown


@pytest.mark.slow
def test_prune_removes_nothing_without_yes(store, kdexp_store):
    before = sorted(store[0].root.rglob("*"))
    code, shown = kdexp_store("prune", "--all")
    assert code == 0 and "nothing was removed; --yes removes these 5" in shown
    assert sorted(store[0].root.rglob("*")) == before


@pytest.mark.slow
def test_prune_removes_only_the_chosen_items(store, kdexp_store):
    kept = store[1]["teacher"]
    assert kdexp_store("prune", store[1]["baseline"], "--unfinished", "--damaged", "--yes")[0] == 0
    left = {path.name for path in store[0].root.iterdir() if path.suffix != ".lock"}
    assert left == {kept, store[1]["distilled"]}
    assert kdexp_store("prune", "--all", "--yes")[0] == 0
    assert {path.suffix for path in store[0].root.iterdir()} == {".lock"}


@pytest.mark.slow
def test_prune_by_age(store, kdexp_store):
    long_ago = time.time() - 40 * 86_400
    os.utime(store[0].root / store[1]["baseline"], (long_ago, long_ago))
    assert kdexp_store("prune", "--older-than", "30d", "--yes")[0] == 0
    assert not store[0].has(store[1]["baseline"]) and store[0].has(store[1]["teacher"])


@pytest.mark.slow
def test_a_learner_in_training_is_not_removed(store, kdexp_store):
    key = "0123456789abcdef"
    root = store[0].root
    made = f"kdexp.store.learners.LearnerStore({str(root.parent)!r})"
    code = f"with {made}.locked({{{key!r}: 'x'}}): print('held', flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    holder = subprocess.Popen([sys.executable, "-c", f"import kdexp.store.learners\n{code}"], **pipes)
    try:
        assert holder.stdout.readline() == "held\n"
        _, shown = kdexp_store("prune", key, "--yes")
    finally:
        holder.communicate("\n")
    assert re.search(r"kept: process \d+ on \S+ is training it", shown) and (root / f"{key}.progress").is_file()


@pytest.mark.slow
def test_teachers_outputs_are_listed_verified_and_removed(store, kdexp_store, tmp_path):
    identity = {"format": 1, "teacher": store[1]["teacher"], "weights": "0" * 64, "data": spec_of()["data"]}
    outputs = OutputStore(tmp_path / "store", identity, {"model": "mlp_wide", "dataset": "digits"}, print)
    for layer in ("", "body.2"):
        assert outputs.write(layer, torch.zeros(4, 3))
    code, shown = kdexp_store("list")
    assert code == 0 and "outputs: logits" in shown and "outputs: body.2" in shown
    teacher = next(line for line in shown.splitlines() if store[1]["teacher"] in line)
    assert teacher.split()[-4] == "1", "outputs are no student of it"
    (damaged, whole) = outputs.root.iterdir()
    (damaged / "outputs.safetensors").write_bytes(b"")
    code, shown = kdexp_store("verify")
    assert code == 1 and "1 outputs" in shown and f"{damaged}/outputs.safetensors is missing or damaged" in shown
    assert kdexp_store("show", whole.name[:8])[0] == 0
    assert kdexp_store("prune", "--damaged", "--outputs", "--yes")[0] == 0
    assert list(outputs.root.iterdir()) == [] and store[0].has(store[1]["teacher"])


REFUSED = [
    (["show", "zzz"], "'zzz': no item has that key"),
    (["show", "0123"], "0123456789abcdef.progress is unfinished"),
    (["show", ""], "items have that key"),
    (["prune"], "choose what to remove: KEY ..., --unfinished, --damaged, --outputs, --older-than AGE, --keep-best or --all"),
    (["prune", "beef"], "'beef': no item has that key"),
    *(
        (["prune", "--older-than", age], f"{age!r} is not an age")
        for age in ("old", "-1", "nan", "inf", "1e999", "30 days", "9" * 400)
    ),
    (["lst"], "invalid choice: 'lst'"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("words", "sentence"), REFUSED)
def test_refused(store, kdexp_store, words, sentence):
    code, shown = kdexp_store(*words)
    assert code == 2 and sentence in shown


def test_no_store(kdexp_store, tmp_path):
    code, shown = kdexp_store("list")
    assert code == 2 and f"no store in '{tmp_path}/store'; choose another folder with --store FOLDER" in shown


@pytest.mark.slow
def test_it_needs_no_torch():
    code = "import sys, kdexp.commands.store; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_store_of_another_version_is_listed_as_damaged(store, kdexp_store, tmp_path):
    (LearnerStore(tmp_path / "store").root / store[1]["teacher"] / "result.json").write_text("{}")
    assert "damaged" in kdexp_store("list")[1]
