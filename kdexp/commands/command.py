"""A command line made into checked jobs, or refused with everything that is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.types import RunMode
from omegaconf import DictConfig

from kdexp.configuration.compose import Composer
from kdexp.configuration.flags import Flags
from kdexp.configuration.hydra_settings import BY_WORKERS, ELSEWHERE, LAUNCHERS, unused
from kdexp.configuration.jobs import expand, key_of, latest, sweeps, swept_twice
from kdexp.configuration.quoting import expand_home
from kdexp.errors import InvalidArguments, Problem, did_you_mean, listed
from kdexp.files import unknown_user
from kdexp.search.plan import SearchPlan, plan_search
from kdexp.validation.jobs import compose_and_check

_REMOVALS = {f"{group}={nothing}": f"~{group}" for group in ("teacher", "search") for nothing in ("null", "none")}
"""What users type to leave a group out, and how Hydra writes it."""


@dataclass(frozen=True)
class PlannedJob:
    """One combination of a multirun, or the only job of a single run."""

    number: int
    overrides: Sequence[str]
    config: Mapping[str, Any]

    @property
    def folder(self) -> str:
        """Name of its run folder inside the sweep's."""
        return f"{self.number:03d}"


@dataclass(frozen=True)
class Command:
    """A command line whose jobs are composed and free of problems."""

    jobs: list[PlannedJob]
    multirun: bool
    hydra: DictConfig
    """Hydra's own node."""
    overrides: list[str]
    """All overrides, as Hydra reads them."""
    effective: list[str]
    """The overrides without those that a later one replaces."""
    replaced: list[str]
    """A line about each override that a later one replaces."""
    search: SearchPlan | None = None
    """The search that makes its own jobs, if the command is one; then `jobs` is empty."""

    @property
    def configs(self) -> list[Mapping[str, Any]]:
        """The configurations of all jobs, or of a search's probes."""
        if self.search is not None:
            return [config for probed in self.search.configs for config in probed]
        return [job.config for job in self.jobs]

    @property
    def launcher(self) -> str:
        """The option of `hydra/launcher`."""
        return self.hydra.runtime.choices["hydra/launcher"]

    @property
    def needs_hydra(self) -> bool:
        """Whether the jobs are started by a launcher that only Hydra can run."""
        return self.multirun and self.launcher not in LAUNCHERS

    @property
    def dry_run(self) -> bool:
        """Whether any job asks for a dry run: then none is run."""
        return any(config["dry_run"] for config in self.configs)


def read_command(flags: Flags, composer: Composer) -> Command:
    """Composes and checks every job; raises `InvalidArguments` with all problems."""
    _check_name(composer, flags)
    try:
        return _read(flags, composer)
    except InvalidArguments:
        raise
    except Exception:
        _check_start(composer, flags)
        raise


def _read(flags: Flags, composer: Composer) -> Command:
    typed = [expand_home(word) for word in flags.overrides]
    found = _unknown_users(flags.overrides)
    overrides = [_REMOVALS.get(word, word) for word in typed]
    latest_typed, replaced = latest(typed)
    effective = [_REMOVALS.get(word, word) for word in latest_typed]
    hydra_node = composer.hydra(effective)
    multirun = "--multirun" in flags or hydra_node.mode == RunMode.MULTIRUN
    found += _malformed(flags, composer)
    if _searches(effective, composer, hydra_node):
        search = _read_search(flags, composer, hydra_node, overrides, found)
        fixed = [word for word in effective if not sweeps(word)]
        return Command([], True, hydra_node, fixed, fixed, replaced, search)
    found += _search_settings(effective)
    found += unused(overrides, hydra_node, multirun)
    jobs, of_axes = _expand_jobs(overrides, composer, hydra_node) if multirun else ([effective], [])
    found += of_axes
    checks = _checks(flags, hydra_node) if multirun else {"thoroughly": not flags.only_shows}
    configs, of_jobs = compose_and_check(jobs, composer, flags.repeated, **checks)
    named = {problem.name for problem in found}
    found += [problem for problem in of_jobs if problem.name not in named or not problem.name]
    if found:
        raise InvalidArguments(found)
    planned = [PlannedJob(number, *job) for number, job in enumerate(zip(jobs, configs, strict=True))]
    return Command(planned, multirun, hydra_node, overrides, effective, replaced)


def _checks(flags: Flags, hydra_node: DictConfig) -> dict[str, bool]:
    """How the jobs of a multirun or a search are checked: the options of `compose_and_check`."""
    return {"thoroughly": not flags.only_shows, "elsewhere": hydra_node.runtime.choices["hydra/launcher"] in ELSEWHERE}


