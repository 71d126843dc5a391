"""Loads stored or exported networks as plain modules with their preprocessing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file as tensors_of

from kdexp.configuration.nodes import build
from kdexp.data.preprocessing import Preprocessing
from kdexp.data.shape import Shape
from kdexp.deployment.predictor import Predictor
from kdexp.deployment.rebuild import build_bounded, deployed_network, shapes_in, teacher_of
from kdexp.deployment.trust import check_method, check_model
from kdexp.errors import BadCheckpoint, BadFile, BadResult, UnknownRole, first_cause, first_line, listed
from kdexp.files import at_home
from kdexp.network.checkpoint.fit import fit
from kdexp.store.descriptions import Exported
from kdexp.store.run_files import Table
from kdexp.store.schema import parse_json, read_json, require
from kdexp.store.stored import QUANTISED, RESULT, StoredLearner, read_entry, under_its_key

EPOCHS = ("last", "best")
LARGEST_PROBE = 2**24
"""Most values per image of a network from an untrusted file, which is tried on two images."""


def load(path: str | Path, role: str = "distilled", epoch: str = "last", *, modules: Sequence[str] = ()) -> Predictor:
    """Loads the deployed network of a run folder (of the learner in `role`), of a learner's folder in the store, or of a
    safetensors file written by `kdexp-export`.

    The module takes tensors of the size that it was trained on; its `preprocess` makes these of any image. `epoch` is `last`,
    or `best` for the one chosen on validation data. Raises `FileNotFoundError` for any other path, `UnknownRole` for a role
    that the run does not have, `CorruptEntry` for damaged files, `BadResult` for a description of anything but a network and a
    method, `BadCheckpoint` for weights that do not fit them.

    Files are safe to load from strangers: they are read as plain values and tensors. They name a network's class by its import
    path, but only kdexp's own networks and methods and the `modules` (or whole packages) that you trust are imported:
    `modules=["parts"]` for your own network `parts.Tiny`, whose folder is on `sys.path`.
    """
    path, modules = at_home(path), [modules] if isinstance(modules, str) else list(modules)
    return load_file(path, modules) if path.is_file() else load_stored(find_stored(path, role), epoch, modules)


def find_stored(folder: Path, role: str) -> StoredLearner:
    """Returns the learner of a run folder in `role`, or of a folder in the store; raises the errors of `load`."""
    if (folder / "table.json").is_file():
        return under_its_key(read_entry(_learner_folder(folder, role)))
    if not (folder / RESULT).is_file():
        unfinished = (folder / "command.txt").is_file()
        raise FileNotFoundError(
            f"{folder} is a run that did not finish (no table.json); the command in its command.txt finishes it"
            if unfinished
            else f"{folder} is neither a finished run (table.json) nor a stored learner ({RESULT})"
        )
    return read_entry(folder)


def _learner_folder(folder: Path, role: str) -> Path:
    """Returns the folder in the store of a run's learner."""
    try:
        table = read_json(folder / "table.json", Table)
    except BadFile as error:
        raise BadResult(str(error)) from error
    keys = {row["role"]: row["key"] for row in table["rows"] if row["status"] == "finished"}
    if role not in keys:
        raise UnknownRole(folder, role, list(keys))
    learner = folder / table["store"] / keys[role]
    if not (learner / RESULT).is_file():
        raise FileNotFoundError(
            f"the {role} learner of {folder} is not in its store ({learner}); the command in its command.txt trains it again"
        )
    return learner


def load_stored(stored: StoredLearner, epoch: str = "last", modules: Sequence[str] = ()) -> Predictor:
    """Loads the deployed network of a stored learner, whose description is not trusted; raises the errors of `load`."""
    source, data = stored.path / RESULT, stored.result["spec"]["data"]
    require_epoch(stored, epoch)
    _check_data(data, source)
    _check_names(stored, modules)
    with _build_errors(source):
        with _dry_check():
            deployed_network(stored, epoch, "meta")
        network = deployed_network(stored, epoch)
    return Predictor(network, data["mean"], data["std"], Preprocessing.of(data), data.get("classes"))


