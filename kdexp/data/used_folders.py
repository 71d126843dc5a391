"""The class folders under a root that are used for training, validation and testing: what they hold, and problems."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from kdexp.data.allocation import allocate
from kdexp.data.class_folders import ClassFolders, in_order, note_ignored
from kdexp.data.layout import LOOKED_FOR, better_above, find_layout, override, part_name
from kdexp.data.listing import entries, is_leftover
from kdexp.errors import a_few


class UsedFolders:
    """`train`, and `validation` and `test` or None: then these images are drawn from the training images, by the fractions."""

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
        """Those that are there, the training images first and the test images last."""
        return (part for part in (self.train, self.validation, self.test) if part is not None)

    def problems(self) -> Iterator[str]:
        """Why images can't be read, as far as names show it."""
        if self.layout.problem or not self.classes:
            yield self.layout.problem or "; ".join(self.train.problems()) or f"no class folders; {LOOKED_FOR}"
            return
        yield from self.train.problems()
        yield from self._source_of_test_images()
        for part in (self.validation, self.test):
            if part is not None:
                yield from self._differing_classes(part)
                yield from part.problems()
        if len(self.classes) == 1:
            yield f"only one class ({self.classes[0]}), there must be at least two"

    def _source_of_test_images(self) -> Iterator[str]:
        """Test images must come from somewhere, and from one place."""
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
        """How the classes of another part differ from those of the training images."""
        ours, theirs = set(self.classes) - set(part.classes), set(part.classes) - set(self.classes)
        if differing := [
            f"only in {here.name}: {a_few(in_order(list(names)))}"
            for here, names in ((self.train, ours), (part, theirs))
            if names
        ]:
            by_letters = {_letters(name): name for name in theirs}
            alike = [(name, by_letters[_letters(name)]) for name in in_order(list(ours)) if _letters(name) in by_letters]
            hint = "".join(f"; write {one!r} and {other!r} alike" for one, other in alike[:3])
            yield f"{self.train.name} and {part.name} have different classes ({', '.join(differing)}){hint}"

    def notes(self) -> Iterator[str]:
        """What a user may not expect of how the folders are read."""
        yield from self.allocation.notes
        if not self.layout.parts and (named := [f"{name}/" for name in self.classes if part_name(name)]):
            yield f"{a_few(named)} is read as a class like the others"
        if self.classes != sorted(self.classes):
            yield "classes are numbered as numbers (2 before 10), not as text as in torchvision's ImageFolder"
        for part in self:
            yield from part.notes()
        yield from note_ignored([path for part in self for path in part.ignored] + self._left_in_root())

    def _left_in_root(self) -> list[str]:
        """What systems left next to the parts, such as `__MACOSX`."""
        return [entry.path for entry in entries(self.root) if is_leftover(entry.name)] if self.layout.parts else []


def _letters(name: str) -> str:
    """A name without what is easily mistyped: case, spaces, hyphens."""
    return "".join(letter for letter in name.casefold() if letter.isalnum())
