"""Explains overrides that Hydra refuses: what is wrong, and what would be right."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import MissingConfigException

from kdexp.configuration.classifiers import library_of
from kdexp.configuration.compose import Composer
from kdexp.configuration.flags import KNOWN, Stray
from kdexp.configuration.hydra_settings import LAUNCHERS
from kdexp.configuration.jobs import SEARCHES, is_swept
from kdexp.configuration.keys import all_paths, unknown_key
from kdexp.configuration.option_files import BadOptionFile
from kdexp.configuration.quoting import as_word, parse, shortened, unreadable
from kdexp.configuration.roles import node_at
from kdexp.errors import Problem, did_you_mean, first_cause, first_line, listed
from kdexp.text.synonyms import note, plain, same, same_key, same_setting

COMMANDS = {"store": "kdexp-store", "report": "kdexp-report", "export": "kdexp-export"}

CHOOSERS = ("experiment", "protocol", "recipe", "search", "sweep", "views")
"""Groups whose options choose other settings, so that a composed configuration has no keys of their names."""

NETWORKS = ("teacher", "student", "model")
"""Groups for which users may type the name of a classifier in torchvision or timm."""


def explain(text: str, error: Exception, composed: Mapping[str, Any], composer: Composer, words: Sequence[str]) -> Problem:
    """The problem of one override that can't be composed, given Hydra's error and the configuration without the override.

    `words` are all words of the command, for the commands that messages suggest.
    """
    key, _, value = text.lstrip("+~").partition("=")
    if not key:
        return Problem("", f"{shortened(text)!r} names no key; write KEY=VALUE, see kdexp --help")
    if "=" not in text and not text.startswith("~"):
        return Problem("", _no_setting(text, composed, composer))
    try:
        override = parse(text)
    except Exception as unparsed:  # of any kind
        too_long = isinstance(unparsed, ValueError)
        return Problem("", f"{shortened(text)!r} {first_line(unparsed)}" if too_long else unreadable(text, unparsed))
    if override.value_type is ValueType.INTERVAL_SWEEP:
        rest = [word for word in words if not word.startswith("search=")]
        return Problem(key, f"={value}: {SEARCHES} an interval: {shlex.join(['kdexp', 'search=tpe', *rest])}")
    if is_swept(override):
        return Problem(key, f"={value}: {several_values(key, value, composed, words)}")
    return Problem(key, _fault(override, text, error, composed, composer))


def _fault(override: Override, text: str, error: Exception, composed: Mapping[str, Any], composer: Composer) -> str:
    """The sentence about an override that Hydra's parser can read."""
    key, _, value = text.lstrip("+~").partition("=")
    paths = all_paths(composed)
    chosen = override.package is not None or key in composed["choices"]
    if composer.is_group(key) and not chosen and (meant := same_key(key, paths)):
        return f"unknown key; did you mean {_setting(meant, value, composer)}? see kdexp --help"
    if isinstance(error, MissingConfigException):
        return f"={value!r}: {_missing_option(override, error, composer)}"
    if key.startswith("hydra."):
        return f"={value!r}: {_hydra(key, error)}"
    if composer.is_group(override.key_or_group):
        return _group(override, value, error, composer)
    if override.is_add() and key in paths:
        return f"exists already; to change it leave the + out: {text.lstrip('+')}"
    if override.package is not None:
        return f"{override.key_or_group!r} is not a group, and only groups take @; see kdexp --help"
    if override.is_delete() and key in paths:
        reason = "its value is null" if _value_at(composed, key) is None else cause_of(error)
        return f"can't be removed: {reason}"
    if key not in paths:
        return _unknown(key, value, paths, composed, composer)
    return f"={value!r}: {cause_of(error)}"


def cause_of(error: BaseException) -> str:
    """Why something can't be composed: the message of the error that was raised first."""
    if isinstance(error, BadOptionFile):
        return str(error)
    cause = first_cause(error)
    return "refers to itself, or is nested too deeply" if isinstance(cause, RecursionError) else first_line(cause)


def several_values(key: str, value: str, composed: Mapping[str, Any], words: Sequence[str]) -> str:
    """The sentence about several values that are given to a single run."""
    current = _value_at(composed, key)
    command = shlex.join(["kdexp", "-m", *words])
    if re.match(r"(hydra|search|logger)([./]|$)", key):
        listing = (
            f"; a list is written {shlex.quote(f'{key}=[{value}]')}" if isinstance(current, list) or key == "logger" else ""
        )
        return f"is the same for all jobs of a command{listing or '; give one value'}"
    if isinstance(current, list):
        return f"a list is written {shlex.quote(f'{key}=[{value}]')}; to try several values, add -m: {command}"
    text = f"; one text with a comma is written {as_word(key, value)}" if isinstance(current, str) else ""
    return f"several values need -m: {command}{text}"


def stray(found: Stray, composed: Mapping[str, Any], composer: Composer) -> Problem:
    """The problem of a setting that is typed like a flag, or with spaces."""
    paths = all_paths(composed)
    key = found.key.lstrip("-").replace("-", "_")
    meant = same_setting(key, found.value or "true", paths)
    if not meant:
        known = key if key in paths else same_key(key, paths)
        if not known:
            what = "no such flag" if found.key.startswith("-") else "unknown key"
            near = did_you_mean(key, [flag[2:] for flag in KNOWN]).replace("mean ", "mean --")
            return Problem("", f"{found.typed}: {note(key) or f'{what};{near} see kdexp --help'}")
        switch = isinstance(_value_at(composed, known), bool)
        meant = _setting(known, found.value or ("true" if switch else "VALUE"), composer)
    without = "dashes" if found.key.startswith("-") else "spaces"
    return Problem("", f"{found.typed}: settings are written without {without}: {meant}")


