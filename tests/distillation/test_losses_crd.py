"""CRD: its loss against a sum written by hand, its memory banks and its sampling."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from loops import prepared, run
from loss_bench import LAYERS, START, WEIGHTS, batch_of, few, probe, random
from torch import nn

from kdexp.distillation.crd import CRD, Sampler, contrastive_loss
from kdexp.errors import InvalidArguments
from kdexp.network.capture import Outputs

LABELS = [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2]
OWN = {"mode": "exact", "nce_k": 5, "tau": 0.07, "momentum": 0.5, "embedding": 4}


def outputs(features, name="ours"):
    return Outputs(torch.zeros(len(features), 3, dtype=features.dtype), {name: features})


def crd(ours, theirs, labels=LABELS, **changed):
    """Returns the method, set up for images of these labels, and both networks' outputs."""
    made = CRD(**WEIGHTS | LAYERS | OWN | changed)
    made.layers(nn.Identity(), nn.Identity())
    both = outputs(ours), outputs(theirs, "theirs")
    made.setup(probe(*both, labels=labels))
    return made.to(ours.dtype), *both


def loss_of(made, student, teacher, labels=LABELS):
    return made.transfer(batch_of(labels[: len(student.logits)]), student, teacher, START)["crd"]


def embedded(side, features):
    """Embeds features to unit vectors by hand."""
    rows = []
    for row in features.flatten(1).tolist():
        weights = zip(side.embed.weight.tolist(), side.embed.bias.tolist(), strict=True)
        values = [sum(w * x for w, x in zip(ws, row, strict=True)) + bias for ws, bias in weights]
        rows.append([value / math.hypot(*values) for value in values])
    return rows


def side_by_hand(vectors, memory, index, z, epsilon):
    """Computes the loss of one side term by term; Z is measured if it is not given."""
    exponentials = [
        [math.exp(sum(a * b for a, b in zip(memory[i], vector, strict=True)) / 0.07) for i in row]
        for vector, row in zip(vectors, index, strict=True)
    ]
    images, others = len(memory), len(index[0]) - 1
    z = z or sum(map(sum, exponentials)) / (len(index) * (others + 1)) * images
    noise, total = others / images, 0.0
    for row in exponentials:
        first, *rest = [value / z for value in row]
        total -= math.log(first / (first + noise + epsilon))
        total -= sum(math.log(noise / (ratio + noise + epsilon)) for ratio in rest)
    return total / len(index), z


def test_both_sides_equal_a_sum_written_by_hand_and_z_keeps_its_first_value():
    made, student, teacher = crd(random(3, 6), random(3, 5, seed=1))
    zs = [None, None]
    for _ in range(3):
        others = made.sampler.others(torch.tensor(LABELS[:3]), 5)
        made.sampler.others = lambda _label, _number, others=others: others
        index = [[row, *drawn] for row, drawn in enumerate(others.tolist())]
        memories = [side.memory.tolist() for side in (made.teacher, made.student)]
        vectors = embedded(made.student, student.features["ours"]), embedded(made.teacher, teacher.features["theirs"])
        found = float(loss_of(made, student, teacher).detach())
        for epsilon, tolerance in ((0.0, 1e-7), (1e-7, 1e-4)):  # softplus is off by 2e-9 beyond 20
            sides = [side_by_hand(v, m, index, z, epsilon) for v, m, z in zip(vectors, memories, zs, strict=True)]
            assert found == pytest.approx(sum(value for value, _ in sides), abs=tolerance)
            assert [math.log(z) for _, z in sides] == pytest.approx([float(made.student.log_z), float(made.teacher.log_z)])
        zs = [z for _, z in sides]


def test_ratios_of_the_first_batch_average_to_one_over_the_number_of_images():
    made, _, _ = crd(random(3, 6), random(3, 5, seed=1))
    scores = random(3, 6, seed=2) * 10
    assert float(made.student.log_ratios(scores).exp().mean()) == pytest.approx(1 / len(LABELS))
    assert float(made.student.log_ratios(scores + 1).exp().mean()) == pytest.approx(math.e / len(LABELS))


@pytest.mark.parametrize(("m", "images"), [(16384, 50_000), (7, 9), (1, 1000)])
def test_an_uninformed_embedding_has_a_closed_form_loss(m, images):
    ratios = torch.full((3, 1 + m), -math.log(images), dtype=torch.float64)
    assert float(contrastive_loss(ratios, images)) == pytest.approx(math.log(1 + m) + m * math.log(1 + 1 / m))
    if m > 1000:
        assert 2 * float(contrastive_loss(ratios, images)) == pytest.approx(2 * (math.log(m) + 1), abs=1e-3)


