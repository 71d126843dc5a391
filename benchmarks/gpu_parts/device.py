"""Prints what this GPU and its software are, as JSON; `{}` where PyTorch finds none."""

from __future__ import annotations

import json
import platform
import subprocess

import torch


def described() -> dict[str, str | int | float]:
    """The GPU with its memory, the versions that decide its speed, and the processor beside it."""
    if not torch.cuda.is_available():
        return {}
    device = torch.cuda.get_device_properties(0)
    return {
        "device": device.name,
        "GiB": round(device.total_memory / 2**30, 1),
        "multiprocessors": device.multi_processor_count,
        "driver": driver(),
        "CUDA": torch.version.cuda or "",
        "cuDNN": torch.backends.cudnn.version() or 0,
        "torch": torch.__version__,
        "Python": platform.python_version(),
    }


def driver() -> str:
    """The version of NVIDIA's driver, as far as its tool tells."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, timeout=20).stdout.strip().split("\n")[0]
    except (OSError, subprocess.TimeoutExpired):
        return ""


if __name__ == "__main__":
    print(json.dumps(described()))
