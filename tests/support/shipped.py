"""The YAML files that kdexp ships."""

from pathlib import Path

from kdexp.configuration.option_files import option_names
from kdexp.configuration.shipped import conf_dir

CONF = Path(conf_dir())


def options(group: str) -> list[str]:
    return sorted(option_names(CONF, group))
