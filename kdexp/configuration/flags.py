"""Reads the flags of `kdexp`, which are Hydra's; flags that would run foreign code or find nothing are refused."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from os import R_OK, X_OK, access
from pathlib import Path
from typing import NamedTuple

from kdexp.errors import Problem, listed
from kdexp.files import at_home

_SHORT = {
    "-h": "--help",
    "-c": "--cfg",
    "-p": "--package",
    "-r": "--run",
    "-m": "--multirun",
    "-sc": "--shell-completion",
    "-cp": "--config-path",
    "-cn": "--config-name",
    "-cd": "--config-dir",
    "-i": "--info",
}

_SWITCHES = ("--help", "--hydra-help", "--version", "--resolve", "--run", "--multirun", "--shell-completion")

_VALUED = {
    "--cfg": ("job", "hydra", "all"),
    "--info": ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
    "--package": (),
    "--config-name": (),
    "--config-dir": (),
}
"""Flags that take a value, and the values that they accept; any value where none are listed."""

_REFUSED = {
    "--experimental-rerun": "would load a pickle, which can run any code; to repeat a run, use the command in its command.txt",
    "--config-path": "kdexp needs its own files; --config-dir FOLDER adds yours",
}

_ALONE = ("--run", "--multirun", "--cfg", "--info", "--shell-completion", "--hydra-help")
"""Flags that decide what a command does; only one of them can be given."""

KNOWN = (*_SWITCHES, *_VALUED)

COMPLETIONS = tuple(f"{what}={shell}" for what in ("install", "uninstall", "query") for shell in ("bash", "zsh", "fish"))


class Stray(NamedTuple):
    """A setting that is not typed as `KEY=VALUE`: the text, and the key and value that were probably meant."""

    typed: str
    key: str
    value: str | None


@dataclass(frozen=True)
class Flags:
    """A command line: flags by their long names, overrides, and settings that are not typed as `KEY=VALUE`."""

    given: dict[str, str] = field(default_factory=dict)
    overrides: list[str] = field(default_factory=list)
    strays: list[Stray] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def __contains__(self, flag: str) -> bool:
        return flag in self.given

    @property
    def config_dir(self) -> str | None:
        """The folder of the user's own YAML files."""
        return self.given.get("--config-dir")

    @property
    def config_name(self) -> str:
        """Name of the YAML file that composition starts from."""
        return self.given.get("--config-name", "config")

    @property
    def only_shows(self) -> bool:
        """Whether the command shows its configuration instead of running it."""
        return "--cfg" in self or "--info" in self

    @property
    def repeated(self) -> list[str]:
        """The words that another command needs to compose the same configuration, for the commands that messages suggest."""
        sources = [word for flag in ("--config-dir", "--config-name") if flag in self for word in (flag, self.given[flag])]
        return [*sources, *self.overrides]

    @property
    def words(self) -> list[str]:
        """The flags as Hydra's own parser reads them."""
        return [word for name, value in self.given.items() for word in ((name,) if name in _SWITCHES else (name, value))]


def read_flags(words: Sequence[str]) -> Flags:
    """Reads a command line; problems of its flags are in `problems`."""
    flags, rest = Flags(), list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            flags.overrides.extend(rest)
            break
        if word == "-" or not word.startswith("-"):
            spaced = _with_spaces(word, rest)
            flags.strays.extend([spaced] if spaced else [])
            flags.overrides.extend([] if spaced else [word])
        else:
            _read_flag(word, rest, flags)
    if flags.config_dir:
        flags = replace(flags, given=flags.given | {"--config-dir": str(at_home(flags.config_dir))})
    flags.problems.extend(_conflicts(flags))
    return flags


def _read_flag(word: str, rest: list[str], flags: Flags) -> None:
    """Adds one flag, and takes its value out of `rest`."""
    name, equals, value = word.partition("=")
    name = _SHORT.get(name, name)
    if name in _REFUSED:
        flags.problems.append(Problem(name, _REFUSED[name]))
        if not equals and rest:
            rest.pop(0)
        return
    if name in _SWITCHES:
        flags.given[name] = value
        if equals:
            flags.problems.append(Problem(name, f"={value!r}: takes no value"))
        return
    if name not in _VALUED:
        following = bool(rest) and not equals and "=" not in rest[0] and not rest[0].startswith("--")
        flags.strays.append(Stray(word, name, value if equals else rest.pop(0) if following else None))
        return
    choices = _VALUED[name]
    if not equals and name == "--info":
        value = rest.pop(0) if rest and rest[0] in choices else "all"
    elif not equals:
        value = rest.pop(0) if rest else ""
    if name in flags and flags.given[name] != value:
        flags.problems.append(Problem(name, f"given twice ({flags.given[name]}, {value}); keep one"))
    if choices and value not in choices:
        flags.problems.append(Problem(name, f"={value!r}: must be one of {listed(choices)}"))
    flags.given[name] = value


def _with_spaces(word: str, rest: list[str]) -> Stray | None:
    """A setting typed with spaces, such as `seed = 1`, `seed =1` or `seed 1`; takes its words out of `rest`."""
    if "=" in word or not rest or not re.fullmatch(r"[A-Za-z_][\w.]*", word):
        return None
    if not rest[0].startswith("=") and not re.fullmatch(r"[\d.]+", rest[0]):
        return None
    typed, value = [word, rest.pop(0)], ""
    if typed[1] == "=" and rest and "=" not in rest[0]:
        typed.append(rest.pop(0))
    value = typed[-1].lstrip("=")
    return Stray(" ".join(typed), word, value or None)


def _conflicts(flags: Flags) -> Iterator[Problem]:
    """Problems of flags that exclude each other, and of missing values or folders."""
    together = [flag for flag in _ALONE if flag in flags]
    if len(together) > 1:
        yield Problem("", f"{' and '.join(together)} can't be combined; keep one")
    for flag in ("--resolve", "--package"):
        if flag in flags and "--cfg" not in flags:
            yield Problem(flag, "only works together with --cfg; add --cfg job")
    for flag in ("--package", "--config-name", "--config-dir"):
        if flags.given.get(flag) == "":
            yield Problem(flag, "needs a value")
    if flags.config_dir:
        yield from _folder(flags.config_dir)
    if "--shell-completion" in flags and (len(flags.overrides) != 1 or flags.overrides[0] not in COMPLETIONS):
        given = " ".join(flags.overrides)
        yield Problem(
            "--shell-completion", f"needs one of {listed(COMPLETIONS)}{f', not {given}' if given else ''}; see kdexp --help"
        )


def _folder(folder: str) -> Iterator[Problem]:
    path = Path(folder)
    try:
        there, is_file = path.is_dir(), path.exists()
    except OSError:  # a name that is too long, or a parent folder without permission
        there = is_file = False
    if not there:
        what = "is a file, not a folder" if is_file else "no such folder"
        yield Problem("--config-dir", f"={folder!r}: {what}; give the folder that holds your GROUP/OPTION.yaml files")
    elif not access(path, R_OK | X_OK):
        yield Problem("--config-dir", f"={folder!r}: you may not read it; chmod u+rx {folder}")
