"""The `kdexp-export` command: writes a trained network into one file, checks the file, and says what it costs."""

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

FORMAT_HELP = "safetensors: weights; torch_export: a graph for PyTorch; onnx: a graph for other runtimes (extra onnx)"
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
    made = _Parser("kdexp-export", description="Writes a trained network into one file, and checks that file.")
    made.add_argument("--version", action="version", version=f"kdexp {__version__}")
    made.add_argument("run", metavar="RUN", type=Path, help="a run folder, or a learner's folder in the store")
    made.add_argument("--format", required=True, choices=FORMATS, help=FORMAT_HELP)
    made.add_argument("--role", default="distilled", help="distilled (default), baseline or teacher")
    made.add_argument("--epoch", default="last", choices=("last", "best"), help="best is what validation data chose")
    made.add_argument("--module", metavar="NAME", action="append", default=[], help="a module of yours that its network is in")
    made.add_argument("--output", metavar="FILE", type=Path, help="instead of RUN/student.SUFFIX")
    made.add_argument("--force", action="store_true", help="replace the file if it is there")
    return made


@printing("kdexp-export")
def main(words: Sequence[str] | None = None) -> None:
    """Exit codes: 2 nothing there that can be exported as asked, 1 an export that failed, 3 not printed, 130 interrupted."""
    asked = parser().parse_args(words)
    asked.run = asked.run.expanduser()
    output = destination(asked)
    if found := list(complaints(asked, output)):
        _refuse(found)
    from kdexp.deployment.export import ExportFailed, describe, export

    try:
        stored = find(asked)
        lines = export(describe(stored, asked.epoch, asked.module), FORMATS[asked.format], output)
        print("\n".join(map(one_line, [heading(output, stored, asked.epoch), *lines])))
    except ExportFailed as error:
        _refuse([str(error)], FAILED)
    except (OSError, ValueError) as error:
        _refuse([first_line(error)])
    except KeyboardInterrupt:
        _refuse(["interrupted; nothing was written"], INTERRUPTED)


def destination(asked: argparse.Namespace) -> Path:
    """The file to write: in the run folder unless it is named; for a learner of the store, in the current one."""
    if asked.output is not None:
        return asked.output.expanduser()
    folder = asked.run if (asked.run / "table.json").is_file() else Path()
    name = "student" if asked.role == "distilled" else asked.role
    return folder / f"{name}{FORMATS[asked.format].suffix}"


def complaints(asked: argparse.Namespace, output: Path) -> Iterator[str]:
    """What can be said against the command before torch is imported."""
    chosen = FORMATS[asked.format]
    if not asked.run.is_dir():
        yield f"no folder {asked.run}; RUN is one under outputs/runs/, or a learner's under outputs/store/learner/"
    if missing := chosen.missing():
        yield f'--format {asked.format} needs {listed(missing)}: pip install "kdexp[{asked.format}]"'
    if output.suffix != chosen.suffix:
        yield f"--output {output}: the file's name must end in {chosen.suffix}"
    elif output.is_dir():
        yield f"{output} is a folder; --output FILE names another place"
    elif output.exists() and not asked.force:
        yield f"{output} is there already; add --force to replace it, or --output FILE"
    elif not os.access(output.parent, os.W_OK):
        what = "can't be written" if output.parent.is_dir() else "does not exist"
        yield f"the folder {output.parent} {what}; --output FILE names another place"


def find(asked: argparse.Namespace) -> StoredLearner:
    """The learner to export; raises `OSError` or `ValueError` with a sentence."""
    from kdexp.deployment.load import find_stored
    from kdexp.errors import UnknownRole

    try:
        return find_stored(asked.run, asked.role)
    except UnknownRole as error:
        raise ValueError(f"{error}" + "".join(f"; add --role {role}" for role in error.there[-1:])) from error


def heading(output: Path, stored: StoredLearner, epoch: str) -> str:
    """What was written, in one line."""
    result = stored.result
    accuracy = result["test"][epoch]["top1"]
    return f"{output}: {result['model']} trained by {result['method']}, test accuracy {100 * accuracy:.2f} %"


if __name__ == "__main__":
    main()