def require_epoch(stored: StoredLearner, epoch: str) -> None:
    """Raises `BadResult` unless a learner has weights of that epoch that can classify."""
    if "quantised" in stored.result["spec"]:
        raise BadResult(f"{stored.path / QUANTISED} is for onnxruntime; the network that it was made from can be loaded")
    epochs = [name for name in EPOCHS if f"{name}.safetensors" in stored.result["files"] and name in stored.result["test"]]
    if epoch in epochs and stored.result["test"][epoch]["top1"] is None:
        raise BadResult(f"{stored.path} can't classify: its classifier was not trained, as only its features were used")
    if epoch not in epochs:
        raise BadResult(f"{stored.path} has no weights of its {epoch!r} epoch; it has: {listed(epochs)}")


def _check_data(data: Mapping[str, Any], source: Path) -> None:
    """Raises `BadResult` for inconsistent or excessive numbers of channels, classes and pixels."""
    channels, classes = data["in_channels"], data.get("classes")
    if len(data["mean"]) != channels or len(data["std"]) != channels:
        raise BadResult(f"{source} is damaged: mean and std must have one number for each of {channels} channels")
    if classes is not None and len(classes) != data["num_classes"]:
        raise BadResult(f"{source} is damaged: it names {len(classes)} classes of {data['num_classes']}")
    if channels * data["image_size"] ** 2 > LARGEST_PROBE:
        raise BadResult(f"{source} is refused: its images have more than {LARGEST_PROBE:,} values each")


def _check_names(stored: StoredLearner, modules: Sequence[str], students: Sequence[Path] = ()) -> None:
    """Raises `BadResult` unless a learner, and each teacher deployed with it, names only trusted networks and methods."""
    spec, source = stored.result["spec"], stored.path / RESULT
    check_model(spec["model"], source, modules)
    check_method(spec["method"], source, modules)
    with _build_errors(source):
        if not build(spec["method"]).deploys_more:
            return
    teacher = teacher_of(stored)
    if stored.path in students:
        raise BadResult(f"{source} is damaged: it is its own teacher")
    _check_data(teacher.result["spec"]["data"], teacher.path / RESULT)
    _check_names(teacher, modules, [*students, stored.path])


@contextmanager
def _build_errors(source: Path) -> Iterator[None]:
    """Turns errors of constructors into `BadResult`."""
    try:
        yield
    except (BadFile, BadCheckpoint):
        raise
    except Exception as error:  # constructors raise anything for arguments from an untrusted file
        cause = first_line(first_cause(error))
        raise BadResult(f"{source} describes a network that this version of kdexp can't build: {cause}") from error


@contextmanager
def _dry_check() -> Iterator[None]:
    """Wraps a build without values that only checks whether weights fit; passes over networks that can't be built so."""
    try:
        yield
    except (BadFile, BadCheckpoint):
        raise
    except Exception:  # the network may need values; a real error is raised again by the real build
        return


def load_file(path: Path, modules: Sequence[str] = ()) -> Predictor:
    """Loads the network of a safetensors file whose metadata say how to build it; raises the errors of `load`."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise BadCheckpoint(f"{path} is not a safetensors file, or a damaged one") from error
    if "model" not in metadata:
        raise BadResult(f"{path} does not describe its network; files that kdexp-export writes do")
    try:
        values = {name: parse_json(metadata[name], path) for name in Exported.__annotations__ if name in metadata}
        require(values, Exported, path)
    except BadFile as error:
        raise BadResult(str(error)) from error
    _check_data(values, path)
    check_model(values["model"], path, modules)
    shape, shapes = Shape(*(values[name] for name in Shape.__annotations__)), shapes_in(path)
    with _build_errors(path):
        with _dry_check():
            fit(build_bounded(values["model"], shape, shapes, "meta"), shapes, path)
        model = build_bounded(values["model"], shape, shapes)
        fit(model, tensors_of(path), path)
    return Predictor(model, values["mean"], values["std"], _steps(values, path), values.get("classes"))


def _steps(values: Mapping[str, Any], path: Path) -> Preprocessing:
    """The preprocessing of a file; files that don't say how large images were before they were cropped did not crop them."""
    size = values["image_size"]
    resize = values.get("preprocessing", {"resize": size})["resize"]
    if resize < size:
        raise BadResult(f"{path} is damaged: images of {size} pixels can't be cropped from {resize}")
    return Preprocessing(values["in_channels"], resize, size)
