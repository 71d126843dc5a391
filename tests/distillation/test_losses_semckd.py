"""SemCKD against sums written by hand."""

import math

import pytest
import torch
from experiments import compose_command
from loss_bench import START, WEIGHTS, batch_of, probe, random
from own_networks import Parts
from torch import nn

from kdexp.data.shape import Shape
from kdexp.distillation.semckd import SemCKD, projection
from kdexp.errors import UnknownLayer
from kdexp.network.build import on_meta
from kdexp.network.capture import Capture, Outputs
from kdexp.network.landmarks import find_landmarks

BATCH = 8
OURS = {"a": (2, 4, 4), "b": (3, 2, 2)}
THEIRS = {"c": (3, 4, 4), "d": (4, 4, 4), "e": (5, 2, 2)}


def maps(shapes, batch=BATCH, seed=0):
    return Outputs(
        torch.zeros(batch, 3).double(), {name: random(batch, *shapes[name], seed=seed + n) for n, name in enumerate(shapes)}
    )


def semckd(student=None, teacher=None, **changed):
    """The method, set up, and the outputs of two student and three teacher layers."""
    student, teacher = student or maps(OURS), teacher or maps(THEIRS, seed=10)
    named = {"weight": 1.0, "student_layers": list(student.features), "teacher_layers": list(teacher.features)}
    made = SemCKD(**WEIGHTS | named | changed)
    made.layers(nn.Identity(), nn.Identity())
    made.setup(probe(student, teacher, batch_size=BATCH))
    return made.to(student.logits.dtype), student, teacher


def loss_of(made, student, teacher):
    return made.transfer(batch_of([0] * len(student.logits)), student, teacher, START)["semckd"]


def embedded_by_hand(embedding, features):
    flat = features.flatten(1).tolist()
    first, second = embedding.layers[0], embedding.layers[2]
    rows = []
    for row in flat:
        values = [sum(a * b for a, b in zip(row, other, strict=True)) for other in flat]
        for layer in (first, second):
            weights = zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
            values = [sum(w * x for w, x in zip(ws, values, strict=True)) + bias for ws, bias in weights]
            values = [max(value, 0.0) for value in values] if layer is first else values
        length = math.hypot(*values)
        rows.append([value / length for value in values])
    return rows


def averaged(features, size):
    """Pools maps over blocks by slicing."""
    step = features.shape[2] // size
    parts = [features[:, :, row::step, column::step] for row in range(step) for column in range(step)]
    return sum(parts) / len(parts)


@torch.no_grad()
def loss_by_hand(made, student, teacher):
    ours, theirs = list(student.features.values()), list(teacher.features.values())
    queries = [embedded_by_hand(embed, features) for embed, features in zip(made.queries, ours, strict=True)]
    keys = [embedded_by_hand(embed, features) for embed, features in zip(made.keys, theirs, strict=True)]
    total, projections = 0.0, iter(made.projections)
    errors = []
    for mine in ours:
        for other in theirs:
            size = min(mine.shape[2], other.shape[2])
            projected = next(projections)(averaged(mine, size))
            errors.append([float(((a - b) ** 2).mean()) for a, b in zip(projected, averaged(other, size), strict=True)])
    for image in range(BATCH):
        for s, query in enumerate(queries):
            weights = [math.exp(sum(a * b for a, b in zip(query[image], key[image], strict=True))) for key in keys]
            for t, weight in enumerate(weights):
                total += weight / sum(weights) * errors[s * len(theirs) + t][image]
    return total / (BATCH * len(ours))


def test_it_equals_a_sum_written_by_hand():
    made, student, teacher = semckd()
    assert float(loss_of(made, student, teacher).detach()) == pytest.approx(loss_by_hand(made, student, teacher), rel=1e-9)


def test_attention_adds_up_to_one_over_the_teachers_layers():
    made, student, teacher = semckd()
    found = made.attention(*made.maps(student, teacher))
    assert found.shape == (BATCH, 2, 3) and (found > 0).all()
    torch.testing.assert_close(found.sum(2), torch.ones(BATCH, 2).double())


def test_where_all_pairs_are_equally_far_apart_attention_does_not_matter():
    made, student, teacher = semckd()
    made.errors = lambda ours, theirs: torch.full((BATCH, len(ours), len(theirs)), 0.37).double()
    assert float(loss_of(made, student, teacher).detach()) == pytest.approx(0.37)


def test_equal_keys_attend_equally():
    made, student, teacher = semckd()
    for key in made.keys:
        for parameter in key.parameters():
            parameter.data.fill_(0.5)
    torch.testing.assert_close(made.attention(*made.maps(student, teacher)), torch.full((BATCH, 2, 3), 1 / 3).double())


def test_an_exact_projection_has_no_loss():
    theirs = maps({"c": (3, 4, 4)})
    made, student, teacher = semckd(Outputs(theirs.logits, {"a": theirs.features["c"]}), theirs)
    made.projections[0] = nn.Identity()
    assert float(loss_of(made, student, teacher).detach()) == 0.0


