"""Composes the overrides of jobs; those that Hydra refuses are left out, and all of them are explained at once."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdexp.configuration.compose import Composer
from kdexp.configuration.jobs import key_of
from kdexp.configuration.keys import all_paths
from kdexp.configuration.mistakes import explain, several_values
from kdexp.configuration.quoting import as_word, parse
from kdexp.errors import Problem, listed


@dataclass(frozen=True)
class Composition:
    """One job's configuration without the overrides that can't be composed, and the problems of those."""

    config: Mapping[str, Any]
    problems: list[Problem]
    refused: frozenset[str] = frozenset()
    """Keys of the overrides that are left out."""

    def follows(self, problem: Problem) -> bool:
        """Whether a problem of the configuration may only be there because an override is left out."""
        keys = {key.rpartition("@")[2] for key in self.refused}
        return any(f"{problem.name}.".startswith(f"{key}.") for key in keys if key)

    def lacks_option(self, composer: Composer) -> bool:
        """Whether the option of a group is left out, so that the parts of the configuration need not fit together."""
        return any(composer.is_group(key.partition("@")[0]) for key in self.refused)


class Overrides:
    """Composes the jobs of one command; an override that is refused is explained once, however many jobs have it."""

    def __init__(self, composer: Composer, words: Sequence[str]):
        self.composer = composer
        self.words = words
        """All words of the command, for the commands that messages suggest."""
        self._explained: dict[tuple[str, frozenset[str]], Problem | None] = {}

    def compose(self, overrides: Sequence[str]) -> Composition:
        """Composes one job. Raises nothing, provided that the configuration can be composed without overrides."""
        groups = frozenset(text for text in overrides if self._chooses(text))
        refused = {text: self._explained[text, groups] for text in overrides if (text, groups) in self._explained}
        rest = [text for text in overrides if text not in refused]
        try:
            config: Mapping[str, Any] = self.composer.compose(rest)
        except Exception:  # Hydra and OmegaConf raise errors of many kinds, RecursionError among them
            config, found = self._one_by_one(rest)
            self._explained |= {(text, groups): problem for text, problem in found.items()}
            refused |= found
        refused |= {name: problem for name, problem in self._of_files(config) if name not in set(map(key_of, refused))}
        return Composition(config, [problem for problem in refused.values() if problem], frozenset(map(key_of, refused)))

    def _one_by_one(self, overrides: Sequence[str]) -> tuple[Mapping[str, Any], dict[str, Problem | None]]:
        """Composes the overrides one after the other; returns the configuration of the good ones and problems of the others.

        Groups come first, since they decide which keys exist. An override of a key of a refused option has the problem None:
        nobody knows whether it is right.
        """
        refused: dict[str, Problem | None] = {}
        good: list[str] = []
        composed = self.composer.compose([])
        for text in sorted(overrides, key=lambda text: not self._chooses(text)):
            try:
                composed = self.composer.compose([*good, text])
                good.append(text)
            except Exception as error:  # of many kinds
                follows = any(key_of(text).startswith(f"{key_of(other)}.") for other in refused)
                refused[text] = None if follows else explain(text, error, composed, self.composer, self.words)
        return composed, refused

    def _of_files(self, config: Mapping[str, Any]) -> Iterator[tuple[str, Problem]]:
        """Problems of chosen options whose file names no class or is not read, as (group, problem)."""
        for group, option in config.get("choices", {}).items():
            node, file = config.get(group), self.composer.file_of(f"{group}/{option}")
            own = self.composer.own_file_of(f"{group}/{option}")
            if isinstance(node, dict) and "_target_" not in node and file is not None:
                yield group, Problem(group, f"={option!r}: {file} names no class; it needs a line _target_: MODULE.CLASS")
            elif own not in (None, file):
                yield group, Problem(group, f"={option!r}: kdexp has an option of that name, {own} is not read; rename it")

    def _chooses(self, text: str) -> bool:
        """Whether a word may decide which keys exist."""
        try:
            return not self.composer.sets_value(parse(text))
        except Exception:  # composing explains the error
            return False

    def advise(self, problem: Problem, overrides: Iterable[str]) -> Problem:
        """The problem of a value; if the way it was typed is the reason, with the right way to type it."""
        typed = next((text.partition("=")[2] for text in overrides if key_of(text) == problem.name), None)
        if typed is None or not problem.sentence.startswith("="):
            return problem
        value = parse(f"{problem.name}={typed}").value()
        if problem.sentence.endswith("must be a text") and isinstance(value, int | float):
            return Problem(problem.name, f"{problem.sentence}; quote it: {as_word(problem.name, typed)}")
        scalars = isinstance(value, list) and bool(value) and not any(isinstance(item, list | dict) for item in value)
        if scalars and "must be a" in problem.sentence and not re.search("must be a list|each entry", problem.sentence):
            inside = typed.strip()[1:-1]
            words = [f"{problem.name}={inside}" if key_of(text) == problem.name else text for text in self.words]
            return Problem(problem.name, f"{problem.sentence}; {several_values(problem.name, inside, {}, words)}")
        return problem


def explain_partial(problem: Problem, overrides: Sequence[str], jobs: Sequence[Sequence[str]], composer: Composer) -> Problem:
    """The problem of a multirun; for a key that only some swept options of a group have, with the commands that work."""
    group = problem.name.partition(".")[0]
    options = list(dict.fromkeys(text.partition("=")[2] for job in jobs for text in job if text.startswith(f"{group}=")))
    if not problem.sentence.startswith("unknown key") or len(options) < 2:
        return problem
    having = [name for name in options if problem.name in _paths_with(f"{group}={name}", composer)]
    if not having:
        return problem
    without = [name for name in options if name not in having]
    own = [text for text in overrides if text.startswith(f"{problem.name}=")]
    rest = [text for text in overrides if not text.startswith(f"{group}=") and text not in own]
    halves = ((without, rest), (having, [*own, *rest]))
    commands = " and ".join(shlex.join(["kdexp", "-m", f"{group}={','.join(names)}", *words]) for names, words in halves)
    only = f"only {group}={','.join(having)} has it" if len(having) == 1 else f"only {listed(having)} have it"
    return Problem(problem.name, f"{only}, not {listed(without)}; run them separately: {commands}")


def _paths_with(choice: str, composer: Composer) -> list[str]:
    try:
        return all_paths(composer.compose([choice]))
    except Exception:  # the choice has a problem of its own
        return []


def of_jobs(problem: Problem, affected: Sequence[int], jobs: Sequence[Sequence[str]]) -> Problem:
    """The problem of some jobs of a multirun, with the words that only these jobs have."""
    if len(affected) == len(jobs):
        return problem
    for position in range(len(jobs[0])):
        words = dict.fromkeys(jobs[number][position] for number in affected)
        if sum(job[position] in words for job in jobs) == len(affected):
            if key_of(next(iter(words))) == problem.name and problem.sentence.startswith("="):
                return problem  # its sentence shows the value
            return Problem(problem.name, f"{problem.sentence} (with {' or '.join(words)})")
    first = jobs[affected[0]]
    varying = [text for position, text in enumerate(first) if len({job[position] for job in jobs}) > 1]
    return Problem(problem.name, f"{problem.sentence} ({len(affected)} of {len(jobs)} jobs, such as {' '.join(varying)})")
