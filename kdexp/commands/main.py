"""The command line: compose, refuse what is wrong all at once, then run. Torch is imported only when a run is asked for."""

from __future__ import annotations

import argparse
import io
import shlex
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from pathlib import Path
from types import FrameType
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from kdexp.commands.help import help_text
from kdexp.configuration.compose import Composer, compose_whole, conf_dir, read_option_files, shown, with_choices
from kdexp.configuration.flags import Flags, read_flags
from kdexp.configuration.hydra_settings import OWN_LAUNCHERS, unused
from kdexp.configuration.jobs import expand, key_of, latest
from kdexp.configuration.quoting import expand_home
from kdexp.errors import InvalidArguments, Problem, did_you_mean, listed
from kdexp.text.characters import one_line
from kdexp.text.console import print_error, printing
from kdexp.validation.jobs import check
from kdexp.version import __version__

_WITHOUT = {"teacher=null": "~teacher", "teacher=none": "~teacher"}
"""What users write to do without a group, and what Hydra calls it."""

BAD_CONFIG, SOME_FAILED, INTERRUPTED, TERMINATED = 2, 3, 130, 143

if sys.version_info >= (3, 14):
    # Hydra 1.3 hands argparse a help object that is not a string, which Python 3.14 refuses.
    _check_help = argparse.ArgumentParser._check_help  # type: ignore[attr-defined]
    argparse.ArgumentParser._check_help = lambda self, action: (  # type: ignore[attr-defined]
        _check_help(self, action) if action.help is None or isinstance(action.help, str) else None
    )


@printing("kdexp")
def main() -> None:
    """The `kdexp` command.

    Exit codes: 2 bad configuration, 3 a learner or a job failed, or could not be printed, 130 interrupted, 143 terminated.
    """
    signal.signal(signal.SIGTERM, _terminate)
    sys.set_int_max_str_digits(0)  # so that numbers of any length are read, and refused by their names
    flags = read_flags(sys.argv[1:])
    try:
        if flags.problems:
            sys.exit(_refuse(flags.problems))
        if flags.config_dir:  # a user's own modules lie beside the folder of their YAML files
            sys.path.insert(0, str(Path(flags.config_dir).resolve().parent))
        if "--version" in flags:
            print(f"kdexp {__version__}")
        elif "--help" in flags:
            print(help_text(flags.config_dir))
        elif "--hydra-help" in flags or "--shell-completion" in flags:
            _leave_to_hydra(flags, flags.overrides)
        elif (code := _run(flags)) or not flags.only_shows:
            sys.exit(code)
    except KeyboardInterrupt as stop:
        print("interrupted; finished epochs are saved, run the same command to resume", file=sys.stderr)
        sys.exit(TERMINATED if isinstance(stop, _Terminated) else INTERRUPTED)


class _Terminated(KeyboardInterrupt):
    """What SIGTERM raises: it ends a run as Ctrl-C does."""


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    raise _Terminated


def _run(flags: Flags) -> int:
    """Composes and checks every job; then shows or runs them. Returns the exit code."""
    composer = Composer(flags.config_dir, flags.config_name)
    if problem := _start(composer, flags):
        return _refuse([problem])
    overrides, found = _at_home(flags.overrides)
    hydra_node = composer.hydra(overrides)
    multirun = "--multirun" in flags or hydra_node.mode == RunMode.MULTIRUN
    lasting, replaced = latest(overrides)
    found += _strays(flags, composer)
    found += unused(overrides, hydra_node, multirun)
    jobs, of_axes = _jobs(overrides, composer, hydra_node) if multirun else ([lasting], [])
    configs, of_jobs = check(jobs, composer, flags.repeated, thoroughly=not flags.only_shows)
    known = {problem.name for problem in (*found, *of_axes)}
    if found := [*found, *of_axes, *(problem for problem in of_jobs if problem.name not in known or not problem.name)]:
        return _refuse(found)
    print(*replaced, sep="\n", end="\n" if replaced else "", file=sys.stderr)
    if "--cfg" in flags:
        return _show(flags, lasting, composer)
    own = hydra_node.runtime.choices["hydra/launcher"] in OWN_LAUNCHERS
    if "--info" in flags or (multirun and not own):
        _leave_to_hydra(flags, overrides)
        return max(_exit_codes, default=0)
    if any(config["dry_run"] for config in configs):
        return _preview(jobs, configs, multirun)
    return _multirun(jobs, configs, hydra_node) if multirun else _single(configs[0], sys.argv[1:])


def _start(composer: Composer, flags: Flags) -> Problem | None:
    """Why nothing can be composed, whatever the overrides."""
    from kdexp.configuration.mistakes import cause_of

    known = composer.options("")
    if flags.config_name.removesuffix(".yaml") not in known:
        sentence = f"={flags.config_name!r}: no such file;{did_you_mean(flags.config_name, known)} known: {listed(known)}"
        return Problem("--config-name", sentence)
    try:
        composer.compose([])
    except Exception as error:  # whatever Hydra makes of a user's own file
        return Problem("--config-name", f"={flags.config_name!r}: {cause_of(error)}")
    return None


def _jobs(
    overrides: Sequence[str], composer: Composer, hydra_node: DictConfig
) -> tuple[Sequence[Sequence[str]], list[Problem]]:
    """The jobs of a multirun, and what is wrong with its axes; then the jobs are those of the other axes, if any."""
    words = [*_swept_in_files(hydra_node, overrides), *overrides]
    found: list[Problem] = []
    while True:
        try:
            jobs = expand(words, composer.options)
            return [[_WITHOUT.get(word, word) for word in job] for job in jobs], found
        except InvalidArguments as error:
            found += error.problems
            faulty = {problem.name for problem in error.problems}
            words = [] if "" in faulty else [text for text in words if key_of(text) not in faulty]


