"""What a stranger's description of a network may name; no other name is looked up, imported or called.

A description names classes by import paths, and importing a module runs it. Names are therefore judged first, by their text:
they lie in modules of networks and methods, or in modules that the user vouches for (`kdexp.load(..., modules=["parts"])`).
What is imported already counts as little as what Python could find: the program that loads a file imported it for itself.
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
from kdexp.data.shape import Shape
from kdexp.distillation.base import Distiller
from kdexp.errors import BadResult, first_line

OURS = ("kdexp.models", "kdexp.distillation")
LIBRARIES = ("torch.nn", "torchvision.models")
"""Of these, modules are used that they import themselves."""


def check_model(node: Any, source: Path, modules: Sequence[str] = ()) -> None:
    """Raises `BadResult` unless the node names a network, by its class or by a function that builds it, and plain arguments.

    The name lies in a package of `OURS` or `LIBRARIES`, or in one of the `modules` that the user vouches for.
    """
    made = _named(node, source, modules)
    if not _is_a(nn.Module, made) and not _builds(made):
        raise BadResult(f"{source} is refused: its network _target_={node['_target_']!r} is no nn.Module")


def check_method(node: Any, source: Path, modules: Sequence[str] = ()) -> None:
    """Raises `BadResult` unless the node names a distillation method and plain arguments, in the same places."""
    if not _is_a(Distiller, _named(node, source, modules)):
        raise BadResult(f"{source} is refused: its method _target_={node['_target_']!r} is no Distiller")


def _is_a(base: type, made: Any) -> bool:
    return inspect.isclass(made) and issubclass(made, base)


def _builds(made: Any) -> bool:
    """Whether it is a function that takes what a network must know of the data."""
    return (
        inspect.isfunction(made) and made.__qualname__ == made.__name__ and set(Shape.__annotations__) <= set(parameters(made))
    )


def _named(node: Any, source: Path, modules: Sequence[str]) -> Any:
    """What `_target_` names, imported but not called.

    The arguments are plain values, but those of our own classes, for which nobody makes anything of a node within a node but
    they themselves, may also be nodes of networks and methods, of which the same is true.
    """
    if not isinstance(node, dict) or not isinstance(node.get("_target_"), str):
        raise BadResult(f"{source} describes a network or a method without naming its class in _target_")
    inner = list(nodes_within(node).values())
    for word in _words(arguments(node), leaving=inner):
        # Hydra calls what a nested _target_ names, and OmegaConf computes what stands in ${...}, which may be one.
        if re.fullmatch("_.*_", word) or "${" in word:
            raise BadResult(f"{source} is refused: {node['_target_']} is given {word!r}, and arguments must be plain values")
    made = _look_up(node["_target_"], source, modules)
    if inner and not inspect.isclass(made):
        raise BadResult(f"{source} is refused: {node['_target_']} is given a node, and arguments must be plain values")
    for part in inner:
        check_model(part, source, modules)  # methods are modules, too
    return made


def _look_up(name: str, source: Path, modules: Sequence[str]) -> Any:
    """The class or function of that name, if it is defined where names may lie."""
    home, _, last = name.rpartition(".")
    if not re.fullmatch(r"\w+(\.\w+)+", name) or not _within(home, (*OURS, *LIBRARIES, *modules)):
        raise BadResult(f"{source} is refused: it names {name!r}, which is no network or method of kdexp{_way_in(name)}")
    try:
        made = getattr(_module(home, modules), last)
    except Exception as error:  # importing a user's module may raise anything
        where = "; the folder of a module of yours must be on PYTHONPATH" if isinstance(error, ModuleNotFoundError) else ""
        raise BadResult(f"{source} names {name!r}, which can't be imported ({first_line(error)}){where}") from error
    if not inspect.isclass(made) and not inspect.isfunction(made):
        raise BadResult(f"{source} is refused: it names {name!r}, which is neither a class nor a function")
    defined = str(made.__module__)
    if last.startswith("_") or not _within(defined, (*OURS, *LIBRARIES, *modules)):
        way_in = _way_in(f"{defined}.{last}")
        raise BadResult(f"{source} is refused: it names {name!r}, which is a private part or is defined in {defined}{way_in}")
    return made


def _within(module: str, packages: Sequence[str]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def _module(home: str, modules: Sequence[str]) -> Any:
    """The module of that name; of a library, one that the library itself imports."""
    library = next((package for package in LIBRARIES if _within(home, [package])), None)
    if library is None or _within(home, modules):
        return import_module(home)
    import_module(library)
    if home not in sys.modules:
        raise ImportError(f"{library} has no {home} in use")
    return sys.modules[home]


def _way_in(name: str) -> str:
    """How a user vouches for the module of that name, if it may be a user's own."""
    module = name.rpartition(".")[0]
    if not re.fullmatch(r"\w+(\.\w+)*", module) or module.partition(".")[0] in {*sys.stdlib_module_names, "kdexp", "torch"}:
        return ""
    return f'; if you trust the code of {module}, say so: kdexp.load(..., modules=["{module}"]), kdexp-export --module {module}'


def _words(value: Any, leaving: Sequence[dict]) -> Iterator[str]:
    """Every text in a value, keys included, but for those of some of its dictionaries."""
    if isinstance(value, str):
        yield value
    elif any(value is node for node in leaving):
        return
    elif isinstance(value, dict | list):
        yield from value if isinstance(value, dict) else ()
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _words(inner, leaving)
