"""The `kdexp-export` command: writes a trained network into one file, checks the file, and prints its cost."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from kdexp.commands.learner import RUN_HELP, Parser, add_choice, expanded, find, no_folder, output_problems, refuse
from kdexp.deployment.formats import FORMATS
from kdexp.device.garbage import importing_torch
from kdexp.errors import first_line, listed
from kdexp.files import write_whole
from kdexp.text.characters import one_line
from kdexp.text.console import printing
from kdexp.version import __version__

if TYPE_CHECKING:
    from kdexp.store.stored import StoredLearner

FORMAT_HELP = "safetensors: weights; torch_export: a graph for PyTorch; onnx: a graph for other runtimes (needs the extra onnx)"
COMMAND = "kdexp-export"
FAILED, INTERRUPTED = 1, 130
CARD = ".md"


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    made = Parser(COMMAND, description="Writes a trained network into one file and checks the file.")
    made.add_argument("--version", action="version", version=f"kdexp {__version__}")
    made.add_argument("run", metavar="RUN", type=expanded, help=RUN_HELP)
    made.add_argument("--format", choices=FORMATS, help=FORMAT_HELP)
    made.add_argument("--int8", action="store_true", help="8-bit integers, calibrated on the run's training images (onnx)")
    made.add_argument(
        "--root", metavar="FOLDER", type=expanded, help="where these images are now, if not where the run found them"
    )
    made.add_argument("--card", action="store_true", help="write a model card in Markdown, next to the file or alone")
    add_choice(made)
    made.add_argument("--output", metavar="FILE", type=expanded, help="the file to write (default: RUN/student.SUFFIX)")
    made.add_argument("--force", action="store_true", help="replace the file if it exists")
    return made


@printing(COMMAND)
def main(words: Sequence[str] | None = None) -> None:
    """The `kdexp-export` command.

    Exit codes: 1 the export failed, 2 refused, 3 the output could not be printed, 130 interrupted.
    """
    arguments = parser().parse_args(words)
    output = destination(arguments)
    if found := list(problems(arguments, output)):
        refuse(COMMAND, found)
    with importing_torch():
        from kdexp.deployment.export import ExportFailed

    try:
        stored = find(arguments.run, arguments.role)
        lines = list(exported(arguments, stored, output)) if arguments.format else []
        if arguments.card:
            lines.append(write_card(arguments, stored, output, lines[1:]))
        print("\n".join(map(one_line, lines)))
    except ExportFailed as error:
        refuse(COMMAND, [str(error)], FAILED)
    except (OSError, ValueError) as error:
        refuse(COMMAND, [first_line(error)])
    except KeyboardInterrupt:
        refuse(COMMAND, ["interrupted; nothing was written"], INTERRUPTED)


def exported(arguments: argparse.Namespace, stored: StoredLearner, output: Path) -> Iterator[str]:
    """Writes the file and yields lines about it."""
    from kdexp.deployment.export import describe, export

    student = describe(stored, arguments.epoch, arguments.module)
    if arguments.int8:
        from kdexp.commands.run_data import read_data
        from kdexp.deployment.export_int8 import export_int8

        with closing(read_data(arguments.run, stored, arguments.module, arguments.root)) as data:
            lines = export_int8(student, data, output)
    else:
        lines = export(student, FORMATS[arguments.format], output)
    yield heading(output, stored, arguments.epoch, int8=arguments.int8)
    yield from lines


def write_card(arguments: argparse.Namespace, stored: StoredLearner, output: Path, about: Sequence[str]) -> str:
    """Writes the card, which repeats the lines `about` a file, and returns a line about it; raises the errors of `card`."""
    from kdexp.deployment.card import TO_FILL_IN, card

    usage = FORMATS[arguments.format].usage(output, arguments.module) if arguments.format else ""
    text = card(stored, arguments.epoch, arguments.run, usage, about)
    write_whole(output.with_suffix(CARD), text)
    return f"{output.with_suffix(CARD)}: the card; {text.count(TO_FILL_IN)} points are {TO_FILL_IN}"


def destination(arguments: argparse.Namespace) -> Path:
    """The file to write: `--output`, else a file in the run folder, or in the current folder for a learner of the store."""
    if arguments.output is not None:
        return arguments.output
    folder = arguments.run if (arguments.run / "table.json").is_file() else Path()
    name = "student" if arguments.role == "distilled" else arguments.role
    return folder / f"{name}{'_int8' if arguments.int8 else ''}{suffix_of(arguments)}"


def suffix_of(arguments: argparse.Namespace) -> str:
    """The suffix of the file to write: that of its format, or of a card alone."""
    return FORMATS[arguments.format].suffix if arguments.format else CARD


def problems(arguments: argparse.Namespace, output: Path) -> Iterator[str]:
    """Problems of the command that show without importing torch."""
    if not arguments.run.is_dir():
        yield no_folder(arguments.run)
    if not arguments.format and not arguments.card:
        yield f"choose what to write: --format {listed(FORMATS)}, or --card, or both ({COMMAND} --help)"
        return
    if arguments.int8 and arguments.format != "onnx":
        yield "--int8 needs --format onnx"
    if arguments.root is not None and not arguments.int8:
        yield "--root is for --int8, which reads the run's images"
    if arguments.format and (missing := FORMATS[arguments.format].missing()):
        yield f'--format {arguments.format} needs {listed(missing)}: pip install "kdexp[{arguments.format}]"'
    if output.suffix != suffix_of(arguments):
        yield f"--output {output}: the file's name must end in {suffix_of(arguments)}"
        return
    files = [output, output.with_suffix(CARD)] if arguments.card and arguments.format else [output]
    for file in files:
        yield from output_problems(file, "--output FILE", force=arguments.force)


def heading(output: Path, stored: StoredLearner, epoch: str, *, int8: bool) -> str:
    """One line about the exported network."""
    result = stored.result
    accuracy = f"test accuracy {100 * result['test'][epoch]['top1']:.2f} %"
    return f"{output}: {result['model']} trained by {result['method']}, {'now in 8-bit integers' if int8 else accuracy}"


if __name__ == "__main__":
    main()
