"""Streams that print any text and never raise, and a rich console that draws on them."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from rich.console import Console, ConsoleDimensions
from rich.text import Text

from kdexp.files import reason
from kdexp.text.characters import encodable, one_line, visible

UNPRINTED = 3
"""Exit code of a command that succeeded but could not print its output."""
NARROWEST, USUAL, WIDEST = 20, 80, 10_000
"""Columns of a terminal; a width below the narrowest is taken for an error, and replaced by the usual one."""


class Output(io.TextIOBase):
    """A standard stream that accepts any text and never raises.

    Control characters are printed as escapes, and characters that the encoding lacks as similar ones. After an error, such as
    a full disk or a closed pipe, `error` holds it and further text is dropped. There is no `fileno`, so that libraries which
    write to the file descriptor themselves do not colour their output.
    """

    encoding = "utf-8"

    def __init__(self, stream: TextIO | None):
        self._stream = stream  # None if the parent process closed it
        self.error: OSError | None = None
        self.raw = _Drawn(self)

    @property
    def true_encoding(self) -> str:
        """The encoding of the underlying stream."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        """Always False; see `raw.isatty`."""
        return False

    def write(self, text: str) -> int:
        """Prints a text; keeps a carriage return at its beginning, as progress bars have it."""
        start = "\r" if text.startswith("\r") else ""
        self.write_raw(start + visible(text.removeprefix("\r")))
        return len(text)

    def write_raw(self, text: str) -> None:
        """Prints a text, control characters included."""
        if self._stream is not None:
            try:
                self._stream.write(encodable(text, self.true_encoding))
            except OSError as error:
                self._end(error)

    def flush(self) -> None:
        """Flushes the underlying stream."""
        if self._stream is not None:
            try:
                self._stream.flush()
            except OSError as error:
                self._end(error)

    def on_terminal(self) -> bool:
        """Whether the underlying stream is a terminal."""
        return self._stream is not None and self._stream.isatty()

    def _end(self, error: OSError) -> None:
        """Drops all further text, and text that Python would flush at exit."""
        stream, self._stream, self.error = self._stream, None, error
        assert stream is not None
        with suppress(OSError):
            _open_nowhere(stream.fileno())


class _Drawn(io.TextIOBase):
    """Writes a console's drawing to an `Output` without escaping its control sequences."""

    encoding = "utf-8"  # the console must not replace characters itself

    def __init__(self, output: Output):
        self.output = output

    def write(self, text: str) -> int:
        self.output.write_raw(text)
        return len(text)

    def flush(self) -> None:
        self.output.flush()

    def isatty(self) -> bool:
        return self.output.on_terminal()


class Screen(Console):
    """A rich console on stdout or a file that prints text literally: no markup, no emoji, control characters escaped."""

    def __init__(self, file: TextIO | None = None, width: int | None = None):
        self._encoding = "utf-8"
        drawn: Any = file
        if file is None:
            output = sys.stdout if isinstance(sys.stdout, Output) else Output(sys.stdout)
            self._encoding, drawn = output.true_encoding, output.raw
        environment = _without_bad_sizes(os.environ)
        super().__init__(file=drawn, width=width, markup=False, emoji=False, highlight=False, _environ=environment)

    def render_str(self, text: str, **options: Any) -> Text:
        """The text in characters that the stream has, so that columns get the right width."""
        return super().render_str(encodable(visible(text), self._encoding), **options)

    @property
    def size(self) -> ConsoleDimensions:
        """Columns and lines, corrected where the environment gives unlikely numbers."""
        width, height = super().size
        return ConsoleDimensions(min(width, WIDEST) if width >= NARROWEST else USUAL, height)

    @size.setter
    def size(self, new_size: tuple[int, int]) -> None:
        self._width, self._height = new_size


def _without_bad_sizes(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without COLUMNS or LINES that are not numbers."""
    sizes = {name: environment.get(name, "") for name in ("COLUMNS", "LINES")}
    bad = {name for name, size in sizes.items() if not (size.isascii() and size.isdigit() and len(size) < 10)}
    return {name: value for name, value in environment.items() if name not in bad}


@contextmanager
def printing(command: str) -> Iterator[None]:
    """Makes stdout and stderr `Output`s while a command runs.

    A command that succeeds does so even if the reader of its pipe has gone. If stdout failed for another reason, such as a
    full disk, an error is printed on stderr and the exit code is `UNPRINTED`.
    """
    _hold_closed_descriptors()
    before, out = (sys.stdout, sys.stderr), Output(sys.stdout)
    sys.stdout, sys.stderr = out, Output(sys.stderr)
    stopped: SystemExit | None = None
    try:
        yield
    except SystemExit as stop:
        stopped = stop
    finally:
        out.flush()
        lost = out.error is not None and not isinstance(out.error, BrokenPipeError)
        if lost and out.error:
            print_error(command, f"stdout can't be written ({reason(out.error)}); nothing else was lost")
        sys.stderr.flush()
        sys.stdout, sys.stderr = before
    if lost and not (stopped and stopped.code):
        sys.exit(UNPRINTED)
    if stopped:
        raise stopped


def print_error(command: str, sentence: str) -> None:
    """Prints `COMMAND: SENTENCE` on stderr."""
    print(f"{command}: {one_line(sentence)}", file=sys.stderr)


def _hold_closed_descriptors() -> None:
    """Opens stdin, stdout and stderr where they are closed, so that no other file gets their numbers."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            _open_nowhere(number)


def _open_nowhere(number: int) -> None:
    """Redirects a file descriptor to the null device."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere != number:
        os.dup2(nowhere, number)
        os.close(nowhere)
