"""The YAML files that kdexp ships."""

from pathlib import Path

from kdexp.configuration.compose import conf_dir

CONF = Path(conf_dir())


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))
