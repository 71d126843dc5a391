"""The YAML files that kdexp ships."""

from pathlib import Path

from kdexp.configuration.compose import conf_dir
from kdexp.configuration.option_files import option_names

CONF = Path(conf_dir())


def options(group: str) -> list[str]:
    return sorted(option_names(CONF, group))
