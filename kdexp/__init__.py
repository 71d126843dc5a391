"""kdexp: knowledge distillation of image models, from the teacher to a comparison table in one command."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kdexp.version import __version__

if TYPE_CHECKING:
    from kdexp.deployment.load import load

__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    # Importing torch takes seconds, and help and completion do without it.
    if name == "load":
        from kdexp.deployment.load import load

        return load
    raise AttributeError(f"module 'kdexp' has no attribute {name!r}")
