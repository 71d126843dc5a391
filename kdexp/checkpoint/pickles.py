"""What a pickle would import if it were unpickled, read off without unpickling it."""

from __future__ import annotations

import pickletools
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

_HARMLESS = re.compile(r"collections\.OrderedDict|torch\.\w+|torch\.(_utils|_tensor|storage|serialization|nn\.parameter)\.\w+")
"""What tensors, sizes and types are made of."""

_PICKLES = 4
"""A file of torch's older kind is several pickles, one behind the other: three that describe it, then the weights."""


def would_import(path: Path) -> list[str]:
    """The functions and classes that loading a file would look up, tensors' own left out; empty if it is no pickle."""
    found: list[str] = []
    try:
        with _pickled(path) as stream:
            for _ in range(_PICKLES):
                found += [name for name in _imports(stream) if not _HARMLESS.fullmatch(name)]
    except (ValueError, OSError, KeyError, zipfile.BadZipFile):
        pass  # where the pickles end
    return list(dict.fromkeys(found))


def _pickled(path: Path) -> IO[bytes]:
    if not zipfile.is_zipfile(path):
        return path.open("rb")
    archive = zipfile.ZipFile(path)
    return archive.open(next((name for name in archive.namelist() if name.endswith("data.pkl")), "data.pkl"))


def _imports(stream: IO[bytes]) -> Iterator[str]:
    texts: list[str] = []
    for opcode, argument, _position in pickletools.genops(stream):
        if opcode.name in ("GLOBAL", "INST"):
            yield str(argument).replace(" ", ".")
        elif opcode.name == "STACK_GLOBAL":
            yield ".".join(texts[-2:])
        elif isinstance(argument, str):
            texts.append(argument)
