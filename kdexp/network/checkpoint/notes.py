"""Describes to the user how the weights of a file were found, with a phrase for each step that was needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import takewhile

from kdexp.errors import a_few, listed
from kdexp.network.checkpoint.archive import Contents
from kdexp.network.checkpoint.entries import Entry
from kdexp.network.checkpoint.weights import EMA, WRAPPERS, Part, is_extra

PLAIN = frozenset({"builtins", "collections", "copyreg", "torch", "numpy", "datetime", "pathlib", "functools", "operator"})
"""Modules of Python and libraries whose objects are plain values, and are not mentioned if they are left unread."""

TRANSLATED = 2
"""Translated names that are shown, in addition to the last one."""


def notes_on(part: Part, entries: Sequence[Entry], contents: Contents) -> Iterator[str]:
    """Yields a note for each step by which the part was found among the file's `entries`."""
    unread = sorted(kind for kind in contents.kinds if kind.partition(".")[0] not in PLAIN)
    if any(kind.startswith("__torch__.") for kind in unread):
        yield "a TorchScript archive; its tensors were read, its code was not run"
    elif any(entry.of_module for entry in part.found.values()):
        yield "a network that was pickled whole; its tensors were read, its code was not run"
    elif unread:
        yield f"objects that are no tensors were left unread ({a_few(unread, 3)})"
    if part.within(EMA):
        yield "averaged weights (EMA) taken"
    yield from _location(part)
    if part.unwrapped:
        wrappers = {word for entry in part.found.values() for word in entry.path.split(".")} & WRAPPERS
        yield f"{listed(map(repr, sorted(wrappers)))} left out of the names"
    if part.source:
        yield f"names of {part.source} translated: {_translation(part)}"
    if left := list(dict.fromkeys(_left_out(part, entries))):
        yield f"left out, no part of the network: {a_few(left, 4)}"


def _location(part: Part) -> Iterator[str]:
    """Says in which mapping the weights were, and which prefix was dropped."""
    mappings = {entry.around for entry in part.found.values()}
    within = [word for word in min(mappings, default=()) if not (part.unwrapped and word in WRAPPERS)]
    words = part.prefix.split(".")[:-1]
    at = ".".join(within).split(".") if within else []
    if len(mappings) > 1 or words[: len(at)] != at:
        at = []
    if at:
        yield f"weights read from {'.'.join(at)!r}"
    if words[len(at) :]:
        yield f"{'.'.join(words[len(at) :]) + '.'!r} dropped from the names"


def _translation(part: Part) -> str:
    pairs = {part.names[own].rpartition(".")[0]: own.rpartition(".")[0] for own in part.found}
    shown = [f"{theirs} → {ours}" for theirs, ours in pairs.items()]
    return ", ".join(shown if len(shown) <= TRANSLATED + 1 else [*shown[:TRANSLATED], "…", shown[-1]])


def _left_out(part: Part, entries: Sequence[Entry]) -> Iterator[str]:
    """Yields names of tensors that were left out of the same mappings: profilers' counts by last name, others by first."""
    mappings = {entry.around for entry in part.found.values()}
    foreign = [entry for entry in part.left(entries) if not is_extra(entry)]  # perhaps parts of a larger network
    taken = {id(entry) for entry in (*part.found.values(), *foreign)}
    left_out = [entry.name for entry in entries if entry.around in mappings and id(entry) not in taken]
    everything = [entry.name.split(".") for entry in entries if entry.around in mappings]
    depth = sum(1 for _ in takewhile(lambda words: len(set(words)) == 1, zip(*everything, strict=False)))
    for name in left_out:
        last = name.rpartition(".")[2]
        yield last if last.startswith("total_") else ".".join(name.split(".")[: depth + 1])
