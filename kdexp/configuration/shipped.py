"""Where the shipped YAML files are."""

from __future__ import annotations

from functools import cache
from pathlib import Path


@cache
def conf_dir() -> str:
    """The folder of the shipped YAML files: inside the package in a wheel, next to it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "config.yaml").is_file():
            return str(folder)
    raise FileNotFoundError(f"kdexp was installed without its conf/ folder (looked next to {package})")
