"""The distilled student with 8-bit integers: made from the stored one, evaluated once on the test images, and stored."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from traceback import format_exc

import torch
from torch import Tensor, nn

from kdexp.configuration.nodes import build
from kdexp.data.load import Data
from kdexp.data.preprocessing import Preprocessing
from kdexp.deployment.export import exportable
from kdexp.deployment.formats import FORMATS
from kdexp.deployment.int8 import OnnxNetwork, annotate, logits_on, stored_bytes
from kdexp.deployment.predictor import Predictor
from kdexp.deployment.quantisation import Quantisation
from kdexp.errors import ImageLost, first_line
from kdexp.experiment.journal import Journal
from kdexp.files import reason
from kdexp.store.learners import LearnerStore, write_entry, write_tensors
from kdexp.store.provenance import provenance
from kdexp.store.stored import QUANTISED, StoredLearner
from kdexp.tasks.classification import metrics
from kdexp.training.entry import Entry


def quantise(
    entry: Entry, source: StoredLearner, network: nn.Module, data: Data, store: LearnerStore, journal: Journal
) -> None:
    """Quantises the deployed network of a stored learner and stores it; an error leaves its reason in the entry."""
    quantisation: Quantisation = build(entry.spec.quantised or {})
    start = time.perf_counter()
    try:
        images = quantisation.calibration(data.student_train)
        journal.say(f"{entry.name}: quantising {source.result['model']}, calibrated on {len(images)} training images")
        with TemporaryDirectory() as folder:
            exact, path = Path(folder) / "fp32.onnx", Path(folder) / QUANTISED
            about = source.result["spec"]["data"]
            predictor = Predictor(network, data.mean, data.std, Preprocessing.of(about), entry.classes)
            FORMATS["onnx"].write(exportable(source, predictor, "last"), exact)
            quantisation.write(exact, images, path)
            logits = logits_on(data.test, OnnxNetwork(path))
            entry.stored = _store(entry, source, path, logits, data.test.labels.cpu(), store, time.perf_counter() - start)
    except ImageLost:
        raise
    except OSError as error:
        entry.failure = f"can't be stored in {store.root}: {reason(error)}; fix that and run the same command again"
    except Exception as error:  # exporter and quantiser raise anything
        journal.note(format_exc())
        entry.failure = f"can't be quantised: {first_line(error)} ({type(error).__name__}; log.txt has its traceback)"


def _store(
    entry: Entry, source: StoredLearner, path: Path, logits: Tensor, labels: Tensor, store: LearnerStore, seconds: float
) -> StoredLearner:
    """Stores the file with its test logits; parameters and multiply-adds are those of the network that was quantised."""
    measured = metrics(logits, labels)
    annotate(path, {"precision": "int8", "test_top1": json.dumps(measured["top1"])})
    result = {
        "model": entry.model,
        "method": entry.method,
        "dataset": entry.dataset,
        "spec": entry.spec.identity(),
        **{name: source.result[name] for name in ("parameters", "macs", "train_images")},
        "training_only_parameters": 0,
        "size_mb": stored_bytes(path) / 1e6,
        "test": {"last": measured},
        "best_epoch": None,
        "history": [],
        "train_seconds": seconds,
        "trained_at": time.strftime("%Y-%m-%d %H:%M"),
        "provenance": provenance(torch.device("cpu")),
    }

    def write(folder: Path) -> None:
        shutil.copyfile(path, folder / QUANTISED)
        write_tensors(folder, "logits", {"last": logits, "labels": labels})

    return write_entry(store.root / entry.spec.key, result, write)
