"""Software and hardware that computed a result: recorded with it, never hashed."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

PACKAGES = ("kdexp", "torch", "torchvision", "hydra-core", "omegaconf", "rich")


def provenance(device: torch.device) -> dict[str, Any]:
    """Versions, device, threads, and git state of the working directory."""
    on_cuda = device.type == "cuda"
    return {
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "device": torch.cuda.get_device_name(device) if on_cuda else f"{device.type} ({platform.machine()})",
        "threads": torch.get_num_threads(),
        "git": git_state(),
    }


@cache
def git_state() -> dict[str, Any] | None:
    """The commit, and whether files differ from it, at the first call; None outside a repository."""
    try:
        commit = _git("rev-parse", "HEAD")
        return {"commit": commit, "changed": bool(_git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], capture_output=True, encoding="utf-8", errors="replace", check=True).stdout.strip()


@cache
def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
