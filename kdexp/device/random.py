"""Independent streams of random numbers."""

from __future__ import annotations

from types import TracebackType

import torch


class RandomStream:
    """An independent stream of random numbers: inside `with stream:`, torch's default generators draw from it.

    It starts where `torch.manual_seed(seed)` does, so a network built inside has the weights of a plain script. Inside, CUDA's
    default generator shares the state of `generator`; this is allowed while a graph is recorded, and becomes part of the graph.
    """

    generator: torch.Generator | None = None

    def __init__(self, seed: int, device: torch.device):
        self._modules = [torch.random] + ([torch.mps] if device.type == "mps" else [])
        kinds = ["cpu", "mps"][: len(self._modules)]
        self._states = [torch.Generator(kind).manual_seed(seed).get_state() for kind in kinds]
        if device.type == "cuda":
            torch.cuda.init()
            self._default = torch.cuda.default_generators[torch.cuda.current_device()]
            self.generator = torch.Generator(device).manual_seed(seed)

    @property
    def states(self) -> list[torch.Tensor]:
        """The generators' states on the CPU and on the device, as byte tensors on the CPU."""
        return self._states + ([self.generator.get_state()] if self.generator else [])

    @states.setter
    def states(self, states: list[torch.Tensor]) -> None:
        self._states = states[: len(self._modules)]
        if self.generator:
            self.generator.set_state(states[-1])

    def replace_generator(self) -> None:
        """Takes a new generator, whose state is to be set; one that was part of a failed recording may refuse to draw."""
        if self.generator:
            self.generator = torch.Generator(self.generator.device)

    def __enter__(self) -> None:
        self._outside = [module.get_rng_state() for module in self._modules]
        self._set(self._states)
        if self.generator:
            self._outer = self._default.graphsafe_get_state()
            self._default.graphsafe_set_state(self.generator)

    def __exit__(self, _kind: type | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        if self.generator:
            self._default.graphsafe_set_state(self._outer)
        self._states = [module.get_rng_state() for module in self._modules]
        self._set(self._outside)

    def _set(self, states: list[torch.Tensor]) -> None:
        for module, state in zip(self._modules, states, strict=True):
            module.set_rng_state(state)
