"""Finds the folders of training, validation and test images under a root, in the usual ways to name and nest them."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

from kdexp.data.listing import contains_images, direct_images, entries, is_leftover, subfolders, suffix
from kdexp.errors import a_few, did_you_mean
from kdexp.files import reason, shown

PART = re.compile(
    r"(?:seg)?(?:(?P<train>train(?:ing)?)|(?P<val>val(?:id(?:ation)?)?)|(?P<test>test(?:ing)?))(?:set|data|images|imgs)?"
)
"""Matches a folder's name in lower case, reduced to letters and digits."""
BETWEEN = {"images", "image", "imgs", "img", "data", "dataset", "classes"}
"""Names of folders that may lie between a part and its classes."""
ARCHIVES = {".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar"}
LOOKED_FOR = "looked for train/CLASS/ and test/CLASS/, or CLASS/ with images"
DEPTH = 3
"""Levels of folders that are searched."""
MOST = 50
"""Sibling folders that are searched for a better root."""


@dataclass(frozen=True)
class Part:
    """The folder of training, validation or test images."""

    folder: Path
    """The folder that holds the class folders: the part itself, or a folder in it."""
    name: str
    """That folder relative to the root, as messages name it."""
    labelled: bool
    """Whether there are class folders."""

    def without_classes(self) -> str:
        """Returns a clause on the contents of a part without class folders."""
        there = a_few([*map(shown, direct_images(self.folder))], 2)
        return f"{self.name} holds images ({there}) but no class folders" if there else f"{self.name} holds no class folders"


@dataclass(frozen=True)
class Layout:
    """The parts found under a root by `train`, `val` and `test`; empty if the class folders are in the root itself."""

    parts: dict[str, Part] = field(default_factory=dict)
    problem: str = ""
    """Why nothing can be read."""
    unused: tuple[str, ...] = ()
    """Other folders with images next to the parts."""


def find_layout(root: Path) -> Layout:
    """Finds the parts; returns a layout with a `problem` instead of raising."""
    try:
        if problem := not_a_folder(root):
            return Layout(problem=problem)
        return _layout_of_parts(root) or Layout(problem=_without_classes(root))
    except OSError as error:
        return Layout(problem=f"{shown(error.filename or root)} can't be read ({reason(error)})")


def not_a_folder(root: Path) -> str:
    """Returns why a root is not a folder, with a suggestion; empty if it is one."""
    if root.is_dir():
        return ""
    if root.exists():
        packed = suffix(root.name) in ARCHIVES
        return f"is {'an archive: unpack it' if packed else 'not a folder'}; give a folder, dataset.root=FOLDER ({LOOKED_FOR})"
    return f"no such folder;{did_you_mean(root.name, subfolders(root.parent))}".removesuffix(";")


def holds_images(root: Path) -> bool:
    """Whether `find_layout` would find images in this folder."""
    try:
        return root.is_dir() and (_has_parts(root) or _class_count(root) > 1)
    except OSError:
        return False


def override(root: Path) -> str:
    """Returns `dataset.root=` with that folder, quoted for a shell."""
    text = shown(root)
    plain = re.fullmatch(r"[\w./~+@% -]+", text)
    escaped = text.replace('"', '\\"')
    return shlex.quote(f"dataset.root={text}" if plain else f'dataset.root="{escaped}"')


def better_above(root: Path) -> Path | None:
    """Returns a folder above that would do as a root, if this folder is a part, inside a part, or a class folder."""
    resolved, folder = root.resolve(), root
    for child in (resolved, resolved.parent):
        folder = folder / ".." if folder.name in ("", "..") else folder.parent
        if part_name(child.name) and _has_parts(folder):
            return folder
        if child == resolved and not part_name(resolved.parent.name) and _class_count(folder) > 1:
            return folder
    return None


def part_name(name: str) -> str | None:
    """Returns the part that a folder's name means, `train`, `val` or `test`, or None."""
    match = PART.fullmatch(re.sub(r"[\W_]+", "", name.casefold()))
    return match.lastgroup if match else None


def _named_parts(root: Path) -> dict[str, list[str]]:
    """Returns the names of subfolders that are named like parts, grouped by part."""
    found: dict[str, list[str]] = {}
    for name in subfolders(root):
        if part := part_name(name):
            found.setdefault(part, []).append(name)
    return found


