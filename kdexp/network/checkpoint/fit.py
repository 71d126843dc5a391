"""Loads weights into a network. All names and shapes must agree, except for both ends if the caller allows it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from kdexp.errors import BadCheckpoint, a_few
from kdexp.network.checkpoint.heads import fit_head, fit_stem, shape_of, within
from kdexp.network.checkpoint.read import read_checkpoint


@dataclass(frozen=True)
class Start:
    """How the weights of a file were loaded into a network."""

    path: Path
    notes: tuple[str, ...] = ()
    """Sentences for the user on how the file was read."""
    changes: tuple[str, ...] = ()
    """Short descriptions of what was done to make the weights fit."""
    unfit_stem: dict[str, str] = field(default_factory=dict)
    """The first convolution if it keeps its initial values, with the reason why the file's do not fit."""
    unfit_head: dict[str, str] = field(default_factory=dict)
    """The modules that give logits if they keep their initial values, with the reason."""
    rows: tuple[int, ...] = ()
    """The row of the file's classifier for each class of the data; empty if the rows are unchanged."""
    classes: int = 0
    """Number of classes of the file's classifier, 0 if there is none."""

    @property
    def fresh(self) -> tuple[str, ...]:
        """Names of the modules that keep their initial values."""
        return (*self.unfit_stem, *self.unfit_head)

    def sentences(self) -> tuple[str, ...]:
        """Returns sentences for the user of a network that is trained further."""
        changes = [*self.changes]
        for kind, unfit in (("first convolution", self.unfit_stem), ("classifier", self.unfit_head)):
            changes += [f"{_named(kind, unfit)} freshly initialised ({next(iter(unfit.values()))})"] if unfit else []
        return (*self.notes, *([f"starts from {self.path}, {', '.join(changes)}"] if changes else []))

    def sentences_of_teacher(self) -> tuple[str, ...]:
        """Returns sentences for the user of a teacher, which is not trained further."""
        changes, unfit = [*self.changes], self.unfit_head
        if unfit:
            changes.append(f"{_named('classifier', unfit)} not used and accuracy not shown ({next(iter(unfit.values()))})")
        return (*self.notes, *([f"taken from {self.path}, {', '.join(changes)}"] if changes else []))


def _named(kind: str, modules: Collection[str]) -> str:
    return f"{kind} {' and '.join(name for name in modules if name != kind)}".rstrip()


def load_checkpoint(
    model: nn.Module, path: str | Path, *, role: str = "", classes: Sequence[str] | None = None, partly: bool = False
) -> tuple[str, ...]:
    """Loads a file of weights and returns sentences about it for the user; arguments and errors are those of `start_from`."""
    return start_from(model, path, role=role, classes=classes, partly=partly).sentences()


def start_from(
    model: nn.Module, path: str | Path, *, role: str = "", classes: Sequence[str] | None = None, partly: bool = False
) -> Start:
    """Loads a file of weights. If both sides name their classes, the classifier's rows are put in the order of `classes`.

    If the file has both a teacher and a student that fit, `role` decides: "teacher", anything else for the student. With
    `partly`, a classifier or first convolution that can't be made to fit keeps its values. Raises `BadCheckpoint`.
    """
    checkpoint = read_checkpoint(path, model, role=role)
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
    """Loads weights that come from `source`, except into the modules `fresh`, which keep their values.

    Raises `BadCheckpoint` with the first names or shapes that differ in other modules.
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
    """Lists names of the file, unless the names that were just listed already include some."""
    unknown = [name for name in weights if name not in own]
    return f"; names in the file: {a_few(unknown, 3)}" if unknown and not set(differing[:3]) & set(unknown) else ""
