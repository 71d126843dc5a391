"""Lists every tensor in a file with the keys that lead to it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kdexp.network.checkpoint.pickles import Inert
from kdexp.network.checkpoint.stored_tensors import StoredTensor

DEEPEST = 32
"""Deepest nesting of containers that is searched for tensors."""


@dataclass(frozen=True)
class Entry:
    """A tensor: the keys of the mappings, objects or lists around it, and its name in the innermost one."""

    around: tuple[str, ...]
    name: str
    tensor: StoredTensor
    of_module: bool = False
    """Whether the tensor belongs to a network that was pickled as an object."""

    @property
    def path(self) -> str:
        """All keys and the name, joined by dots like names of modules."""
        return ".".join((*self.around, self.name))


def entries(root: Any) -> list[Entry]:
    """Lists every tensor whose name is a string, visiting each container once."""
    return list(_inside(root, (), set()))


def _inside(value: Any, around: tuple[str, ...], seen: set[int]) -> Iterator[Entry]:
    if id(value) in seen or len(around) > DEEPEST:
        return
    seen.add(id(value))
    if isinstance(value, Inert):
        state = value.state[0] if isinstance(value.state, tuple) and value.state else value.state
        if isinstance(state, dict) and "_parameters" in state:
            yield from _of_module(state, around, "", seen)
            return
        yield from _inside(state, around, seen)
        yield from _inside(value.arguments, around, seen)
    if isinstance(value, dict):
        for key, inner in value.items():
            if isinstance(inner, StoredTensor) and isinstance(key, str) and key.isprintable():
                yield Entry(around, key, inner)
            elif isinstance(key, int) or (isinstance(key, str) and key.isprintable()):
                yield from _inside(inner, (*around, str(key)), seen)
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from _inside(inner, (*around, str(number)), seen)


def _of_module(state: dict, around: tuple[str, ...], prefix: str, seen: set[int]) -> Iterator[Entry]:
    """Yields the tensors that a pickled `nn.Module` would have in its state dict."""
    left_out = state.get("_non_persistent_buffers_set") or ()
    for name, tensor in {**(state.get("_parameters") or {}), **(state.get("_buffers") or {})}.items():
        if isinstance(tensor, StoredTensor) and name not in left_out and f"{name}".isprintable():
            yield Entry(around, f"{prefix}{name}", tensor, of_module=True)
    for name, module in (state.get("_modules") or {}).items():
        inner = getattr(module, "state", None)
        if isinstance(inner, dict) and id(module) not in seen and prefix.count(".") < DEEPEST:
            seen.add(id(module))
            yield from _of_module(inner, around, f"{prefix}{name}.", seen)
