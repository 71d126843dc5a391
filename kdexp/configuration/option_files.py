"""The YAML files that Hydra composes: networks as teachers and students, and a user's own files, checked as they are read."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.object_type import ObjectType
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kdexp.errors import first_line
from kdexp.files import reason

LARGEST = 200_000
"""Bytes of one file: more take the YAML parser seconds."""

DEEPEST, MOST_NODES = 50, 10_000
"""Levels of one file, and values after its aliases are written out."""

_PLAIN = {f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "seq", "map", "merge", "timestamp")}


class BadOptionFile(HydraException):
    """An unusable YAML file; the message names the file, the line and the reason."""

    def __init__(self, path: str | Path, what: str, line: int | None = None):
        super().__init__(f"{path}{f', line {line}' if line else ''}: {what}")


ROLES = ("teacher", "student")
"""Groups whose options are the networks in `model/`; each gets the keys of its role from `role/`."""


def option_file(folder: str | Path, option: str, suffix: str = ".yaml") -> str:
    """Path of the file that defines `GROUP/NAME`: its own, else for teachers and students that of the network.

    The file may be missing.
    """
    own = f"{folder}/{option}{suffix}"
    group, _, name = option.partition("/")
    return f"{folder}/model/{name}{suffix}" if group in ROLES and not os.path.lexists(own) else own


def option_names(folder: Path, group: str) -> set[str]:
    """The options of a group that are defined in a folder of YAML files."""
    return {path.stem for name in _folders(group) for path in (folder / name).glob("*.yaml")}


def _folders(group: str) -> list[str]:
    """The folders that define a group's options."""
    return [group, "model"] if group in ROLES else [group]


class OptionFiles(FileConfigSource):
    """One folder of YAML files as a source of Hydra's.

    `teacher/NAME` and `student/NAME` need no files: they are composed of `model/NAME` and the keys of the role. Shipped files
    are trusted, a user's own are checked.
    """

    trusted = ""
    """The folder of the shipped files."""

    def is_group(self, config_path: str) -> bool:
        """Whether the folder has options of that group."""
        return any(FileConfigSource.is_group(self, group) for group in _folders(config_path))

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """Names of the options and groups within a group."""
        groups = [group for group in _folders(config_path) if FileConfigSource.is_group(self, group)]
        return sorted({name for group in groups for name in FileConfigSource.list(self, group, results_filter)})

    def is_config(self, config_path: str) -> bool:
        """Whether there is an entry of that name, even one that can't be read: loading it says why."""
        return os.path.lexists(self._file(config_path))

    def load_config(self, config_path: str) -> ConfigResult:
        """Reads one file; raises `BadOptionFile`."""
        role, _, name = config_path.removesuffix(".yaml").partition("/")
        path = self._file(config_path)
        if role in ROLES and path.startswith(f"{self.path}/model/"):
            composed = OmegaConf.create({"defaults": [f"/role/{role}@_here_", f"/model/{name}@_here_"]})
            return ConfigResult(config=composed, path=f"file://{self.path}", provider=self.provider, header={"package": None})
        if self.path == self.trusted:
            return super().load_config(config_path)
        text = _read(path)
        _check(path, text)
        try:
            config = OmegaConf.load(io.StringIO(text))
        except yaml.YAMLError as error:
            raise _explained(path, error) from error
        except (OmegaConfBaseException, OSError, ValueError, TypeError) as error:
            raise BadOptionFile(path, first_line(error)) from error
        header = ConfigSource._get_header_dict(text[:512])
        if role == "experiment" and header["package"] is None:
            raise BadOptionFile(path, "an experiment's file begins with the line # @package _global_", 1)
        return ConfigResult(config=config, path=f"file://{self.path}", provider=self.provider, header=header)

    def _file(self, config_path: str) -> str:
        return option_file(self.path, self._normalize_file_name(config_path).removesuffix(".yaml"))


def _read(path: str) -> str:
    """Reads a regular file as UTF-8."""
    try:
        there = Path(path).stat()
        if not stat.S_ISREG(there.st_mode):
            raise BadOptionFile(path, "is not a regular file")
        if there.st_size > LARGEST:
            raise BadOptionFile(path, f"has {there.st_size:,} bytes; at most {LARGEST:,} are read")
        content = Path(path).read_bytes()
    except OSError as error:
        raise BadOptionFile(path, f"can't be read: {reason(error)}") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise BadOptionFile(path, f"is not UTF-8 text (byte {content[error.start]:#04x}); save it as UTF-8", line) from error


def _check(path: str, text: str) -> None:
    """Raises `BadOptionFile` unless the file holds a mapping of plain values of a reasonable size."""
    _count_brackets(path, text)
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise _explained(path, error) from error
    except RecursionError as error:
        raise BadOptionFile(path, f"is nested too deeply; at most {DEEPEST} levels") from error
    if root is None:
        return
    _measure(path, root, [], {})
    if not isinstance(root, yaml.MappingNode):
        kind = "a list" if isinstance(root, yaml.SequenceNode) else "a single value"
        raise BadOptionFile(path, f"holds {kind}, not KEY: VALUE lines", _line(root))
    for key, _ in root.value:
        if key.tag.rpartition(":")[2] not in ("str", "merge"):
            raise BadOptionFile(path, "a key is not a text", _line(key))


def _count_brackets(path: str, text: str) -> None:
    """Refuses far more open brackets than allowed levels, for which the parser would take minutes."""
    for number, line in enumerate(text.splitlines(), 1):
        if sum(map(line.count, "[{")) - sum(map(line.count, "]}")) > 4 * DEEPEST or line.count("[" * DEEPEST):
            raise BadOptionFile(path, f"is nested too deeply; at most {DEEPEST} levels", number)


def _explained(path: str, error: yaml.YAMLError) -> BadOptionFile:
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    what = problem or first_line(error)
    if "'\\t'" in what:
        what = "starts with a tab; YAML indents with spaces"
    return BadOptionFile(path, what, mark.line + 1 if mark else None)


def _measure(path: str, node: Any, above: list[Any], known: dict[int, int]) -> int:
    """Counts the values in a node, with aliases written out; each node is counted once."""
    if node in above:
        raise BadOptionFile(path, "an alias refers to what it is part of", _line(node))
    if len(above) > DEEPEST:
        raise BadOptionFile(path, f"is nested too deeply; at most {DEEPEST} levels", _line(node))
    if node.tag not in _PLAIN:
        tag = node.tag.replace("tag:yaml.org,2002:", "!!")
        raise BadOptionFile(path, f"the tag {tag} is refused; values are plain texts, numbers, lists and mappings", _line(node))
    if id(node) not in known:
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        items = [item for pair in pairs for item in pair] or (node.value if isinstance(node, yaml.SequenceNode) else [])
        known[id(node)] = 1 + sum(_measure(path, item, [*above, node], known) for item in items)
    if known[id(node)] > MOST_NODES:
        raise BadOptionFile(path, f"holds more than {MOST_NODES:,} values once its aliases are written out", _line(node))
    return known[id(node)]


def _line(node: Any) -> int:
    return node.start_mark.line + 1
