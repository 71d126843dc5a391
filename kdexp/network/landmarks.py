"""Landmarks in networks whose family declares none: found by watching one forward pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.pooling import _AvgPoolNd

from kdexp.errors import UnknownLayer
from kdexp.network.layers import INPUT, channels_first, evaluating, find_layers

PASSING_ON = (_AvgPoolNd, _DropoutNd, nn.Softmax, nn.Flatten, nn.Identity)
"""Modules that only pool or hand on what another module made, and attention; they play no part of their own."""


class _Said(NamedTuple):
    name: str
    module: nn.Module
    shape: torch.Size


def find_landmarks(network: nn.Module, image: Tensor) -> Landmarks | None:
    """The landmarks that a forward pass on `image` [N, C, H, W] shows, or None where no linear module gives the logits.

    The classifier is the last linear layer or convolution with as many outputs as there are logits. Of what ran before it, and
    before the global pooling, a stage is a run of maps of one size that no later map exceeds; its module is the last in the run
    that is no part of a block. The last map is the last stage's; the last tokens [N, T, D] where these come after all maps; a
    vector [N, D] where there are only vectors. The head is what runs after it, before the classifier, and does not just pool.
    """
    said, logits = _watch(network, image)
    linear = [place for place, one in enumerate(said) if isinstance(one.module, nn.Linear | nn.Conv2d)]
    ends = [place for place in linear if said[place].shape[:2] == logits]
    if not ends:
        return None
    before = _until_pooled(said[: ends[-1]])
    spatial = [one for one in before if len(one.shape) >= 3]
    stages = _stages(spatial) if spatial and len(spatial[-1].shape) == 4 else []
    last = stages or [one.name for one in spatial or before]
    if not last:
        return None
    return Landmarks(said[ends[-1]].name, last[-1], tuple(stages), head=_head(said[: ends[-1]], last[-1]))


def _watch(network: nn.Module, image: Tensor) -> tuple[list[_Said], torch.Size]:
    """The named modules that returned a tensor for the images, in the order in which they finished, and the logits' shape."""
    said: list[_Said] = []

    def hook_for(name: str):
        def hook(module: nn.Module, _inputs: tuple, output: object) -> None:
            if isinstance(output, Tensor) and output.dim() >= 2 and len(output) == len(image):
                said.append(_Said(name, module, channels_first(output).shape))

        return hook

    hooks = [module.register_forward_hook(hook_for(name)) for name, module in network.named_modules() if name]
    try:
        with evaluating(network):
            logits = network(image)
    finally:
        for hook in hooks:
            hook.remove()
    return said, logits.shape if isinstance(logits, Tensor) else torch.Size()


def _size(one: _Said) -> int:
    """Height and width of a map, 0 for what is none."""
    return one.shape[2] if len(one.shape) == 4 and one.shape[2] == one.shape[3] else 0


def _until_pooled(said: list[_Said]) -> list[_Said]:
    pools = [place for place, one in enumerate(said) if "Adaptive" in type(one.module).__name__]
    if pools and max(map(_size, said[pools[-1] :])) <= _size(said[pools[-1]]):  # not a pooling inside a block
        said = said[: pools[-1]]
    return [one for one in said if not _passes_on(one.module)]


def _passes_on(module: nn.Module) -> bool:
    return isinstance(module, PASSING_ON) or "Adaptive" in type(module).__name__


def _head(said: list[_Said], last_map: str) -> tuple[str, ...]:
    """What ran after the last map and does more than hand on: whole modules, but the members of a `Sequential` one by one."""
    ran = [one.name for one in said]
    after = said[len(ran) - ran[::-1].index(last_map) :]
    found = [
        one.name
        for one in after
        if type(one.module) is not nn.Sequential and not _passes_on(one.module) and not last_map.startswith(f"{one.name}.")
    ]
    return tuple(dict.fromkeys(name for name in found if not any(name.startswith(f"{outer}.") for outer in found)))


def _stages(said: list[_Said]) -> list[str]:
    by_size: dict[int, list[str]] = {}
    largest = 1
    for one in reversed(said):
        if _size(one) >= largest:  # what is smaller than a later map is a side branch, such as squeeze and excitation
            largest = _size(one)
            by_size.setdefault(largest, []).append(one.name)
    runs = [by_size[size] for size in sorted(by_size, reverse=True)]
    # The depth at which every stage has a module: deeper ones are parts of blocks, whose first layers may not shrink yet.
    depth = max((min(name.count(".") for name in names) for names in runs), default=0)
    return [next(name for name in names if name.count(".") <= depth) for names in runs]


@dataclass(frozen=True)
class Landmarks:
    """Names of the layers that play a part in distillation, as a model family declares them in its `landmarks`."""

    classifier: str
    """The last linear module: its input is the pooled vector, its output the logits."""
    last_map: str
    """The module whose output is the last feature map [N, C, H, W] (a vector [N, D] where there are no maps)."""
    stages: tuple[str, ...] = ()
    """Modules whose outputs end the stages of the backbone, shallow to deep."""
    preactivations: tuple[str, ...] = ()
    """Layers that give what comes before the last activation of each stage (the stage itself where none ends it)."""
    head: tuple[str, ...] = ()
    """Modules between the last map and the classifier that do more than pool."""

    @property
    def second_stage(self) -> str:
        """The module that ends the second stage, about half-way to the logits; empty where there are fewer."""
        return self.stages[1] if len(self.stages) > 1 else ""

    @property
    def last_stage(self) -> str:
        """The module that ends the last stage; the last map where there are no stages.

        The two differ where the last map is activated behind the stages, as in wide residual nets.
        """
        return self.stages[-1] if self.stages else self.last_map

    @property
    def pooled(self) -> str:
        """The layer that gives the pooled vector [N, D] (maps where the classifier is a convolution)."""
        return self.classifier + INPUT


def landmarks_of(model: nn.Module) -> Landmarks:
    """The landmarks that a model's family declares or a probe found; raises `UnknownLayer` where there are none."""
    if not has_landmarks(model):
        raise UnknownLayer(f"{type(model).__name__} declares no landmarks, so its layers must be named")
    return model.landmarks  # type: ignore[return-value]


def has_landmarks(model: nn.Module) -> bool:
    """Whether it is known which of the model's layers play a part in distillation."""
    return isinstance(getattr(model, "landmarks", None), Landmarks)


def classifier_of(model: nn.Module) -> nn.Module:
    """The module that gives the logits; raises `UnknownLayer` for models without landmarks."""
    name = landmarks_of(model).classifier
    return find_layers(model, [name])[name]