def _preview(jobs: Sequence[Sequence[str]], configs: Sequence[Mapping[str, Any]], multirun: bool) -> int:
    from kdexp.commands.dry_run import preview, preview_jobs
    from kdexp.commands.multirun import Job

    if multirun:
        preview_jobs([Job(number, *job) for number, job in enumerate(zip(jobs, configs, strict=True))])
    else:
        preview(configs[0])
    return 0


def _swept_in_files(hydra_node: DictConfig, overrides: Sequence[str]) -> list[str]:
    """The axes that an experiment's file sweeps over, without those that the command line sets."""
    params = hydra_node.sweeper.get("params") or {}
    given = {text.partition("=")[0] for text in overrides}
    return [f"{key}={value}" for key, value in params.items() if key not in given]


def _multirun(jobs: Sequence[Sequence[str]], configs: Sequence[Mapping[str, Any]], hydra_node: DictConfig) -> int:
    from kdexp.commands.multirun import Job, Lockstep, run_jobs
    from kdexp.errors import Unwritable

    lockstep = None
    if hydra_node.runtime.choices["hydra/launcher"] == "lockstep":
        lockstep = Lockstep(hydra_node.launcher.max_learners)
    numbered = [Job(number, *job) for number, job in enumerate(zip(jobs, configs, strict=True))]
    try:
        folder = run_jobs(numbered, sys.argv[1:], lockstep)
    except Unwritable as error:
        return _refuse([Problem("", str(error))])
    from kdexp.commands.report import tell

    try:
        return tell([folder], folder)
    except Unwritable as error:
        elsewhere = f"kdexp-report {shlex.quote(str(folder))} --output FOLDER writes the table elsewhere"
        print_error("kdexp", f"{error}; every finished learner is in the store, and {elsewhere}")
        return SOME_FAILED


_exit_codes: list[int] = []
"""Of the jobs that did not end well; a job that fails leaves its code here, so that the others of a sweep go on."""


@hydra.main(version_base="1.3", config_path=conf_dir(), config_name="config")
def hydra_main(cfg: DictConfig) -> None:
    """One job of a launcher that is not ours, as Hydra calls it."""
    hydra_config = HydraConfig.get()
    if code := _single(with_choices(cfg, hydra_config.runtime), hydra_config.overrides.task):
        _exit_codes.append(code)


def _leave_to_hydra(flags: Flags, overrides: Sequence[str]) -> None:
    """Lets Hydra carry out a command that was checked; what completion can't make of a half-typed line stays unsaid."""
    read_option_files()
    sys.argv[1:] = [*flags.words, *overrides]
    if "--shell-completion" in flags and flags.overrides[0].startswith("query"):
        with redirect_stderr(io.StringIO()):
            hydra_main()
    else:
        hydra_main()


def _single(job: Mapping[str, Any], typed: Sequence[str]) -> int:
    """Runs one job; returns its exit code."""
    from kdexp.commands.run import run
    from kdexp.errors import DataUnavailable, Unwritable

    try:
        return 0 if run(job, typed) else SOME_FAILED
    except (DataUnavailable, Unwritable) as error:
        return _refuse([Problem("", str(error))])
    except OSError as error:
        print_error("kdexp", f"{error}; finished epochs are saved, run the same command to resume")
        return SOME_FAILED


def _at_home(words: Sequence[str]) -> tuple[list[str], list[Problem]]:
    """The overrides with `~` written out and `teacher=null` as Hydra has it, and a problem for every unknown user."""
    overrides, found = [], []
    for word in words:
        try:
            overrides.append(expand_home(_WITHOUT.get(word, word)))
        except RuntimeError:
            key, _, value = word.partition("=")
            found.append(Problem(key, f"={value!r}: there is no user {value.partition('/')[0][1:]!r} on this machine"))
    return overrides, found


def _strays(flags: Flags, composer: Composer) -> list[Problem]:
    """Settings that are written like flags, or with spaces."""
    if not flags.strays:
        return []
    from kdexp.configuration.mistakes import stray

    plain = composer.compose([])
    return [stray(found, plain, composer) for found in flags.strays]


def _show(flags: Flags, overrides: Sequence[str], composer: Composer) -> int:
    """Prints the configuration, or one part of it."""
    try:
        whole = compose_whole(overrides, **composer.where)
        print(shown(whole, flags.given["--cfg"], flags.given.get("--package"), resolve="--resolve" in flags), end="")
    except InvalidArguments as error:
        return _refuse(error.problems)
    return 0


def _refuse(found: Sequence[Problem]) -> int:
    print(refusal(found), file=sys.stderr)
    return BAD_CONFIG


def refusal(found: Sequence[Problem]) -> str:
    """What is printed for a configuration that can't run."""
    head = "1 problem" if len(found) == 1 else f"{len(found)} problems"
    half = LONGEST_LINE // 2
    lines = (line if len(line) <= LONGEST_LINE else f"{line[:half]} … {line[-half:]}" for line in map(one_line, found))
    return "\n".join([f"kdexp: {head} in this command, nothing was run", *(f"  {line}" for line in lines)])


LONGEST_LINE = 2_000
"""Characters of a problem: values may be long."""
