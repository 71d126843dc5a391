"""Decides which functions and classes a pickle may call without running code."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from typing import Any

HARMLESS = re.compile(
    r"builtins\.(set|frozenset|list|tuple|dict|bytes|bytearray|int|float|bool|str|complex|range|slice|object|getattr|[A-Z]\w*)"
    r"|collections\.(OrderedDict|defaultdict|Counter|deque|ChainMap|UserDict|UserList)"
    r"|copyreg\.(__newobj__|__newobj_ex__)|_codecs\.encode|re\._compile|logging\.getLogger|random\.Random"
    r"|array\.(array|_array_reconstructor)|types\.(SimpleNamespace|MappingProxyType)|argparse\.Namespace"
    r"|functools\.partial|operator\.(itemgetter|attrgetter|methodcaller)|time\.struct_time"
    r"|datetime\.\w+|decimal\.Decimal|fractions\.Fraction|uuid\.(UUID|SafeUUID)|ipaddress\.\w+|zoneinfo\.ZoneInfo\._unpickle"
    r"|pathlib\.(_local\.)?(Pure)?(Posix|Windows)?Path"
    r"|torch\.(Size|device|Generator|finfo|iinfo)|torch\.serialization\._get_layout"
    r"|torch\.jit\._pickle\.\w+|numpy\.dtype|numpy\.(core|_core)\.multiarray\.(scalar|_reconstruct)"
)
"""Functions and classes whose call, with values from a pickle, only makes an object."""

MAKES = re.compile(
    r"([A-Z]\w*\.)*([A-Z]\w*|_*(rebuild|reconstruct|unpickle|frombuffer|new)_?\w*|__pyx_unpickle_\w+|__\w+_ctor)"
)
"""Names outside the standard library that count as harmless: classes, and helpers that rebuild pickled objects."""


PLAIN = frozenset({"object", "dict", "list", "tuple", "set", "frozenset", "int", "float", "str", "bytes"})
WITH_ITERATORS = frozenset({"builtins", "itertools", "functools"})


@dataclass(frozen=True)
class Global:
    """A function or class that a pickle names."""

    module: str
    name: str

    def __str__(self) -> str:
        return ascii(f"{self.module}.{self.name}")[1:-1]


def only_makes(function: Global) -> bool:
    """Whether a call only makes an object; outside the standard library this is judged by the name."""
    if function.module.partition(".")[0] in sys.stdlib_module_names or HARMLESS.fullmatch(str(function)):
        return bool(HARMLESS.fullmatch(str(function)))
    return bool(MAKES.fullmatch(function.name))


def is_plain(kind: Any) -> bool:
    """Whether this is a built-in class of plain values."""
    return isinstance(kind, Global) and kind.module == "builtins" and kind.name in PLAIN


def may_iterate(kind: Global) -> bool:
    """Whether instances may be iterators that call functions, such as `map`."""
    return kind.module in WITH_ITERATORS and not only_makes(kind)
