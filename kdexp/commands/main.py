"""The `kdexp` command: composes and checks all its jobs, then runs them. Torch is imported only where something is run."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, redirect_stderr
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from kdexp.commands.command import Command, read_command
from kdexp.commands.help import help_text
from kdexp.commands.launch import launch
from kdexp.commands.process import SOME_FAILED, code_of, set_up
from kdexp.commands.refusal import refuse
from kdexp.commands.started_ranks import may_be_rank, read_ranks, run_together
from kdexp.configuration.compose import Composer, compose_whole, read_option_files, shown, with_choices
from kdexp.configuration.flags import Flags, read_flags
from kdexp.configuration.shipped import conf_dir
from kdexp.errors import DataUnavailable, InvalidArguments, Problem, Unwritable, listed
from kdexp.queue.job_list import Source
from kdexp.text.console import print_error, printing
from kdexp.text.glossary import help_on_columns
from kdexp.version import __version__

if sys.version_info >= (3, 14):
    # Hydra 1.3 hands argparse a help object that is not a string, which Python 3.14 refuses.
    _check_help = argparse.ArgumentParser._check_help  # type: ignore[attr-defined]
    argparse.ArgumentParser._check_help = lambda self, action: (  # type: ignore[attr-defined]
        _check_help(self, action) if action.help is None or isinstance(action.help, str) else None
    )


@printing("kdexp")
def main() -> None:
    """The `kdexp` command.

    Exit codes: 2 refused, 3 a learner or a job failed or the output could not be printed, 130 interrupted, 143 terminated.
    """
    set_up()
    try:
        sys.exit(_execute(read_flags(sys.argv[1:])))
    except KeyboardInterrupt as stop:
        print(f"{str(stop) or 'interrupted'}; finished epochs are saved, run the same command to resume", file=sys.stderr)
        sys.exit(code_of(stop))


def _execute(flags: Flags) -> int:
    """Does what a command line asks for; returns the exit code."""
    if flags.problems:
        return refuse(flags.problems)
    if flags.config_dir:  # a user's own modules lie next to the folder of their YAML files
        sys.path.insert(0, str(Path(flags.config_dir).resolve().parent))
    if "--version" in flags:
        print(f"kdexp {__version__}")
        return 0
    if "--help" in flags:
        return _help(flags)
    if "--hydra-help" in flags or "--shell-completion" in flags:
        return _hydra_shows(flags, flags.overrides)
    composer = Composer(flags.config_dir, flags.config_name)
    if may_be_rank():
        read_ranks()
    try:
        command = read_command(flags, composer)
    except InvalidArguments as error:
        return refuse(error.problems)
    for note in command.replaced:
        print(note, file=sys.stderr)
    if "--cfg" in flags:
        return _show(flags, compose_whole(command.effective, **composer.where))
    if "--info" in flags:
        return _hydra_shows(flags, command.overrides)
    if command.needs_hydra:
        return launch(flags, command.overrides, _run_launched)
    if may_be_rank():
        return run_together(command, lambda: _run(command, composer, flags))
    return _run(command, composer, flags)


def _run(command: Command, composer: Composer, flags: Flags) -> int:
    """Runs a command's jobs, or shows what they would do; returns the exit code."""
    if command.dry_run:
        return _preview(command, composer)
    if command.search is not None:
        from kdexp.commands.sweeps import run_search_plan

        return run_search_plan(command, composer, Source(flags.config_dir, flags.config_name))
    if command.multirun:
        from kdexp.commands.sweeps import run_all

        return run_all(command, Source(flags.config_dir, flags.config_name))
    return _run_one(command.jobs[0].config, sys.argv[1:])


def _help(flags: Flags) -> int:
    """Prints the help, or that on a topic."""
    topics = [word for word in flags.overrides if "=" not in word]
    if topics == ["columns"]:
        print(help_on_columns())
        return 0
    print(help_text(flags.config_dir))
    if topics:
        print_error("kdexp", f"no help on {listed(topics)}; the only topic is columns: kdexp --help columns")
    return 0


def _show(flags: Flags, composed: DictConfig) -> int:
    """Prints the configuration, or one part of it."""
    try:
        print(shown(composed, flags.given["--cfg"], flags.given.get("--package"), resolve="--resolve" in flags), end="")
    except InvalidArguments as error:
        return refuse(error.problems)
    return 0


def _hydra_shows(flags: Flags, overrides: Sequence[str]) -> int:
    """Leaves help, completion and information to Hydra's own `main`."""
    read_option_files()
    sys.argv[1:] = [*flags.words, *overrides]
    completing = "--shell-completion" in flags and flags.overrides[0].startswith("query")
    with redirect_stderr(io.StringIO()) if completing else nullcontext():  # a half-typed line is no error
        hydra.main(version_base="1.3", config_path=conf_dir(), config_name="config")(_run_launched)()
    return 0


def _preview(command: Command, composer: Composer) -> int:
    from kdexp.commands.dry_run import preview, preview_jobs
    from kdexp.commands.search_preview import preview_search

    try:
        if command.search is not None:
            preview_search(command.search, composer)
        elif command.multirun:
            preview_jobs(command.jobs)
        else:
            preview(command.jobs[0].config, composer=composer)
    except DataUnavailable as error:
        return refuse([Problem("", str(error))])
    return 0


def _run_one(config: Mapping[str, Any], typed: Sequence[str]) -> int:
    """Runs one job; returns its exit code."""
    from kdexp.commands.run import run

    try:
        return 0 if run(config, typed) else SOME_FAILED
    except (DataUnavailable, Unwritable) as error:
        return refuse([Problem("", str(error))])
    except OSError as error:
        print_error("kdexp", f"{error}; finished epochs are saved, run the same command to resume")
        return SOME_FAILED


def _run_launched(config: DictConfig) -> int:
    """Runs one job that Hydra composed and started, perhaps in another process; returns its exit code."""
    node = HydraConfig.get()
    return _run_one(with_choices(config, node.runtime), node.overrides.task)
