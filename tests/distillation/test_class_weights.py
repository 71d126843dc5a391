"""`class_weights`: the weighted cross-entropy that all methods share, the learner's key, what is refused, a run end to end."""

import csv
import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from experiments import compose_command
from folders import SMALL, write_classes
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_bench import WEIGHTS, batch_of
from loss_bench import probe as probe_of
from pupils import Pupil, few_labels, made, terms_of
from shipped import options

from kdexp.commands.run import run
from kdexp.configuration.nodes import build
from kdexp.distillation.fixmatch import FixMatch
from kdexp.distillation.kd import KD
from kdexp.distillation.mean_teacher import MeanTeacher
from kdexp.distillation.none import NoDistillation
from kdexp.distillation.pi_model import PiModel
from kdexp.distillation.temporal_ensembling import TemporalEnsembling
from kdexp.distillation.uda import UDA
from kdexp.distillation.vat import VAT
from kdexp.experiment.obtain import obtain
from kdexp.network.capture import Outputs
from kdexp.validation.validator import validate

OWN_CE = {"label_smoothing", "mutual", "ict", "mixmatch", "remixmatch", "mpl"}
few = settings(max_examples=25, deadline=None)


@few
@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.lists(st.floats(0.125, 8), min_size=4, max_size=4))
def test_the_loss_is_torchs_weighted_mean(labels, weights):
    logits, label, w = torch.randn(len(labels), 4, dtype=torch.float64), torch.tensor(labels), torch.tensor(weights).double()
    method = KD(**WEIGHTS | {"alpha": None, "ce_weight": 0.5, "kd_weight": 0.0})
    method.weigh_classes(w)
    (term,) = method.losses(batch_of(labels), Outputs(logits, {}), None, None).values()
    by_hand = sum(w[y] * -F.log_softmax(row, 0)[y] for row, y in zip(logits, labels, strict=True)) / w[label].sum()
    assert torch.allclose(term, 0.5 * by_hand) and torch.allclose(term, 0.5 * F.cross_entropy(logits, label, weight=w))


def test_without_weights_the_loss_is_the_plain_mean_bitwise():
    logits, label = torch.randn(9, 4), torch.arange(9) % 4
    assert torch.equal(NoDistillation(**WEIGHTS).hard_loss(logits, label), F.cross_entropy(logits, label))


@pytest.mark.slow
def test_all_methods_but_those_with_a_cross_entropy_of_their_own_share_it():
    shipped = {name: build(compose_command([f"distillation={name}"]).distillation) for name in options("distillation")}
    assert {name for name, method in shipped.items() if not method.weighs_classes} == OWN_CE


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["class_weights=balanced", "distillation=mutual"], "='balanced': mutual has a cross-entropy of its own"),
        (["class_weights=balanced", "controls=[label_smoothing]"], "label_smoothing has a cross-entropy of its own"),
        (["class_weights=[1,2]"], "2 weights for 10 classes"),
        (["class_weights=[1,0]"], "each entry must be above 0"),
        (["class_weights=blanced"], "must be balanced or a list"),
    ],
)
def test_refused(words, sentence):
    (problem,) = validate(compose_command(words))
    assert problem.name == "class_weights" and sentence in problem.sentence


FEW_LABELS = {
    FixMatch: {"threshold": 0.5},
    MeanTeacher: {"ramp": 0.0, "ramp_shape": "linear"},
    PiModel: {"ramp": 0.0, "ramp_shape": "linear", "both_branches": False},
    TemporalEnsembling: {"ramp": 0.0, "momentum": 0.6},
    UDA: {"threshold": 0.5, "tsa": None, "tsa_of": "largest"},
    VAT: {"ramp": 0.0, "epsilon": 1.0, "xi": 0.1, "iterations": 1, "entropy_weight": 0.1},
}