def test_the_student_and_all_modules_learn_and_gradients_are_those_of_finite_differences():
    student = maps(OURS)
    made, _, teacher = semckd(student)
    ours = [value.clone().requires_grad_() for value in student.features.values()]

    def whole(*features):
        return loss_of(made, Outputs(student.logits, dict(zip("ab", features, strict=True))), teacher)

    whole(*ours).backward()
    assert all(tensor.grad.abs().sum() > 0 for tensor in (*ours, *made.parameters()))
    assert torch.autograd.gradcheck(whole, ours, atol=1e-4, fast_mode=True)


def test_a_partial_batch_gives_a_term_of_zero():
    made, student, teacher = semckd()
    part = maps(OURS, batch=3), maps(THEIRS, batch=3)
    assert list(made.transfer(batch_of([0] * 3), *part, START)) == list(
        made.transfer(batch_of([0] * 8), student, teacher, START)
    )
    term = 400 * loss_of(made, *part)
    term.backward()
    assert float(term.detach()) == 0.0 and all(parameter.grad is None for parameter in made.parameters())


def test_a_partial_batch_changes_nothing_even_if_its_term_is_the_only_one():
    made, _, _ = semckd(ce_weight=0.0)
    terms = made.losses(batch_of([0] * 3), maps(OURS, batch=3), maps(THEIRS, batch=3), START)
    assert list(terms) == ["semckd"]
    torch.stack(list(terms.values())).sum().backward()


def test_large_features_stay_finite():
    scaled = {name: (1e4 * value).to(torch.bfloat16).float().requires_grad_() for name, value in maps(OURS).features.items()}
    student = Outputs(torch.zeros(BATCH, 3), scaled)
    teacher = maps(THEIRS, seed=10).map(lambda value: 1e4 * value.float())
    made, _, _ = semckd(student, teacher)
    loss = loss_of(made, student, teacher)
    loss.backward()
    assert loss.isfinite() and all(value.grad.isfinite().all() for value in scaled.values())


def test_parameters_are_counted_by_hand():
    made, _, _ = semckd()
    pairs = [(2, 3), (2, 4), (2, 5), (3, 3), (3, 4), (3, 5)]
    projections = sum(2 * t * s + 4 * t + 9 * (2 * t) ** 2 + 4 * t + 2 * t * t for s, t in pairs)
    embeddings = 5 * (8 * 4 + 4 + 4 * 2 + 2)
    assert sum(parameter.numel() for parameter in made.parameters()) == projections + embeddings
    assert all(layer.bias is None for layer in projection(2, 3) if isinstance(layer, nn.Conv2d))


@pytest.mark.slow
@pytest.mark.parametrize(("teacher", "student", "sizes"), [("vgg13", "resnet8x4", (3, 4)), ("resnet32x4", "vgg8", (4, 3))])
def test_all_stages_of_both_nets_take_part(teacher, student, sizes):
    shape = Shape(10, 3, 32)
    nets = [on_meta(compose_command([f"student={name}"]).student, shape) for name in (student, teacher)]
    made = SemCKD(**WEIGHTS, weight=1.0, student_layers=None, teacher_layers=None)
    layers = made.layers(*nets)
    assert layers == tuple(list(net.landmarks.stages) for net in nets) and tuple(map(len, layers)) == sizes
    both = [Capture(net, names, shape.probe("meta")).probe for net, names in zip(nets, layers, strict=True)]
    with torch.device("meta"):
        made.setup(probe(*both, batch_size=64))
    assert len(made.projections) == sizes[0] * sizes[1]


def test_named_layers_are_taken_in_any_number():
    made = SemCKD(**WEIGHTS, weight=1.0, student_layers=["a"], teacher_layers=["b", "c"])
    assert made.layers(nn.Identity(), nn.Identity()) == (["a"], ["b", "c"])


def test_inputs_that_it_can_not_compare_are_refused():
    with pytest.raises(ValueError, match="batch_size=3 must be 4 or more$"):
        made, student, teacher = semckd()
        made.setup(probe(student, teacher, batch_size=3))
    with pytest.raises(ValueError, match=r"not 2 \(student\) and 0 \(teacher\)$"):
        semckd(teacher=Outputs(torch.zeros(BATCH, 3)))
    with pytest.raises(ValueError, match=r"^only feature maps can be pooled to one size, not 7 \(student\)"):
        semckd(student=maps({"a": (7,)}))
    vectors = Parts(width=10, flat=nn.Flatten(), hidden=nn.Linear(3072, 10))
    vectors.landmarks = find_landmarks(vectors, torch.zeros(2, 3, 32, 32))
    with pytest.raises(UnknownLayer, match="^Parts declares no stages, so its layers must be named$"):
        SemCKD(**WEIGHTS, weight=1.0, student_layers=None, teacher_layers=None).layers(vectors, vectors)
