"""Names of the classifiers in torchvision and timm, read from their source files, since importing them takes seconds."""

from __future__ import annotations

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from kdexp.text.synonyms import same

LIBRARIES = ("torchvision", "timm")
"""Each is also the name of an option of `teacher` and `student`; the first library that has a classifier is suggested."""

_REGISTERED = re.compile(r"^@register_model\b[\s\S]*?^def (\w+)", re.MULTILINE)


def library_of(name: str) -> tuple[str, str]:
    """The first library that has a classifier of that name, and its spelling there; two empty strings if none has."""
    for library in LIBRARIES:
        if found := same(name, names(library)):
            return library, found
    return "", ""


@cache
def names(library: str) -> frozenset[str]:
    """Names of the classifiers that a library registers; none if it is not installed."""
    spec = find_spec(library)
    folders = [Path(folder, "models") for folder in (spec.submodule_search_locations or [])] if spec else []
    texts = (file.read_text(encoding="utf-8") for folder in folders for file in sorted(folder.glob("*.py")))
    return frozenset(name for text in texts for name in _REGISTERED.findall(text))
