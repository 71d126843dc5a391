"""Measuring time."""

import time

import torch
from torch import nn

from kdexp.network import cost


def test_calls_take_turns_and_medians_ignore_the_warm_up(monkeypatch):
    calls, now = [], [0]

    def slow(_image):
        calls.append("slow")
        now[0] += 4

    def slow_at_first(_image):
        calls.append("slow at first")
        now[0] += 100 if len(calls) <= 10 else 1

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    assert cost.median_seconds([slow, slow_at_first], torch.zeros(1), runs=3) == [4, 1]
    assert calls == ["slow", "slow at first"] * 8


def test_latencies_are_of_networks_in_evaluation_mode():
    modes, network = [], nn.Dropout()
    network.register_forward_hook(lambda module, *_: modes.append(module.training))
    (seconds,) = cost.latencies([network], torch.zeros(1))
    assert seconds > 0 and not any(modes) and network.training
