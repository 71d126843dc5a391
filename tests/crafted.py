"""Learners put into a store by hand, as a stranger could."""

import hashlib
import json

from kdexp.network import Shape, build_network
from kdexp.store import Store

KEY = "0123456789abcdef"
SHAPE = Shape(num_classes=10, in_channels=1, image_size=8)
MLP = {"_target_": "kdexp.models.mlp.MLP", "hidden": [5]}
NONE = {
    "_target_": "kdexp.distillation.none.NoDistillation",
    "temperature": 1.0,
    "alpha": None,
    "ce_weight": None,
    "kd_weight": None,
}


def craft(folder, *, model=MLP, method=NONE, shape=SHAPE, teacher=None, key=KEY, network=None, **spec):
    """A stored learner with an untrained network (of `network`, if the described one must not be built)."""
    weights = build_network(network or model, shape).state_dict()
    data = {**vars(shape), "mean": [0.5] * shape.in_channels, "std": [0.25] * shape.in_channels}
    result = {
        "model": "net",
        "method": "CE",
        "spec": {"data": data, "model": model, "method": method, "teacher": teacher, **spec},
        "test": {"last": {"top1": 0.5}},
    }
    return Store(folder).save(key, result, {"last": {f"model.{name}": value for name, value in weights.items()}}, {}).path


def rewrite(learner, **changes):
    """Changes a stored result and makes it look untouched."""
    result = json.loads((learner / "result.json").read_text()) | changes
    result.pop("digest", None)
    result["digest"] = hashlib.sha256(json.dumps(result, sort_keys=True).encode()).hexdigest()
    (learner / "result.json").write_text(json.dumps(result))


def as_run(folder, *rows, store="store/learner"):
    """A run folder's table with these (role, key) rows."""
    table = {"store": store, "rows": [{"role": role, "key": key, "status": "finished"} for role, key in rows]}
    (folder / "table.json").write_text(json.dumps(table))
    return folder
