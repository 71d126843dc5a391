"""Finds the weights of one network among all tensors of a file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from kdexp.errors import a_few
from kdexp.network.checkpoint.entries import Entry
from kdexp.network.checkpoint.heads import within
from kdexp.network.checkpoint.names import FAMILIES

WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Names that data-parallel training, torch.compile and others insert when they wrap a network or a part of it."""

COUNT = "num_batches_tracked"
"""A buffer of batch norm that files from before torch 0.4.1 lack, and that no forward pass here uses."""

EXTRA = re.compile(
    r"(.*\.)?(total_ops|total_params)|(.*[._])?(aux\w*|criterion\w*|loss(es)?|loss_fn|metrics?|teacher)([._].*)?", re.I
)
"""Names of tensors that are not part of the network: profilers' counts, a loss, an auxiliary classifier, a teacher."""

USUAL = ("model", "state_dict")
"""Keys under which weights are searched if they are not read for a particular network."""

EMA = frozenset({"ema"})
STUDENT, TEACHER = frozenset({"student", "stu", "s"}), frozenset({"teacher", "tea", "t"})


class Ambiguous(ValueError):
    """Raised if several parts of a file fit equally well; `first` is a prefix that chooses the first, if there is one."""

    def __init__(self, prefixes: list[str], first: str = ""):
        super().__init__(a_few([repr(prefix.removesuffix(".")) for prefix in prefixes]))
        self.first = first


@dataclass
class Part:
    """Tensors of a file whose names after `prefix` are those of a network.

    `source` says whose names were translated, if any; `unwrapped` that `WRAPPERS` were removed from the names.
    """

    prefix: str = ""
    source: str = ""
    unwrapped: bool = False
    found: dict[str, Entry] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    """The file's name for each tensor, after the prefix."""
    twice: bool = False
    """Whether the file has a tensor under two of its possible names."""
    unread: frozenset[str] = frozenset()
    """Modules, by the file's names after the prefix, whose tensors are not wanted."""

    def left(self, entries: Sequence[Entry]) -> list[Entry]:
        """Returns the other tensors with this prefix, in the same mappings of the file."""
        around = {entry.around for entry in self.found.values()} or {_largest(entries)}
        taken = {id(entry) for entry in self.found.values()}
        others = [entry for entry in entries if entry.around in around and id(entry) not in taken]
        names = {id(entry): ".".join(_words(entry, self.unwrapped)) for entry in others}
        unwanted = [f"{self.prefix}{module}" for module in self.unread]
        return [
            entry for entry in others if names[id(entry)].startswith(self.prefix) and not within(names[id(entry)], unwanted)
        ]

    def fits(self, entries: Sequence[Entry]) -> bool:
        """Whether no tensor is left over that might belong to a larger network."""
        return not self.twice and all(is_extra(entry) for entry in self.left(entries))

    def misshapen(self, own: Mapping[str, Tensor]) -> int:
        """Counts the tensors whose shape differs from the network's."""
        return sum(entry.tensor.shape != own[name].shape for name, entry in self.found.items())

    def order(self, own: Mapping[str, Tensor]) -> tuple:
        """Returns a sort key that puts the best part first: fewest wrong shapes, then the fewest steps to match names."""
        nested = any(entry.around for entry in self.found.values())
        return self.misshapen(own), bool(self.source), self.unwrapped, nested, bool(self.prefix)

    def within(self, words: frozenset[str]) -> bool:
        """Whether one of the words is part of a name in the prefix, as 'ema' is of 'state_dict_ema'."""
        return not words.isdisjoint(re.split(r"[._]", self.prefix.lower()))


def choose(entries: Sequence[Entry], own: Mapping[str, Tensor], role: str = "", fresh: Sequence[str] = ()) -> Part:
    """Returns the part that fits a network with the tensors `own`, else the closest one; raises `Ambiguous`.

    If both a teacher and a student fit, `role` decides: "teacher" or a role that begins with "teacher.", anything else for the
    student. Tensors of the network's modules `fresh` are neither needed nor read.
    """
    required = {name for name in own if not is_count(name) and not within(name, fresh)}
    closest, fitting = [Part()], []
    for reading in _readings(own, fresh):
        parts = _parts(entries, reading)
        fitting += [part for part in parts if required <= part.found.keys() and part.fits(entries)]
        most = max((len(part.found) for part in parts), default=0)
        if most > len(closest[0].found):
            closest = [part for part in parts if len(part.found) == most]
        if any(part.misshapen(own) == 0 for part in fitting):
            break
    if fitting:
        first = min(part.order(own) for part in fitting)
        return _preferred([part for part in fitting if part.order(own) == first], role)
    return _preferred(closest, role) if 2 * len(closest[0].found) >= len(required) else Part()


