"""Composes jobs, single ones and those of a sweep: Hydra composes each choice of options once, then values are filled in."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra import compose, version
from hydra._internal.hydra import Hydra
from hydra._internal.sources_registry import SourcesRegistry
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from omegaconf import DictConfig, OmegaConf, open_dict

from kdexp.configuration.option_files import ROLES, OptionFiles, option_file, option_names
from kdexp.configuration.quoting import homes_within, parse
from kdexp.configuration.repository import RememberedOptions
from kdexp.configuration.shipped import conf_dir
from kdexp.errors import InvalidArguments, Problem, did_you_mean, listed
from kdexp.files import is_file


class Composer:
    """Composes jobs like `compose_command`, but faster for jobs that differ only in values."""

    def __init__(self, config_dir: str | None = None, config_name: str = "config"):
        self.where: dict[str, Any] = {"config_dir": config_dir, "config_name": config_name}
        self.folders = [Path(folder) for folder in (conf_dir(), config_dir) if folder]
        self._wholes: dict[tuple[str, ...], DictConfig] = {}
        self._composed: dict[tuple[str, ...], tuple[DictConfig, Any] | None] = {}

    def compose(self, overrides: Sequence[str]) -> dict[str, Any]:
        """Composes one job; raises the errors of Hydra and OmegaConf, which `mistakes` explains to the user."""
        parsed = [parse(text) for text in overrides]
        values = [override for override in parsed if self.sets_value(override)]
        composed = self._chosen(tuple(override.input_line or "" for override in parsed if override not in values))
        if composed is None:
            return as_plain(compose_command(overrides, **self.where))
        config, runtime = composed[0].copy(), composed[1]
        for override in values:
            OmegaConf.update(config, override.key_or_group, override.value())
        return with_choices(config, runtime)

    def hydra(self, overrides: Sequence[str]) -> DictConfig:
        """Hydra's own node; sweeps, invalid overrides and values in the place of a part of the node are ignored."""
        good: list[str] = []
        for text in overrides:
            with suppress(Exception):  # composing explains it
                parsed = parse(text)
                if not parsed.is_sweep_override() and not self.sets_value(parsed) and not replaces_hydra(parsed):
                    good.append(text)
        try:
            return self._whole(tuple(good)).hydra
        except Exception:  # composing explains it
            return self._whole(()).hydra

    def sets_value(self, override: Override) -> bool:
        """Whether the override only sets the value of an existing key: it chooses, adds and removes nothing."""
        key = override.key_or_group
        if override.is_add() or override.is_force_add() or override.is_delete() or override.package is not None:
            return False
        return not (override.is_sweep_override() or key.startswith("hydra") or self.is_group(key))

    def is_group(self, key: str) -> bool:
        """Whether the key is a group, whose value is the name of an option."""
        if key in ROLES:
            return True
        return len(key) < 200 and any((folder / key).is_dir() for folder in self.folders)  # longer names raise OSError

    def options(self, group: str) -> list[str]:
        """Names of a group's options, including those in the user's folder; empty if there is no such group."""
        folders = self.folders if self.is_group(group) else []
        return sorted({name for folder in folders for name in option_names(folder, group)})

    def file_of(self, config: str) -> Path | None:
        """The YAML file that Hydra reads for `GROUP/OPTION`; None if there is none."""
        return _first_file(self.folders, config)

    def own_file_of(self, config: str, suffix: str = ".yaml") -> Path | None:
        """The file of `GROUP/OPTION` in the user's folder; None if there is none."""
        return _first_file(self.folders[1:], config, suffix)

    def _whole(self, overrides: tuple[str, ...]) -> DictConfig:
        if overrides not in self._wholes:
            self._wholes[overrides] = compose_whole(overrides, **self.where)
        return self._wholes[overrides]

    def _chosen(self, overrides: tuple[str, ...]) -> tuple[DictConfig, Any] | None:
        """The configuration for these choices and Hydra's runtime node; None if values refer to Hydra's own node."""
        if overrides not in self._composed:
            whole = self._whole(overrides)
            config = without_hydra(whole)
            unresolved = repr(OmegaConf.to_container(config))
            self._composed[overrides] = None if "${hydra:" in unresolved else (config, whole.hydra.runtime)
        return self._composed[overrides]


HYDRA_NODES = (
    "launcher",
    "sweeper",
    "help",
    "hydra_help",
    "hydra_logging",
    "job_logging",
    "env",
    "job",
    "runtime",
    "run",
    "sweep",
)
"""The parts of Hydra's own node that have settings themselves, not values."""


def replaces_hydra(override: Override) -> bool:
    """Whether an override puts a value in the place of a part of Hydra's node, such as `hydra.launcher=local`."""
    hydra, _, part = override.key_or_group.partition(".")
    return hydra == "hydra" and part in HYDRA_NODES and not isinstance(override.value(), dict)


def _first_file(folders: Sequence[Path], option: str, suffix: str = ".yaml") -> Path | None:
    return next((Path(file) for folder in folders if is_file(file := option_file(folder, option, suffix))), None)