def test_training_starts_near_the_closed_form_loss():
    """The loss is higher by the variance of the scores, 1/(128·0.07²) for unit vectors of 128; positives contribute half."""
    labels = (torch.arange(5000) % 3).tolist()
    made, student, teacher = crd(random(64, 256), random(64, 256, seed=1), labels, nce_k=2048, embedding=128)
    expected = 2 * (math.log(2048) + 1) + 1 / (128 * 0.07**2)
    assert float(loss_of(made, student, teacher, labels).detach()) == pytest.approx(expected, abs=1.2)


def test_a_found_image_has_no_loss_and_a_missed_one_a_proportional_loss():
    found = torch.tensor([[80.0, -80.0, -80.0]], dtype=torch.float64)
    assert float(contrastive_loss(found, 2)) == pytest.approx(0.0, abs=1e-30)
    lost = torch.tensor([[-80.0, -80.0, -80.0]], dtype=torch.float64)
    assert float(contrastive_loss(lost, 2)) == pytest.approx(80.0)


def test_gradients_equal_finite_differences():
    made, _, _ = crd(random(3, 6), random(3, 5, seed=1), tau=0.5)
    made.student.log_z = torch.tensor(2.0, dtype=torch.float64)  # it is no function of the vectors once it is measured
    index = torch.tensor([[0, 4, 5, 7], [1, 3, 5, 9], [2, 3, 4, 6]])
    vectors = random(3, 4, seed=3).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: made._contrast(made.student, v, made.teacher.memory, index), vectors)


def test_both_embeddings_and_the_student_learn_and_the_memory_does_not():
    ours = random(3, 6).requires_grad_()
    made, student, teacher = crd(ours, random(3, 5, seed=1))
    loss_of(made, student, teacher).backward()
    assert all(tensor.grad.abs().sum() > 0 for tensor in (ours, *made.parameters()))
    assert not any(
        value.requires_grad for value in made.state_dict(keep_vars=True).values() if not isinstance(value, nn.Parameter)
    )


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_the_memory_moves_towards_the_new_vectors_after_scoring(momentum):
    made, student, teacher = crd(random(2, 6), random(2, 5, seed=1), momentum=momentum)
    sides = ((made.student, student.features["ours"]), (made.teacher, teacher.features["theirs"]))
    before = [side.memory.clone() for side, _ in sides]
    with torch.no_grad():
        vectors = [side(features) for side, features in sides]
    loss_of(made, student, teacher)
    for (side, _), old, new in zip(sides, before, vectors, strict=True):
        expected = momentum * old[:2] + (1 - momentum) * new
        torch.testing.assert_close(side.memory[:2], expected / expected.norm(dim=1, keepdim=True))
        assert torch.equal(side.memory[2:], old[2:])


@few
@given(st.lists(st.integers(0, 2), min_size=4, max_size=12).filter(lambda labels: len(set(labels)) > 1), st.integers(1, 12))
def test_negatives_are_of_other_classes_and_distinct_if_there_are_enough(labels, number):
    tensor = torch.tensor(labels)
    drawn = Sampler(tensor, 3).others(tensor, number)
    assert drawn.shape == (len(labels), number)
    for label, row in zip(labels, drawn.tolist(), strict=True):
        assert all(labels[image] != label for image in row)
        if number <= len(labels) - labels.count(label):
            assert len(set(row)) == number


@pytest.mark.parametrize("number", [1, 4, 50])
def test_all_negatives_are_sampled_equally_often(number):
    labels = torch.tensor([0, 1, 0, 2, 2, 0, 1, 2])
    rows = torch.full((4000,), 2)
    counts = Sampler(labels, 3).others(rows, number).flatten().bincount(minlength=8)
    assert counts[labels == 2].sum() == 0
    share = counts[labels != 2] / counts.sum()
    torch.testing.assert_close(share, torch.full((5,), 0.2), atol=0.02, rtol=0)


def test_classes_with_enough_negatives_and_without_can_share_a_batch():
    labels = torch.tensor([0] * 6 + [1] * 2)
    drawn = Sampler(labels, 2).others(torch.tensor([0, 1]), 4)
    assert set(drawn[0].tolist()) <= {6, 7} and len(set(drawn[1].tolist())) == 4 and drawn[1].max() < 6


def test_relaxed_positives_are_any_image_of_the_class():
    labels = torch.tensor([0, 1, 0, 2, 2, 0, 1, 2])
    drawn = Sampler(labels, 3).same(torch.tensor([0, 1, 2]).repeat(500)).view(-1, 3)
    assert [set(column.tolist()) for column in drawn.T] == [{0, 2, 5}, {1, 6}, {3, 4, 7}]


def test_modes_differ_in_the_positive_alone():
    scored = {}
    for mode in ("exact", "relaxed"):
        made, student, teacher = crd(random(3, 6), random(3, 5, seed=1), mode=mode)
        made.sampler.same = lambda _label: torch.tensor([9, 10, 11])
        made._contrast = lambda _side, _vectors, _memory, index, mode=mode: scored.update({mode: index}) or torch.zeros(())
        loss_of(made, student, teacher)
    assert scored["exact"][:, 0].tolist() == [0, 1, 2] and scored["relaxed"][:, 0].tolist() == [9, 10, 11]
    assert scored["exact"].shape == scored["relaxed"].shape == (3, 6)


