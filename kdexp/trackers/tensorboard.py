"""TensorBoard: event files in `OUTPUT_DIR/tensorboard`, a folder for each run."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kdexp.files import at_home
from kdexp.store.run_state import FINISHED
from kdexp.trackers.tracker import Opened, Row, flat, pictures, results, terms, text_of

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
        """A sweep's runs lie in one folder. A continued run gets one more event file, which TensorBoard joins to the others."""
        from torch.utils.tensorboard import SummaryWriter

        root = at_home(str(config["output_dir"])) / "tensorboard"
        place = root / name
        known = place.is_dir()
        self._settings = settings(config, folder)
        self._writer = SummaryWriter(str(place))
        return Opened(name, f"tensorboard --logdir {shlex.quote(str(root))} shows it", continued=earlier == name and known)

    def epoch(self, learner: str, row: Mapping[str, float]) -> None:
        """The number of the epoch is the step."""
        for tag, value in terms(learner, row).items():
            self._writer.add_scalar(tag, value, int(row["epoch"]))

    def flush(self) -> None:
        """Writes events to the file."""
        self._writer.flush()

    def end(self, rows: Sequence[Row], files: Sequence[Path], state: str) -> None:
        """Adds the table, the configuration and the pictures, and the results to the page HPARAMS."""
        if table := text_of(files, "table.md"):
            self._writer.add_text("table", table)
        if config := text_of(files, "config.yaml"):
            self._writer.add_text("configuration", "".join(f"    {line}\n" for line in config.splitlines()))
        for path in pictures(files):
            with Image.open(path) as picture:
                self._writer.add_image(path.stem, np.asarray(picture.convert("RGB")), dataformats="HWC")
        shown = {tag: value for tag, value in results(rows).items() if tag.rpartition("/")[2] in SHOWN}
        if state == FINISHED and shown:
            self._writer.add_hparams(self._settings, shown, run_name=".")
        self._writer.close()
