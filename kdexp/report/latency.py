"""Latency and throughput of the networks of a table: each network once, in turns with the others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from torch import nn

from kdexp.configuration.nodes import build
from kdexp.deployment.int8 import OnnxNetwork
from kdexp.deployment.rebuild import deployed_network
from kdexp.device.precision import Precision, on_device
from kdexp.distillation.base import Distiller
from kdexp.network.build import without_start
from kdexp.network.cost import latencies
from kdexp.store.stored import QUANTISED, StoredLearner

if TYPE_CHECKING:
    from kdexp.experiment.experiment import Experiment

BATCH = 128


class Speed(NamedTuple):
    """Milliseconds for one image, and images per second in batches of `BATCH`."""

    latency_ms: float
    images_per_second: float


def measure(learners: Mapping[str, StoredLearner], experiment: Experiment) -> dict[str, Speed]:
    """Measures the deployed networks by role. Those that differ only in their weights get the same figures."""
    names = {role: architecture(stored) for role, stored in learners.items()}
    distinct = {name: learners[role] for role, name in reversed(names.items())}
    networks = [_network(stored, experiment.precision) for stored in distinct.values()]
    one, many = (experiment.shape.probe(experiment.device, images=count) for count in (1, BATCH))
    with experiment.precision.autocast():
        times = zip(latencies(networks, one), latencies(networks, many), strict=True)
    speeds = {name: Speed(1e3 * alone, BATCH / batch) for name, (alone, batch) in zip(distinct, times, strict=True)}
    return {role: speeds[name] for role, name in names.items()}


def _network(stored: StoredLearner, precision: Precision) -> nn.Module:
    """The deployed network: on its device, or as a file for onnxruntime on the CPU."""
    if QUANTISED in stored.result["files"]:
        return OnnxNetwork(stored.path / QUANTISED)
    return on_device(deployed_network(stored), precision)


def architecture(stored: StoredLearner) -> str:
    """A text that is equal for learners whose deployed networks do the same work."""
    spec = stored.result["spec"]
    method: Distiller = build(spec["method"])
    model = {name: value for name, value in without_start(spec["model"]).items() if name != "weights"}
    return json.dumps([model, stored.key if method.deploys_more else None, spec.get("quantised")], sort_keys=True)
