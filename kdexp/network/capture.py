"""What networks say about a batch: logits and intermediate outputs, captured by module name without editing the model."""

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
    """What one network said about one batch, in fp32: `logits` [N, K] and the captured `features` by layer name."""

    logits: Tensor
    features: dict[str, Tensor] = field(default_factory=dict)

    def map(self, change) -> Outputs:
        """The same outputs with `change` applied to every tensor."""
        return Outputs(change(self.logits), {name: change(value) for name, value in self.features.items()})


IN_TRAINING_ONLY = (_DropoutNd, nn.RReLU)
"""Modules that may overwrite their input in training but not in evaluation mode, so that no probe sees it."""


class Capture:
    """A model whose calls also return the outputs of some of its layers, or what goes into them (`NAME.input`).

    Building it runs the model once on `probe_image` in evaluation mode: that shows which layers run at all, which outputs
    the model later overwrites in place (an in-place ReLU after a captured convolution; those are copied at the hook from
    then on), and leaves `probe`, the outputs from which methods learn shapes. Hooks live only as long as a call; maps come
    as [N, C, H, W], whichever way they lie. Raises `UnknownLayer` for a name the model does not have or does not run, or whose
    output is no tensor.

    `compiled` has torch.compile make the calls, once for every batch size. Its hooks stay, as they are compiled too, but keep
    nothing outside of a call.
    """

    def __init__(self, model: nn.Module, layers: Sequence[str], probe_image: Tensor, *, compiled: bool = False):
        self.model = model
        self.layers = find_layers(model, layers)
        self._inputs = set(layers) - {name for name, _ in model.named_modules()}
        self._overwritten: set[str] = set()
        self.probe = self._probe(probe_image)
        self._heard: dict[str, dict[str, Tensor]] = {}
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

    def _listen(self, keep: Callable[[str, Any], None]) -> list[RemovableHandle]:
        """Hooks that hand every layer's value over; the handles remove them."""

        def hook(name: str, module: nn.Module) -> RemovableHandle:
            if name in self._inputs:
                return module.register_forward_pre_hook(lambda _, inputs: keep(name, inputs[0] if inputs else None))
            return module.register_forward_hook(lambda _, _inputs, output: keep(name, output))

        return [hook(name, module) for name, module in self.layers.items()]

    def _compile(self) -> Callable[[Tensor], tuple[Tensor, dict[str, Tensor]]]:
        heard = self._heard

        def keep(name: str, value: Tensor) -> None:
            if "call" in heard:
                heard["call"][name] = value.clone() if name in self._overwritten else value

        def run(image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            heard["call"] = {}
            logits = self.model(image)
            return logits, heard.pop("call")

        # Code of its own: torch counts recompilations by code, and takes networks for alike whose hooks alone differ.
        run.__code__ = run.__code__.replace(co_name=f"run_{id(self)}")
        self._listen(keep)
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

        hooks = self._listen(keep)
        try:
            return self.model(image), captured, versions
        finally:
            for handle in hooks:
                handle.remove()