GROUPS = (
    "dataset",
    "strong",
    "teacher",
    "student",
    "distillation",
    "views",
    "optimizer",
    "schedule",
    "averaging",
    "pretraining",
    "protocol",
    "experiment",
    "recipe",
)


def compose_command(overrides: Sequence[str], *, config_dir: str | None = None, config_name: str = "config") -> DictConfig:
    """Composes one job and adds the names of the chosen options under `choices`."""
    composed = compose_whole(overrides, config_dir=config_dir, config_name=config_name)
    return OmegaConf.create(with_choices(without_hydra(composed), composed.hydra.runtime))


def compose_whole(overrides: Sequence[str], *, config_dir: str | None = None, config_name: str = "config") -> DictConfig:
    """Composes one job with Hydra, unresolved and including Hydra's own node; `config_dir` may have any name."""
    version.setbase("1.3")
    search_path = search_path_of(config_dir)
    read_option_files()
    GlobalHydra.instance().clear()
    try:
        hydra = Hydra.create_main_hydra2("kdexp", search_path)
        hydra.config_loader.repository = RememberedOptions(search_path)  # type: ignore[attr-defined]
        composed = compose(config_name, list(overrides), return_hydra_config=True)
    finally:
        GlobalHydra.instance().clear()
    HydraConfig.instance().set_config(composed)
    return composed


def search_path_of(config_dir: str | None) -> ConfigSearchPath:
    """The folders that Hydra searches: the shipped YAML files, then a user's, in the place where `--config-dir` puts them."""
    search_path = create_config_search_path(conf_dir())
    if config_dir:
        own = f"file://{Path(config_dir).absolute()}"
        search_path.prepend("command-line", own, SearchPathQuery(provider="schema"))
    return search_path


def read_option_files() -> None:
    """Makes Hydra read folders of YAML files as `OptionFiles`, after loading its plugins, which would undo it."""
    Plugins.instance()
    OptionFiles.trusted = conf_dir()
    SourcesRegistry.instance().types["file"] = OptionFiles


def without_hydra(composed: DictConfig) -> DictConfig:
    """Copies the configuration without Hydra's own node."""
    config = composed.copy()
    with open_dict(config):
        del config["hydra"]
    return config


def shown(composed: DictConfig, which: str, package: str | None, *, resolve: bool) -> str:
    """Returns the YAML that `--cfg` prints: `which` is `all`, `hydra` (its own node) or `job` (the rest); `package` one node.

    Raises `InvalidArguments` for an unknown node.
    """
    config = (
        composed
        if which == "all"
        else OmegaConf.masked_copy(composed, "hydra")
        if which == "hydra"
        else without_hydra(composed)
    )
    part = config if package in (None, "_global_") else OmegaConf.select(config, str(package))
    if part is None:
        known = [str(name) for name in config]
        sentence = f"={package!r}: no such part;{did_you_mean(str(package), known)} known: {listed(known)}"
        raise InvalidArguments([Problem("--package", sentence)])
    if not OmegaConf.is_config(part):
        return f"{part}\n"
    if resolve:
        OmegaConf.resolve(part)
    return (f"# @package {package}\n" if package else "") + OmegaConf.to_yaml(part)


def with_choices(config: DictConfig, runtime: Any) -> dict[str, Any]:
    """The resolved configuration with the chosen option of each group under `choices`, for tables and run folders.

    `runtime` is Hydra's record of its choices and of the folders that it read. Ensemble members given by name become nodes.
    """
    resolved = as_plain(config)
    named = {name: choice for name, choice in runtime.choices.items() if name.partition("@")[0] in GROUPS}
    choices = {name.rpartition("@")[2]: choice for name, choice in named.items()}
    teacher = resolved.get("teacher")
    if isinstance(teacher, dict) and isinstance(teacher.get("members"), list):
        folders = [Path(source.path) for source in runtime.config_sources if source.schema == "file"]
        choices |= {f"teacher.members.{n}": one for n, one in enumerate(teacher["members"]) if isinstance(one, str)}
        teacher["members"] = [_model(member, folders) for member in teacher["members"]]
    return {**homes_within(resolved), "choices": choices}


def _model(member: Any, folders: Sequence[Path]) -> Any:
    """The node of a network given by its name; anything else is returned unchanged."""
    files = [folder / "model" / f"{member}.yaml" for folder in folders] if isinstance(member, str) else []
    found = next((file for file in files if file.is_file()), None)
    return OmegaConf.to_container(OmegaConf.load(found)) if found else member


def as_plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Copies the configuration into plain dictionaries and lists, resolved."""
    if not isinstance(config, DictConfig):
        return deepcopy(dict(config))
    return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]


def as_yaml(config: Mapping[str, Any]) -> str:
    """Writes the configuration as YAML, key by key: most jobs of a sweep share most of their values with the job before."""
    return "".join(_yaml_of(name, pickle.dumps(value)) for name, value in as_plain(config).items())


@lru_cache(maxsize=256)
def _yaml_of(name: str, pickled: bytes) -> str:
    return OmegaConf.to_yaml({name: pickle.loads(pickled)})
