"""The command line: compose, refuse what is wrong all at once, then run. Torch is imported only when a run is asked for."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from types import FrameType
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig

from kdexp import config
from kdexp.arguments import Problem
from kdexp.composer import Composer
from kdexp.help import help_text

_WITHOUT = {"teacher=null": "~teacher"}
"""What users write to do without a group, and what Hydra calls it."""

OWN_LAUNCHERS = ("basic", "lockstep")
"""Jobs of these run in this process; others, on other machines say, are left to Hydra."""

BAD_CONFIG, SOME_FAILED, INTERRUPTED, TERMINATED = 2, 3, 130, 143

if sys.version_info >= (3, 14):
    # Hydra 1.3 hands argparse a help object that is not a string, which Python 3.14 refuses.
    _check_help = argparse.ArgumentParser._check_help  # type: ignore[attr-defined]
    argparse.ArgumentParser._check_help = lambda self, action: (  # type: ignore[attr-defined]
        _check_help(self, action) if action.help is None or isinstance(action.help, str) else None
    )


def main() -> None:
    """The `kdexp` command. Exit codes: 2 bad configuration, 3 a learner or a job failed, 130 interrupted, 143 terminated."""
    sys.argv[1:] = [_WITHOUT.get(word, word) for word in sys.argv[1:]]
    signal.signal(signal.SIGTERM, _terminate)
    sys.set_int_max_str_digits(0)  # so that numbers of any length are read, and refused by their names
    try:
        asked = get_args_parser().parse_intermixed_args()
        if asked.config_dir:  # a user's own modules lie beside the folder of their YAML files
            sys.path.insert(0, str(Path(asked.config_dir).resolve().parent))
        if asked.help:
            print(help_text(asked.config_dir))
        elif asked.hydra_help or asked.cfg or asked.info or asked.shell_completion:
            hydra_main()
        else:
            sys.exit(_run(asked))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt as stop:
        print("interrupted; every whole epoch is kept: the same command goes on from there", file=sys.stderr)
        sys.exit(TERMINATED if isinstance(stop, _Terminated) else INTERRUPTED)


class _Terminated(KeyboardInterrupt):
    """What SIGTERM raises: it ends a run as Ctrl-C does."""


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    raise _Terminated


def _run(asked: argparse.Namespace) -> int:
    composer = Composer(asked.config_dir, asked.config_name or "config")
    hydra_node = composer.hydra(asked.overrides)
    multirun = asked.multirun or hydra_node.mode == RunMode.MULTIRUN
    jobs = expand([*_swept_in_files(hydra_node, asked.overrides), *asked.overrides]) if multirun else [asked.overrides]
    configs, found = check(jobs, composer)
    if multirun:
        from kdexp.overrides import explain_partial

        found = [explain_partial(problem, asked.overrides, composer) for problem in found]
    if found:
        print(refusal(found), file=sys.stderr)
        return BAD_CONFIG
    if any(config["dry_run"] for config in configs):
        return _preview(jobs, configs, multirun)
    if multirun and hydra_node.runtime.choices["hydra/launcher"] in OWN_LAUNCHERS:
        return _multirun(jobs, configs, hydra_node)
    hydra_main()
    return max(_exit_codes, default=0)


def _preview(jobs: Sequence[Sequence[str]], configs: Sequence[Mapping[str, Any]], multirun: bool) -> int:
    from kdexp.dry_run import preview, preview_jobs
    from kdexp.multirun import Job

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
    from kdexp.files import Unwritable
    from kdexp.multirun import Job, Lockstep, run_jobs

    lockstep = None
    if hydra_node.runtime.choices["hydra/launcher"] == "lockstep":
        lockstep = Lockstep(hydra_node.launcher.max_learners)
    numbered = [Job(number, *job) for number, job in enumerate(zip(jobs, configs, strict=True))]
    try:
        folder = run_jobs(numbered, sys.argv[1:], lockstep)
    except Unwritable as error:
        print(refusal([Problem("", str(error))]), file=sys.stderr)
        return BAD_CONFIG
    from kdexp.sweep.command import tell

    return tell([folder], folder)


_exit_codes: list[int] = []
"""Of the jobs that did not end well; a job that fails leaves its code here, so that the others of a sweep go on."""


@hydra.main(version_base="1.3", config_path=config.conf_dir(), config_name="config")
def hydra_main(cfg: DictConfig) -> None:
    """One job, as Hydra calls it."""
    from kdexp.data.dataset import DataUnavailable
    from kdexp.files import Unwritable
    from kdexp.run import run

    hydra_config = HydraConfig.get()
    typed = sys.argv[1:] if hydra_config.mode == RunMode.RUN else hydra_config.overrides.task
    try:
        if not run(config.with_choices(cfg, hydra_config.runtime), typed):
            _exit_codes.append(SOME_FAILED)
    except (DataUnavailable, Unwritable) as error:
        print(refusal([Problem("", str(error))]), file=sys.stderr)
        _exit_codes.append(BAD_CONFIG)
    except OSError as error:
        print(f"kdexp: {error}; what was finished is kept, and the same command goes on from there", file=sys.stderr)
        _exit_codes.append(SOME_FAILED)


def expand(overrides: Sequence[str]) -> list[list[str]]:
    """Every job of a multirun, as Hydra's basic sweeper makes them."""
    axes, parser = [], OverridesParser.create()
    for text in overrides:
        try:
            override = parser.parse_override(text)
        except HydraException:  # composing a job explains it
            axes.append([text])
            continue
        sweeps = override.is_sweep_override() and override.value_type is not None
        key = override.get_key_element()
        values = override.sweep_string_iterator() if sweeps else [override.get_value_element_as_str()]
        axes.append([f"{key}={value}" for value in values] if not override.is_delete() else [override.input_line or ""])
    return [list(job) for job in product(*axes)]


def check(jobs: Sequence[Sequence[str]], composer: Composer) -> tuple[list[Mapping[str, Any]], list[Problem]]:
    """The composed configuration of every job, and everything that is wrong with any of them."""
    from kdexp.overrides import compose_all
    from kdexp.validation import Validator

    validator = Validator()
    configs: list[Mapping[str, Any]] = []
    found: list[Problem] = []
    for job in jobs:
        composed, problems = compose_all(job, composer)
        if composed is not None:
            configs.append(composed)
            problems = problems + validator.problems(composed)
        found += [problem for problem in problems if problem not in found]
    return configs, found


def refusal(found: Sequence[Problem]) -> str:
    """What is printed for a configuration that can't run."""
    head = "1 problem" if len(found) == 1 else f"{len(found)} problems"
    return "\n".join([f"kdexp: {head} in this command, nothing was run", *(f"  {problem}" for problem in found)])
