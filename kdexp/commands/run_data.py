"""The data set of a finished run, read again for what comes after its training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from kdexp.configuration.nodes import build
from kdexp.data.dataset import ImageDataset
from kdexp.data.load import Data, load
from kdexp.deployment.trust import check_dataset
from kdexp.errors import DataUnavailable
from kdexp.store.stored import StoredLearner
from kdexp.sweep.read import parse_config

CONFIG = "config.yaml"
UNREAD = {"download": False, "unlabelled_root": None}
"""Keys of a data set, and what stands there where nothing is trained."""


def read_data(run: Path, stored: StoredLearner, modules: Sequence[str] = (), root: Path | None = None) -> Data:
    """Reads the images of a run on the CPU, from another folder if `root` is given; downloads nothing.

    Raises `ValueError` with a message for the user if they are not there, or not those that the learner was trained on.
    """
    source = run / CONFIG
    if not source.is_file():
        raise ValueError(f"{run} has no {CONFIG}, which names its images; --int8 needs them, and so a run folder")
    node = parse_config(source)["dataset"]
    check_dataset(node, source, modules)
    if root is not None and "root" not in node:
        raise ValueError(f"--root {root}: the images of {run} are not in a folder")
    changed: dict[str, Any] = {"root": str(root)} if root is not None else {}
    changed |= {name: value for name, value in UNREAD.items() if name in node}
    dataset: ImageDataset = build({**node, **changed})
    moved = "; --root FOLDER names where its images are now" if "root" in node else ""
    if why := dataset.missing():
        raise ValueError(f"{why}{moved}")
    try:
        data = load(dataset, torch.device("cpu"))
    except DataUnavailable as error:
        raise ValueError(f"{error}{moved}") from error
    if data.fingerprint != stored.result["spec"]["data"]["fingerprint"]:
        data.close()
        raise ValueError(f"the images are not those that {run} was trained on{moved}")
    return data
