"""Takes the part of a file whose names begin with a prefix, such as `module.encoder_q.` of weights by MoCo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile

from torch import Tensor

from kdexp.errors import UnknownPrefix, a_few, did_you_mean
from kdexp.network.checkpoint.entries import Entry
from kdexp.network.checkpoint.weights import prefixes_of


def with_dot(prefix: str) -> str:
    """Returns the prefix with exactly one dot at its end."""
    return f"{prefix.rstrip('.')}."


def under(entries: Sequence[Entry], prefix: str, own: Mapping[str, Tensor]) -> list[Entry]:
    """Returns the tensors whose names begin with the prefix, without it.

    It may be part of the name alone, or begin with the keys of the mappings around it: `state_dict.module.encoder_q.`. Raises
    `UnknownPrefix` with those that precede names of the network, whose tensors are `own`, or else with all.
    """
    prefix = with_dot(prefix)
    found = [Entry(e.around, e.name.removeprefix(prefix), e.tensor, e.of_module) for e in entries if e.name.startswith(prefix)]
    found = found or [
        Entry((), e.path.removeprefix(prefix), e.tensor, e.of_module) for e in entries if e.path.startswith(prefix)
    ]
    if found:
        return found
    known = [name for name in prefixes_of(entries, own) if name] or _first_branches(entries)
    raise UnknownPrefix(
        f"no tensor's name begins with {prefix!r};{did_you_mean(prefix, known)} prefixes in the file: {a_few(known) or 'none'}"
    )


def longer(entries: Sequence[Entry], prefix: str, own: Mapping[str, Tensor]) -> UnknownPrefix:
    """Returns the refusal of a prefix under which a file has several networks, with the prefixes of each."""
    known = [name for name in prefixes_of(entries, own) if name.startswith(prefix) or f".{prefix}" in name]
    return UnknownPrefix(f"several networks' tensors begin with {with_dot(prefix)!r}; choose one: {a_few(known)}")


def _first_branches(entries: Sequence[Entry]) -> list[str]:
    """Returns the prefixes that names have up to the word in which they first differ."""
    paths = [entry.path.split(".") for entry in entries]
    depth = sum(1 for _ in takewhile(lambda words: len(set(words)) == 1, zip(*paths, strict=False)))
    return list(dict.fromkeys(f"{'.'.join(words[: depth + 1])}." for words in paths if len(words) > depth + 1))
