"""Weights into a network: every name and shape must agree, but for what depends on the data, where a caller allows it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from kdexp.errors import BadCheckpoint, a_few
from kdexp.network.checkpoint.heads import fit_head, fit_stem, shape_of, within
from kdexp.network.checkpoint.read import Checkpoint, read_checkpoint


@dataclass(frozen=True)
class Start:
    """How a network took the weights of a file."""

    path: Path
    notes: tuple[str, ...] = ()
    """Sentences for the user on how the file was read."""
    changes: tuple[str, ...] = ()
    """What was done to the weights to make them fit, in a few words each."""
    unfit_stem: dict[str, str] = field(default_factory=dict)
    """The first convolution, if it keeps the values it was initialised with, and why the file's do not fit."""
    unfit_head: dict[str, str] = field(default_factory=dict)
    """The same of the modules that give logits."""
    rows: tuple[int, ...] = ()
    """For each class of the data the row of the file's classifier that answers for it, where that is not the same row."""
    classes: int = 0
    """How many classes the file's classifier tells apart, 0 if there is none."""

    @property
    def fresh(self) -> tuple[str, ...]:
        """The modules that keep the values they were initialised with."""
        return (*self.unfit_stem, *self.unfit_head)

    def sentences(self) -> tuple[str, ...]:
        """What the user of a network should know that is trained from here on."""
        changes = [*self.changes]
        for kind, unfit in (("first convolution", self.unfit_stem), ("classifier", self.unfit_head)):
            changes += [f"{_called(kind, unfit)} freshly initialised ({next(iter(unfit.values()))})"] if unfit else []
        return (*self.notes, *([f"starts from {self.path}, {', '.join(changes)}"] if changes else []))

    def sentences_of_teacher(self) -> tuple[str, ...]:
        """What the user of a network should know that is not trained any more."""
        changes, unfit = [*self.changes], self.unfit_head
        if unfit:
            changes.append(f"{_called('classifier', unfit)} not used and accuracy not shown ({next(iter(unfit.values()))})")
        return (*self.notes, *([f"taken from {self.path}, {', '.join(changes)}"] if changes else []))


def _called(kind: str, modules: Collection[str]) -> str:
    return f"{kind} {' and '.join(name for name in modules if name != kind)}".rstrip()


def load_checkpoint(
    model: nn.Module, path: str | Path, *, role: str = "", classes: Sequence[str] | None = None, partly: bool = False
) -> tuple[str, ...]:
    """Loads a file of weights and returns the sentences that a user should read about it; raises `BadCheckpoint`.

    The arguments are those of `start_from`.
    """
    return start_from(model, path, role=role, classes=classes, partly=partly).sentences()


def start_from(
    model: nn.Module, path: str | Path, *, role: str = "", classes: Sequence[str] | None = None, partly: bool = False
) -> Start:
    """Loads a file of weights, the classifier's rows in the order of the data's `classes` where both sides have names.

    Where a teacher and a student in the file both fit, `role` decides: teacher, or any other for the student.
    Under `partly` a classifier or a first convolution that can't be made to fit keeps its values. Raises `BadCheckpoint`.
    """
    checkpoint = read_checkpoint(path, model, role=role)
    return adopt(model, checkpoint, classes, partly)


def adopt(model: nn.Module, checkpoint: Checkpoint, classes: Sequence[str] | None = None, partly: bool = False) -> Start:
    """Loads what was read; the arguments are those of `start_from`."""
    stem = fit_stem(model, checkpoint.tensors)
    try:
        head = fit_head(model, stem.weights, checkpoint.classes, classes)
    except ValueError as error:
        raise BadCheckpoint(f"{checkpoint.path} {error}") from error
    unfit = stem.unfit | head.unfit
    _require_fit(model, head.weights, checkpoint.path, unfit)
    if unfit and not partly:
        why = "; ".join(f"{name} ({reason})" for name, reason in unfit.items())
        raise BadCheckpoint(f"{checkpoint.path} does not fit {type(model).__name__}: {why}")
    fit(model, head.weights, checkpoint.path, fresh=unfit)
    changes = tuple(filter(None, (stem.change, head.change)))
    return Start(checkpoint.path, checkpoint.notes, changes, stem.unfit, head.unfit, head.rows, head.classes)


def fit(model: nn.Module, weights: Mapping[str, Tensor], source: str | Path, *, fresh: Collection[str] = ()) -> None:
    """Loads weights that come from `source`; the modules `fresh` keep the values that they have.

    Raises `BadCheckpoint` with the first names or shapes that differ elsewhere.
    """
    _require_fit(model, weights, source, fresh)
    kept = {name: value for name, value in model.state_dict().items() if within(name, fresh)}
    model.load_state_dict({name: value for name, value in weights.items() if not within(name, fresh)} | kept)


def _require_fit(model: nn.Module, weights: Mapping[str, Tensor], source: str | Path, fresh: Collection[str] = ()) -> None:
    own = model.state_dict()
    differing = [name for name in own if name not in weights] + [name for name in weights if name not in own]
    differing += [name for name in own if name in weights and own[name].shape != weights[name].shape]
    nothing_left = bool(fresh) and all(within(name, fresh) for name in own)
    if nothing_left or not all(within(name, fresh) for name in differing):
        raise BadCheckpoint(
            f"{source} does not fit {type(model).__name__}: {len(differing)} tensors differ, first "
            + "; ".join(f"{name} (model {shape_of(own, name)}, file {shape_of(weights, name)})" for name in differing[:3])
            + _other_names(differing, own, weights)
        )


def _other_names(differing: list[str], own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> str:
    """What the file's names look like, where the names that were just listed are all the model's."""
    unknown = [name for name in weights if name not in own]
    return f"; names in the file: {a_few(unknown, 3)}" if unknown and not set(differing[:3]) & set(unknown) else ""
