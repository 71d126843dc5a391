"""Saves the progress of learners in training: every few seconds, and when a training is interrupted."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from kdexp.experiment.journal import Journal
from kdexp.files import reason
from kdexp.store.learners import LearnerStore
from kdexp.training.learner import Learner

INTERVAL = 5.0
"""Seconds between two saves, at least. A killed process loses less than this and one epoch."""


class ProgressSaver:
    """Saves each learner's last finished epoch, or keeps a copy of it until a save is due."""

    def __init__(self, store: LearnerStore, keys: Mapping[str, str], journal: Journal):
        self._store, self._keys, self._journal = store, keys, journal
        self._saved_at = dict.fromkeys(keys, time.monotonic())
        self._copies: dict[str, dict[str, Any]] = {}

    def keep(self, learner: Learner) -> None:
        """Saves the learner's state after an epoch if a save is due, otherwise copies it."""
        if time.monotonic() - self._saved_at[learner.name] >= INTERVAL:
            self._copies.pop(learner.name, None)
            self._save(learner.name, learner.progress())
        else:
            self._copies[learner.name] = _copy(learner.progress())

    def save_copies(self) -> None:
        """Saves what was only copied so far."""
        for name, state in self._copies.items():
            self._save(name, state)

    def _save(self, name: str, state: dict[str, Any]) -> None:
        try:
            self._store.keep_progress(self._keys[name], state)
        except OSError as error:
            self._journal.warn_once(
                f"{self._store.root}: progress can't be saved ({reason(error)}); a killed run would start from the beginning"
            )
        self._saved_at[name] = time.monotonic()


@contextmanager
def saving_progress(store: LearnerStore, keys: Mapping[str, str], journal: Journal) -> Iterator[ProgressSaver]:
    """A saver for learners with these keys by name; what it has only copied is saved if the training inside is cut short."""
    saver = ProgressSaver(store, keys, journal)
    try:
        yield saver
    except BaseException:
        saver.save_copies()
        raise


def _copy(state: Any) -> Any:
    """The state with copies of its tensors, which the next epoch changes in place; its numbers and rows stay as they are."""
    if isinstance(state, Tensor):
        return state.detach().clone()
    if isinstance(state, dict):
        return {name: _copy(value) for name, value in state.items()}
    return list(state) if isinstance(state, list) else state
