"""`kdexp-report`: the table of finished and unfinished sweeps and runs, rebuilt from what lies on disk. Needs no torch."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from kdexp.files import reason
from kdexp.sweep.comparison import Comparison, fold
from kdexp.sweep.files import write
from kdexp.sweep.page import illustrate
from kdexp.sweep.reading import NothingToReport, Sweep, read
from kdexp.sweep.table import show

BAD_REQUEST, INCOMPLETE = 2, 3


def main() -> None:
    """The `kdexp-report` command.

    Exit codes: 2 a request that can't be met, 3 jobs or results are missing from the table, or files are damaged.
    """
    asked = _parser().parse_args()
    alone = asked.folders[0] if len(asked.folders) == 1 else None
    try:
        sys.exit(tell(asked.folders, asked.output or alone))
    except NothingToReport as nothing:
        for sentence in str(nothing).splitlines():
            print(f"kdexp-report: {sentence}", file=sys.stderr)
        sys.exit(BAD_REQUEST)


def tell(folders: Sequence[str | Path], output: str | Path | None, console: Console | None = None) -> int:
    """Prints the table of some folders and writes it into `output`; returns an exit code. Raises `NothingToReport`."""
    console = console or Console(highlight=False, markup=False)
    sweep = read(folders)
    comparison = fold(sweep)
    show(comparison, console)
    return keep(comparison, sweep, output, console) or exit_code(comparison)


def exit_code(comparison: Comparison) -> int:
    """3 unless every job is in the table and no file is damaged."""
    return 0 if comparison.complete else INCOMPLETE


def keep(comparison: Comparison, sweep: Sweep, output: str | Path | None, console: Console) -> int:
    """Writes the table's files, its pictures and its page into a folder; returns an exit code."""
    if output is None:
        console.print("Nothing was written: --output FOLDER keeps this table of several folders.")
        return 0
    folder = Path(output)
    try:
        write(comparison, folder)
        told = illustrate(comparison, sweep, folder)
    except OSError as error:
        print(
            f"kdexp-report: {str(folder)!r} can't be written: {reason(error)}; --output FOLDER names another", file=sys.stderr
        )
        return BAD_REQUEST
    console.print(f"sweep.csv, sweep.json and sweep.md are in {folder}", markup=False, soft_wrap=True)
    console.print(told, markup=False, highlight=False)
    return 0


def _parser() -> argparse.ArgumentParser:
    told = "One table of sweeps and runs: seeds folded, differences to the baseline with their intervals."
    parser = argparse.ArgumentParser("kdexp-report", description=told, allow_abbrev=False)
    parser.add_argument("folders", nargs="+", metavar="DIR", help="a sweep, a run, or a folder of such; several are merged")
    parser.add_argument("--output", metavar="FOLDER", help="where the files go (default: DIR, if there is one)")
    return parser


if __name__ == "__main__":
    main()
