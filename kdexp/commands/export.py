"""The `kdexp-export` command: writes a trained network into one file, checks the file, and prints its cost."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from kdexp.deployment.formats import FORMATS
from kdexp.errors import first_line, listed
from kdexp.text.characters import one_line
from kdexp.text.console import print_error, printing
from kdexp.version import __version__

if TYPE_CHECKING:
    from kdexp.store.stored import StoredLearner

FORMAT_HELP = "safetensors: weights; torch_export: a graph for PyTorch; onnx: a graph for other runtimes (needs the extra onnx)"
FAILED, BAD_COMMAND, INTERRUPTED = 1, 2, 130


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        _refuse([f"{message} (kdexp-export --help)"])


def _refuse(sentences: Sequence[str], code: int = BAD_COMMAND) -> NoReturn:
    for sentence in sentences:
        print_error("kdexp-export", sentence)
    sys.exit(code)


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    made = _Parser("kdexp-export", description="Writes a trained network into one file and checks the file.")
    made.add_argument("--version", action="version", version=f"kdexp {__version__}")
    made.add_argument("run", metavar="RUN", type=Path, help="a run folder, or a learner's folder in the store")
    made.add_argument("--format", required=True, choices=FORMATS, help=FORMAT_HELP)
    made.add_argument("--role", default="distilled", help="distilled (default), baseline or teacher")
    made.add_argument(
        "--epoch", default="last", choices=("last", "best"), help="best: the epoch with the best validation accuracy"
    )
    made.add_argument(
        "--module", metavar="NAME", action="append", default=[], help="your module that defines the network's class"
    )
    made.add_argument("--output", metavar="FILE", type=Path, help="the file to write (default: RUN/student.SUFFIX)")
    made.add_argument("--force", action="store_true", help="replace the file if it exists")
    return made


@printing("kdexp-export")
def main(words: Sequence[str] | None = None) -> None:
    """The `kdexp-export` command.

    Exit codes: 1 the export failed, 2 refused, 3 the output could not be printed, 130 interrupted.
    """
    arguments = parser().parse_args(words)
    arguments.run = arguments.run.expanduser()
    output = destination(arguments)
    if found := list(problems(arguments, output)):
        _refuse(found)
    from kdexp.deployment.export import ExportFailed, describe, export

    try:
        stored = find(arguments)
        lines = export(describe(stored, arguments.epoch, arguments.module), FORMATS[arguments.format], output)
        print("\n".join(map(one_line, [heading(output, stored, arguments.epoch), *lines])))
    except ExportFailed as error:
        _refuse([str(error)], FAILED)
    except (OSError, ValueError) as error:
        _refuse([first_line(error)])
    except KeyboardInterrupt:
        _refuse(["interrupted; nothing was written"], INTERRUPTED)


def destination(arguments: argparse.Namespace) -> Path:
    """The file to write: `--output`, else a file in the run folder, or in the current folder for a learner of the store."""
    if arguments.output is not None:
        return arguments.output.expanduser()
    folder = arguments.run if (arguments.run / "table.json").is_file() else Path()
    name = "student" if arguments.role == "distilled" else arguments.role
    return folder / f"{name}{FORMATS[arguments.format].suffix}"


def problems(arguments: argparse.Namespace, output: Path) -> Iterator[str]:
    """Problems of the command that show without importing torch."""
    chosen = FORMATS[arguments.format]
    if not arguments.run.is_dir():
        yield f"no folder {arguments.run}; RUN is a folder in outputs/runs/, or a learner's folder in outputs/store/learner/"
    if missing := chosen.missing():
        yield f'--format {arguments.format} needs {listed(missing)}: pip install "kdexp[{arguments.format}]"'
    if output.suffix != chosen.suffix:
        yield f"--output {output}: the file's name must end in {chosen.suffix}"
    elif output.is_dir():
        yield f"{output} is a folder; choose a file with --output FILE"
    elif output.exists() and not arguments.force:
        yield f"{output} exists already; add --force to replace it, or choose another file with --output FILE"
    elif not os.access(output.parent, os.W_OK):
        what = "can't be written" if output.parent.is_dir() else "does not exist"
        yield f"the folder {output.parent} {what}; choose another one with --output FILE"


def find(arguments: argparse.Namespace) -> StoredLearner:
    """The learner to export; raises `OSError` or `ValueError` with a message for the user."""
    from kdexp.deployment.load import find_stored
    from kdexp.errors import UnknownRole

    try:
        return find_stored(arguments.run, arguments.role)
    except UnknownRole as error:
        raise ValueError(f"{error}" + "".join(f"; add --role {role}" for role in error.finished[-1:])) from error


def heading(output: Path, stored: StoredLearner, epoch: str) -> str:
    """One line about the exported network."""
    result = stored.result
    accuracy = result["test"][epoch]["top1"]
    return f"{output}: {result['model']} trained by {result['method']}, test accuracy {100 * accuracy:.2f} %"


if __name__ == "__main__":
    main()