def _searches(words: Sequence[str], composer: Composer, hydra_node: DictConfig) -> bool:
    """Whether a command is a search, by its last word on it or by a file that it chooses."""
    options = [word.partition("=")[2].removesuffix(".yaml") for word in words if key_of(word) == "search"]
    return options[-1] in composer.options("search") if options else bool(hydra_node.runtime.choices.get("search"))


def _search_settings(words: Sequence[str]) -> list[Problem]:
    """Problems of settings of a search in a command that is none."""
    keys = [key_of(word) for word in words if key_of(word).startswith("search.")]
    return [Problem(key, "is a setting of a search; add search=tpe, search=random or search=grid") for key in keys]


def _read_search(
    flags: Flags, composer: Composer, hydra_node: DictConfig, overrides: Sequence[str], found: Sequence[Problem]
) -> SearchPlan:
    """The search that a command describes; raises `InvalidArguments`, also for the problems `found` so far."""
    launcher = hydra_node.runtime.choices["hydra/launcher"]
    problems = [*found, *swept_twice(overrides), *unused(overrides, hydra_node, True)]
    if launcher not in ("basic", *BY_WORKERS):
        ways = " or ".join(f"hydra/launcher={name}" for name in BY_WORKERS)
        problems.append(Problem("hydra/launcher", f"={launcher}: a search runs its jobs one by one; leave it out, or {ways}"))
    in_files = [word for word in swept_in_files(hydra_node, overrides) if key_of(word) != "seed"]
    words = [*in_files, *(word for word in latest(overrides)[0] if not key_of(word).startswith(("hydra/", "hydra.")))]
    plan, of_plan = plan_search(words, composer, flags.repeated, **_checks(flags, hydra_node))
    if plan is None or problems:
        raise InvalidArguments(dict.fromkeys([*problems, *of_plan]))
    return plan


def _check_name(composer: Composer, flags: Flags) -> None:
    """Raises `InvalidArguments` where there is no file of the name that `--config-name` gives."""
    known = composer.options("")
    if flags.config_name.removesuffix(".yaml") not in known:
        sentence = f"={flags.config_name!r}: no such file;{did_you_mean(flags.config_name, known)} known: {listed(known)}"
        raise InvalidArguments([Problem("--config-name", sentence)])


def _check_start(composer: Composer, flags: Flags) -> None:
    """Raises `InvalidArguments` where the file named by `--config-name` can't be composed without overrides either."""
    from kdexp.configuration.mistakes import cause_of

    try:
        composer.compose([])
    except Exception as error:  # a user's own file makes Hydra raise anything
        raise InvalidArguments([Problem("--config-name", f"={flags.config_name!r}: {cause_of(error)}")]) from error


def _unknown_users(words: Sequence[str]) -> list[Problem]:
    """A problem for every value that begins with `~USER` for a user that does not exist."""
    values = [(key, value) for key, _, value in (word.partition("=") for word in words)]
    return [Problem(key, f"={value!r}: {sentence}") for key, value in values if (sentence := unknown_user(value))]


def _malformed(flags: Flags, composer: Composer) -> list[Problem]:
    """Problems of settings that are typed like flags, or with spaces."""
    if not flags.strays:
        return []
    from kdexp.configuration.mistakes import stray

    composed = composer.compose([])
    return [stray(setting, composed, composer) for setting in flags.strays]


def _expand_jobs(
    overrides: Sequence[str], composer: Composer, hydra_node: DictConfig
) -> tuple[Sequence[Sequence[str]], list[Problem]]:
    """The jobs of a multirun and the problems of its axes; axes with a problem are left out of the jobs."""
    words = [*swept_in_files(hydra_node, overrides), *overrides]
    found: list[Problem] = []
    while True:
        try:
            return [[_REMOVALS.get(word, word) for word in job] for job in expand(words, composer.options)], found
        except InvalidArguments as error:
            found += error.problems
            faulty = {problem.name for problem in error.problems}
            words = [] if "" in faulty else [text for text in words if key_of(text) not in faulty]


def swept_in_files(hydra_node: DictConfig, overrides: Sequence[str]) -> list[str]:
    """The axes that YAML files sweep over, without those that the command line sets."""
    params = hydra_node.sweeper.get("params") or {}
    given = {text.partition("=")[0] for text in overrides}
    return [f"{key}={value}" for key, value in params.items() if key not in given]
