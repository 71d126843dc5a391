"""From the words of a command line to a checked search: its settings, a space for each method, and its jobs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from kdexp.configuration.arguments import problems
from kdexp.configuration.compose import Composer
from kdexp.configuration.jobs import key_of
from kdexp.configuration.keys import all_paths
from kdexp.configuration.nodes import build
from kdexp.configuration.overrides import Overrides
from kdexp.errors import Problem
from kdexp.search.problems import grid_problems, refused_keys, with_whole_numbers
from kdexp.search.samplers import budget
from kdexp.search.settings import SearchSettings
from kdexp.search.space import Choice, Dimension, Space, split_words, value_in
from kdexp.store.spec import sources_in
from kdexp.validation.jobs import compose_and_check

METHOD = "distillation"
"""The group whose options are searched one by one, each with the same number of trials."""

ONLY_FINAL = {"controls": "[]", "latency": "false"}
"""Settings of the final training that trials do without, and the values that turn them off."""

Config = Mapping[str, Any]


@dataclass(frozen=True)
class SearchPlan:
    """A search whose settings and values are free of problems."""

    settings: SearchSettings
    spaces: tuple[Space, ...]
    """One for each method."""
    configs: tuple[list[Config], ...]
    """By space, the configurations of its probes."""
    words: tuple[str, ...] = ()
    """The overrides that it was planned from."""

    @property
    def identity(self) -> str:
        """A hash of everything that decides the trials, the sources of networks and methods included."""
        settings = {name: value for name, value in asdict(self.settings).items() if (name, value) != ("parallel", None)}
        decisive = [
            settings,
            [asdict(space) for space in self.spaces],
            self.configs,
            sources_in(list(self.configs)),
        ]
        return hashlib.sha256(json.dumps(decisive, sort_keys=True, default=str).encode()).hexdigest()

    @property
    def config(self) -> Config:
        """The configuration of the first probe, for what all jobs have in common."""
        return self.configs[0][0]

    @property
    def total(self) -> int:
        """The number of trials of all methods."""
        return sum(map(self.budget, self.spaces))

    def budget(self, space: Space) -> int:
        """The number of trials of a method."""
        return budget(space, self.settings)

    def trial_job(self, space: Space, words: Sequence[str], seed: int) -> list[str]:
        """The overrides of the job that trains a trial with one seed."""
        off = [name for name in ONLY_FINAL if self.config[name]]
        kept = [word for word in space.fixed if key_of(word) not in off]
        return [*kept, *(f"{name}={ONLY_FINAL[name]}" for name in off), *words, f"seed={seed}"]


def plan_search(
    words: Sequence[str], composer: Composer, typed: Sequence[str], **checks: bool
) -> tuple[SearchPlan | None, list[Problem]]:
    """The search that a command describes, None if that is unknown, and all problems.

    `words` include those that YAML files sweep; `typed` are the command's, for the commands that messages suggest. `checks`
    are the options of `compose_and_check`.
    """
    own = [word for word in words if key_of(word) == "search" or key_of(word).startswith("search.")]
    rest, dimensions, found = split_words([word for word in words if word not in own], composer.options)
    found += refused_keys(rest, dimensions)
    settings, of_settings = _settings([*rest, *own], composer, typed)
    found += of_settings
    if composer.hydra(rest).runtime.choices.get("search"):
        rest.append("~search")  # a file chooses the search, and a job is none
    if not dimensions:
        return None, found or _without_values(rest, composer, typed)
    spaces = _spaces(rest, dimensions, composer)
    configs = []
    for space in spaces:
        probed, of_space = _probe(space, composer, typed, settings, checks)
        configs.append(probed)
        found += of_space
        if settings is not None:
            found += grid_problems(space, settings)
    found = list(dict.fromkeys(found))
    if settings is None or found:
        return None, found
    return SearchPlan(settings, tuple(spaces), tuple(configs), tuple(words)), []


def _without_values(words: Sequence[str], composer: Composer, typed: Sequence[str]) -> list[Problem]:
    """Why a search has nothing to choose from: words that can't be read, or none that stands for several values."""
    example = "'distillation.alpha=interval(0,1)'"
    nothing = Problem("search", f"nothing to search; give values to choose from, such as {example}")
    return Overrides(composer, typed).compose(words).problems or [nothing]


def _settings(words: Sequence[str], composer: Composer, typed: Sequence[str]) -> tuple[SearchSettings | None, list[Problem]]:
    """The settings under `search`, and their problems."""
    composed = Overrides(composer, typed).compose(words)
    found = [problem for problem in composed.problems if key_of(problem.name).partition(".")[0] == "search"]
    node = composed.config.get("search")
    if not isinstance(node, dict):
        return None, found
    found += [problem.under("search") for problem in problems(SearchSettings, node)]
    if found:
        return None, found
    settings = SearchSettings(**node)
    return settings, list(settings.conflicts())


def _spaces(fixed: Sequence[str], dimensions: Sequence[Dimension], composer: Composer) -> list[Space]:
    """A space for each method, with those of the dimensions that the method has."""
    methods = next((one for one in dimensions if one.key == METHOD and isinstance(one, Choice)), None)
    if methods is None:
        chosen = composer.hydra(fixed).runtime.choices.get(METHOD)
        return [Space(str(chosen), tuple(fixed), tuple(dimensions))]
    others = [dimension for dimension in dimensions if dimension is not methods]
    keys = {word: _keys([*fixed, word], composer) for word in methods.words}
    everywhere = set().union(*keys.values())
    return [
        Space(
            value_in(word), (*fixed, word), tuple(one for one in others if one.key in keys[word] or one.key not in everywhere)
        )
        for word in methods.words
    ]


def _keys(words: Sequence[str], composer: Composer) -> set[str]:
    """The keys that have an effect on a method's runs; none if they can't be composed."""
    with suppress(Exception):  # the probes explain it
        config = composer.compose(words)
        distills = config[METHOD]["_target_"] != config["baseline"]["_target_"]
        groups = [name for name in config["choices"] if name]
        return {key for key in (*all_paths(config), *groups) if distills or not key.startswith(f"{METHOD}.")}
    return set()


def _probe(
    space: Space, composer: Composer, typed: Sequence[str], settings: SearchSettings | None, checks: Mapping[str, bool]
) -> tuple[list[Config], list[Problem]]:
    """The configurations of a space's probes, and their problems."""
    seed = settings.seeds[0] if settings and settings.seeds else 0
    jobs = [[*space.fixed, *words, f"seed={seed}"] for words in space.probes()]
    configs, found = compose_and_check(jobs, composer, typed, **checks)
    if checks.get("thoroughly", True) and not found and not all(build(config["dataset"]).validates for config in configs):
        sentence = "trials are compared on validation images, and this data set has none; give dataset.val_fraction=0.1"
        found = [Problem("search", sentence)]
    return configs, [with_whole_numbers(problem, space) for problem in found]
