"""Sketches: quick passes without values give the shapes of passes with values, and refuse what these refuse."""

import pytest
import torch
from torch import nn

from kdexp.network.quick_batch_norm import QuickBatchNorm

NORMS = [(nn.BatchNorm1d(6), (4, 6)), (nn.BatchNorm2d(6, affine=False), (4, 6, 5, 5)), (nn.BatchNorm3d(6), (4, 6, 2, 2, 2))]


@pytest.mark.parametrize(("norm", "size"), NORMS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_batch_norm_gives_the_shape_and_layout_that_it_has_with_values(norm, size, layout):
    image = torch.rand(size).contiguous(memory_format=layout) if len(size) == 4 else torch.rand(size)
    real = norm.eval()(image)
    with torch.no_grad(), QuickBatchNorm():
        sketch = norm.to("meta")(image.to("meta"))
    norm.to_empty(device="cpu")
    assert (sketch.shape, sketch.stride(), sketch.dtype, sketch.device.type) == (real.shape, real.stride(), real.dtype, "meta")


@pytest.mark.parametrize("size", [(4, 5, 3, 3), (4, 6, 3)])
def test_a_wrong_input_is_refused_as_always(size):
    with torch.no_grad(), QuickBatchNorm(), pytest.raises((RuntimeError, ValueError)):
        nn.BatchNorm2d(6).eval().to("meta")(torch.empty(size, device="meta"))


def test_values_and_gradients_are_left_to_torch():
    norm, image = nn.BatchNorm2d(6), torch.rand(4, 6, 3, 3)
    expected = norm(image)
    with QuickBatchNorm():
        assert torch.equal(norm(image), expected)
        assert norm.to("meta")(image.to("meta")).requires_grad
