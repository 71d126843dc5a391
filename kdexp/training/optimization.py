"""Optimizers and learning-rate schedules, as recipes that are checked before training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from inspect import unwrap
from typing import Annotated, Any

import torch
from torch import nn

from kdexp.configuration.arguments import SMALLEST, Checked, Fraction, NonNegative, Positive, Range
from kdexp.errors import InvalidArguments, Problem


@dataclass(frozen=True, kw_only=True)
class OptimizerRecipe(Checked):
    """The base of all optimizers; a subclass names torch's class and adds its own knobs."""

    lr: Annotated[float, Range(above=0, within=(SMALLEST, 1e30))]
    weight_decay: Annotated[float, Range(at_least=0, within=(0, 1e9))]
    decay_biases_and_norms: bool
    clip_norm: Positive | None

    @property
    def moments(self) -> int:
        """Numbers that the optimizer keeps per parameter."""
        return 0

    def build(
        self, modules: Iterable[nn.Module], *, fused: bool = False, paced: Sequence[nn.Module] = ()
    ) -> torch.optim.Optimizer:
        """An optimizer of all parameters; `decay_biases_and_norms=False` exempts those with fewer than two axes from decay.

        Those of the modules `paced` have groups of their own, in which `paced` is true. `fused` chooses torch's single-kernel
        step, which rounds differently.
        """
        groups = [{**group, "paced": True} for group in self._groups(paced)] if paced else []
        return self.torch_optimizer([*groups, *self._groups(modules)], fused=fused or None)

    def _groups(self, modules: Iterable[nn.Module]) -> list[dict[str, Any]]:
        parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
        exempt = [] if self.decay_biases_and_norms else [p for p in parameters if p.ndim < 2]
        exempt_ids = set(map(id, exempt))
        groups: list[dict[str, Any]] = [{"params": [p for p in parameters if id(p) not in exempt_ids]}]
        groups += [{"params": exempt, "weight_decay": 0.0}] if exempt else []
        return groups

    def torch_optimizer(self, groups: list[dict[str, Any]], *, fused: bool | None) -> torch.optim.Optimizer:
        """Torch's optimizer of these parameter groups."""
        raise NotImplementedError


@cache
def without_compiler(kind: type[torch.optim.Optimizer]) -> Callable[..., torch.optim.Optimizer]:
    """Torch's optimizer without the decorators that serve torch.compile, whose import takes a second; its steps are the same.

    kdexp compiles networks, never optimizers. A step's other decorator turns gradients off, which is done here.
    """
    step = unwrap(kind.step)

    def plain_step(self: torch.optim.Optimizer, closure: Callable[[], float] | None = None) -> Any:
        with torch.no_grad():
            return step(self, closure)

    names = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
    return type(kind.__name__, (kind,), {name: unwrap(getattr(kind, name)) for name in names} | {"step": plain_step})


def keep_on_device(optimizer: torch.optim.Optimizer) -> None:
    """Has the optimizer read its learning rates from tensors on the device, so that its step can be recorded.

    Only fused optimizers qualify: the steps of torch's others need the host.
    """
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(float(group["lr"]), device=group["params"][0].device)
        if "capturable" in group:
            group["capturable"] = True
    optimizer._warned_capturable_if_run_uncaptured = True  # its first steps are not recorded


@dataclass(frozen=True, kw_only=True)
class Adam(OptimizerRecipe):
    """Adam (Kingma and Ba 2015, arXiv 1412.6980); its weight decay is an L2 term of the gradient."""

    betas: list[Annotated[float, Range(at_least=0, below=1)]]
    eps: Positive

    def __post_init__(self):
        if len(self.betas) != 2:
            raise InvalidArguments([Problem("betas", f"={self.betas!r}: must be two numbers")])

    def _knobs(self) -> dict[str, Any]:
        return {"lr": self.lr, "betas": tuple(self.betas), "eps": self.eps, "weight_decay": self.weight_decay}

    @property
    def moments(self) -> int:
        return 2

    def torch_optimizer(self, groups, *, fused):
        return without_compiler(torch.optim.Adam)(groups, **self._knobs(), fused=fused)


@dataclass(frozen=True, kw_only=True)
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv 1711.05101)."""

    def torch_optimizer(self, groups, *, fused):
        return without_compiler(torch.optim.AdamW)(groups, **self._knobs(), fused=fused)


@dataclass(frozen=True, kw_only=True)
class SGD(OptimizerRecipe):
    """Stochastic gradient descent with momentum, optionally Nesterov's."""

    momentum: Annotated[float, Range(at_least=0, below=1)]
    nesterov: bool

    def __post_init__(self):
        if self.nesterov and not self.momentum:
            raise InvalidArguments([Problem("nesterov", "=True: needs a momentum above 0")])

    @property
    def moments(self) -> int:
        return int(self.momentum > 0)

    def torch_optimizer(self, groups, *, fused):
        optimizer = without_compiler(torch.optim.SGD)(
            groups,
            lr=self.lr,
            momentum=self.momentum,
            nesterov=self.nesterov,
            weight_decay=self.weight_decay,
            fused=fused,
        )
        if (
            fused and self.momentum
        ):  # torch's fused step fails where some parameters have their first gradient later than others
            for parameter in (parameter for group in optimizer.param_groups for parameter in group["params"]):
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return optimizer


class Constant(Checked):
    """A constant learning rate."""

    def __init__(self):
        pass

    def factor(self, epoch: float, epochs: int) -> float:
        """The factor of the learning rate at a point of the training, `epoch` in [0, epochs]."""
        return 1.0


@dataclass(frozen=True, kw_only=True)
class Cosine(Checked):
    """A linear rise over `warmup_epochs`, then half a cosine down to `final_fraction` of the learning rate."""

    warmup_epochs: NonNegative
    final_fraction: Fraction

    def factor(self, epoch: float, epochs: int) -> float:
        if epoch < self.warmup_epochs:
            return epoch / self.warmup_epochs
        done = (epoch - self.warmup_epochs) / max(epochs - self.warmup_epochs, 1e-9)
        return self.final_fraction + (1 - self.final_fraction) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


@dataclass(frozen=True, kw_only=True)
class PartOfCosine(Checked):
    """The learning rate times cos(`share`·π·t), where t rises from 0 to 1 over the training."""

    share: Annotated[float, Range(at_least=0, at_most=0.5)]

    def factor(self, epoch: float, epochs: int) -> float:
        return max(math.cos(self.share * math.pi * epoch / epochs), 0.0)


@dataclass(frozen=True, kw_only=True)
class MultiStep(Checked):
    """The learning rate times `gamma` after each of the `milestones` (epochs finished)."""

    milestones: list[Positive]
    gamma: Annotated[float, Range(above=0, within=(1e-6, 1e3))]

    def factor(self, epoch: float, epochs: int) -> float:
        return self.gamma ** sum(epoch >= milestone for milestone in self.milestones)
