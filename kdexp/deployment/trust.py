"""Checks which names an untrusted description of a network may use; no other name is looked up, imported or called.

A description names classes by import paths, and importing a module runs it. Names are therefore checked as text first: they
must lie in modules of networks and methods, or in modules that the user trusts (`kdexp.load(..., modules=["parts"])`). A
module that happens to be imported already is not trusted for that: the calling program imported it for its own purposes.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn

from kdexp.configuration.arguments import parameters
from kdexp.configuration.nodes import arguments, nodes_within
from kdexp.data.dataset import ImageDataset
from kdexp.data.shape import Shape
from kdexp.distillation.base import Distiller
from kdexp.errors import BadResult, first_line

OURS = ("kdexp.models", "kdexp.distillation")
LIBRARIES = ("torch.nn", "torchvision.models")
"""Libraries whose modules may be used if the library imports them itself."""


def check_model(node: Any, source: Path, modules: Sequence[str] = ()) -> None:
    """Raises `BadResult` unless the node names a network's class, or a function that builds one, and plain arguments.

    The name must lie in a package of `OURS` or `LIBRARIES`, or in one of the `modules` that the user trusts.
    """
    target = _target(node, source, modules)
    if not _is_subclass(target, nn.Module) and not _builds_network(target):
        raise BadResult(f"{source} is refused: its network _target_={node['_target_']!r} is no nn.Module")


def check_method(node: Any, source: Path, modules: Sequence[str] = ()) -> None:
    """Raises `BadResult` unless the node names a distillation method in one of these packages, and plain arguments."""
    if not _is_subclass(_target(node, source, modules), Distiller):
        raise BadResult(f"{source} is refused: its method _target_={node['_target_']!r} is no Distiller")


def check_dataset(node: Any, source: Path, modules: Sequence[str] = ()) -> None:
    """Raises `BadResult` unless the node names a data set of kdexp or of one of these modules, and plain arguments."""
    if not _is_subclass(_target(node, source, (*modules, "kdexp.data")), ImageDataset):
        raise BadResult(f"{source} is refused: its data set _target_={node['_target_']!r} is no ImageDataset")


def _is_subclass(target: Any, base: type) -> bool:
    return inspect.isclass(target) and issubclass(target, base)


def _builds_network(target: Any) -> bool:
    """Whether this is a module-level function that takes the shape of the data."""
    if not inspect.isfunction(target) or target.__qualname__ != target.__name__:
        return False
    return set(Shape.__annotations__) <= set(parameters(target))


def _target(node: Any, source: Path, modules: Sequence[str]) -> Any:
    """Returns the class or function that `_target_` names, imported but not called.

    Its arguments must be plain values. Arguments of a class may also be nodes of networks and methods, checked the same way,
    since only the class itself builds them.
    """
    if not isinstance(node, dict) or not isinstance(node.get("_target_"), str):
        raise BadResult(f"{source} describes a network or a method without naming its class in _target_")
    inner = list(nodes_within(node).values())
    for text in _texts(arguments(node), leaving_out=inner):
        # Hydra calls a nested _target_, and OmegaConf evaluates ${...}, which may yield one.
        if re.fullmatch("_.*_", text) or "${" in text:
            raise BadResult(f"{source} is refused: {node['_target_']} is given {text!r}, and arguments must be plain values")
    target = _import_trusted(node["_target_"], source, modules)
    if inner and not inspect.isclass(target):
        raise BadResult(f"{source} is refused: {node['_target_']} is given a node, and arguments must be plain values")
    for inner_node in inner:
        check_model(inner_node, source, modules)  # methods are subclasses of nn.Module too
    return target


def _import_trusted(name: str, source: Path, modules: Sequence[str]) -> Any:
    """Returns the class or function of that name; raises `BadResult` unless it is defined in a trusted module."""
    home, _, last = name.rpartition(".")
    if not re.fullmatch(r"\w+(\.\w+)+", name) or not _within(home, (*OURS, *LIBRARIES, *modules)):
        raise BadResult(f"{source} is refused: it names {name!r}, which is no network or method of kdexp{_how_to_trust(name)}")
    try:
        target = getattr(_module(home, modules), last)
    except Exception as error:  # importing a user's module may raise anything
        where = "; the folder of a module of yours must be on PYTHONPATH" if isinstance(error, ModuleNotFoundError) else ""
        raise BadResult(f"{source} names {name!r}, which can't be imported ({first_line(error)}){where}") from error
    if not inspect.isclass(target) and not inspect.isfunction(target):
        raise BadResult(f"{source} is refused: it names {name!r}, which is neither a class nor a function")
    defined = str(target.__module__)
    if last.startswith("_") or not _within(defined, (*OURS, *LIBRARIES, *modules)):
        fix = _how_to_trust(f"{defined}.{last}")
        raise BadResult(f"{source} is refused: it names {name!r}, which is a private part or is defined in {defined}{fix}")
    return target


def _within(module: str, packages: Sequence[str]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def _module(home: str, modules: Sequence[str]) -> Any:
    """Imports the module of that name; in a library, only a module that the library itself imports."""
    library = next((package for package in LIBRARIES if _within(home, [package])), None)
    if library is None or _within(home, modules):
        return import_module(home)
    import_module(library)
    if home not in sys.modules:
        raise ImportError(f"{library} has no {home} in use")
    return sys.modules[home]


def _how_to_trust(name: str) -> str:
    """Returns how to trust the module of that name, if it may be the user's own."""
    module = name.rpartition(".")[0]
    if not re.fullmatch(r"\w+(\.\w+)*", module) or module.partition(".")[0] in {*sys.stdlib_module_names, "kdexp", "torch"}:
        return ""
    return f'; if you trust the code of {module}, say so: kdexp.load(..., modules=["{module}"]), kdexp-export --module {module}'


def _texts(value: Any, leaving_out: Sequence[dict]) -> Iterator[str]:
    """Yields every string in a value, keys included, except inside the dictionaries `leaving_out`."""
    if isinstance(value, str):
        yield value
    elif any(value is node for node in leaving_out):
        return
    elif isinstance(value, dict | list):
        yield from value if isinstance(value, dict) else ()
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner, leaving_out)
