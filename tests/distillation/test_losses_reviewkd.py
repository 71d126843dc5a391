import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from loss_bench import START, WEIGHTS, batch_of, few, own_term, probe, random
from torch import nn

from kdexp.distillation.base import Progress
from kdexp.distillation.reviewkd import Fusion, ReviewKD, pyramid_loss
from kdexp.errors import UnknownLayer
from kdexp.models.mlp import MLP
from kdexp.models.mobilenetv2_cifar import MobileNetV2
from kdexp.models.resnet_cifar import ResNet
from kdexp.models.shufflenetv1_cifar import ShuffleNetV1
from kdexp.models.shufflenetv2_cifar import ShuffleNetV2
from kdexp.models.vgg_cifar import VGG
from kdexp.models.wide_resnet import WideResNet
from kdexp.network.capture import Capture, Outputs

OURS = [(2, 8, 8), (3, 4, 4), (5, 2, 2), (6,)]
THEIRS = [(4, 8, 8), (7, 4, 4), (3, 2, 2), (5,)]
COLOUR = {"num_classes": 10, "in_channels": 3, "image_size": 32}


def review(student_layers=None, teacher_layers=None, **changed):
    given = {"weight": 1.0, "warmup_epochs": 0, "student_layers": student_layers, "teacher_layers": teacher_layers}
    return ReviewKD(**WEIGHTS | given | changed)


def outputs(shapes, images=3, seed=0):
    features = {str(position): random(images, *shape, seed=seed + position) for position, shape in enumerate(shapes)}
    return Outputs(random(images, 3), features)


def bench(ours=OURS, theirs=THEIRS, images=3, **changed):
    """Returns a method in float64, set up for crafted features, and the outputs that hold them."""
    made = review([str(n) for n in range(len(ours))], [str(n) for n in range(len(theirs))], **changed)
    made.layers(nn.Identity(), nn.Identity())
    student, teacher = outputs(ours, images), outputs(theirs, images, seed=50)
    made.setup(probe(student, teacher))
    return made.double(), student, teacher


def normalised(maps):
    mean, variance = maps.mean((0, 2, 3), keepdim=True), maps.var((0, 2, 3), keepdim=True, unbiased=False)
    return (maps - mean) / (variance + 1e-5).sqrt()


