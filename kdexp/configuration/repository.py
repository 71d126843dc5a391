"""Hydra's YAML files, parsed once per process: parsing them for each job takes half of the time of composing it."""

from __future__ import annotations

import pickle

from hydra._internal import defaults_list as hydra_defaults
from hydra._internal.config_repository import ConfigRepository
from hydra._internal.defaults_list import Overrides
from hydra.core.default_element import InputDefault
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig

from kdexp.configuration.option_files import OptionFiles

_read: dict[tuple[str, str, str], bytes] = {}
"""Pickled options by the kind and path of their source, and name; unpickling one gives a copy that Hydra may change."""


class RememberedOptions(ConfigRepository):
    """Hydra's repository, which reads shipped files and Hydra's own options once per process, a user's files each time."""

    def load_config(self, config_path: str) -> ConfigResult | None:
        """Returns an option, or None if no source has it; raises `BadOptionFile`."""
        source = self._find_object_source(config_path, ObjectType.CONFIG)
        if source is None or (isinstance(source, OptionFiles) and source.path != OptionFiles.trusted):
            return super().load_config(config_path)
        key = (source.scheme(), source.path, config_path)
        if key not in _read:
            _read[key] = pickle.dumps(super().load_config(config_path))
        option: ConfigResult = pickle.loads(_read[key])
        return option


_choices_so_far = hydra_defaults._create_interpolation_map


def _choices_if_used(overrides: Overrides, defaults_list: list[InputDefault], self_added: bool) -> DictConfig:
    """The choices that `${GROUP}` in a defaults list may name; Hydra copies them for lists without `${`, too."""
    used = any(not default.is_self() and default.is_interpolation() for default in defaults_list)
    return _choices_so_far(overrides, defaults_list, self_added) if used else DictConfig({})


hydra_defaults._create_interpolation_map = _choices_if_used
