"""Composes the many jobs of a sweep: Hydra is asked once per choice of options, and numbers are filled in."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from kdexp.config import as_plain, compose_command, compose_whole, conf_dir, with_choices, without_hydra
from kdexp.files import is_file
from kdexp.quoting import parse


class Composer:
    """Composes jobs as `compose_command` does, but quicker where only values differ."""

    def __init__(self, config_dir: str | None = None, config_name: str = "config"):
        self.where: dict[str, Any] = {"config_dir": config_dir, "config_name": config_name}
        self.folders = [Path(folder) for folder in (conf_dir(), config_dir) if folder]
        self._wholes: dict[tuple[str, ...], DictConfig] = {}
        self._composed: dict[tuple[str, ...], tuple[DictConfig, Any] | None] = {}

    def compose(self, overrides: Sequence[str]) -> dict[str, Any]:
        """One job's configuration; raises errors of Hydra or OmegaConf, of many kinds, which `kdexp.mistakes` explains."""
        parsed = [parse(text) for text in overrides]
        values = [override for override in parsed if self.sets_value(override)]
        known = self._chosen(tuple(override.input_line or "" for override in parsed if override not in values))
        if known is None:
            return as_plain(compose_command(overrides, **self.where))
        config = known[0].copy()
        for override in values:
            OmegaConf.update(config, override.key_or_group, override.value())
        return with_choices(config, known[1])

    def hydra(self, overrides: Sequence[str]) -> DictConfig:
        """Hydra's own node, as far as overrides decide it that choose one option and are no mistakes."""
        good: list[str] = []
        for text in overrides:
            with suppress(Exception):  # composing explains it
                parsed = parse(text)
                if not parsed.is_sweep_override() and not self.sets_value(parsed):
                    good.append(text)
        try:
            return self._whole(tuple(good)).hydra
        except Exception:  # composing explains it
            return self._whole(()).hydra

    def sets_value(self, override: Override) -> bool:
        """Whether it sets a key, and chooses, adds or removes nothing."""
        key = override.key_or_group
        if override.is_add() or override.is_force_add() or override.is_delete() or override.package is not None:
            return False
        return not (override.is_sweep_override() or key.startswith("hydra") or self.is_group(key))

    def is_group(self, key: str) -> bool:
        """Whether a key chooses options, rather than setting a value."""
        return len(key) < 200 and any((folder / key).is_dir() for folder in self.folders)  # longer names raise OSError

    def options(self, group: str) -> list[str]:
        """The options of a group, those of a user's own folder included; none if there is no such group."""
        return sorted(
            {file.stem for folder in self.folders if self.is_group(group) for file in (folder / group).glob("*.yaml")}
        )

    def file_of(self, config: str) -> Path | None:
        """The YAML file of `GROUP/OPTION`, the first in Hydra's order; None if there is none."""
        return next((file for folder in self.folders if is_file(str(file := folder / f"{config}.yaml"))), None)

    def own_file_of(self, config: str, suffix: str = ".yaml") -> Path | None:
        """The file of `GROUP/OPTION` in the user's own folder; None if there is none."""
        return next((file for folder in self.folders[1:] if is_file(str(file := folder / f"{config}{suffix}"))), None)

    def _whole(self, overrides: tuple[str, ...]) -> DictConfig:
        if overrides not in self._wholes:
            self._wholes[overrides] = compose_whole(overrides, **self.where)
        return self._wholes[overrides]

    def _chosen(self, overrides: tuple[str, ...]) -> tuple[DictConfig, Any] | None:
        """What these overrides compose to, with what Hydra says of them; None where values depend on Hydra's own node."""
        if overrides not in self._composed:
            whole = self._whole(overrides)
            config = without_hydra(whole)
            text = OmegaConf.to_yaml(config)
            self._composed[overrides] = None if "${hydra:" in text else (config, whole.hydra.runtime)
        return self._composed[overrides]
