"""Findings of decoding: files that can't be read, and messages of image libraries about damaged ones."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO, NamedTuple

from kdexp.errors import DataUnavailable, a_few
from kdexp.files import shown


class Finding(NamedTuple):
    """A problem with one file (`path` is empty if it is not known which); `lost` means that it could not be read."""

    path: str
    what: str
    lost: bool = False

    def __str__(self) -> str:
        return f"{shown(self.path)} ({self.what})" if self.path else self.what


def refuse(found: Sequence[Finding]) -> None:
    """Raises `DataUnavailable` for the files that can't be read, if there are any."""
    if lost := [str(finding) for finding in found if finding.lost]:
        count, them = ("1 image", "it") if len(lost) == 1 else (f"{len(lost)} images", "them")
        raise DataUnavailable(f"{count} can't be read: {a_few(lost)}, repair or remove {them}")


def damaged(found: Sequence[Finding]) -> list[str]:
    """Returns sentences about images that were read although libraries warned of damage."""
    by_path = {finding.path: str(finding) for finding in found if finding.path and not finding.lost}
    unplaced = Counter(finding.what for finding in found if not finding.path)
    sentences = []
    if by_path:
        count = "1 image was" if len(by_path) == 1 else f"{len(by_path):,} images were"
        sentences.append(f"{count} read, but may be damaged: {a_few(list(by_path.values()), 3)}")
    if unplaced:
        lines = a_few([*unplaced], 2)
        sentences.append(f"some images may be damaged, the image library printed {unplaced.total():,} lines: {lines}")
    return sentences


_current = threading.local()
"""`path` is the file that this thread reads, `findings` the findings about it."""


@contextmanager
def warnings_of(path: str) -> Iterator[list[Finding]]:
    """Collects Python warnings of this thread as findings about that file; works inside `library_messages`."""
    _current.path, _current.findings = path, []
    try:
        yield _current.findings
    finally:
        _current.findings = None


def _record_warning(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    findings = getattr(_current, "findings", None)
    if findings is not None and category is UserWarning and "Transparency expressed in bytes" not in str(message):
        what = shown(" ".join(str(message).split()))
        if all(finding.what != what for finding in findings):
            findings.append(Finding(_current.path, what))


@contextmanager
def library_messages() -> Iterator[list[Finding]]:
    """Silences image libraries in all threads; the list holds afterwards what they wrote to standard error.

    Python warnings go to `warnings_of`. Warnings about size and transparency are dropped: Pillow's own limit refuses images
    that are too large, and transparency is composited on white.
    """
    found: list[Finding] = []
    with warnings.catch_warnings(), _standard_error_into(found):
        warnings.simplefilter("always")
        warnings.showwarning = _record_warning
        yield found


@contextmanager
def _standard_error_into(found: list[Finding]) -> Iterator[None]:
    """Captures what C code, such as libtiff, writes to file descriptor 2."""
    try:
        real = os.dup(2)
    except OSError:  # there is no standard error
        yield
        return
    with _temporary_file() as file:
        _flush()
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            _flush()
            os.dup2(real, 2)
            os.close(real)
            file.seek(0)
            lines = file.read().decode(errors="replace").splitlines()
            found += [Finding("", shown(line.strip().rstrip("."))) for line in lines if line.strip()]


def _temporary_file() -> IO[bytes]:
    """Opens a temporary file, or the null device on a full disk."""
    try:
        return tempfile.TemporaryFile()
    except OSError:
        return open(os.devnull, "r+b")


def _flush() -> None:
    with suppress(OSError, ValueError, AttributeError):  # standard error may be closed
        sys.stderr.flush()
