"""Networks with replaced modules."""

import copy

import torch
from own_networks import NormNet
from torch import nn

from kdexp.network.graft import graft

IMAGE = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def network():
    return NormNet(num_classes=3, in_channels=1, image_size=8).eval()


def test_a_graft_uses_the_new_modules_and_leaves_the_network_unchanged():
    whole = network()
    before, keys = whole(IMAGE), list(whole.state_dict())
    grafted = graft(whole, {"head": nn.Identity(), "body.1": nn.Identity()})
    assert torch.equal(grafted(IMAGE), whole.body[0](IMAGE).relu().mean((2, 3)))
    assert torch.equal(whole(IMAGE), before)
    assert list(whole.state_dict()) == keys


def test_a_graft_shares_parameters_and_statistics():
    whole = network()
    grafted = graft(whole, {"head": nn.Linear(8, 5)})
    assert grafted.body[0].weight is whole.body[0].weight
    whole.train()
    whole(IMAGE)
    assert torch.equal(grafted.body[1].running_mean, whole.body[1].running_mean)
    assert grafted.body[1].running_mean.abs().sum() > 0


def test_a_graft_of_a_copy_is_independent():
    whole = network()
    grafted = graft(copy.deepcopy(whole), {"head": nn.Identity()})
    with torch.no_grad():
        whole.body[0].weight.zero_()
    assert grafted.body[0].weight.abs().sum() > 0