def prefixes_of(entries: Sequence[Entry], own: Mapping[str, Tensor]) -> list[str]:
    """Returns the prefixes after which a file has most names of a network, those with the most tensors first."""
    parts = [part for reading in _readings(own) if not reading.unwrapped for part in _parts(entries, reading)]
    alike = sorted((part for part in parts if 2 * len(part.found) >= len(own)), key=lambda part: -len(part.found))
    return list(dict.fromkeys(part.prefix for part in alike))


def only_state_dict(entries: Sequence[Entry]) -> dict[str, Entry]:
    """Returns the tensors of a file that holds the weights of one network; raises `Ambiguous`."""
    mappings = dict.fromkeys(entry.around for entry in entries)
    chosen = () if () in mappings else next((found for found in mappings if set(found) <= set(USUAL)), None)
    if chosen is None and len(mappings) > 1:
        raise Ambiguous([".".join(around) for around in mappings])
    chosen = next(iter(mappings)) if chosen is None else chosen
    found = {entry.name: entry for entry in entries if entry.around == chosen}
    wrapped = all(name.startswith("module.") for name in found)
    return {name.removeprefix("module.") if wrapped else name: entry for name, entry in found.items()}


def _preferred(parts: list[Part], role: str) -> Part:
    """Returns the part with averaged weights, or for the role, if there are several; raises `Ambiguous` if these differ."""
    words = (TEACHER if role.partition(".")[0] == "teacher" else STUDENT) if role else frozenset()
    for preferred in (EMA, words):
        parts = [part for part in parts if part.within(preferred)] or parts
    first = {name: entry.tensor for name, entry in parts[0].found.items()}
    if any({name: entry.tensor for name, entry in part.found.items()} != first for part in parts):
        raise Ambiguous([part.prefix for part in parts], next((part.prefix for part in parts if not part.unwrapped), ""))
    return parts[0]


class _Reading(NamedTuple):
    """A way to read names: the network's tensor for each name in the file, whose names these are, whether unwrapped."""

    names: dict[str, str]
    source: str
    unwrapped: bool
    unread: frozenset[str]
    """Modules, by the file's names, whose tensors are not wanted."""


def _readings(own: Mapping[str, Tensor], fresh: Sequence[str] = ()) -> Iterator[_Reading]:
    translations = [({name: name for name in own}, ""), *((family.names(own), family.source) for family in FAMILIES)]
    for names, source in translations:
        if names:
            wanted = {theirs: ours for theirs, ours in names.items() if not within(ours, fresh)}
            unread = {theirs.rpartition(".")[0] for theirs in names if theirs not in wanted} | set(() if source else fresh)
            yield from (_Reading(wanted, source, unwrapped, frozenset(unread)) for unwrapped in (False, True))


def _parts(entries: Sequence[Entry], reading: _Reading) -> list[Part]:
    """Returns tensors with the reading's names, anywhere in the file, grouped by prefix."""
    parts: dict[str, Part] = {}
    for entry in entries:
        words = _words(entry, reading.unwrapped)
        for start in range(len(words)):
            if (name := ".".join(words[start:])) in reading.names:
                prefix, own = "".join(f"{word}." for word in words[:start]), reading.names[name]
                part = parts.setdefault(prefix, Part(prefix, reading.source, reading.unwrapped, unread=reading.unread))
                part.twice |= own in part.found
                part.found[own], part.names[own] = entry, name
    return list(parts.values())


def _largest(entries: Sequence[Entry]) -> tuple[str, ...]:
    """Returns the keys of the mapping with the most tensors."""
    counts: dict[tuple[str, ...], int] = {}
    for entry in entries:
        counts[entry.around] = counts.get(entry.around, 0) + 1
    return max(counts, key=lambda around: counts[around], default=())


def _words(entry: Entry, unwrapped: bool) -> list[str]:
    words = entry.path.split(".")
    return [word for word in words if word not in WRAPPERS] if unwrapped else words


def is_count(name: str) -> bool:
    """Whether this is the name of a batch counter, which files may lack."""
    return name.rpartition(".")[2] == COUNT


def is_extra(entry: Entry) -> bool:
    """Whether a tensor is not part of the network, judged by its name."""
    return bool(EXTRA.fullmatch(entry.name))
