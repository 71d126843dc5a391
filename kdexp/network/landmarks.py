"""Landmarks: the layers of a network that distillation uses, declared by its family or found in one forward pass."""

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
"""Modules that only pool or pass on another module's output (softmax: attention); they are never landmarks."""


class _Output(NamedTuple):
    """The shape of one output of a named module."""

    name: str
    module: nn.Module
    shape: torch.Size


def find_landmarks(network: nn.Module, image: Tensor) -> Landmarks | None:
    """Finds landmarks in a forward pass on `image` [N, C, H, W]; returns None if no linear module gives the logits.

    The classifier is the last linear layer or convolution with as many outputs as there are logits. Among the modules before
    it, and before the global pooling, a stage is a run of maps of one size that no later map exceeds; it is named by the last
    module in the run that is not inside a block. The last map is the last stage's output; if tokens [N, T, D] come after all
    maps, the last tokens; if there are only vectors [N, D], the last vector. The head is every module between the last map and
    the classifier that does more than pool.
    """
    outputs, logits = _record_outputs(network, image)
    linear = [position for position, output in enumerate(outputs) if isinstance(output.module, nn.Linear | nn.Conv2d)]
    classifiers = [position for position in linear if outputs[position].shape[:2] == logits]
    if not classifiers:
        return None
    classifier = outputs[classifiers[-1]].name
    outputs = outputs[: classifiers[-1]]
    backbone = _until_pooled(outputs)
    spatial = [output for output in backbone if len(output.shape) >= 3]
    stages = _stages(spatial) if spatial and len(spatial[-1].shape) == 4 else []
    last = stages or [output.name for output in spatial or backbone]
    if not last:
        return None
    return Landmarks(classifier, last[-1], tuple(stages), head=_head(outputs, last[-1]))


def _record_outputs(network: nn.Module, image: Tensor) -> tuple[list[_Output], torch.Size]:
    """Returns the outputs of all named modules that gave a tensor per image, in order, and the shape of the logits."""
    outputs: list[_Output] = []

    def hook_for(name: str):
        def hook(module: nn.Module, _inputs: tuple, output: object) -> None:
            if isinstance(output, Tensor) and output.dim() >= 2 and len(output) == len(image):
                outputs.append(_Output(name, module, channels_first(output).shape))

        return hook

    hooks = [module.register_forward_hook(hook_for(name)) for name, module in network.named_modules() if name]
    try:
        with evaluating(network):
            logits = network(image)
    finally:
        for hook in hooks:
            hook.remove()
    return outputs, logits.shape if isinstance(logits, Tensor) else torch.Size()


def _size(output: _Output) -> int:
    """Returns height and width of a square map, 0 for anything else."""
    return output.shape[2] if len(output.shape) == 4 and output.shape[2] == output.shape[3] else 0


def _until_pooled(outputs: list[_Output]) -> list[_Output]:
    """Returns the outputs before the global pooling, without those of modules that only pass on."""
    pools = [position for position, output in enumerate(outputs) if "Adaptive" in type(output.module).__name__]
    if pools and max(map(_size, outputs[pools[-1] :])) <= _size(outputs[pools[-1]]):  # not a pooling inside a block
        outputs = outputs[: pools[-1]]
    return [output for output in outputs if not _passes_on(output.module)]


def _passes_on(module: nn.Module) -> bool:
    return isinstance(module, PASSING_ON) or "Adaptive" in type(module).__name__


def _head(outputs: list[_Output], last_map: str) -> tuple[str, ...]:
    """Returns the outermost modules after the last map that do more than pass on, entering only a `Sequential`."""
    names = [output.name for output in outputs]
    after = outputs[len(names) - names[::-1].index(last_map) :]
    found = [
        output.name
        for output in after
        if type(output.module) is not nn.Sequential
        and not _passes_on(output.module)
        and not last_map.startswith(f"{output.name}.")
    ]
    return tuple(dict.fromkeys(name for name in found if not any(name.startswith(f"{outer}.") for outer in found)))


def _stages(outputs: list[_Output]) -> list[str]:
    """Returns the names of the modules that end the stages, shallow to deep."""
    by_size: dict[int, list[str]] = {}
    largest = 1
    for output in reversed(outputs):
        if _size(output) >= largest:  # a map smaller than a later one is a side branch, such as squeeze and excitation
            largest = _size(output)
            by_size.setdefault(largest, []).append(output.name)
    runs = [by_size[size] for size in sorted(by_size, reverse=True)]
    # The depth at which every stage has a module. Deeper modules are inside blocks, whose first layers may not shrink yet.
    depth = max((min(name.count(".") for name in names) for names in runs), default=0)
    return [next(name for name in names if name.count(".") <= depth) for names in runs]


@dataclass(frozen=True)
class Landmarks:
    """Names of the layers that distillation uses, declared by a model family as its attribute `landmarks`."""

    classifier: str
    """The last linear module, from the pooled vector to the logits."""
    last_map: str
    """The module whose output is the last feature map [N, C, H, W] (a vector [N, D] in networks without maps)."""
    stages: tuple[str, ...] = ()
    """Modules whose outputs end the stages of the backbone, shallow to deep."""
    preactivations: tuple[str, ...] = ()
    """Layers whose outputs are each stage's values before its last activation (the stage itself if none ends it)."""
    head: tuple[str, ...] = ()
    """Modules between the last map and the classifier that do more than pool."""

    @property
    def second_stage(self) -> str:
        """The module that ends the second stage, about half-way to the logits; empty if there are fewer stages."""
        return self.stages[1] if len(self.stages) > 1 else ""

    @property
    def last_stage(self) -> str:
        """The module that ends the last stage, or the last map if there are no stages.

        The two differ if the last map is activated after the stages, as in wide residual nets.
        """
        return self.stages[-1] if self.stages else self.last_map

    @property
    def pooled(self) -> str:
        """The layer that gives the pooled vector [N, D] (a map if the classifier is a convolution)."""
        return self.classifier + INPUT


def landmarks_of(model: nn.Module) -> Landmarks:
    """Returns the landmarks of a model, declared or found; raises `UnknownLayer` if it has none."""
    if not has_landmarks(model):
        raise UnknownLayer(f"{type(model).__name__} declares no landmarks, so its layers must be named")
    return model.landmarks  # type: ignore[return-value]


def has_landmarks(model: nn.Module) -> bool:
    """Whether the model has landmarks, declared or found."""
    return isinstance(getattr(model, "landmarks", None), Landmarks)


def classifier_of(model: nn.Module) -> nn.Module:
    """Returns the module that gives the logits; raises `UnknownLayer` for models without landmarks."""
    name = landmarks_of(model).classifier
    return find_layers(model, [name])[name]
