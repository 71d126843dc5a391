"""Which part of a folder layout is used for training, validation and testing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kdexp.data.layout import Layout
from kdexp.errors import a_few
from kdexp.files import shown


@dataclass(frozen=True)
class Allocation:
    """The class folders used for each purpose. Without one for validation or testing, images are drawn from `train`."""

    train: Path
    validation: Path | None = None
    test: Path | None = None
    problem: str = ""
    """Why the folder of test images can't be used."""
    notes: tuple[str, ...] = ()
    """Sentences about folders that are used in an unexpected way, or not at all."""


def allocate(root: Path, layout: Layout, *, draws_test: bool, validates: bool) -> Allocation:
    """Assigns the parts. `draws_test` and `validates` say whether fractions draw test images and ask for validation images.

    `val/` is used for validation, or for testing if there are no other test images.
    """
    if not layout.parts:
        return Allocation(root)
    train, val, test = (layout.parts.get(name) for name in ("train", "val", "test"))
    assert train is not None
    notes = list(_surprises(root, layout))
    has_val, has_test = val is not None and val.labelled, test is not None and test.labelled
    why = test.without_classes() if test is not None else "no test/ found"
    if val is not None and has_val and not has_test and not draws_test:
        drawn = f"; validation images are drawn from {train.name}" if validates else ""
        return Allocation(train.folder, test=val.folder, notes=(*notes, f"{why}: {val.name} is used for testing{drawn}"))
    if test is not None and not has_test:
        if not draws_test:
            return Allocation(train.folder, problem=f"{why}; dataset.test_fraction=0.2 draws test images from {train.name}")
        notes.append(f"{why}, and is not used")
    if val is not None and has_val:
        use = "used for validation (dataset.val_fraction is ignored)" if validates else "not used (dataset.val_fraction=0)"
        notes.append(f"{val.name} is {use}")
    validation = val.folder if val is not None and has_val and validates else None
    return Allocation(train.folder, validation, test.folder if test is not None and has_test else None, notes=tuple(notes))


def _surprises(root: Path, layout: Layout) -> Iterator[str]:
    """Yields sentences about folders that are not used, or that lie deeper than expected."""
    if layout.unused:
        yield f"not used: {a_few([f'{shown(name)}/' for name in layout.unused], 3)}"
    for name, part in layout.parts.items():
        if part.labelled and part.folder.parent != root:
            yield f"reading {part.name}"
        elif name == "val" and not part.labelled:
            yield f"{part.without_classes()}, and is not used"
