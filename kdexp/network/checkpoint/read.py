"""Reads files of weights without executing anything in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from kdexp.errors import BadCheckpoint, a_few, first_line, listed
from kdexp.network.checkpoint.archive import Contents, opened
from kdexp.network.checkpoint.classes import classes_of
from kdexp.network.checkpoint.entries import Entry, entries
from kdexp.network.checkpoint.heads import within
from kdexp.network.checkpoint.notes import notes_on
from kdexp.network.checkpoint.pickles import Inert, WouldRunCode
from kdexp.network.checkpoint.prefixes import longer, under, with_dot
from kdexp.network.checkpoint.stored_tensors import StoredTensor, Unreadable
from kdexp.network.checkpoint.values import read_values
from kdexp.network.checkpoint.weights import COUNT, USUAL, Ambiguous, choose, is_count, is_extra, only_state_dict


@dataclass(frozen=True)
class Checkpoint:
    """The weights of a file, under the names of the network that they were read for, if any.

    `classes` are the class names in the order of the logits, if the file states them; `notes` are sentences for the user on
    how the file was read.
    """

    path: Path
    tensors: dict[str, Tensor]
    classes: list[str] | None = None
    notes: tuple[str, ...] = ()


def read_checkpoint(
    path: str | Path, model: nn.Module | None = None, *, role: str = "", prefix: str = "", fresh: Sequence[str] = ()
) -> Checkpoint:
    """Reads the weights of a file written by safetensors, `torch.save` or `pickle.dump` into the CPU's memory.

    With a `model`, these are the weights that fit it, found by name (see docs/checkpoints.md) among those that begin with
    `prefix`, without those of the modules `fresh`; if both a teacher and a student fit, `role` decides. Without one, they are
    the file's only state dict. Raises `BadCheckpoint`.
    """
    path = Path(path)
    try:
        with opened(path) as contents:
            found = entries(contents.root)
            if not found:
                raise BadCheckpoint(f"{path} holds no state dict (a mapping of names to tensors): {_stray(contents.root)}")
            if model is not None:
                return _for_model(path, contents, found, model, role, prefix, fresh)
            return Checkpoint(
                path, {name: entry.tensor.read() for name, entry in only_state_dict(found).items()}, classes_of(path)
            )
    except BadCheckpoint:
        raise
    except Ambiguous as error:
        choose_first = f"{role}.checkpoint_prefix={error.first} takes the first; or " if role and error.first else ""
        raise BadCheckpoint(
            f"{path} holds several state dicts that fit: {error}; {choose_first}write the one you mean into a file of its own, "
            f"as in torch.save(torch.load({path.name!r})[KEY], 'weights.pt')"
        ) from error
    except Exception as error:  # a damaged file raises anything
        raise BadCheckpoint(_why_unread(path, error)) from error


def _for_model(
    path: Path, contents: Contents, found: list[Entry], model: nn.Module, role: str, prefix: str, fresh: Sequence[str]
) -> Checkpoint:
    own = model.state_dict()
    everything, found = found, under(found, prefix, own) if prefix else found
    try:
        part = choose(found, own, role, fresh)
    except Ambiguous as error:
        raise longer(everything, prefix, own) if prefix else error from error
    foreign = {entry.name: entry for entry in part.left(found) if not is_extra(entry)}
    converted = read_values(part.found | foreign, model)
    if problems := converted.problems:
        raise BadCheckpoint(f"{path} can't be used: {a_few(problems, 3)}")
    counts = {name: value for name, value in own.items() if is_count(name) and not within(name, fresh)}
    missing = {name: torch.zeros_like(value) for name, value in counts.items() if name not in part.found}
    notes = [f"{with_dot(prefix)!r} dropped from the names, all others left out"] if prefix else []
    notes += [*notes_on(part, found, contents), *converted.types]
    notes += [f"{COUNT} is missing in the file and starts at 0"] if missing else []
    return Checkpoint(path, converted.tensors | missing, classes_of(path), tuple(f"{path}: {note}" for note in notes))


def _why_unread(path: Path, error: Exception) -> str:
    """Returns one sentence on a file that could not be read."""
    if isinstance(error, WouldRunCode):
        names = listed(error.names[:3])
        return f"{path} is refused: loading it would run code ({names}); ask for a safetensors file or a state dict"
    return f"{path} can't be read as weights: {_reason(path, error)}"


def _reason(path: Path, error: Exception) -> str:
    if not path.exists():
        return "no such file"
    if path.is_dir():
        return "it is a folder"
    if not path.stat().st_size:
        return "it is empty"
    if isinstance(error, PermissionError):
        return "permission denied"
    if isinstance(error, Unreadable):
        return str(error)
    if isinstance(error, SafetensorError):
        return f"it is no safetensors file, or a damaged one ({first_line(error)})"
    return "it is damaged, or not a state dict that torch.save wrote"


def _stray(root: Any) -> str:
    """Returns why `root`, or the mapping under the usual keys, is not a state dict."""
    for key in (*USUAL, *USUAL):
        if isinstance(root, dict) and isinstance(root.get(key), dict):
            root = root[key]
    if not isinstance(root, dict) or isinstance(root, Inert):
        return f"it is a {_kind(root)}"
    strays = [f"{key!r} is a {_kind(value)}" for key, value in root.items() if isinstance(key, str)]
    strays += [f"{key!r} is no name" for key in root if not isinstance(key, str)]
    return "; ".join(strays[:3]) or "it is empty"


def _kind(value: Any) -> str:
    if isinstance(value, StoredTensor):
        return "Tensor"
    return value.kind.rpartition(".")[2] if isinstance(value, Inert) else type(value).__name__
