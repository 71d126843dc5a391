"""Writes sweeps to disk without training: the correctly classified images of each learner are given."""

import json

import numpy as np
import yaml
from crafted import METRICS, result_of, signed, spec_of
from safetensors.numpy import save_file

from kdexp.files import file_digest
from kdexp.store.spec import key_of

CLASSES = 10
DATA = {**spec_of()["data"], "val_fraction": 0.1}
ADAM = {"_target_": "kdexp.training.optimization.Adam", "lr": 0.001}
CONSTANT = {"_target_": "kdexp.training.optimization.Constant"}
NONE = {"_target_": "kdexp.distillation.none.NoDistillation"}
CHOICES = {"dataset": "digits", "teacher": "big", "student": "small", "distillation": "kd", "baseline": "none"}
CHOICES |= {"optimizer": "adam", "schedule": "constant", "teacher_optimizer": "adam", "teacher_schedule": "constant"}


def right_first(count, images=100):
    """Correctness per image [images], 1 for the first `count`."""
    return (np.arange(images) < count).astype(np.int64)


class CraftedSweep:
    """A sweep folder and its store; `job` adds one, `close` writes `jobs.json`."""

    def __init__(self, root, name="sweep"):
        self.store, self.folder, self.jobs = root / "store" / "learner", root / "sweeps" / name, []

    def config(self, **changes):
        """The resolved configuration of a job; keys are dotted paths with `__` for the dot."""
        config = {"seed": 0, "teacher_seed": 0, "epochs": 2, "teacher_epochs": 2, "batch_size": 32, "limit_batches": None}
        data = {"_target_": "Data", "val_fraction": 0.1, "student_fraction": 1.0}
        config |= {"dataset": data, "choices": dict(CHOICES)}
        config |= {"teacher": {"_target_": "Big"}, "student": {"_target_": "Small"}, "baseline": dict(NONE)}
        config |= {"distillation": {"_target_": "KD", "temperature": 4.0, "alpha": 0.1}}
        config |= {name: dict(ADAM) for name in ("optimizer", "teacher_optimizer")}
        config |= {name: dict(CONSTANT) for name in ("schedule", "teacher_schedule")}
        for path, value in changes.items():
            *nodes, last = path.split("__")
            place = config
            for node in nodes:
                place = place[node]
            place[last] = value
        return config

    def spec(self, config, role, teacher, **data):
        """The spec of the learner in this role as the store hashes it."""
        is_teacher = role == "teacher"
        return spec_of(
            model=config["teacher" if is_teacher else "student"],
            method=config["distillation" if role == "distilled" else "baseline"],
            teacher=teacher if role == "distilled" else None,
            data={**DATA, "student_fraction": 1.0 if is_teacher else config["dataset"]["student_fraction"], **data},
            optimizer=config["teacher_optimizer" if is_teacher else "optimizer"],
            schedule=config["schedule"],
            epochs=config["teacher_epochs" if is_teacher else "epochs"],
            seed=config["teacher_seed" if is_teacher else "seed"],
            sources={"kdexp.distillation.kd": config.get("source", "a") * 64},
        )

    def learner(self, spec, right, *, model, method, validation):
        """Stores a result, and logits that are correct where `right` [images] is 1; returns the key."""
        folder = self.store / (key := key_of(spec))
        folder.mkdir(parents=True, exist_ok=True)
        labels = np.arange(len(right)) % CLASSES
        logits = np.eye(CLASSES, dtype=np.float32)[(labels + 1 - right) % CLASSES]
        save_file({"last": logits, "labels": labels}, folder / "logits.safetensors")
        validated = {} if validation is None else {"validation_accuracy": validation}
        history = [{"epoch": 1, "loss": 1.0, "train_accuracy": 0.5} | validated]
        test = {"last": {**METRICS, "top1": float(right.mean())}}
        files = {"logits.safetensors": file_digest(folder / "logits.safetensors")}
        result = result_of(spec, model=model, method=method, history=history, test=test, files=files)
        (folder / "result.json").write_text(json.dumps(signed(result)))
        return key

    def job(
        self,
        *overrides,
        baseline=None,
        distilled=None,
        teacher=None,
        validation=0.5,
        state="finished",
        reason="",
        failed=(),
        data=(),
        **changes,
    ):
        """Writes a job and its learners, given their correctness; returns its folder. `failed` are roles that diverged."""
        config, number = self.config(**changes), len(self.jobs)
        folder = self.folder / f"{number:03}"
        folder.mkdir(parents=True)
        temperature = config["distillation"].get("temperature")
        told = {"teacher": ("big", "CE", 0.9), "baseline": ("small", "CE", 0.5)}
        told["distilled"] = ("small", f"0.1 CE + 0.9 KD, T={temperature:g}" if temperature else "CE + hint", validation)
        rows, keys = [], {}
        answers = {"teacher": (teacher, 95), "baseline": (baseline, 80), "distilled": (distilled, 85)}
        for role, (given, count) in answers.items():
            right = right_first(count) if given is None else given
            model, method, shown = told[role]
            spec = self.spec(config, role, keys.get("teacher"), **dict(data))
            validated = shown if validation is not None else None
            keys[role] = self.learner(spec, right, model=model, method=method, validation=validated)
            status = "failed: ce loss became nan" if role in failed else "finished"
            rows.append({"role": role, "key": keys[role], "status": status})
        (folder / "config.yaml").write_text(yaml.dump(config, sort_keys=False))
        (folder / "status.json").write_text(json.dumps({"state": state, "reason": reason}))
        if state in ("finished", "failed"):
            (folder / "table.json").write_text(json.dumps({"store": "../../../store/learner", "rows": rows}))
        self.keys = keys
        self.jobs.append({"number": number, "overrides": list(overrides), "folder": folder.name})
        return folder

    def close(self, *never_started):
        """Writes `jobs.json`, with further jobs that have no folder; returns the sweep's folder."""
        for overrides in never_started:
            number = len(self.jobs)
            self.jobs.append({"number": number, "overrides": list(overrides), "folder": f"{number:03}"})
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "jobs.json").write_text(json.dumps({"command": ["-m"], "jobs": self.jobs}))
        return self.folder