@pytest.mark.parametrize(("tau", "scale"), [(0.07, 3e4), (0.001, 1.0), (0.07, 1e-30)])
def test_hard_scores_and_large_features_stay_finite(tau, scale):
    ours = (scale * random(3, 6)).to(torch.bfloat16).float().requires_grad_()
    made, student, teacher = crd(ours, random(3, 5, seed=1).float(), tau=tau)
    for _ in range(3):
        loss = loss_of(made, student, teacher)
        loss.backward()
        assert loss.dtype == torch.float32 and loss.isfinite() and ours.grad.isfinite().all()


def test_the_batch_index_selects_the_memory():
    made, student, teacher = crd(random(2, 6), random(2, 5, seed=1))
    before = made.student.memory.clone()
    batch = batch_of([2, 2])
    batch.index = torch.tensor([5, 8])
    made.transfer(batch, student, teacher, START)
    assert (made.student.memory != before).any(1).nonzero().flatten().tolist() == [5, 8]


def test_parameters_and_buffers_for_vectors_of_256_are_counted_by_hand():
    made, _, _ = crd(random(1, 256).float(), random(1, 256).float(), embedding=128)
    assert sum(parameter.numel() for parameter in made.parameters()) == 65_792
    state = made.state_dict()
    buffers = {"student.memory", "student.log_z", "teacher.memory", "teacher.log_z"}
    assert set(state) == buffers | {f"{side}.embed.{part}" for side in ("student", "teacher") for part in ("weight", "bias")}
    bound = 1 / math.sqrt(128 / 3)
    for name in ("student.memory", "teacher.memory"):
        assert state[name].shape == (len(LABELS), 128) and 0.95 * bound < state[name].abs().max() <= bound
    assert state["student.log_z"] == -math.inf


def test_maps_are_flattened():
    made, student, teacher = crd(random(3, 2, 3, 3), random(3, 5, seed=1))
    assert made.student.embed.in_features == 18
    assert loss_of(made, student, teacher).isfinite()


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"mode": "exakt"}, "mode='exakt': must be one of exact, relaxed"),
        ({"nce_k": 0}, "nce_k=0: must be at least 1"),
        ({"tau": 0.0}, "tau=0.0: must be above 0"),
        ({"momentum": 1.5}, "momentum=1.5: must be at least 0 and at most 1"),
    ],
)
def test_numbers_out_of_range_are_refused(given, sentence):
    with pytest.raises(InvalidArguments) as refusal:
        CRD(**WEIGHTS | LAYERS | OWN | given)
    assert str(refusal.value) == sentence


def test_several_pairs_are_refused():
    made = CRD(**WEIGHTS | LAYERS | OWN | {"student_layers": ["a", "b"], "teacher_layers": ["a", "b"]})
    made.layers(nn.Identity(), nn.Identity())
    features = Outputs(torch.zeros(1, 3), {"a": torch.zeros(1, 2), "b": torch.zeros(1, 2)})
    with pytest.raises(ValueError, match="^this method compares one pair of layers: .* name 2$"):
        made.setup(probe(features, features))


@pytest.mark.parametrize("mode", ["exact", "relaxed"])
def test_a_resumed_training_has_the_memory_of_an_uninterrupted_one(make_experiment, mode):
    experiment = make_experiment("distillation=crd", f"distillation.mode={mode}", "distillation.nce_k=64")
    (unbroken,), teacher = prepared(experiment, "distilled")
    run(experiment, [unbroken], teacher, epochs=2)
    (broken,), teacher = prepared(experiment, "distilled")
    run(experiment, [broken], teacher, epochs=1)
    progress = broken.progress()
    (continued,), teacher = prepared(experiment, "distilled")
    continued.resume(progress)
    run(experiment, [continued], teacher, epochs=2)
    assert not unbroken.failure and [row["crd"] for row in unbroken.history] == [row["crd"] for row in continued.history]
    ours, theirs = continued.state_dict(), unbroken.state_dict()
    assert ours.keys() == theirs.keys() >= {"method.student.memory", "method.teacher.log_z"}
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_samples_come_from_the_learners_own_random_stream(make_experiment):
    experiment = make_experiment("distillation=crd", "distillation.nce_k=64")
    found = []
    for seed in (1, 2):
        (learner,), teacher = prepared(experiment, "distilled")
        torch.manual_seed(seed)
        before = torch.random.get_rng_state()
        run(experiment, [learner], teacher, epochs=1)
        assert torch.equal(torch.random.get_rng_state(), before)
        found.append(learner.state_dict()["method.student.memory"])
    assert torch.equal(*found)
