"""Writes learners into a store without training, as a stranger could."""

import hashlib
import json

from kdexp.data.shape import Shape
from kdexp.network.build import build_network
from kdexp.store.learners import LearnerStore
from kdexp.store.spec import FORMAT, key_of

SHAPE = Shape(num_classes=10, in_channels=1, image_size=8)
MLP = {"_target_": "kdexp.models.mlp.MLP", "hidden": [5]}
NONE = {
    "_target_": "kdexp.distillation.none.NoDistillation",
    "temperature": 1.0,
    "alpha": None,
    "ce_weight": None,
    "kd_weight": None,
}
ADAM = {"_target_": "kdexp.training.optimization.Adam", "lr": 0.001}
CONSTANT = {"_target_": "kdexp.training.optimization.Constant"}
PROVENANCE = {"python": "3.11", "versions": {"kdexp": "0.1.0", "torch": "2.10"}, "device": "cpu", "threads": 1, "git": None}
METRICS = {"top1": 0.5, "nll": 1.0, "ece": 0.1}


def spec_of(*, model=MLP, method=NONE, shape=SHAPE, teacher=None, **more):
    """The spec of a learner as the store hashes it."""
    data = {**vars(shape), "mean": [0.5] * shape.in_channels, "std": [0.25] * shape.in_channels, "fingerprint": "f" * 64}
    return {
        "format": FORMAT,
        "data": data,
        "model": model,
        "method": method,
        "optimizer": ADAM,
        "schedule": CONSTANT,
        "epochs": 1,
        "batch_size": 32,
        "seed": 0,
        "precision": "fp32",
        "limit_batches": None,
        "teacher": teacher,
        "members": [],
        "sources": {},
        **more,
    }


KEY = key_of(spec_of())


def result_of(spec, **more):
    """The result of a learner without what the store adds."""
    return {
        "model": "net",
        "method": "CE",
        "dataset": "digits",
        "spec": spec,
        "parameters": 1000,
        "training_only_parameters": 0,
        "macs": 1000,
        "size_mb": 0.004,
        "train_images": 90,
        "test": {"last": METRICS},
        "best_epoch": None,
        "history": [{"epoch": 1, "loss": 1.0, "train_accuracy": 0.5}],
        "train_seconds": 1.0,
        "trained_at": "2026-01-31 12:00",
        "provenance": PROVENANCE,
        **more,
    }


def craft(folder, *, key=None, network=None, shape=SHAPE, **spec):
    """A stored learner with an untrained network (of `network`, if the described one must not be built)."""
    described = spec_of(shape=shape, **spec)
    weights = build_network(network or described["model"], shape).state_dict()
    named = {"last": {f"model.{name}": value for name, value in weights.items()}}
    return LearnerStore(folder).save(key or key_of(described), result_of(described), named, {}).path


def rewrite(learner, **changes):
    """Changes a stored result and updates its digest."""
    result = json.loads((learner / "result.json").read_text()) | changes
    (learner / "result.json").write_text(json.dumps(signed(result)))


def alter(path, old, new):
    """Edits a file as a hand or a bad disk would."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def signed(value):
    """The value with its own digest."""
    rest = {name: inner for name, inner in value.items() if name != "digest"}
    return {**rest, "digest": hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()}


def as_run(folder, *rows, store="store/learner"):
    """A run folder's table with these (role, key) rows."""
    table = {"store": store, "rows": [{"role": role, "key": key, "status": "finished"} for role, key in rows]}
    (folder / "table.json").write_text(json.dumps(table))
    return folder
