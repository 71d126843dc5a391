"""How many processes share this machine and its GPU, so that each takes its part of the memory."""

from __future__ import annotations

_sharers = {"cpu": 1, "cuda": 1}


def share_with(workers: int, per_gpu: int) -> None:
    """From now on, this process is one of so many on this machine and on its GPU."""
    _sharers.update(cpu=workers, cuda=per_gpu)


def sharers(device_type: str = "cpu") -> int:
    """How many processes share the memory of that type of device, this one included."""
    return _sharers.get(device_type, 1)
