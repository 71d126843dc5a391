"""Captures logits and outputs of named layers with hooks, without editing the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.utils.hooks import RemovableHandle

from kdexp.errors import UnknownLayer
from kdexp.network.layers import channels_first, evaluating, find_layers


@dataclass
class Outputs:
    """One network's fp32 outputs for one batch: `logits` [N, K] and the captured `features` by layer name."""

    logits: Tensor
    features: dict[str, Tensor] = field(default_factory=dict)

    def map(self, change) -> Outputs:
        """Returns the outputs with `change` applied to every tensor."""
        return Outputs(change(self.logits), {name: change(value) for name, value in self.features.items()})

    def followed_by(self, other: Outputs) -> Outputs:
        """Returns the outputs for this batch and then another one as those of one batch."""
        features = {name: torch.cat([value, other.features[name]]) for name, value in self.features.items()}
        return Outputs(torch.cat([self.logits, other.logits]), features)


IN_TRAINING_ONLY = (_DropoutNd, nn.RReLU)
"""Modules that may overwrite their input in training but not in evaluation mode, where the probe would see it."""


class Capture:
    """A model whose calls also return the outputs of named layers, or their inputs (`NAME.input`).

    The constructor runs the model on `probe_image` in evaluation mode. This shows which layers run and which outputs the model
    later overwrites in place (such as by an in-place ReLU after a captured convolution), so that the hooks copy those. The
    outputs are kept as `probe`, from which methods read shapes. Hooks exist only during a call. Maps are returned as
    [N, C, H, W], even if the model has them channels last. Raises `UnknownLayer` for a layer that the model does not have or
    does not run, or that does not give a tensor.

    With `compiled`, calls go through torch.compile, compiled once per batch size. Its hooks are compiled too, so they stay,
    but they hold nothing outside of a call.
    """

    def __init__(self, model: nn.Module, layers: Sequence[str], probe_image: Tensor, *, compiled: bool = False):
        self.model = model
        self.layers = find_layers(model, layers)
        self._inputs = set(layers) - {name for name, _ in model.named_modules()}
        self._overwritten: set[str] = set()
        self.probe = self._probe(probe_image)
        self._current_call: dict[str, dict[str, Tensor]] = {}
        self._compiled = self._compile() if compiled else None

    def __call__(self, image: Tensor) -> Outputs:
        """Runs the model on `image` [N, C, H, W]."""
        return self._outputs(*(self._compiled or self._run)(image)[:2])

    def _outputs(self, logits: Tensor, captured: dict[str, Tensor]) -> Outputs:
        return Outputs(logits.float(), {name: channels_first(value).float() for name, value in captured.items()})

    def _probe(self, image: Tensor) -> Outputs:
        with evaluating(self.model):
            _, captured, versions = self._run(image)
            if missing := [name for name in self.layers if name not in captured]:
                raise UnknownLayer(f"{type(self.model).__name__} does not run its layer {missing[0]!r} in a forward pass")
            if any(isinstance(module, IN_TRAINING_ONLY) and module.inplace for module in self.model.modules()):
                self._overwritten = set(self.layers)
            else:
                self._overwritten = {name for name, value in captured.items() if value._version != versions[name]}
            return self._outputs(*self._run(image)[:2])

    def _add_hooks(self, keep: Callable[[str, Any], None]) -> list[RemovableHandle]:
        """Registers hooks that pass every layer's value to `keep`; returns the handles that remove them."""

        def hook(name: str, module: nn.Module) -> RemovableHandle:
            if name in self._inputs:
                return module.register_forward_pre_hook(lambda _, inputs: keep(name, inputs[0] if inputs else None))
            return module.register_forward_hook(lambda _, _inputs, output: keep(name, output))

        return [hook(name, module) for name, module in self.layers.items()]

    def _compile(self) -> Callable[[Tensor], tuple[Tensor, dict[str, Tensor]]]:
        current = self._current_call

        def keep(name: str, value: Tensor) -> None:
            if "captured" in current:
                current["captured"][name] = value.clone() if name in self._overwritten else value

        def run(image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            current["captured"] = {}
            logits = self.model(image)
            return logits, current.pop("captured")

        # A code object per capture: torch counts recompilations by code, and would mix up networks that differ only in hooks.
        run.__code__ = run.__code__.replace(co_name=f"run_{id(self)}")
        self._add_hooks(keep)
        return torch.compile(run, dynamic=False)

    def _run(self, image: Tensor) -> tuple[Tensor, dict[str, Tensor], dict[str, int]]:
        captured: dict[str, Tensor] = {}
        versions: dict[str, int] = {}

        def keep(name: str, value: Any) -> None:
            if not isinstance(value, Tensor):
                what = type(value).__name__
                raise UnknownLayer(f"{type(self.model).__name__}'s layer {name!r} gives a {what}, not one tensor")
            captured[name] = value.clone() if name in self._overwritten else value
            versions[name] = value._version

        hooks = self._add_hooks(keep)
        try:
            return self.model(image), captured, versions
        finally:
            for handle in hooks:
                handle.remove()
