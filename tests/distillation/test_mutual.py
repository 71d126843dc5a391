import math

import pytest
import torch
import torch.nn.functional as F
from experiments import COMPOSER, compose_command
from hypothesis import given
from loops import prepared, run
from loss_bench import START, WEIGHTS, few, pairs_within, random, temperatures

from kdexp.distillation.base import Progress, soft_target_loss
from kdexp.distillation.mutual import Mutual
from kdexp.errors import InvalidArguments
from kdexp.experiment.obtain import obtain
from kdexp.network.build import build_network
from kdexp.training.learner import Learner
from kdexp.training.prepare import prepare
from kdexp.validation.validator import validate

MLP = {"_target_": "kdexp.models.mlp.MLP", "hidden": [5]}
WITH_DROPOUT = ("student=lightnn", "distillation=mutual")
NORMED = ("teacher=resnet14", "teacher.widths=[4,4,8,16]", "student=resnet8", "student.widths=[4,4,6,8]", "distillation=mutual")


def mutual(**changed):
    return Mutual(**WEIGHTS | {"peer": MLP} | changed)


def terms(student, peer, labels, **changed):
    return mutual(**changed).mutual_terms(student, peer, torch.tensor(labels))


def learner_of(experiment) -> Learner:
    labels = experiment.data.student_train.labels
    (learner,), _ = prepare([experiment.entry("distilled")], None, experiment.shape, experiment.precision, labels)
    return learner


def divergence_by_hand(own, other):
    total = 0.0
    for answer, target in zip(own.tolist(), other.tolist(), strict=True):
        q, p = ([math.exp(value) / sum(map(math.exp, row)) for value in row] for row in (answer, target))
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    return total / len(own)


@few
@given(pairs_within(8))
def test_each_network_has_its_cross_entropy_and_the_divergence_from_the_other(logits):
    student, peer = torch.from_numpy(logits)
    labels = [0] * len(student)
    found = terms(student, peer, labels)
    assert list(found) == ["ce", "kl", "peer_ce", "peer_kl"]
    assert float(found["kl"]) == pytest.approx(divergence_by_hand(student, peer), rel=1e-7, abs=1e-9)
    assert float(found["peer_kl"]) == pytest.approx(divergence_by_hand(peer, student), rel=1e-7, abs=1e-9)
    for name, own in (("ce", student), ("peer_ce", peer)):
        assert float(found[name]) == pytest.approx(float(F.cross_entropy(own, torch.tensor(labels))))


@few
@given(pairs_within(8), temperatures)
def test_nets_that_agree_have_no_divergence(logits, temperature):
    student = torch.from_numpy(logits[0]).requires_grad_()
    found = terms(student, student.detach().clone(), [0] * len(student), temperature=temperature)
    found["kl"].backward()
    assert float(found["kl"].detach()) == float(found["peer_kl"].detach()) == 0.0
    assert student.grad.abs().max() < 1e-12


def test_no_gradient_passes_from_one_network_to_the_other():
    student, peer = random(3, 4).requires_grad_(), random(3, 4, seed=1).requires_grad_()
    for name, term in terms(student, peer, [0, 1, 2]).items():
        own, other = (peer, student) if name.startswith("peer_") else (student, peer)
        assert torch.autograd.grad(term, other, retain_graph=True, allow_unused=True) == (None,)
        assert torch.autograd.grad(term, own, retain_graph=True)[0].abs().sum() > 0


def test_the_weights_are_those_of_both_nets_and_the_temperature_is_squared():
    student, peer = random(3, 4), random(3, 4, seed=1)
    plain = terms(student, peer, [0, 1, 2], temperature=3.0)
    found = terms(student, peer, [0, 1, 2], temperature=3.0, alpha=0.25)
    assert float(found["peer_ce"]) == pytest.approx(0.25 * float(plain["peer_ce"]))
    assert float(found["kl"]) == pytest.approx(0.75 * float(soft_target_loss(student, peer, 3.0)))
    assert list(terms(student, peer, [0, 1, 2], kd_weight=0.0)) == ["ce", "peer_ce"]


def test_networks_certain_of_different_classes_give_finite_terms():
    student = torch.tensor([[1e4, -1e4], [0.0, 3e3]]).bfloat16().float()
    assert all(term.isfinite() for term in terms(student, -student, [0, 1]).values())


