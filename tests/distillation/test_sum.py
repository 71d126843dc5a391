import pytest
import torch
import torch.nn.functional as F
from experiments import COMPOSER
from hypothesis import given
from loops import prepared, run
from loss_bench import LAYERS, START, WEIGHTS, batch_of, few, pairs_within, probe, random, temperatures
from torch import nn

from kdexp.distillation.base import soft_target_loss
from kdexp.distillation.dkd import DKD
from kdexp.distillation.hint import Hint
from kdexp.distillation.mse_logits import MSELogits
from kdexp.distillation.sum import Sum
from kdexp.errors import InvalidArguments
from kdexp.network.capture import Outputs
from kdexp.validation.validator import validate

MSE = {"_target_": "kdexp.distillation.mse_logits.MSELogits", **WEIGHTS, "weight": 2.0}
HINT = {"_target_": "kdexp.distillation.hint.Hint", **WEIGHTS, **LAYERS, "weight": 3.0}
COSINE = {"_target_": "kdexp.distillation.cosine.Cosine", **WEIGHTS, **LAYERS, "student_layers": ["deep"], "weight": 0.5}
NETS = ("teacher=lightnn", "student=lightnn")


def total(methods, **changed):
    return Sum(**WEIGHTS | {"methods": methods} | changed)


def bench(methods, **changed):
    """Returns a sum in float64, set up on crafted outputs, and these outputs."""
    made = total(methods, **changed)
    made.layers(nn.Identity(), nn.Identity())
    student = Outputs(random(3, 4), {"ours": random(3, 5, seed=1), "deep": random(3, 2, seed=2)})
    teacher = Outputs(random(3, 4, seed=3), {"theirs": random(3, 6, seed=4)})
    made.setup(probe(student, teacher))
    return made.double(), student, teacher


def complaints(*words):
    return list(map(str, validate(COMPOSER.compose(["distillation=sum", *words]))))


@torch.no_grad()
def test_the_objective_is_the_sums_own_weights_and_each_methods_weighted_terms():
    made, student, teacher = bench({"a": HINT, "b": COSINE, "c": MSE}, ce_weight=0.5, kd_weight=0.25, temperature=3.0)
    batch = batch_of([0, 3, 1])
    found = made.losses(batch, student, teacher, START)
    assert list(found) == ["ce", "kd", "hint", "cosine", "mse_logits"]
    assert float(found["ce"]) == pytest.approx(0.5 * float(F.cross_entropy(student.logits, batch.label)))
    assert float(found["kd"]) == pytest.approx(0.25 * float(soft_target_loss(student.logits, teacher.logits, 3.0)))
    regressed = made.parts["a"].regressors[0](student.features["ours"])
    assert float(found["hint"]) == pytest.approx(3.0 * float(F.mse_loss(regressed, teacher.features["theirs"])))
    halved = teacher.features["theirs"].view(3, 2, 3).mean(2)
    expected = 0.5 * float((1 - F.cosine_similarity(student.features["deep"], halved)).mean())
    assert float(found["cosine"]) == pytest.approx(expected)
    assert float(found["mse_logits"]) == pytest.approx(2.0 * float((student.logits - teacher.logits).square().mean()))


@few
@given(pairs_within(8), temperatures)
def test_a_sum_of_one_method_equals_that_method(logits, temperature):
    student, teacher = map(Outputs, torch.from_numpy(logits))
    batch, shared = batch_of([0] * len(student.logits)), WEIGHTS | {"ce_weight": 1.0, "temperature": temperature}
    dkd = {"weight": 0.5, "target_weight": 1.0, "nontarget_weight": 8.0, "warmup_epochs": 20}
    alone = DKD(**shared | dkd).losses(batch, student, teacher, START)
    node = {"_target_": "kdexp.distillation.dkd.DKD", **WEIGHTS, **dkd, "temperature": temperature}
    assert total({"any": node}).losses(batch, student, teacher, START) == alone


def test_terms_with_equal_names_get_their_methods_names():
    made, student, teacher = bench({"first": HINT, "second": {**HINT, "student_layers": ["deep"]}, "logits": MSE})
    found = made.transfer(batch_of([0, 1, 2]), student, teacher, START)
    assert list(found) == ["first.hint", "second.hint", "mse_logits"]
    assert float(found["first.hint"].detach()) != float(found["second.hint"].detach())