def _layout_of_parts(root: Path) -> Layout | None:
    """Returns the layout of a root with folders named like parts; None if there are none, or if they are classes."""
    named = _named_parts(root)
    if not named or not _are_parts(root, named):
        return None
    if twice := [names for names in named.values() if len(names) > 1]:
        both = "; ".join(" and ".join(f"{shown(name)}/" for name in names) for names in twice)
        return Layout(problem=f"has {both}, which mean the same; remove or rename all but one")
    parts = {part: _part(root, names[0]) for part, names in named.items()}
    if "train" not in parts:
        return Layout(problem=f"has {' and '.join(part.name for part in parts.values())} but no train/; {LOOKED_FOR}")
    if not parts["train"].labelled:
        return Layout(problem=f"{parts['train'].without_classes()}; {LOOKED_FOR}, tables of labels are not read")
    others = [name for name in subfolders(root) if part_name(name) is None]
    return Layout(parts, unused=tuple(name for name in others[:MOST] if contains_images(root / name)))


def _are_parts(root: Path, named: dict[str, list[str]]) -> bool:
    """Whether folders named like parts are really parts, not classes.

    They are if two parts are named, if there are no other folders, or if one of them holds folders and no images.
    """
    folders = [root / name for names in named.values() for name in names]
    if len(named) > 1 or len(folders) == len(subfolders(root)):
        return True
    return any(subfolders(folder) and not direct_images(folder, 1) for folder in folders)


def _has_parts(root: Path) -> bool:
    layout = _layout_of_parts(root)
    return layout is not None and not layout.problem


def _part(root: Path, name: str) -> Part:
    """Builds the part for a folder, skipping single folders between it and its classes."""
    folder = root / name
    for _ in range(DEPTH):
        below = subfolders(folder)
        between = len(below) == 1 and (below[0].casefold() in BETWEEN or part_name(below[0]) is not None)
        if not between or direct_images(folder, 1):
            break
        folder = folder / below[0]
    return Part(folder, f"{shown(folder.relative_to(root))}/", bool(subfolders(folder)))


def _class_count(root: Path) -> int:
    """Counts the subfolders that hold images directly, among the first `MOST`."""
    return sum(bool(direct_images(root / name, 1)) for name in subfolders(root)[:MOST])


def _without_classes(root: Path) -> str:
    """Returns why a root without parts is not a folder of classes either, with a better root if there is one; else empty."""
    below = [root / name for name in subfolders(root)]
    if with_parts := [folder for folder in below[:MOST] if _has_parts(folder)]:
        return _use_deeper(with_parts)
    if any(direct_images(folder, 1) for folder in below):
        return ""
    if split := [shown(folder.name) for folder in below[:MOST] if len(_named_parts(folder)) > 1]:
        return f"{a_few(split, 3)}: train/ and test/ are inside the classes; move the images to train/CLASS/ and test/CLASS/"
    with_images = [folder for folder in below[:MOST] if contains_images(folder)]
    if len(with_images) == 1:
        usable = _usable(with_images)
        return _use_deeper(usable) if usable else ""
    return "" if with_images else _no_classes(root)


def _usable(folders: list[Path]) -> list[Path]:
    """Returns those of the folders that would do as a root, else the nearest such folders below them."""
    for _ in range(DEPTH):
        if found := [folder for folder in folders if holds_images(folder)]:
            return found
        folders = [folder / name for folder in folders for name in subfolders(folder)][:MOST]
    return []


def _use_deeper(roots: list[Path]) -> str:
    return f"the images are in a folder below; use {a_few([override(root) for root in roots], 3)} ({LOOKED_FOR})"


def _no_classes(root: Path) -> str:
    """Returns the problem with a root that holds no class folders, and a fix."""
    if images := direct_images(root):
        better = better_above(root)
        use = f"; use {override(better)}" if better else ""
        return f"holds images ({a_few([*map(shown, images)], 2)}) but no class folders{use} ({LOOKED_FOR})"
    archives = [shown(entry.name) for entry in entries(root) if suffix(entry.name) in ARCHIVES and not is_leftover(entry.name)]
    unpack = f"; unpack {a_few(archives, 3)} first" if archives else ""
    return f"holds no images; {LOOKED_FOR}{unpack}"
