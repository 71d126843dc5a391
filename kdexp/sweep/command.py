"""`kdexp-report`: the table of finished and unfinished sweeps and runs, rebuilt from what lies on disk. Needs no torch."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

from kdexp.files import reason
from kdexp.sweep.comparison import Comparison, fold
from kdexp.sweep.files import write
from kdexp.sweep.reading import NothingToReport, read
from kdexp.sweep.table import show

BAD_REQUEST, INCOMPLETE = 2, 3


def main() -> None:
    """The `kdexp-report` command. Exit codes: 2 a request that can't be met, 3 jobs or results are missing from the table."""
    asked = _parser().parse_args()
    try:
        comparison = fold(read(asked.folders))
    except NothingToReport as nothing:
        for sentence in str(nothing).splitlines():
            print(f"kdexp-report: {sentence}", file=sys.stderr)
        sys.exit(BAD_REQUEST)
    console = Console(highlight=False)
    show(comparison, console)
    sys.exit(keep(comparison, asked, console) or exit_code(comparison))


def exit_code(comparison: Comparison) -> int:
    """3 unless every job is in the table."""
    return 0 if comparison.complete else INCOMPLETE


def keep(comparison: Comparison, asked: argparse.Namespace, console: Console) -> int:
    """Writes the files into `--output`, else into the folder that was reported if there is but one; returns an exit code."""
    if asked.output is None and len(asked.folders) > 1:
        console.print("Nothing was written: --output FOLDER keeps this table of several folders.")
        return 0
    folder = Path(asked.output or asked.folders[0])
    try:
        write(comparison, folder)
    except OSError as error:
        print(
            f"kdexp-report: {str(folder)!r} can't be written: {reason(error)}; --output FOLDER names another", file=sys.stderr
        )
        return BAD_REQUEST
    console.print(f"sweep.csv, sweep.json and sweep.md are in {folder}", markup=False, soft_wrap=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    told = "One table of sweeps and runs: seeds folded, differences to the baseline with their intervals."
    parser = argparse.ArgumentParser("kdexp-report", description=told, allow_abbrev=False)
    parser.add_argument("folders", nargs="+", metavar="DIR", help="a sweep, a run, or a folder of such; several are merged")
    parser.add_argument("--output", metavar="FOLDER", help="where the files go (default: DIR, if there is one)")
    return parser


if __name__ == "__main__":
    main()
