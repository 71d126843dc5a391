"""The teacher layers that the jobs of a multirun read, found before the first job starts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from typing import Any

from kdexp.configuration.nodes import build
from kdexp.configuration.roles import node_at
from kdexp.data.shape import Shape
from kdexp.distillation.base import Distiller
from kdexp.experiment.journal import Journal
from kdexp.experiment.plan import Plan
from kdexp.network.build import sketch_network, without_start


def network_name(node: Mapping[str, Any], shape: Shape) -> str:
    """The key of a network's architecture in `layers_read`."""
    return json.dumps([without_start(node), vars(shape)], sort_keys=True)


@cache
def _sketch_of(name: str):
    node, shape = json.loads(name)
    return sketch_network(node, Shape(**shape))


def layers_read(configs: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], list[str]]:
    """The names of the layers by network and the view that it reads; reads no data."""
    found: dict[tuple[str, str], dict[str, None]] = {}
    seen = set()
    for config in configs:
        plan = Plan(config, Journal(quiet=True))
        for role in plan.needed:
            part = plan.part(role)
            if part.teacher not in plan.sources(role):
                continue
            paths = (part.model, plan.part(part.teacher).model)
            student, teacher = (network_name(node_at(plan.config, path), plan.shape) for path in paths)
            method = node_at(plan.config, part.method)
            combination = (student, teacher, json.dumps(method, sort_keys=True))
            if combination not in seen:
                seen.add(combination)
                with suppress(Exception):  # the job with this method will report it
                    distiller: Distiller = build(method)
                    names = distiller.layers(_sketch_of(student), _sketch_of(teacher))[1]
                    found.setdefault((teacher, distiller.teacher_view), {}).update(dict.fromkeys(names))
    _sketch_of.cache_clear()
    return {teacher: list(names) for teacher, names in found.items()}
