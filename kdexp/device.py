"""Where and how numbers are computed: device, precision, and random streams that do not disturb each other."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType

import torch


def device_complaint(name: str) -> str:
    """Why that device can't be used here, or an empty string."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(name, True):
        here = [known for known, is_here in available.items() if is_here]
        return f"={name!r}: this machine has no such device for PyTorch; here: {', '.join(['cpu', *here])} (device=auto picks)"
    return ""


def pick_device(name: str) -> torch.device:
    """`auto` is CUDA, then MPS, then the CPU."""
    if name != "auto":
        return torch.device(name)
    return torch.device(next((kind for kind in ("cuda", "mps") if not device_complaint(kind)), "cpu"))


@dataclass(frozen=True)
class Precision:
    """`fp32`; `tf32`: TF32 in convolutions, as plain PyTorch has it on CUDA; `bf16`: autocast with fp32 weights and losses.

    Without `fast` the operations are those of a plain loop, in its order. With it, memory is channels-last and optimizers
    are fused, which is quicker but rounds differently; Adam's first steps amplify that beyond what a seed reproduces.
    """

    name: str
    device: torch.device
    fast: bool = False

    @classmethod
    def pick(cls, name: str, device: torch.device, fast: bool) -> Precision:
        """`auto` is what plain PyTorch does on the device."""
        if name == "auto":
            name = "tf32" if device.type == "cuda" else "fp32"
        return cls(name, device, fast)

    @property
    def label(self) -> str:
        """What the table calls it."""
        return f"{self.name} fast" if self.fast else self.name

    @property
    def memory_format(self) -> torch.memory_format:
        """How images and convolutions lie in memory."""
        return torch.channels_last if self.fast else torch.contiguous_format

    def set(self) -> None:
        """Sets the global switch that convolutions read; the rest is `autocast`."""
        # The older switch must agree with it: torch.export and torch.compile read that one and raise if they differ.
        torch.backends.cudnn.allow_tf32 = self.name == "tf32"
        torch.backends.cudnn.conv.fp32_precision = "tf32" if self.name == "tf32" else "ieee"  # type: ignore[attr-defined]

    def autocast(self) -> AbstractContextManager[None]:
        """The context in which networks run."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.name == "bf16")


class RandomStream:
    """A stream of random numbers of its own: inside `with stream:` torch's default generators are this stream.

    It starts where `torch.manual_seed(seed)` does, so that a net built in it has the weights of a plain script.
    """

    def __init__(self, seed: int, device: torch.device):
        self._modules = [torch.random] + ([torch.get_device_module(device)] if device.type != "cpu" else [])
        kinds = ["cpu"] + ([device.type] if device.type != "cpu" else [])
        self.states = [torch.Generator(kind).manual_seed(seed).get_state() for kind in kinds]

    def __enter__(self) -> None:
        self._outside = [module.get_rng_state() for module in self._modules]
        self._set(self.states)

    def __exit__(self, _kind: type | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        self.states = [module.get_rng_state() for module in self._modules]
        self._set(self._outside)

    def _set(self, states: list[torch.Tensor]) -> None:
        for module, state in zip(self._modules, states, strict=True):
            module.set_rng_state(state)
