"""Checks of a run's own settings: the keys of `conf/config.yaml` that belong to no group."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from kdexp.configuration.arguments import problems
from kdexp.configuration.keys import all_paths, unknown_key
from kdexp.configuration.settings import NAMES, Settings, entries
from kdexp.device.precision import compiler_problem, device_problem, pick_device
from kdexp.errors import Problem
from kdexp.files import folder_problems
from kdexp.trackers.names import is_installed
from kdexp.validation.nodes import REQUIRED


def check_settings(config: dict[str, Any], *, elsewhere: bool = False) -> Iterator[Problem]:
    """Problems of unknown top-level keys, of bad values, and of what this machine's device can't do, unless it is another's."""
    known = {
        name: node
        for name, node in config.items()
        if name in (*NAMES, *REQUIRED, "teacher", "pretraining", "published", "choices")
    }
    for name in config:
        if name not in known:
            yield Problem(str(name), unknown_key(str(name), all_paths(known)))
    given = {name: config[name] for name in NAMES if name in config}
    of_values = problems(Settings, given)
    yield from of_values
    bad = {problem.name for problem in of_values}
    yield from _folders({name: given[name] for name in ("output_dir", "store") if name not in bad})
    for name in ("controls", "logger"):
        repeated = [word for word, count in Counter(() if name in bad else entries(given[name])).items() if count > 1]
        yield from (Problem(name, f"={word}: given more than once; keep one") for word in repeated)
    if "logger" not in bad:
        yield from (
            Problem("logger", f'={word}: the package {word} is not installed; pip install "kdexp[{word}]" adds it')
            for word in dict.fromkeys(entries(given["logger"]))
            if not is_installed(word)
        )
    if "device" not in bad and not elsewhere:
        yield from _device(given)


def _folders(named: dict[str, str]) -> Iterator[Problem]:
    """Problems of folders that can't be made; a folder inside a bad one is not mentioned again."""
    bad: dict[str, list[str]] = {}
    for name, folder in named.items():
        inside_bad_one = any(folder.startswith(f"{named[other]}/") for other in bad)
        if not inside_bad_one and (reasons := folder_problems(folder)):
            bad[name] = reasons
    yield from (Problem(name, f"={named[name]!r}: {reason}") for name, reasons in bad.items() for reason in reasons)


def _device(given: dict[str, Any]) -> Iterator[Problem]:
    """Problems of a device that is not there, or can't compute as the other settings say."""
    if sentence := device_problem(given["device"]):
        yield Problem("device", f"={given['device']!r}: {sentence}")
        return
    device = pick_device(given["device"]).type
    if given.get("precision") == "tf32" and device != "cuda":
        yield Problem("precision", "='tf32': only CUDA devices have TF32; use precision=auto or bf16")
    if given.get("graph") is True and device != "cuda":
        yield Problem("graph", f"=True: only CUDA devices replay graphs, and this is {device}; leave graph=false")
    if given.get("compile") is True and (sentence := compiler_problem(device)):
        yield Problem("compile", f"=True: {sentence}")
