"""What networks say about a batch: logits and intermediate outputs, captured by module name without editing the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.utils.hooks import RemovableHandle

from kdexp.errors import UnknownLayer, did_you_mean, listed

INPUT = ".input"
"""Behind a module's name: the layer is what goes into the module, not what comes out."""

MOST_LISTED = 40
"""Layers up to which all are named where a name is unknown."""


@dataclass(frozen=True)
class Roles:
    """Names of the layers that play a part in distillation, as a model family declares them in its `roles`."""

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


@dataclass
class Outputs:
    """What one network said about one batch, in fp32: `logits` [N, K] and the captured `features` by layer name."""

    logits: Tensor
    features: dict[str, Tensor] = field(default_factory=dict)

    def map(self, change) -> Outputs:
        """The same outputs with `change` applied to every tensor."""
        return Outputs(change(self.logits), {name: change(value) for name, value in self.features.items()})


def roles_of(model: nn.Module) -> Roles:
    """The roles that a model's family declares or a probe found; raises `UnknownLayer` where there are none."""
    if not has_roles(model):
        raise UnknownLayer(f"{type(model).__name__} declares no roles, so its layers must be named")
    return model.roles  # type: ignore[return-value]


def has_roles(model: nn.Module) -> bool:
    """Whether it is known which of the model's layers play a part in distillation."""
    return isinstance(getattr(model, "roles", None), Roles)


def classifier_of(model: nn.Module) -> nn.Module:
    """The module that gives the logits; raises `UnknownLayer` for models without roles."""
    name = roles_of(model).classifier
    return find_layers(model, [name])[name]


def channels_first(output: Tensor) -> Tensor:
    """A square map that lies [N, H, W, C], as Swin's do, as [N, C, H, W]; anything else as it is."""
    square = output.dim() == 4 and output.shape[1] == output.shape[2] != output.shape[3]
    return output.permute(0, 3, 1, 2) if square else output


def find_layers(model: nn.Module, names: Sequence[str]) -> dict[str, nn.Module]:
    """The modules of those names, with or without `.input`; raises `UnknownLayer`, which lists the known names."""
    modules = {name: module for name, module in model.named_modules() if name}
    for name in names:
        if name not in modules and name.removesuffix(INPUT) not in modules:
            raise UnknownLayer(
                f"{type(model).__name__} has no layer {name!r};{did_you_mean(name, modules)} known: {_outline(list(modules))}"
            )
    return {name: modules[name if name in modules else name.removesuffix(INPUT)] for name in names}


def _outline(names: list[str]) -> str:
    """The names as deep into the network as `MOST_LISTED` reach, and how many there are further inside."""
    shown = [name for name in names if "." not in name]
    for depth in range(1, 1 + max((name.count(".") for name in names), default=0)):
        deeper = [name for name in names if name.count(".") <= depth]
        shown = deeper if len(deeper) <= MOST_LISTED else shown
    inside = f" and {len(names) - len(shown)} inside these" if len(shown) < len(names) else ""
    return listed(shown) + inside


IN_TRAINING_ONLY = (_DropoutNd, nn.RReLU)
"""Modules that may overwrite their input in training but not in evaluation mode, so that no probe sees it."""


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode and without gradients; afterwards every module has the mode it had before."""
    modes = {module: module.training for module in model.modules()}
    try:
        with torch.no_grad():
            model.eval()
            yield
    finally:
        for module, training in modes.items():
            module.training = training


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
