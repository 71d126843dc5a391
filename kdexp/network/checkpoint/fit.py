"""Loads weights into a network. All names and shapes must agree, except for both ends if the caller allows it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from kdexp.errors import BadCheckpoint, BadFreshLayer, UnknownLayer, a_few, listed
from kdexp.network.checkpoint.heads import classifier_name, fit_head, fit_stem, shape_of, within
from kdexp.network.checkpoint.read import read_checkpoint
from kdexp.network.layers import find_layers

FEW = 2
"""Layers that differ up to which a network is taken for the file's own."""

CHOSEN = "not taken from the file"
"""The reason why a layer that the user names keeps its initial values."""


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
    chosen: tuple[str, ...] = ()
    """Other modules that keep their initial values because the user names them."""
    rows: tuple[int, ...] = ()
    """The row of the file's classifier for each class of the data; empty if the rows are unchanged."""
    classes: int = 0
    """Number of classes of the file's classifier, 0 if there is none."""

    @property
    def fresh(self) -> tuple[str, ...]:
        """Names of the modules that keep their initial values."""
        return (*self.unfit_stem, *self.unfit_head, *self.chosen)

    def sentences(self) -> tuple[str, ...]:
        """Returns sentences for the user of a network that is trained further."""
        changes = [*self.changes]
        for kind, unfit in (("first convolution", self.unfit_stem), ("classifier", self.unfit_head)):
            changes += [f"{_named(kind, unfit)} freshly initialised ({next(iter(unfit.values()))})"] if unfit else []
        changes += [f"{listed(self.chosen)} freshly initialised ({CHOSEN})"] if self.chosen else []
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
    model: nn.Module,
    path: str | Path,
    *,
    role: str = "",
    classes: Sequence[str] | None = None,
    partly: bool = False,
    prefix: str = "",
    fresh: Sequence[str] = (),
) -> Start:
    """Loads a file of weights. If both sides name their classes, the classifier's rows are put in the order of `classes`.

    If the file has both a teacher and a student that fit, `role` decides: "teacher", anything else for the student. With
    `partly`, a classifier or first convolution that can't be made to fit keeps its values. With a `prefix`, only tensors whose
    names begin with it are read, without it. The modules `fresh` keep their values. Raises `BadCheckpoint`.
    """
    _require_layers(model, fresh)
    checkpoint = read_checkpoint(path, model, role=role, prefix=prefix, fresh=fresh)
    stem, classifier = fit_stem(model, checkpoint.tensors), classifier_name(model)
    try:
        head = fit_head(model, stem.weights, None if _covers(fresh, classifier) else checkpoint.classes, classes)
    except ValueError as error:
        raise BadCheckpoint(f"{checkpoint.path} {error}") from error
    unfit_stem, unfit_head = (_reasons(end.unfit, fresh) for end in (stem, head))
    unfit = unfit_stem | unfit_head
    _require_fit(model, head.weights, checkpoint.path, (*unfit, *fresh), role, fresh)
    misfits = [f"{name} ({reason})" for name, reason in unfit.items() if reason != CHOSEN]
    if misfits and not partly:
        raise BadCheckpoint(f"{checkpoint.path} does not fit {type(model).__name__}: {'; '.join(misfits)}")
    fit(model, head.weights, checkpoint.path, fresh=(*unfit, *fresh))
    changes = tuple(filter(None, (stem.change, head.change)))
    chosen = tuple(name for name in fresh if name not in unfit)
    return Start(checkpoint.path, checkpoint.notes, changes, unfit_stem, unfit_head, chosen, head.rows, head.classes)


def _covers(fresh: Sequence[str], module: str) -> bool:
    """Whether the module is one of the modules `fresh`, or inside one."""
    return within(f"{module}.", fresh)


def _reasons(unfit: Mapping[str, str], fresh: Sequence[str]) -> dict[str, str]:
    """Returns why the modules at one end keep their values: because the user names them, or else as found."""
    return {name: CHOSEN if _covers(fresh, name) else reason for name, reason in unfit.items()}


def _require_layers(model: nn.Module, fresh: Sequence[str]) -> None:
    """Raises `BadFreshLayer` unless these are modules with weights, and leave others to read."""
    try:
        find_layers(model, fresh)
    except UnknownLayer as error:
        raise BadFreshLayer(str(error)) from error
    own = model.state_dict()
    if bare := [name for name in fresh if not any(within(tensor, [name]) for tensor in own)]:
        raise BadFreshLayer(f"{listed(bare)} of {type(model).__name__} has no weights to initialise; leave it out")
    if fresh and all(within(name, fresh) for name in own):
        raise BadFreshLayer(f"all layers of {type(model).__name__} would be freshly initialised; leave out checkpoint instead")


def fit(model: nn.Module, weights: Mapping[str, Tensor], source: str | Path, *, fresh: Collection[str] = ()) -> None:
    """Loads weights that come from `source`, except into the modules `fresh`, which keep their values.

    Raises `BadCheckpoint` with the first names or shapes that differ in other modules.
    """
    _require_fit(model, weights, source, fresh)
    kept = {name: value for name, value in model.state_dict().items() if within(name, fresh)}
    model.load_state_dict({name: value for name, value in weights.items() if not within(name, fresh)} | kept)


def _require_fit(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    source: str | Path,
    fresh: Collection[str] = (),
    role: str = "",
    chosen: Sequence[str] = (),
) -> None:
    own = model.state_dict()
    differing = [name for name in own if name not in weights] + [name for name in weights if name not in own]
    differing += [name for name in own if name in weights and own[name].shape != weights[name].shape]
    nothing_left = bool(fresh) and all(within(name, fresh) for name in own)
    if nothing_left or not all(within(name, fresh) for name in differing):
        differing = [name for name in differing if not within(name, chosen)]
        raise BadCheckpoint(
            f"{source} does not fit {type(model).__name__}: {len(differing)} tensors differ, first "
            + "; ".join(f"{name} (model {shape_of(own, name)}, file {shape_of(weights, name)})" for name in differing[:3])
            + _other_names(differing, own, weights)
            + _way_out(differing, own, fresh, chosen, role)
        )


def _other_names(differing: list[str], own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> str:
    """Lists names of the file, unless the names that were just listed already include some."""
    unknown = [name for name in weights if name not in own]
    return f"; names in the file: {a_few(unknown, 3)}" if unknown and not set(differing[:3]) & set(unknown) else ""


def _way_out(differing: list[str], own: Mapping[str, Tensor], fresh: Collection[str], chosen: Sequence[str], role: str) -> str:
    """Says how a student's training starts from the rest, if a few of its layers differ and the file has no others."""
    layers = list(dict.fromkeys(name.rpartition(".")[0] for name in differing if not within(name, fresh)))
    if role != "student" or len(layers) > FEW or not all(layers) or not own.keys() >= {*differing}:
        return ""
    return f"; 'student.checkpoint_fresh=[{','.join([*chosen, *layers])}]' takes the rest"
