import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from kdexp.models.pooling import MaxPool2x2

SIDES = st.integers(1, 6).map(lambda half: 2 * half)


def outcome(pool, image, upstream):
    """Returns values and gradient of a pooling module."""
    image = image.clone(memory_format=torch.preserve_format).requires_grad_()
    out = pool(image)
    out.backward(upstream)
    return out.detach(), image.grad


@pytest.mark.slow
@given(st.integers(1, 3), st.integers(1, 4), SIDES, SIDES, st.integers(1, 4), st.integers(0, 2**31))
def test_values_and_gradients_equal_torchs_even_with_ties(images, channels, height, width, levels, seed):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(-levels, levels + 1, (images, channels, height, width), generator=generator).float()
    upstream = torch.randn(images, channels, height // 2, width // 2, generator=generator)
    for ours, torchs in zip(outcome(MaxPool2x2(), image, upstream), outcome(nn.MaxPool2d(2), image, upstream), strict=True):
        assert torch.equal(ours, torchs)


@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (2, 3, 4, 7), (0, 3, 4, 4), (3, 4, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_shapes_and_types_use_torchs_kernel(shape, dtype):
    image = torch.randn(shape, dtype=dtype)
    assert torch.equal(MaxPool2x2()(image), F.max_pool2d(image, 2))


def test_channels_last_maps_stay_channels_last():
    image = torch.randn(2, 8, 6, 6).contiguous(memory_format=torch.channels_last)
    out = MaxPool2x2()(image)
    assert torch.equal(out, F.max_pool2d(image, 2))
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_nan_is_propagated():
    image = torch.randn(2, 3, 4, 4)
    image[1, 2, 3, 3] = torch.nan
    image.requires_grad_()
    out = MaxPool2x2()(image)
    assert out.isnan().nonzero().tolist() == [[1, 2, 1, 1]]
    out.sum().backward()


@pytest.mark.slow
def test_an_exported_network_uses_torchs_own_pool():
    program = torch.export.export(MaxPool2x2().eval(), (torch.randn(2, 3, 4, 4),))
    assert [str(node.target) for node in program.graph.nodes if node.op == "call_function"] == ["aten.max_pool2d.default"]
