"""Batches that exchange images with the first one."""

import pytest
import torch

from kdexp.network.capture import Outputs
from kdexp.network.interleaving import interleave, interleave_outputs


def numbered(count, size):
    return list(torch.arange(count * size).split(size))


def test_the_first_batch_has_images_of_all():
    first, second, third = interleave(numbered(3, 4))
    assert first.tolist() == [0, 5, 10, 11]
    assert second.tolist() == [4, 1, 6, 7]
    assert third.tolist() == [8, 9, 2, 3]


@pytest.mark.parametrize(("count", "size"), [(1, 3), (2, 1), (3, 7), (5, 3), (4, 8)])
def test_twice_is_not_at_all(count, size):
    batches = numbered(count, size)
    once = interleave(batches)
    assert [len(batch) for batch in once] == [size] * count
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(interleave(once), batches, strict=True))


def test_outputs_come_back_to_their_images():
    batches = [batch.float()[:, None] for batch in numbered(3, 4)]
    found = interleave_outputs([Outputs(batch, {"pooled": 2 * batch}) for batch in interleave(batches)])
    assert all(torch.equal(outputs.logits, batch) for outputs, batch in zip(found, batches, strict=True))
    assert all(torch.equal(outputs.features["pooled"], 2 * batch) for outputs, batch in zip(found, batches, strict=True))
