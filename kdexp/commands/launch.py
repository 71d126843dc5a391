"""Multiruns whose launcher is not ours: Hydra starts their jobs, in other processes or on other machines."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.hydra import Hydra
from hydra._internal.sources_registry import SourcesRegistry
from hydra._internal.utils import run_and_report
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from kdexp.configuration.compose import read_option_files, search_path_of
from kdexp.configuration.flags import Flags


def launch(flags: Flags, overrides: Sequence[str], run: Callable[[DictConfig], int]) -> int:
    """Hands a checked multirun to Hydra's sweeper and launcher; returns the highest exit code that `run` returned.

    An error that a launcher raises is printed by Hydra, and is exit code 1.
    """
    words = [*overrides, "hydra.mode=MULTIRUN"]
    read_option_files()
    try:
        sweep = Hydra.create_main_hydra2("kdexp", search_path_of(flags.config_dir))
        # The sweep reads files our way from now on; new processes register Hydra's own way, and refuse to find another.
        SourcesRegistry.instance().types["file"] = FileConfigSource
        batches = run_and_report(lambda: sweep.multirun(flags.config_name, run, words))
    finally:
        GlobalHydra.instance().clear()
    if not isinstance(batches, list):  # sweepers that search return nothing
        return 0
    return max((job.return_value for batch in batches for job in batch), default=0)
