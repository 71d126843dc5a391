"""The class folders under a root that are used for training, validation and testing, and their problems."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from kdexp.data.allocation import allocate
from kdexp.data.class_folders import ClassFolders, in_order, note_ignored
from kdexp.data.layout import LOOKED_FOR, better_above, find_layout, override, part_name
from kdexp.data.listing import entries, is_leftover
from kdexp.errors import a_few


class UsedFolders:
    """The folders `train`, `validation` and `test`. If one of the last two is None, its images are drawn from `train`."""

    def __init__(self, root: Path, test_fraction: float | None, val_fraction: float):
        self.root, self.test_fraction = root, test_fraction
        self.layout = find_layout(root)
        used = allocate(root, self.layout, draws_test=test_fraction is not None, validates=val_fraction > 0)
        self.allocation = used
        self.train = ClassFolders(used.train)
        self.validation = ClassFolders(used.validation) if used.validation else None
        self.test = ClassFolders(used.test) if used.test else None
        self.classes = [] if self.layout.problem else self.train.classes

    def __iter__(self) -> Iterator[ClassFolders]:
        """Iterates over existing parts in the order training, validation, test."""
        return (part for part in (self.train, self.validation, self.test) if part is not None)

    def problems(self) -> Iterator[str]:
        """Yields why images can't be read, judged without opening them."""
        if self.layout.problem or not self.classes:
            yield self.layout.problem or "; ".join(self.train.problems()) or f"no class folders; {LOOKED_FOR}"
            return
        yield from self.train.problems()
        yield from self._test_problems()
        for part in (self.validation, self.test):
            if part is not None:
                yield from self._differing_classes(part)
                yield from part.problems()
        if len(self.classes) == 1:
            yield f"only one class ({self.classes[0]}), there must be at least two"

    def _test_problems(self) -> Iterator[str]:
        """Yields a problem unless test images come from exactly one source."""
        if self.allocation.problem:
            yield self.allocation.problem
        elif self.test is None and self.test_fraction is None:
            what = "no test/ found" if self.layout.parts else f"no train/ and test/ found, only classes ({a_few(self.classes)})"
            above = better_above(self.root)
            other = f", or use {override(above)}" if above else ""
            yield f"{what}; add dataset.test_fraction=0.2 to hold out 20 % for testing{other}"
        elif self.test is not None and self.test_fraction is not None:
            unused = f"which dataset.test_fraction={self.test_fraction:g} would leave unused, set it to null"
            yield f"has its own {self.test.name}, {unused}"

    def _differing_classes(self, part: ClassFolders) -> Iterator[str]:
        """Yields how the classes of another part differ from those of the training images."""
        ours, theirs = set(self.classes) - set(part.classes), set(part.classes) - set(self.classes)
        if differing := [
            f"only in {here.name}: {a_few(in_order(list(names)))}"
            for here, names in ((self.train, ours), (part, theirs))
            if names
        ]:
            by_letters = {_letters(name): name for name in theirs}
            alike = [(name, by_letters[_letters(name)]) for name in in_order(list(ours)) if _letters(name) in by_letters]
            hint = "".join(f"; write {ours!r} and {other!r} alike" for ours, other in alike[:3])
            yield f"{self.train.name} and {part.name} have different classes ({', '.join(differing)}){hint}"

    def notes(self) -> Iterator[str]:
        """Yields sentences about folders that are read in a way that users may not expect."""
        yield from self.allocation.notes
        if not self.layout.parts and (named := [f"{name}/" for name in self.classes if part_name(name)]):
            yield f"{a_few(named)} is read as a class like the others"
        if self.classes != sorted(self.classes):
            yield "classes are numbered as numbers (2 before 10), not as text as in torchvision's ImageFolder"
        for part in self:
            yield from part.notes()
        yield from note_ignored([path for part in self for path in part.ignored] + self._left_in_root())

    def _left_in_root(self) -> list[str]:
        """Returns leftovers of operating systems next to the parts, such as `__MACOSX`."""
        return [entry.path for entry in entries(self.root) if is_leftover(entry.name)] if self.layout.parts else []


def _letters(name: str) -> str:
    """Reduces a name to lower-case letters and digits, without what is easily mistyped."""
    return "".join(letter for letter in name.casefold() if letter.isalnum())
