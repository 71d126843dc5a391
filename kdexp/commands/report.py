"""The `kdexp-report` command: the table of sweeps and runs, finished or not, rebuilt from their files. Needs no torch."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from rich.console import Console

from kdexp.commands.learner import expanded
from kdexp.errors import Unwritable
from kdexp.files import reason, write_whole
from kdexp.sweep.bibliography import bibliography
from kdexp.sweep.comparison import Comparison, fold
from kdexp.sweep.formats import FORMATS, formatted
from kdexp.sweep.origins import Origins
from kdexp.sweep.page import illustrate
from kdexp.sweep.pictures import available
from kdexp.sweep.read import NothingToReport, Sweep, read
from kdexp.sweep.remarks import missing
from kdexp.sweep.searched import search_of
from kdexp.sweep.table import show
from kdexp.sweep.tracked import track
from kdexp.sweep.write import write
from kdexp.text.characters import one_line, visible
from kdexp.text.console import Screen, print_error, printing
from kdexp.version import __version__

BAD_REQUEST, INCOMPLETE = 2, 3


EPILOG = """\
examples:
  kdexp-report outputs/sweeps/SWEEP                            the table again, and its page and pictures
  kdexp-report outputs/sweeps/A outputs/runs/B                 one table of several
  kdexp-report outputs/sweeps/SWEEP --format latex > table.tex
  kdexp-report outputs/sweeps/SWEEP --bibtex > references.bib
  kdexp-report outputs/sweeps/SWEEP --pictures pdf             for a paper, one and two columns wide

kdexp --help columns explains every column."""


@printing("kdexp-report")
def main() -> None:
    """The `kdexp-report` command.

    Exit codes: 2 refused, 3 jobs or results are missing from the table, files are damaged, or the output could not be printed.
    """
    arguments = _parser().parse_args()
    only_folder = arguments.folders[0] if len(arguments.folders) == 1 else None
    output = arguments.output or only_folder
    try:
        _check(arguments, output)
        only_text = arguments.format or arguments.bibtex
        code = print_text(arguments) if only_text else print_report(arguments.folders, output, begin=False)
        if arguments.pictures and output:
            write_pdfs(arguments.folders, Path(output))
        sys.exit(code)
    except NothingToReport as nothing:
        for sentence in str(nothing).splitlines():
            print_error("kdexp-report", sentence)
    except Unwritable as error:
        print_error("kdexp-report", f"{error}; choose another folder with --output FOLDER")
    sys.exit(BAD_REQUEST)


def _check(arguments: argparse.Namespace, output: Path | None) -> None:
    """Raises `NothingToReport` for options that can't be followed, and for trials of a search."""
    why = "trials of a search are compared on validation images alone, in its search.csv; kdexp-report"
    searches = {str(folder): search for folder in arguments.folders if (search := search_of(Path(folder)))}
    if searches:
        lines = [f"{name!r}: {why} {shlex.quote(str(one))} shows the final training" for name, one in searches.items()]
        raise NothingToReport("\n".join(lines))
    if arguments.pictures and not available():
        raise NothingToReport('--pictures pdf needs matplotlib: pip install "kdexp[plot]"')
    if arguments.pictures and output is None:
        raise NothingToReport("--pictures pdf of several folders needs a folder to write into: --output FOLDER")


def print_text(arguments: argparse.Namespace) -> int:
    """Prints only the requested text on stdout, so that it can be redirected, and what is missing on stderr; writes nothing."""
    sweep = read(arguments.folders)
    comparison, origins = fold(sweep), Origins(sweep)
    print(bibliography(comparison, origins) if arguments.bibtex else formatted(comparison, origins, arguments.format), end="")
    for line in missing(comparison):
        print_error("kdexp-report", line.strip())
    return exit_code(comparison)


