"""Names of the classifiers in torchvision and timm, read from their sources: importing them takes seconds."""

from __future__ import annotations

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from kdexp.text.synonyms import same

LIBRARIES = ("torchvision", "timm")
"""Each is also the name of the option that makes a network of it; the first that has a name is suggested."""

_REGISTERED = re.compile(r"^@register_model\b[\s\S]*?^def (\w+)", re.MULTILINE)


def library_of(name: str) -> tuple[str, str]:
    """The library that has a classifier of that name, and its name there; two empty strings if none has."""
    for library in LIBRARIES:
        if found := same(name, names(library)):
            return library, found
    return "", ""


@cache
def names(library: str) -> frozenset[str]:
    """The classifiers that a library registers; none where it is not installed."""
    spec = find_spec(library)
    folders = [Path(folder, "models") for folder in (spec.submodule_search_locations or [])] if spec else []
    texts = (file.read_text(encoding="utf-8") for folder in folders for file in sorted(folder.glob("*.py")))
    return frozenset(name for text in texts for name in _REGISTERED.findall(text))
