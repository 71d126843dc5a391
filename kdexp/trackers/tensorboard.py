"""TensorBoard: event files in `OUTPUT_DIR/tensorboard`, a folder for each run."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kdexp.files import at_home
from kdexp.store.run_state import FINISHED
from kdexp.trackers.tracker import Opened, Report, flat, pictures, terms, text_of

NAMED = ("dataset", "teacher", "student", "distillation", "seed")
"""Keys that are always among the settings of a run."""
PLACES = ("output_dir", "store", "logger")

SHOWN = ("test_top1", "difference")
"""Columns of the table that have charts; all others are in its text."""


def settings(config: Mapping[str, Any], folder: Path) -> dict[str, str | int | float | bool]:
    """What tells runs apart on the page HPARAMS: main options, and the keys that the run's command sets."""
    words = shlex.split((folder / "command.txt").read_text("utf-8", "surrogateescape"))
    given = [word.lstrip("+").partition("=")[0] for word in words]
    values = flat(config)
    named = {name: values[name] for name in (*NAMED, *given) if name in values and name not in PLACES}
    return {name: value if isinstance(value, str | int | float) else str(value) for name, value in named.items()}


class TensorBoard:
    """Writes event files, which need no server."""

    def open(self, config: Mapping[str, Any], name: str, folder: Path, *, group: str, earlier: str) -> Opened:
        """A sweep's runs lie in its folder. A continued run gets one more event file, which TensorBoard joins to the others.

        A sweep's own run has its report at step 0, where a later one takes its place, also in a TensorBoard that is open.
        """
        from torch.utils.tensorboard import SummaryWriter

        root = at_home(str(config["output_dir"])) / "tensorboard"
        place = root / name
        known = place.is_dir()
        of_sweep = name == group
        self._replaced = list(place.glob("events.out.tfevents.*")) if of_sweep else []
        self._settings = {} if of_sweep else settings(config, folder)
        self._writer = SummaryWriter(str(place), purge_step=0 if of_sweep else None)
        return Opened(name, f"tensorboard --logdir {shlex.quote(str(root))} shows it", continued=earlier == name and known)

    def epoch(self, learner: str, row: Mapping[str, float]) -> None:
        """The number of the epoch is the step."""
        for tag, value in terms(learner, row).items():
            self._writer.add_scalar(tag, value, int(row["epoch"]))

    def flush(self) -> None:
        """Writes events to the file."""
        self._writer.flush()

    def end(self, report: Report) -> None:
        """Adds the table, the configuration and the pictures, and the results to the page HPARAMS."""
        if report.table:
            self._writer.add_text("table", report.table)
        if config := text_of(report.files, "config.yaml"):
            self._writer.add_text("configuration", "".join(f"    {line}\n" for line in config.splitlines()))
        for path in pictures(report.files):
            with Image.open(path) as picture:
                self._writer.add_image(path.stem, np.asarray(picture.convert("RGB")), dataformats="HWC")
        shown = {tag: value for tag, value in report.numbers.items() if tag.rpartition("/")[2] in SHOWN}
        if report.state == FINISHED and shown:
            self._writer.add_hparams(self._settings, shown, run_name=".")
        self._writer.close()
        for path in self._replaced:
            path.unlink(missing_ok=True)