def write_pdfs(folders: Sequence[str | Path], output: Path) -> None:
    """Writes the pictures for a paper next to the others; raises `Unwritable`."""
    from kdexp.sweep.pictures.paper import draw_pdfs

    sweep, folder, written = read(folders), output / "pictures", list[str]()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in draw_pdfs(fold(sweep), Origins(sweep)):
            write_whole(folder / name, content)
            written.append(name)
    except OSError as error:
        raise Unwritable(f"{str(folder)!r} can't be written: {reason(error)}") from error
    print(f"{len(written)} PDF files are in {one_line(folder)}", file=sys.stderr)


def print_report(
    folders: Sequence[str | Path], output: str | Path | None, console: Console | None = None, *, begin: bool = True
) -> int:
    """Writes the table of some folders into `output` and prints it; returns the exit code.

    A sweep's own table also goes to its trackers; unless `begin`, only to those that have an earlier one.

    Raises `NothingToReport`; and `Unwritable`, after printing the table.
    """
    console = console or Screen()
    sweep = read(folders)
    comparison = fold(sweep)
    failure, lines = None, ["Nothing was written; --output FOLDER writes this table of several folders."]
    if output is not None:
        try:
            lines = write_report(comparison, sweep, Path(output))
        except OSError as error:
            failure = Unwritable(f"{str(output)!r} can't be written: {reason(error)}")
    show(comparison, console)
    if failure:
        raise failure
    for line in lines:
        console.print(one_line(line), markup=False, soft_wrap=True)
    if output is not None and [Path(folder) for folder in folders] == [Path(output)]:
        track(comparison, sweep, Path(output), _Reporter(console, Path(output)), begin=begin)
    return exit_code(comparison)


class _Reporter:
    """Prints what trackers say, and keeps their tracebacks in the log of a sweep's folder."""

    def __init__(self, console: Console, folder: Path):
        self._console, self._log = console, folder / "log.txt"

    def remark(self, sentence: str) -> None:
        """Prints a sentence."""
        self._console.print(one_line(sentence), markup=False, soft_wrap=True)

    def warn(self, sentence: str) -> None:
        """Prints a warning."""
        self.remark(f"warning: {sentence}")

    def note(self, text: str) -> None:
        """Adds a text to the log, if the disk allows it."""
        with suppress(OSError), self._log.open("a", encoding="utf-8") as log:
            log.write(f"{visible(text)}\n")


def exit_code(comparison: Comparison) -> int:
    """0 if every job is in the table and no file is damaged, else 3."""
    return 0 if comparison.complete else INCOMPLETE


def write_report(comparison: Comparison, sweep: Sweep, folder: Path) -> list[str]:
    """Writes the table, its pictures and its page into a folder; returns lines about them. Raises `OSError`."""
    write(comparison, folder)
    return [f"sweep.csv, sweep.json and sweep.md are in {folder}", illustrate(comparison, sweep, folder)]


def _parser() -> argparse.ArgumentParser:
    description = "One table of sweeps and runs: averages over seeds, and differences to the baseline with their intervals."
    parser = argparse.ArgumentParser(
        "kdexp-report",
        description=description,
        epilog=EPILOG,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"kdexp {__version__}")
    parser.add_argument(
        "folders",
        nargs="+",
        metavar="DIR",
        type=expanded,
        help="the folder of a sweep or a run, or a folder that contains some; several are merged into one table",
    )
    parser.add_argument(
        "--output", metavar="FOLDER", type=expanded, help="the folder to write into (default: DIR, if only one is given)"
    )
    printed = parser.add_mutually_exclusive_group()
    printed.add_argument("--format", choices=FORMATS, help="only print the table, in this format, and write nothing")
    printed.add_argument(
        "--bibtex",
        action="store_true",
        help="only print what to cite: BibTeX entries of the table's methods, networks and data",
    )
    parser.add_argument("--pictures", choices=("pdf",), help="also write the pictures as PDF, 3.3 and 6.9 inches wide")
    return parser


if __name__ == "__main__":
    main()