@pytest.mark.parametrize(("method", "knobs"), FEW_LABELS.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_methods_with_few_labels_weigh_the_labelled_images_alone(method, knobs):
    batch, w = few_labels("weak", "weak2", "strong", labels=(0, 2, 1, 2)), torch.tensor([3.0, 1.0, 0.5]).double()
    found = []
    for weights in (None, w):
        distiller = made(method, **knobs)
        distiller.setup(replace(probe_of(Outputs(torch.zeros(2, 3))), unlabelled=8))
        distiller.weigh_classes(weights)
        torch.manual_seed(1)
        terms, pupil = terms_of(distiller.double(), batch, Pupil(average=lambda image: image.flatten(1)[:, :3]))
        found.append({name: term.item() for name, term in terms.items()})
    plain, weighted = (each.pop("ce") for each in found)
    expected = F.cross_entropy(pupil.network(batch.image), batch.label, weight=w).item()
    assert weighted == pytest.approx(expected, rel=1e-12) and weighted != plain and found[0] == found[1]


def test_annealing_that_weighs_the_labelled_images_itself_is_refused():
    few = ("dataset.labels=40", "dataset.student_fraction=1", "strong@dataset.strong_view=geometric")
    words = ["class_weights=balanced", "distillation=uda", *few]
    assert validate(compose_command(words)) == []
    (problem,) = validate(compose_command([*words, "distillation.tsa=linear"]))
    assert problem.name == "class_weights" and "uda" in problem.sentence and "distillation.tsa=null" in problem.sentence


def test_only_learners_whose_loss_they_weigh_have_them_in_their_key(make_experiment):
    roles, none = ("teacher", "baseline", "distilled"), make_experiment()
    balanced, no_labels = (
        make_experiment("class_weights=balanced", *more) for more in ((), ("distillation.alpha=0", "class_weights=[1,2]"))
    )
    assert "class_weights" not in none.spec("baseline").identity()
    assert all(balanced.spec(role).identity()["class_weights"] == "balanced" for role in roles)
    assert len({made.spec("baseline").key for made in (none, balanced, no_labels)}) == 3
    assert no_labels.spec("distilled").class_weights is None, "it has no cross-entropy with labels"
    assert balanced.entry("distilled").method == "0.1 CE + 0.9 KD, T=4, balanced"


@pytest.mark.slow
def test_weights_change_the_training_and_equal_ones_do_not(make_experiment):
    """Weights of 1 give another key and bitwise the same epochs."""
    histories = [
        obtain(make_experiment(*words), ["baseline"])[0].stored.result["history"]
        for words in ((), ("class_weights=[1,1,1,1,1,1,1,1,1,1]",), ("class_weights=[9,1,1,1,1,1,1,1,1,1]",))
    ]
    assert histories[0] == histories[1] != histories[2]


@pytest.mark.slow
def test_an_imbalanced_image_folder(tmp_path):
    """The run tells balanced accuracy, classes and weights on the screen, in every file, and stores them by learner."""
    for name, images in (("cat", 12), ("dog", 3)):
        for part in ("train", "test"):
            write_classes(tmp_path / "own" / part, classes=(name,), images=images)
    words = (f"dataset.root={tmp_path}/own", "dataset=image_folder", *SMALL, "epochs=1", "teacher_epochs=1", "device=cpu")
    assert run(compose_command([*words, f"output_dir={tmp_path}/out", "class_weights=balanced"]))
    (folder,) = (tmp_path / "out" / "runs").iterdir()
    rows = json.loads((folder / "table.json").read_text())["rows"]
    log = (folder / "log.txt").read_text()
    for row in rows:
        stored = json.loads((tmp_path / "out/store/learner" / row["key"] / "result.json").read_text())
        last = stored["test"]["last"]
        assert stored["spec"]["class_weights"] == "balanced" and last["majority"] == 0.8
        assert row["balanced_accuracy"] == last["balanced_accuracy"] == pytest.approx(sum(last["class_accuracies"]) / 2)
        assert row["test_top1"] == pytest.approx(0.8 * row["class_accuracies"][0] + 0.2 * row["class_accuracies"][1])
    assert "Classes have 3 to 12 test images: always naming the largest, cat, has 80.00 %" in log
    assert "where that has 50.00 %" in log and "Least accurate class: teacher" in log and "balanced: CE is" in log
    assert "| balanced % |" in (folder / "table.md").read_text() and "balanced %" in (folder / "report.html").read_text()
    (first, *_) = csv.DictReader((folder / "table.csv").read_text().splitlines())
    assert float(first["balanced_accuracy"]) == rows[0]["balanced_accuracy"] and "class_accuracies" not in first
