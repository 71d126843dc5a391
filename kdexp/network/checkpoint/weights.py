"""Finds the weights of one network among all tensors of a file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from kdexp.errors import a_few
from kdexp.network.checkpoint.entries import Entry
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
    """Raised if several parts of a file fit equally well."""

    def __init__(self, prefixes: list[str]):
        super().__init__(a_few([repr(prefix.removesuffix(".")) for prefix in prefixes]))


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

    def left(self, entries: Sequence[Entry]) -> list[Entry]:
        """Returns the other tensors with this prefix, in the same mappings of the file."""
        around = {entry.around for entry in self.found.values()} or {_largest(entries)}
        taken = {id(entry) for entry in self.found.values()}
        prefix = self.prefix.split(".")[:-1]
        others = [entry for entry in entries if entry.around in around and id(entry) not in taken]
        return [entry for entry in others if _words(entry, self.unwrapped)[: len(prefix)] == prefix]

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


def choose(entries: Sequence[Entry], own: Mapping[str, Tensor], role: str = "") -> Part:
    """Returns the part that fits a network with the tensors `own`, else the closest one; raises `Ambiguous`.

    If both a teacher and a student fit, `role` decides: "teacher" or a role that begins with "teacher.", anything else for the
    student.
    """
    required = {name for name in own if not is_count(name)}
    closest, fitting = Part(), []
    for names, source, unwrapped in _readings(own):
        for part in _parts(entries, names, source, unwrapped):
            if required <= part.found.keys() and part.fits(entries):
                fitting.append(part)
            closest = max(closest, part, key=lambda part: len(part.found))
        if any(part.misshapen(own) == 0 for part in fitting):
            break
    if fitting:
        first = min(part.order(own) for part in fitting)
        return _preferred([part for part in fitting if part.order(own) == first], role)
    return closest if 2 * len(closest.found) >= len(required) else Part()


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
        raise Ambiguous([part.prefix for part in parts])
    return parts[0]


def _readings(own: Mapping[str, Tensor]) -> Iterator[tuple[dict[str, str], str, bool]]:
    """Yields ways to read names: the network's tensor for each name in the file, whose names these are, whether unwrapped."""
    translations = [({name: name for name in own}, ""), *((family.names(own), family.source) for family in FAMILIES)]
    for names, source in translations:
        for unwrapped in (False, True):
            if names:
                yield names, source, unwrapped


def _parts(entries: Sequence[Entry], names: Mapping[str, str], source: str, unwrapped: bool) -> list[Part]:
    """Returns tensors with these names, anywhere in the file, grouped by prefix."""
    parts: dict[str, Part] = {}
    for entry in entries:
        words = _words(entry, unwrapped)
        for start in range(len(words)):
            if (name := ".".join(words[start:])) in names:
                prefix, own = "".join(f"{word}." for word in words[:start]), names[name]
                part = parts.setdefault(prefix, Part(prefix, source, unwrapped))
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