def test_the_peer_has_the_students_architecture_and_other_initial_weights(make_experiment):
    learner = learner_of(make_experiment(*WITH_DROPOUT))
    student, peer = learner.model.state_dict(), learner.distiller.peer.state_dict()
    assert student.keys() == peer.keys()
    assert all(not torch.equal(student[name], peer[name]) for name in student if name.endswith("weight"))
    again, other = (learner_of(make_experiment(*WITH_DROPOUT, f"seed={seed}")) for seed in (0, 1))
    assert all(torch.equal(value, again.distiller.peer.state_dict()[name]) for name, value in peer.items())
    assert not torch.equal(other.distiller.peer.features[0].weight, peer["features.0.weight"])


@pytest.mark.slow
def test_one_step_equals_the_steps_of_two_optimizers(make_experiment):
    learner = learner_of(make_experiment(*NORMED, "optimizer=sgd"))
    nets = [build_network(learner.distiller.node, make_experiment(*NORMED).shape) for _ in range(2)]
    for net, trained in zip(nets, (learner.model, learner.distiller.peer), strict=True):
        net.load_state_dict(trained.state_dict())
    optimizers = [learner.recipe.build([net]) for net in nets]
    learner.train()
    for batch in learner_batches(make_experiment(*NORMED), 3):
        learner.step(batch, None, START)
        outputs = [net.train()(batch.image) for net in nets]
        for own, other, optimizer in zip(outputs, reversed(outputs), optimizers, strict=True):
            optimizer.zero_grad()
            (F.cross_entropy(own, batch.label) + soft_target_loss(own, other.detach(), 1.0)).backward()
        for optimizer in optimizers:
            optimizer.step()
    assert not learner.failure
    for net, trained in zip(nets, (learner.model, learner.distiller.peer), strict=True):
        for name, value in trained.state_dict().items():
            torch.testing.assert_close(value, net.state_dict()[name], rtol=1e-5, atol=1e-6)


def learner_batches(experiment, count):
    return list(experiment.data.student_train.batches(32, seed=0, epoch=0, limit=count))


def test_both_nets_and_their_statistics_are_trained(make_experiment):
    experiment = make_experiment(*NORMED)
    learner = learner_of(experiment)
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    run(experiment, [learner], None, epochs=1)
    after = learner.state_dict()
    assert {name.partition(".")[0] for name in after} == {"model", "method"}
    assert all(not torch.equal(before[name], after[name]) for name in after)
    assert list(learner.history[0])[2:6] == ["ce", "kl", "peer_ce", "peer_kl"]


def test_a_training_killed_after_one_epoch_resumes_bitwise(make_experiment):
    unbroken, killed, resumed = (learner_of(make_experiment(*WITH_DROPOUT)) for _ in range(3))
    run(make_experiment(*WITH_DROPOUT), [unbroken], None, epochs=2)
    run(make_experiment(*WITH_DROPOUT), [killed], None, epochs=1)
    resumed.resume(killed.progress())
    run(make_experiment(*WITH_DROPOUT), [resumed], None, epochs=2)
    assert len(resumed.history) == 2 and resumed.history == unbroken.history
    assert any(name.startswith("method.peer.") for name in resumed.state_dict())
    for name, value in unbroken.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_training_alone_and_together_is_bitwise_equal_even_with_dropout(make_experiment):
    experiment = make_experiment(*WITH_DROPOUT)
    (baseline, together), _ = prepared(experiment, "baseline", "distilled")
    run(experiment, [baseline, together], None)
    alone = learner_of(make_experiment(*WITH_DROPOUT))
    run(make_experiment(*WITH_DROPOUT), [alone], None)
    assert all(torch.equal(value, alone.state_dict()[name]) for name, value in together.state_dict().items())
    assert together.history == alone.history