def enlarged(maps, size):
    """Nearest-neighbour resizing by hand."""
    height, width = maps.shape[2:]
    rows, columns = [y * height // size for y in range(size)], [x * width // size for x in range(size)]
    return maps[:, :, rows][:, :, :, columns]


def pooled_by_hand(maps, size):
    step = maps.shape[2] // size
    rows = [maps[:, :, y * step : (y + 1) * step].mean(2) for y in range(size)]
    return torch.stack([torch.stack([row[:, :, x * step : (x + 1) * step].mean(2) for x in range(size)], 2) for row in rows], 2)


def pyramid_by_hand(ours, theirs):
    size = ours.shape[2]
    levels = [size, *(level for level in (4, 2, 1) if level < size)]
    weights = [2.0**-n for n in range(len(levels))]
    parts = [((pooled_by_hand(ours, level) - pooled_by_hand(theirs, level)) ** 2).mean() for level in levels]
    return float(sum(w * part for w, part in zip(weights, parts, strict=True)) / sum(weights))


def by_hand(method, ours, theirs):
    total, above = 0.0, None
    for fusion, mine, other in zip(method.fusions, reversed(ours), reversed(theirs), strict=True):
        mine, other = (maps if maps.dim() == 4 else maps.view(*maps.shape, 1, 1) for maps in (mine, other))
        fused = normalised(torch.einsum("nihw,oi->nohw", mine, fusion.enter[0].weight[:, :, 0, 0]))
        if above is not None:
            above = enlarged(above, fused.shape[2])
            weight, bias = fusion.attend[0].weight[:, :, 0, 0], fusion.attend[0].bias
            scores = torch.einsum("nihw,oi->nohw", torch.cat([fused, above], 1), weight) + bias.view(1, 2, 1, 1)
            shares = 1 / (1 + (-scores).exp())
            fused = fused * shares[:, 0:1] + above * shares[:, 1:2]
        above = fused
        projected = normalised(F.conv2d(enlarged(fused, other.shape[2]), fusion.leave[0].weight, padding=1))
        total += pyramid_by_hand(projected, other)
    return total


@torch.no_grad()
@pytest.mark.parametrize("theirs", [THEIRS, [(4, 16, 16), (7, 8, 8), (3, 4, 4), (5,)], [(4, 4, 4), (7, 2, 2), (3, 1, 1), (5,)]])
def test_the_loss_equals_one_written_by_hand_whatever_the_teachers_sizes(theirs):
    method, student, teacher = bench(theirs=theirs)
    found = float(own_term(method, student, teacher))
    expected = by_hand(method, list(student.features.values()), list(teacher.features.values()))
    assert found == pytest.approx(float(expected), rel=1e-8)


@few
@given(st.sampled_from([1, 2, 4, 8, 16]), st.integers(0, 9))
def test_the_pyramid_equals_one_written_by_hand(size, seed):
    ours, theirs = random(2, 3, size, size, seed=seed), random(2, 3, size, size, seed=seed + 100)
    assert float(pyramid_loss(ours, theirs)) == pytest.approx(pyramid_by_hand(ours, theirs), rel=1e-9)
    assert float(pyramid_loss(ours, ours)) == 0.0


@pytest.mark.parametrize(("size", "levels"), [(8, 4), (4, 3), (2, 2), (1, 1), (5, 4)])
def test_maps_that_differ_by_a_constant_have_its_square_as_loss_on_every_level(size, levels):
    theirs = random(2, 3, size, size)
    assert float(pyramid_loss(theirs + 3, theirs)) == pytest.approx(9.0)
    checkers = theirs + 1 - 2 * ((torch.arange(size).view(-1, 1) + torch.arange(size)) % 2)
    if size in (2, 4, 8):  # what cancels out is lost on the finest level alone
        assert float(pyramid_loss(checkers, theirs)) == pytest.approx(1 / (2 - 2.0 ** (1 - levels)))


def test_the_deepest_features_reach_every_term_and_the_shallow_ones_only_theirs():
    method, student, teacher = bench()
    features = {name: value.requires_grad_() for name, value in student.features.items()}
    maps, fused, reached = method.deepest_first(student, teacher), None, []
    for fusion, (ours, theirs) in zip(method.fusions, maps, strict=True):
        projected, fused = fusion(ours, fused, theirs.shape[2:])
        grads = torch.autograd.grad(
            pyramid_loss(projected, theirs), list(features.values()), retain_graph=True, allow_unused=True
        )
        reached.append([name for name, grad in zip(features, grads, strict=True) if grad is not None and grad.any()])
    assert reached == [["3"], ["2", "3"], ["1", "2", "3"], ["0", "1", "2", "3"]]


@pytest.mark.slow
def test_the_gradient_equals_finite_differences():
    method, student, teacher = bench(ours=[(2, 4, 4), (3,)], theirs=[(2, 4, 4), (2,)])

    def loss(stage, pooled):
        return own_term(method, Outputs(student.logits, {"0": stage, "1": pooled}), teacher)

    assert torch.autograd.gradcheck(loss, [value.requires_grad_() for value in student.features.values()])


def test_every_module_is_trained():
    method, student, teacher = bench()
    own_term(method, student, teacher).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in method.parameters())


def test_maps_are_fused_at_the_deepest_width_but_at_most_512():
    method, _, _ = bench()
    assert [fusion.enter[0].out_channels for fusion in method.fusions] == [6] * 4
    assert [fusion.leave[0].out_channels for fusion in method.fusions] == [5, 3, 7, 4]
    assert [fusion.attend is None for fusion in method.fusions] == [True, False, False, False]
    wide = review(["0"], ["0"])
    wide.layers(nn.Identity(), nn.Identity())
    wide.setup(probe(outputs([(700,)]), outputs([(3,)])))
    assert wide.fusions[0].enter[0].out_channels == 512


def test_fusions_are_initialised_uniformly_without_gain():
    torch.manual_seed(0)
    fusion = Fusion(64, 100, 32, deepest=False)
    for layer, fan_in in ((fusion.enter[0], 64), (fusion.leave[0], 900)):
        bound = (3 / fan_in) ** 0.5
        assert 0.95 * bound < float(layer.weight.detach().abs().max()) <= bound


