"""What the commands that use one trained network share: its arguments, its lookup, and their refusals. Needs no torch."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from kdexp.configuration.arguments import misfit
from kdexp.configuration.settings import Device
from kdexp.files import at_home, unknown_user
from kdexp.text.console import print_error

if TYPE_CHECKING:
    from kdexp.errors import UnknownRole
    from kdexp.store.stored import StoredLearner

BAD_COMMAND = 2
RUN_HELP = "a run folder, or a learner's folder in the store"


class Parser(argparse.ArgumentParser):
    """A parser that refuses like the rest of a command: one sentence, without the usage."""

    def error(self, message: str) -> NoReturn:
        refuse(self.prog, [f"{message} ({self.prog} --help)"])


def expanded(name: str) -> Path:
    """The path of a name that may begin with `~`; raises `ArgumentTypeError` for a user that does not exist."""
    if sentence := unknown_user(name):
        raise argparse.ArgumentTypeError(f"{name}: {sentence}")
    return at_home(name)


def device(name: str) -> str:
    """The name of a device, as `device=` takes it; raises `ArgumentTypeError` for other texts."""
    if sentence := misfit(name, Device):
        raise argparse.ArgumentTypeError(f"{name!r} {sentence}")
    return name


def refuse(command: str, sentences: Sequence[str], code: int = BAD_COMMAND) -> NoReturn:
    """Prints the sentences as errors and ends the command."""
    for sentence in sentences:
        print_error(command, sentence)
    sys.exit(code)


def add_choice(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that choose one network of a run."""
    parser.add_argument("--role", default="distilled", help="distilled (default), baseline or teacher")
    parser.add_argument(
        "--epoch", default="last", choices=("last", "best"), help="best: the epoch with the best validation accuracy"
    )
    parser.add_argument(
        "--module", metavar="NAME", action="append", default=[], help="your module that defines the network's class"
    )


def no_folder(run: Path) -> str:
    """The refusal of a RUN that does not exist."""
    return f"no folder {run}; RUN is a folder in outputs/runs/, or a learner's folder in outputs/store/learner/"


def output_problems(output: Path, choose: str, *, force: bool) -> Iterator[str]:
    """Why a file can't be written; `choose` is the argument that names another one."""
    if output.is_dir():
        yield f"{output} is a folder; choose a file with {choose}"
    elif output.exists() and not force:
        yield f"{output} exists already; add --force to replace it, or choose another file with {choose}"
    elif not os.access(output.parent, os.W_OK):
        what = "can't be written" if output.parent.is_dir() else "does not exist"
        yield f"the folder {output.parent} {what}; choose another one with {choose}"


def find(run: Path, role: str) -> StoredLearner:
    """The stored learner of a run; raises `OSError` or `ValueError` with a message for the user."""
    from kdexp.deployment.load import find_stored
    from kdexp.errors import UnknownRole

    try:
        return find_stored(run, role)
    except UnknownRole as error:
        raise ValueError(other_role(error)) from error


def other_role(error: UnknownRole) -> str:
    """The sentence about a role that a run does not have, with the argument that names one that it has."""
    return f"{error}" + "".join(f"; add --role {role}" for role in error.finished[-1:])