def test_shared_layers_are_listed_once_and_every_method_compares_its_own():
    made = total({"a": HINT, "b": COSINE, "c": HINT, "d": MSE})
    assert made.layers(nn.Identity(), nn.Identity()) == (["ours", "deep"], ["theirs"])
    assert [part._pairs for part in made.parts.values() if not part.label.startswith("logit")] == [
        [("ours", "theirs")],
        [("deep", "theirs")],
        [("ours", "theirs")],
    ]


def test_the_methods_modules_are_trained_and_stored_with_it():
    made, student, teacher = bench({"a": HINT, "b": {**HINT, "student_layers": ["deep"]}})
    names = [f"methods.{part}.regressors.0.{name}" for part in "ab" for name in ("weight", "bias")]
    assert list(made.state_dict()) == [name for name, _ in made.named_parameters()] == names
    sum(made.transfer(batch_of([0, 1, 2]), student, teacher, START).values()).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in made.parameters())


def test_sums_of_sums_are_sums():
    made, student, teacher = bench(
        {"inner": {"_target_": "kdexp.distillation.sum.Sum", **WEIGHTS, "methods": {"b": MSE}}, "c": MSE}
    )
    flat = bench({"b": MSE, "c": MSE})[0]
    batch = batch_of([0, 1, 2])
    assert made.layers(nn.Identity(), nn.Identity()) == ([], [])
    assert list(made.transfer(batch, student, teacher, START).values()) == list(
        flat.transfer(batch, student, teacher, START).values()
    )


@pytest.mark.parametrize(
    ("methods", "changed", "words"),
    [
        ({"a": {**HINT, "weight": 0.8}, "b": {**COSINE, "weight": 1000.0}}, {}, "CE + 0.8 hint + 1000 cosine"),
        ({"a": MSE}, {"kd_weight": 1.0, "temperature": 4.0}, "CE + KD + 2 logit MSE, T=4"),
        ({"a": MSE, "b": {**HINT, "weight": 0.0}}, {"alpha": 0.0}, "KD + 2 logit MSE, T=1"),
        ({"a": {**MSE, "_target_": "test_sum.Nameless"}}, {"ce_weight": 0.0}, "2 a"),
    ],
)
def test_it_describes_its_objective(methods, changed, words):
    assert total(methods, **changed).describe() == words


class Nameless(MSELogits):
    """A user's method without a label for the table."""

    label = ""


class Replaces(Hint):
    def answer(self, student):
        return student


@pytest.mark.parametrize("target", ["kd.KD", "none.NoDistillation"])
def test_methods_without_terms_of_their_own_are_refused(target):
    with pytest.raises(
        InvalidArguments, match=r"methods\.x: \w+ does not just add terms of its own.*are distillation\.kd_weight"
    ):
        total({"x": {"_target_": f"kdexp.distillation.{target}", **WEIGHTS}})


@pytest.mark.parametrize(
    "node",
    [
        {**HINT, "_target_": "test_sum.Replaces"},
        {"_target_": "kdexp.distillation.mutual.Mutual", **WEIGHTS, "peer": MSE},
        {"_target_": "kdexp.distillation.label_smoothing.LabelSmoothing", **WEIGHTS, "smoothing": 0.1},
    ],
)
def test_methods_that_do_more_than_add_terms_are_refused(node):
    with pytest.raises(InvalidArguments, match=r"^methods\.x: \w+ does not just add terms of its own, so it can't be part"):
        total({"x": node})


