"""The configuration: where its files are, how a command line becomes one, and how its nodes become objects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from hydra import compose, version
from hydra._internal.hydra import Hydra
from hydra._internal.sources_registry import SourcesRegistry
from hydra._internal.utils import _locate, create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

from kdexp.errors import InvalidArguments, Problem, did_you_mean, listed
from kdexp.option_files import OptionFiles

GROUPS = ("dataset", "teacher", "student", "distillation", "optimizer", "schedule", "protocol", "experiment", "recipe")


def conf_dir() -> str:
    """The folder of the shipped YAML files: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "config.yaml").is_file():
            return str(folder)
    raise FileNotFoundError(f"kdexp was installed without its conf/ folder (looked beside {package})")


def compose_command(overrides: Sequence[str], *, config_dir: str | None = None, config_name: str = "config") -> DictConfig:
    """What Hydra makes of one job's overrides, with the names of the chosen options under `choices`."""
    composed = compose_whole(overrides, config_dir=config_dir, config_name=config_name)
    return OmegaConf.create(with_choices(without_hydra(composed), composed.hydra.runtime))


def compose_whole(overrides: Sequence[str], *, config_dir: str | None = None, config_name: str = "config") -> DictConfig:
    """What Hydra makes of one job's overrides, unresolved, with Hydra's own node; `config_dir` may have any name."""
    version.setbase("1.3")
    search_path = create_config_search_path(conf_dir())
    if config_dir:  # as Hydra's --config-dir adds it
        own = f"file://{Path(config_dir).absolute()}"
        search_path.prepend("command-line", own, SearchPathQuery(provider="schema"))
    OptionFiles.trusted = conf_dir()
    SourcesRegistry.instance().types["file"] = OptionFiles
    GlobalHydra.instance().clear()
    try:
        Hydra.create_main_hydra2("kdexp", search_path)
        composed = compose(config_name, list(overrides), return_hydra_config=True)
    finally:
        GlobalHydra.instance().clear()
    HydraConfig.instance().set_config(composed)
    return composed


def without_hydra(composed: DictConfig) -> DictConfig:
    """The same configuration, copied, without Hydra's own node."""
    config = composed.copy()
    with open_dict(config):
        del config["hydra"]
    return config


def shown(composed: DictConfig, which: str, package: str | None, *, resolve: bool) -> str:
    """YAML of the whole configuration, of Hydra's own node (`which="hydra"`) or of the rest (`job`), or of one node of it.

    Raises `InvalidArguments` for a node that is not there.
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
    """The resolved configuration plus the option that was chosen in each of our groups, for tables and run folders.

    `runtime` is what Hydra says of its choices and of the folders that it read. An ensemble's members that are given by name
    become nodes.
    """
    resolved = as_plain(config)
    named = {name: choice for name, choice in runtime.choices.items() if name.partition("@")[0] in GROUPS}
    choices = {name.rpartition("@")[2]: choice for name, choice in named.items()}
    teacher = resolved.get("teacher")
    if isinstance(teacher, dict) and isinstance(teacher.get("members"), list):
        folders = [Path(source.path) for source in runtime.config_sources if source.schema == "file"]
        choices |= {f"teacher.members.{n}": one for n, one in enumerate(teacher["members"]) if isinstance(one, str)}
        teacher["members"] = [_model(member, folders) for member in teacher["members"]]
    return {**resolved, "choices": choices}


def _model(member: Any, folders: Sequence[Path]) -> Any:
    """The node of a network that is given by its name; what is no name of one is returned as it is."""
    files = [folder / "model" / f"{member}.yaml" for folder in folders] if isinstance(member, str) else []
    found = next((file for file in files if file.is_file()), None)
    return OmegaConf.to_container(OmegaConf.load(found)) if found else member


def as_plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration as dictionaries and lists of its own, resolved."""
    if not isinstance(config, DictConfig):
        return deepcopy(dict(config))
    return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]


def as_yaml(config: Mapping[str, Any]) -> str:
    """The configuration as OmegaConf writes it, key by key: most jobs of a sweep differ from the one before in few of them."""
    return "".join(_lines(name, value, repr(value)) for name, value in as_plain(config).items())


def _lines(name: str, value: Any, said: str) -> str:
    if _written.get(name, ("", ""))[0] != said:
        _written[name] = said, OmegaConf.to_yaml({name: value})
    return _written[name][1]


_written: dict[str, tuple[str, str]] = {}
"""Under each key, what was written last and how it was said."""


def target(node: Mapping[str, Any]) -> Any:
    """The class or function that a node's `_target_` names."""
    return _locate(node["_target_"])  # what hydra.utils.get_object calls, without its log lines


def arguments(node: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments that a node holds for its `_target_`."""
    plain = {name: OmegaConf.to_container(v, resolve=True) if OmegaConf.is_config(v) else v for name, v in node.items()}
    return {name: value for name, value in plain.items() if name != "_target_"}


def nodes_within(node: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The nodes among a node's arguments, by their paths; of our own classes, which build of them what they need.

    Those of other classes are made by Hydra, and those inside such a node are that node's own.
    """
    return dict(_nodes(arguments(node), "")) if node["_target_"].startswith("kdexp.") else {}


def _nodes(values: Any, prefix: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, value in values.items() if isinstance(values, dict) else enumerate(values):
        if isinstance(value, dict) and "_target_" in value:
            yield f"{prefix}{name}", value
        elif isinstance(value, dict | list):
            yield from _nodes(value, f"{prefix}{name}.")


def build(node: Mapping[str, Any], **given: Any) -> Any:
    """The object that a node describes; `given` are the arguments that only the program knows.

    Nodes within a node become objects too, but for our own classes, which build what they need of them themselves.
    """
    told = arguments(node)
    if node["_target_"].startswith("kdexp."):
        return target(node)(**told, **given)  # as Hydra would, in a hundredth of the time
    return instantiate({"_target_": node["_target_"], **arguments(node)}, **given, _convert_="all")