def test_bf16_terms_are_fp32_and_near_the_exact_ones(make_experiment):
    outputs = {}
    for precision in ("fp32", "bf16"):
        learner = learner_of(make_experiment(*NORMED, f"precision={precision}"))
        (batch,) = learner_batches(make_experiment(*NORMED), 1)
        learner.step(batch, None, Progress(0.0, 1, 0))
        outputs[precision] = dict(zip(learner.log.columns, learner.log.trace[0][:-1], strict=True))
    assert all(term.dtype == torch.float32 for term in outputs["bf16"].values())
    for name, term in outputs["fp32"].items():
        assert float(outputs["bf16"][name]) == pytest.approx(float(term), rel=0.05, abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("peer", ["student", "teacher"])
def test_the_peer_counts_as_parameters_of_training_only(make_experiment, peer):
    experiment = make_experiment(*NORMED, f"distillation.peer=${{{peer}}}", "epochs=1")
    results = {entry.role: entry.stored.result for entry in obtain(experiment)}
    assert results["distilled"]["parameters"] == results["baseline"]["parameters"]
    of_peer = results["teacher" if peer == "teacher" else "baseline"]["parameters"]
    assert results["distilled"]["training_only_parameters"] == of_peer
    assert results["distilled"]["method"] == "CE + peer's KL, T=1"
    assert results["distilled"]["spec"]["teacher"] is None


@pytest.mark.slow
def test_no_teacher_is_needed(here):
    code, printed = here("distillation=mutual", "teacher=null", "epochs=1", "limit_batches=1", columns=120)
    assert code == 0 and "CE + peer's KL, T=1" in printed.out and "teacher" not in printed.out.partition("Students saw")[0]


@pytest.mark.slow
def test_the_teachers_architecture_can_be_the_peer_on_the_command_line(here):
    words = ("distillation=mutual", "distillation.peer=${teacher}", "teacher.hidden=[70]", "dry_run=true")
    code, printed = here(*words, columns=120)
    assert code == 0
    assert "distillation.peer.hidden=[70]" in printed.out


def test_the_key_covers_the_peers_own_node(make_experiment):
    def key(*words):
        return make_experiment("distillation=mutual", *words).spec("distilled").key

    same, teachers = make_experiment("distillation=mutual"), key("distillation.peer=${teacher}")
    assert same.spec("distilled").method["peer"] == {"_target_": "kdexp.models.mlp.MLP", "hidden": [64, 64]}
    assert "kdexp.models.mlp" in same.spec("distilled").identity()["sources"]
    assert same.spec("distilled").key == key() == key("teacher.hidden=[9]") != teachers
    assert teachers != key("distillation.peer=${teacher}", "teacher.hidden=[9]")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "problems"),
    [
        (["distillation.peer=${teacher}"], []),
        (["+model@distillation.peer=mlp_wide"], []),
        (["student.hidden=4"], ["student.hidden=4: must be a list, written [a,b]"]),
        (["+model@distillation.peer=resnet14"], ["distillation.peer.hidden: unknown key; known: depth, widths"]),
        (["distillation.peer=3"], ["distillation.peer=3: must be a node with keys of its own"]),
        (["distillation.peer=${baseline}"], ["distillation.peer.num_classes: unknown key"]),
        (
            ["+distillation.peer={a:3}"],
            ["distillation.peer={'a': 3}: names no _target_; the peer is a network: 'distillation.peer=${student}' or"],
        ),
    ],
)
def test_a_peer_is_validated_like_a_network(words, problems):
    found = list(map(str, validate(COMPOSER.compose(["distillation=mutual", *words]))))
    assert len(found) >= len(problems) and all(
        sentence.startswith(begin) for sentence, begin in zip(found, problems, strict=False)
    )
    assert bool(found) == bool(problems)


ALEXNET = {"_target_": "kdexp.models.torchvision_nets.torchvision_net", "name": "alexnet", "weights": None, "stem": "default"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("peer", "sentence"),
    [
        (MLP | {"checkpoint": "nowhere.pt", "frozen_backbone": True}, None),
        (
            {"_target_": "kdexp.models.resnet_cifar.ResNet", "depth": 9, "widths": [4, 4, 4, 4]},
            "distillation.peer.depth=9: must be 6n+2 for n blocks per stage, such as 8 or 14",
        ),
        (ALEXNET, "distillation.peer: alexnet needs images of at least 63×63, not 8×8; try distillation.peer.stem=small"),
        ({"_target_": "nowhere.Net"}, "distillation.peer._target_='nowhere.Net': can't be imported (ModuleNotFoundError"),
    ],
)
def test_a_users_own_peer_is_built_and_run_before_any_training(peer, sentence):
    config = compose_command(["distillation=mutual"])
    config.distillation.peer = peer
    found = list(map(str, validate(config)))
    assert len(found) == (0 if sentence is None else 1)
    assert all(problem.startswith(sentence) for problem in found)


def test_a_peer_without_a_class_is_refused_by_the_method_itself():
    with pytest.raises(InvalidArguments, match="names no _target_; the peer is a network"):
        mutual(peer={"hidden": [5]})