def _setting(key: str, value: str, composer: Composer) -> str:
    """`KEY=VALUE`; for a group with the option that was probably meant."""
    options = composer.options(key)
    if options and value not in options:
        known = same(value, options)
        library, name = library_of(value) if key in NETWORKS and not known else ("", "")
        return f"{key}={library} {key}.name={name}" if library else f"{key}={known or 'OPTION'}"
    return shlex.quote(f"{key}={value}")


def _no_setting(text: str, composed: Mapping[str, Any], composer: Composer) -> str:
    """The sentence about a word that is not `KEY=VALUE`: an option, another command, `KEY:VALUE`, a key, or anything else."""
    key, colon, value = text.partition(":")
    groups = [group for group in composed["choices"] if text in composer.options(group.partition("@")[0])]
    hint = ""
    if text in COMMANDS:
        hint = f"did you mean {COMMANDS[text]}?"
    elif groups:
        hint = f"did you mean {groups[0]}={text}?"
    elif colon and key in all_paths(composed):
        hint = f"did you mean {shlex.quote(f'{key}={value}')}?"
    elif text in all_paths(composed):
        hint = f"write {text}=VALUE;"
    return f"{shortened(text)!r} is not KEY=VALUE; {f'{hint} ' if hint else ''}see kdexp --help"


def _unknown(key: str, value: str, paths: Sequence[str], composed: Mapping[str, Any], composer: Composer) -> str:
    meant = same_key(key, paths)
    if meant and isinstance(_value_at(composed, meant), Mapping) and composer.is_group(meant):
        return f"unknown key; did you mean {_setting(meant, value, composer)}? see kdexp --help"
    return unknown_key(key, [*paths, *CHOOSERS], value)


def _group(override: Override, value: str, error: Exception, composer: Composer) -> str:
    """The sentence about the choice of an option that exists but can't be composed, or about the removal of a group."""
    options = composer.options(override.key_or_group)
    if options and value not in options and not override.is_delete():
        return f"={value!r}: {_no_option(override, value, options, composer)}"
    if override.is_delete():
        return f"can't be removed: {cause_of(error)}"
    if override.package is None and (sentence := note(override.key_or_group)):
        return f"={value!r}: {sentence}"
    file = composer.own_file_of(f"{override.key_or_group}/{value}")
    where = f"{file}: " if file and not isinstance(error, BadOptionFile) else ""
    return f"={value!r}: {where}{cause_of(error)}"


def _missing_option(override: Override, error: MissingConfigException, composer: Composer) -> str:
    """The sentence about an option that does not exist, or whose defaults name an option that does not exist."""
    value = str(override.value())
    missing = str(error.missing_cfg_file)
    if missing == f"{override.key_or_group}/{value}":
        return _no_option(override, value, error.options or composer.options(override.key_or_group), composer)
    parent = re.match(r"In '(.+?)': ", str(error))
    file = composer.file_of(parent[1]) if parent else None
    known = composer.options(missing.rpartition("/")[0])
    where = f"{file}, line {_line_of(missing.rpartition('/')[2], file)}" if file else "its file"
    near = did_you_mean(missing.rpartition("/")[2], known)
    return f"{where}: its defaults name {missing!r}, which does not exist;{near} known: {listed(known)}"


def _no_option(override: Override, value: str, options: Sequence[str], composer: Composer) -> str:
    group, package = override.key_or_group, override.package
    if file := composer.own_file_of(f"{group}/{value}", suffix=".yml"):
        return f"{file} is not read; rename it to {file.stem}.yaml"
    alike = any(plain(option) == plain(value) for option in options)
    library, name = library_of(value) if group in NETWORKS and not alike else ("", "")
    if library:
        typed = f"{override.get_key_element()}={library}"
        near = f" did you mean {typed} {package or group}.name={name}?"
    else:
        near = did_you_mean(value, options)
    return f"no such option;{near} known: {listed(options)}"


def _line_of(word: str, file: Path) -> int:
    lines = file.read_text(encoding="utf-8-sig").splitlines()
    return next((number for number, line in enumerate(lines, 1) if word in line), 1)


def _hydra(key: str, error: Exception) -> str:
    if key.startswith("hydra.launcher."):
        setting = key.removeprefix("hydra.launcher.")
        if owners := [f"hydra/launcher={name}" for name, settings in LAUNCHERS.items() if setting in settings]:
            return f"no such setting of this launcher; {listed(owners)} {'has' if len(owners) == 1 else 'have'} {setting}"
        known = {name: settings for name, settings in LAUNCHERS.items() if settings}
        has = "; ".join(f"{name} has {listed(settings)}" for name, settings in known.items())
        meant = did_you_mean(key.rpartition(".")[2], [name for settings in known.values() for name in settings])
        return f"no such setting of this launcher;{meant} {has}"
    return cause_of(error)


def _value_at(composed: Mapping[str, Any], key: str) -> Any:
    try:
        return node_at(composed, key)
    except (AttributeError, KeyError, IndexError, ValueError, TypeError):
        return None