@pytest.mark.parametrize(("epoch", "share"), [(0.0, 1), (1.5, 2), (3.5, 4), (10.0, 4)])
def test_it_warms_up_in_whole_epochs_counted_from_1(epoch, share):
    method, student, teacher = bench()
    whole = own_term(method, student, teacher)
    method.warmup_epochs = 4
    (term,) = method.transfer(batch_of([0] * 3), student, teacher, Progress(epoch, 20, 0)).values()
    assert float(term.detach()) == pytest.approx(share / 4 * float(whole.detach()))


NETS = [
    lambda: ResNet(**COLOUR, depth=8, widths=[4, 4, 6, 8]),
    lambda: WideResNet(**COLOUR, depth=10, widen=1),
    lambda: VGG(**COLOUR, convolutions=[1] * 5, widths=[4, 6, 8, 8, 8]),
    lambda: MobileNetV2(**COLOUR, width=0.25),
    lambda: ShuffleNetV1(**COLOUR, blocks=[1, 1, 1], widths=[48, 60, 96], groups=3),
    lambda: ShuffleNetV2(**COLOUR, blocks=[1, 1, 1], widths=[24, 32, 48], head=64),
]


@pytest.mark.slow
@pytest.mark.parametrize("student", NETS)
@pytest.mark.parametrize("teacher", NETS)
def test_families_of_all_depths_and_sizes_can_be_paired_with_the_pooled_vector_last(student, teacher):
    nets, image = (student(), teacher()), torch.randn(2, 3, 32, 32)
    method = review()
    layers = method.layers(*nets)
    assert [names[-1] for names in layers] == [net.landmarks.pooled for net in nets]
    assert len(layers[0]) == 1 + min(len(net.landmarks.stages) for net in nets)
    both = [Capture(net, names, image) for net, names in zip(nets, layers, strict=True)]
    method.setup(probe(*(capture.probe for capture in both)))
    assert all(features.dim() == 2 for features in method.pairs(*(capture(image) for capture in both))[-1])
    assert own_term(method, *(capture(image) for capture in both)).isfinite()


def test_in_resnet8x4_it_reads_the_layers_of_the_paper():
    student, teacher = (ResNet(**COLOUR, depth=depth, widths=[32, 64, 128, 256]) for depth in (8, 14))
    method = review()
    layers = method.layers(student, teacher)
    assert layers[0] == ["stages.0", "stages.1", "stages.2", "classifier.input"]
    assert layers[1] == [*(f"stages.{n}.1.relu.input" for n in range(3)), "classifier.input"]
    both = [Capture(net, names, torch.zeros(1, 3, 32, 32)).probe for net, names in zip((student, teacher), layers, strict=True)]
    shapes = [tuple(ours.shape[1:]) for ours, _ in method.deepest_first(*both)]
    assert shapes == [(256, 1, 1), (256, 8, 8), (128, 16, 16), (64, 32, 32)]


def test_large_features_rounded_to_bf16_do_not_overflow():
    method, student, teacher = bench()
    method.float()
    student, teacher = (both.map(lambda values: (1e4 * values).bfloat16().float()) for both in (student, teacher))
    assert own_term(method, student, teacher).isfinite()


def test_features_that_are_neither_maps_nor_vectors_are_refused():
    with pytest.raises(
        ValueError, match="^reviewkd fuses maps and vectors, not 7×4; choose other student_layers or teacher_la"
    ):
        bench(ours=[(7, 4), (6,)], theirs=[(4, 8, 8), (5,)])


def test_nets_without_stages_are_refused():
    net = MLP(num_classes=10, in_channels=1, image_size=8, hidden=[5])
    with pytest.raises(UnknownLayer, match="^MLP declares no stages, so its layers must be named$"):
        review().layers(net, net)


def test_it_is_described_by_its_weight():
    assert review(weight=5.0).describe() == "CE + 5 ReviewKD"
    assert list(bench()[0].transfer(batch_of([0] * 3), *bench()[1:], START)) == ["review"]
