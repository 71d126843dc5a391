"""Rooms of the package: each imports only from rooms listed before it, and no module is part of an import circle."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from importlib.util import resolve_name
from pathlib import Path

import pytest

import kdexp

PACKAGE = Path(kdexp.__file__).parent

ROOMS = (
    "version",
    "processes",
    "files",
    "text",
    "errors",
    "tasks",
    "configuration",
    "device",
    "store",
    "data",
    "network",
    "models",
    "distillation",
    "pretraining",
    "teacher",
    "training",
    "deployment",
    "trackers",
    "experiment",
    "page",
    "report",
    "validation",
    "sweep",
    "queue",
    "search",
    "commands",
)
"""In the order of docs/architecture.md: each may import from those before it."""

MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
EXEMPT = ("kdexp", "kdexp.__main__")
"""The package itself and `python -m kdexp` are entry points, which may import anything."""


def imported(name: str, source: str) -> Iterator[str]:
    """Modules of the package that a module imports, also inside functions."""
    package = name if MODULES[name].name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom):
            origin = resolve_name("." * node.level + (node.module or ""), package) if node.level else node.module or ""
            for alias in node.names:
                inner = f"{origin}.{alias.name}"
                if inner in MODULES or origin in MODULES:
                    yield inner if inner in MODULES else origin


@cache
def whole_graph() -> dict[str, list[str]]:
    """What each module imports."""
    return {name: sorted(set(imported(name, path.read_text("utf-8")))) for name, path in MODULES.items()}


def room(module: str) -> str:
    return module.split(".")[1]


def test_every_module_lies_in_a_room():
    assert {room(name) for name in MODULES if name not in EXEMPT} == set(ROOMS)


def test_few_files_lie_directly_in_the_package():
    assert len(list(PACKAGE.glob("*.py"))) <= 6


def upward(graph: dict[str, list[str]]) -> list[str]:
    """Imports of a room from one above it."""
    return [
        f"{name} imports {other}, which is above it"
        for name, others in graph.items()
        for other in others
        if name not in EXEMPT and (other in EXEMPT or ROOMS.index(room(other)) > ROOMS.index(room(name)))
    ]


def circles(graph: dict[str, list[str]]) -> list[str]:
    """Chains of imports that end where they begin."""
    found, done = [], set()

    def follow(name: str, trail: tuple[str, ...]) -> None:
        if name in trail:
            found.append(" → ".join([*trail[trail.index(name) :], name]))
        elif name not in done:
            for other in graph[name]:
                follow(other, (*trail, name))
            done.add(name)

    for name in graph:
        follow(name, ())
    return found


def test_imports_lead_downward():
    assert upward(whole_graph()) == []


def test_no_import_leads_in_a_circle():
    assert circles({name: others for name, others in whole_graph().items() if name not in EXEMPT}) == []


@pytest.mark.parametrize(
    ("check", "graph"),
    [
        (upward, {"kdexp.data.dataset": ["kdexp.training.loop"]}),
        (circles, {"kdexp.data.dataset": ["kdexp.data.split"], "kdexp.data.split": ["kdexp.data.dataset"]}),
    ],
)
def test_a_wrong_import_is_named_with_both_modules(check, graph):
    (sentence,) = check(graph)
    assert all(name in sentence for name in {*graph, *(other for others in graph.values() for other in others)})


def test_no_test_imports_from_a_test():
    tests = Path(__file__).parent
    shared = [path for path in tests.rglob("test_*.py") if re.search(r"^\s*(from|import) test_", path.read_text("utf-8"), re.M)]
    assert shared == [], "what two files of tests need belongs into tests/support/"


def test_tests_lie_in_folders_named_like_the_rooms():
    folders = {path.name for path in Path(__file__).parent.iterdir() if path.is_dir() and path.name[0] not in "._"}
    assert folders - {"support", "docs", "benchmarks"} <= set(ROOMS)
