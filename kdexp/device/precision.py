"""Where and how numbers are computed: device and precision."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache

import torch
from torch import nn

from kdexp.configuration.settings import Switch
from kdexp.errors import first_line, listed


def device_problem(name: str, setting: str = "device=") -> str:
    """Why that device can't be used here, or an empty string; `setting` is what users type before its name."""
    kind, _, number = name.partition(":")
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(kind, True) or (number and int(number) >= torch.cuda.device_count()):
        gpus = [f"cuda:{gpu}" for gpu in range(torch.cuda.device_count())] if number and available["cuda"] else []
        here = [*(kind for kind, is_here in available.items() if is_here), *gpus]
        return f"this machine has no such device for PyTorch; here: {', '.join(['cpu', *here])} ({setting}auto picks)"
    return ""


@cache
def compiler_problem(device: str) -> str:
    """Why `torch.compile` can't be used on that kind of device here, or an empty string; found out by trying."""
    try:
        torch.compile(torch.sin)(torch.zeros(2, device=device))
    except Exception as error:  # a missing compiler, header or package raises anything
        return f"torch.compile can't be used here ({first_line(error)}); fix that, or leave compile=false"
    return ""


BF16_SPEED_UPS = (1.6, 2.2)
"""Smallest and largest speed-up by `precision=bf16 fast=true` in `benchmarks/bench*_cpu.json`, of a CPU that computes bf16."""


def cpu_computes_bf16() -> bool:
    """Whether this CPU multiplies bf16 numbers as they are (AVX512-BF16 or AMX); False where PyTorch does not tell."""
    capabilities: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16"))


def pick_device(name: str) -> torch.device:
    """`auto` is CUDA, then MPS, then the CPU."""
    if name != "auto":
        return torch.device(name)
    return torch.device(next((kind for kind in ("cuda", "mps") if not device_problem(kind)), "cpu"))


WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


@dataclass(frozen=True)
class Precision:
    """`fp32`; `tf32`: TF32 in convolutions, PyTorch's default on CUDA; `bf16`: autocast with fp32 weights and losses.

    With all options off, the operations are those of a plain loop, in its order. With `fast`, memory is channels-last and
    optimizers are fused, which is quicker but rounds differently; Adam's first steps amplify that beyond what a seed
    reproduces. `compile` has torch.compile generate the networks' kernels. With `graph`, steps are recorded and replayed: the
    operations are the same except for optimizers, which are fused and keep their step counters on the device.
    """

    name: str
    device: torch.device
    fast: bool = False
    compile: bool = False
    graph: bool = False
    ranks: int = 1
    """Processes that train on a part of each batch."""
    auto: tuple[str, ...] = ()
    """Options that `auto` switched on. With `graph` among them, recorded steps are checked before they are trusted."""

    @classmethod
    def pick(
        cls,
        name: str,
        device: torch.device,
        *,
        fast: Switch = False,
        compile: bool = False,
        graph: Switch = False,
        ranks: int = 1,
    ) -> Precision:
        """Settles what is `auto`: the precision is PyTorch's default on the device, `fast` and `graph` are on on CUDA alone.

        Steps of several ranks are not recorded, since they exchange gradients.
        """
        on_cuda = device.type == "cuda"
        graph = False if ranks > 1 else graph
        if name == "auto":
            name = "tf32" if on_cuda else "fp32"
        auto = tuple(option for option, asked in (("fast", fast), ("graph", graph)) if asked == "auto" and on_cuda)
        settled = {"fast": "fast" in auto or fast is True, "graph": "graph" in auto or graph is True}
        return cls(name, device, compile=compile, ranks=ranks, auto=auto, **settled)

    @property
    def label(self) -> str:
        """What the table calls it."""
        options = {"fast": self.fast, "compiled": self.compile, "graph": self.graph}
        ranks = [f"{self.ranks} ranks"] if self.ranks > 1 else []
        return " ".join([self.name, *(name for name, chosen in options.items() if chosen), *ranks])

    @property
    def words(self) -> str:
        """Says what `auto` switched on, with everything that rounds differently; empty if nothing."""
        if not self.auto:
            return ""
        parts = {
            "recorded steps": self.graph,
            "compiled networks": self.compile,
            "channels-last memory": self.fast,
            "fused optimizers": self.fused,
        }
        on = listed([self.name, *(part for part, used in parts.items() if used)])
        return f"{self.device.type}: {on} ({' '.join(f'{option}=auto' for option in self.auto)}; false goes without)"

    @property
    def fused(self) -> bool:
        """Whether optimizers take their step in one kernel."""
        return self.fast or self.graph

    @property
    def memory_format(self) -> torch.memory_format:
        """The memory format of images and convolutions."""
        return torch.channels_last if self.fast else torch.contiguous_format

    def set(self) -> None:
        """Sets the global switches that kernels read; the rest is `autocast`.

        Under bf16, CUDA may use TF32 for what runs outside of autocast, the modules and losses of methods.
        """
        on_cuda = self.device.type == "cuda"
        rounded = self.name == "bf16" and on_cuda
        # The older switches must agree: torch.export and torch.compile read those and raise if they differ.
        torch.backends.cudnn.allow_tf32 = rounded or self.name == "tf32"
        torch.backends.cudnn.conv.fp32_precision = _tf32(rounded or self.name == "tf32")  # type: ignore[attr-defined]
        if not on_cuda:
            return
        if self.device.index is not None or torch.cuda.is_initialized():
            torch.cuda.set_device(self.device.index or 0)  # where streams, generators and recordings are made
        torch.backends.cuda.matmul.allow_tf32 = rounded
        torch.backends.cuda.matmul.fp32_precision = _tf32(rounded)
        if self.graph:
            # cuBLAS takes a workspace per thread and stream, on newer GPUs 32 MiB each, and every learner has a stream, since
            # learners side by side are what fills a GPU with small networks. 8 MiB is what it takes on all other GPUs. It is
            # read at the first product of matrices.
            os.environ.setdefault(WORKSPACE, ":4096:2:16:8")

    def autocast(self) -> AbstractContextManager[None]:
        """The context in which networks run."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.name == "bf16")


def on_device(network: nn.Module, precision: Precision) -> nn.Module:
    """The network on the device, in the memory format of the precision."""
    return network.to(device=precision.device, memory_format=precision.memory_format)  # type: ignore[call-overload]


def _tf32(allowed: bool) -> str:
    return "tf32" if allowed else "ieee"