def test_all_problems_of_the_methods_are_reported_at_once():
    with pytest.raises(InvalidArguments) as refusal:
        total({"a": {**HINT, "alpha": 0.5, "weight": -1}, "b": 3, "c": {**MSE, "wieght": 1.0}, "train": MSE})
    assert [str(problem).partition(";")[0] for problem in refusal.value.problems] == [
        "methods.a.weight=-1: must be at least 0",
        "methods.a.alpha=0.5: labels and soft targets are weighted by the sum",
        "methods.b=3: is no method's node",
        "methods.c.wieght: unknown key",
        "methods.train: PyTorch's modules use that name themselves",
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "begin"),
    [
        ([], None),
        (["+distillation@distillation.methods.at=cosine"], None),
        (["~distillation@distillation.methods.rkd"], None),
        (["distillation@distillation.methods.rkd=cosine", "distillation.methods.rkd.weight=100"], None),
        (["distillation.methods.rkd.weight=-1"], "distillation.methods.rkd.weight=-1: must be at least 0"),
        (
            ["distillation.methods.rkd.kd_weight=1"],
            "distillation.methods.rkd.kd_weight=1: labels and soft targets are weighted",
        ),
        (["+distillation@distillation.methods.kd=kd"], "distillation.methods.kd: KD does not just add terms of its own"),
        (["distillation.methods.rkd._target_=nowhere.RKD"], "distillation.methods.rkd: "),
        (
            ["distillation.methods.rkd._target_=kdexp.models.mlp.MLP"],
            "distillation.methods.rkd._target_='kdexp.models.mlp.MLP': is no",
        ),
        (
            ["distillation.methods.rkd.student_layers=[features,classifier]"],
            "distillation.methods.rkd: student_layers and teacher_layers are pairs",
        ),
        (
            ["+distillation@distillation.methods.r=reviewkd"],
            "distillation.methods.r: MLP declares no stages, so its layers must be",
        ),
        (["~distillation.methods.rkd", "~distillation.methods.mse_logits"], "distillation.methods={}: nothing to add up;"),
        (
            ["distillation.ce_weight=0", "distillation.methods.rkd.weight=0", "distillation.methods.mse_logits.weight=0"],
            "distillation: every",
        ),
    ],
)
def test_the_overrides_in_its_yaml_work_and_mistakes_are_reported_by_path(words, begin):
    found = complaints(*words)
    assert len(found) == (begin is not None)
    assert all(sentence.startswith(begin) for sentence in found)


@pytest.mark.slow
def test_parts_are_chosen_added_replaced_and_taken_out_on_the_command_line(here):
    words = ("distillation=sum", "+distillation@distillation.methods.at=cosine", "distillation.methods.at.weight=5")
    words += ("~distillation@distillation.methods.rkd", "distillation@distillation.methods.mse_logits=hint", "dry_run=true")
    code, printed = here(*words, columns=140)
    assert code == 0 and "CE + hint + 5 cosine" in printed.out


def test_a_misspelt_key_of_a_part_is_explained(refused):
    assert "distillation.methods.rkd.wieght: unknown key; did you mean distillation.methods.rkd.weight?" in refused(
        "distillation=sum", "distillation.methods.rkd.wieght=3"
    )


def test_parts_are_swept_like_any_other_key(make_experiment):
    keys = {
        make_experiment("distillation=sum", *words).spec("distilled").key
        for words in ([], ["distillation.methods.rkd.weight=1"], ["distillation.methods.rkd.weight=2"])
    }
    assert len(keys) == 2
    identity = make_experiment("distillation=sum").spec("distilled").identity()
    assert {"kdexp.distillation.rkd", "kdexp.distillation.mse_logits", "kdexp.distillation.sum"} <= identity["sources"].keys()


@pytest.mark.slow
def test_a_training_killed_after_one_epoch_resumes_bitwise(make_experiment):
    def learner():
        experiment = make_experiment(*NETS, "distillation=sum", "distillation@distillation.methods.rkd=hint")
        (made,), teacher = prepared(experiment, "distilled")
        return experiment, made, teacher

    whole, killed, resumed = (learner() for _ in range(3))
    run(whole[0], [whole[1]], whole[2], epochs=2)
    run(killed[0], [killed[1]], killed[2], epochs=1)
    resumed[1].resume(killed[1].progress())
    run(resumed[0], [resumed[1]], resumed[2], epochs=2)
    assert resumed[1].history == whole[1].history
    assert "method.methods.rkd.regressors.0.weight" in resumed[1].state_dict()
    assert all(torch.equal(value, resumed[1].state_dict()[name]) for name, value in whole[1].state_dict().items())
