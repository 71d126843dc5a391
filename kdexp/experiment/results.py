"""A trained learner, evaluated once on the test images, and stored."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from torch import Tensor

from kdexp.data.load import Data
from kdexp.data.split import Split
from kdexp.network import cost
from kdexp.store.learners import LearnerStore
from kdexp.store.provenance import provenance
from kdexp.store.stored import StoredLearner
from kdexp.tasks.classification import metrics
from kdexp.training.learner import Learner

if TYPE_CHECKING:
    from kdexp.training.entry import Entry


def store_result(
    store: LearnerStore, entry: Entry, learner: Learner, split: Split, data: Data, *, together: int
) -> StoredLearner:
    """Stores weights, test logits and result of a learner trained on a split of the data, in a group of `together` learners."""
    test = data.test
    tensors, logits = _weights_and_logits(learner, test)
    labels = test.labels.cpu()
    result = {
        "model": entry.model,
        "method": entry.method,
        "dataset": entry.dataset,
        "spec": entry.spec.identity(),
        **costs(learner, test),
        "train_images": len(split),
        **_few_labels(split, data),
        **_folder(entry, data),
        "test": {epoch: _accuracies(learner, values, labels) for epoch, values in logits.items()},
        "best_epoch": learner.log.best_epoch,
        "history": learner.history,
        "train_seconds": learner.log.seconds,
        "trained_at": time.strftime("%Y-%m-%d %H:%M"),
        "continued_after": learner.continued_after,
        "provenance": {**provenance(learner.precision.device), "trained_side_by_side": together},
    }
    return store.save(entry.spec.key, result, {**tensors, "logits": {**logits, "labels": labels}}, learner.training_state())


def _few_labels(split: Split, data: Data) -> dict[str, Any]:
    """How many images there are, if only some of the training images have a label."""
    if split.images_per_epoch == len(split):
        return {}
    validation = 0 if data.validation is None else len(data.validation)
    return {"few_labels": {"training_images": split.images_per_epoch, "validation_images": validation}}


def _folder(entry: Entry, data: Data) -> dict[str, Any]:
    """The folder of images without classes, if the learner reads them."""
    return {"unlabelled": {"folder": data.folder, "images": data.folder_images}} if entry.spec.unlabelled else {}


def _accuracies(learner: Learner, logits: Tensor, labels: Tensor) -> dict[str, Any]:
    """Metrics on test images; None throughout if the learner's classifier is untrained."""
    return {name: None if learner.untrained else value for name, value in metrics(logits, labels).items()}


def _weights_and_logits(learner: Learner, test: Split) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    """Weights and test logits of the `last` epoch, and of the `best` one on validation data if there is any."""
    tensors = {"last": {name: value.clone() for name, value in learner.state_dict().items()}}
    logits = {"last": learner.logits(test)}
    if learner.log.best_epoch is not None:
        tensors["best"] = learner.best_weights
        learner.load_state_dict(learner.best_weights)
        logits["best"] = learner.logits(test)
        learner.load_state_dict(tensors["last"])
    return tensors, logits


def costs(learner: Learner, test: Split) -> dict[str, Any]:
    """Parameters, multiply-adds and size of the deployed network, and the parameters that only training needs."""
    deployed = set(learner.deployed.parameters())
    trained = [p for group in learner.optimizer.param_groups for p in group["params"]]
    return {
        "parameters": cost.parameter_count(learner.deployed),
        "training_only_parameters": sum(p.numel() for p in trained if p not in deployed),
        "macs": cost.multiply_adds(learner.deployed, next(test.in_order(1))),
        "size_mb": cost.size_mb(learner.deployed),
    }
