"""Writes docs/methods.md from the methods' YAML files, their classes, and what benchmarks/methods.py measured.

python docs/make_methods.py
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

from omegaconf import DictConfig
from pairs import untrained_pair

from kdexp.configuration.compose import compose_command
from kdexp.configuration.nodes import target
from kdexp.data.shape import Shape
from kdexp.distillation.base import Distiller, FeatureDistiller
from kdexp.training.learner import Learner

PAGE = ROOT / "docs" / "methods.md"
MEASURED = ROOT / "benchmarks" / "methods.json"
FOLDER = ROOT / "conf" / "distillation"
SHAPE = Shape(100, 3, 32)
VIEWS = ("student_view", "teacher_view")
SHARED = ("_target_", "temperature", "alpha", "ce_weight", "kd_weight", "student_layers", "teacher_layers", *VIEWS)
COLUMNS = ("method", "source", "objective", "compares", "own knobs", "training only", "step")


def page() -> str:
    """Returns the page."""
    measured = json.loads(MEASURED.read_text())
    rows = [row(path.stem, measured["ratios"]) for path in sorted(FOLDER.glob("*.yaml"))]
    table = [COLUMNS, ("---",) * 5 + ("--:",) * 2, *rows]
    return f"""# Distillation methods

`kdexp distillation=METHOD` chooses a method. Its code is in `kdexp/distillation/METHOD.py`, its knobs are in
`conf/distillation/METHOD.yaml`. Every method also has `temperature`, and `alpha` (short for `ce_weight=alpha
kd_weight=1-alpha`) or these two weights; methods that compare layers have `student_layers` and `teacher_layers`, names in
pairs. `CE` is the cross-entropy with the labels, `KL` the divergence from the teacher's soft targets, summed over classes and
averaged over the batch, and `T` the temperature.

*Training only* is the number of parameters that are trained in addition to the deployed network. *Step* is the time of a
training step, without computing the teacher's outputs, as a multiple of plain training. Both are for resnet8x4 with the teacher
resnet32x4 at 100 classes, batch size 64, fp32, one thread, torch {measured["torch"]} (`{measured["command"]}`). The steps of
methods that also learn from [images without labels](few_labels.md) have `unlabelled_ratio` times as many of these in
addition{unmeasured(measured["ratios"])}.

{chr(10).join(f"| {' | '.join(cells)} |" for cells in table)}

`python docs/make_methods.py` writes this page; a test checks that it is up to date.
"""


def unmeasured(ratios: dict[str, float]) -> str:
    """Returns what the page says if steps were not measured."""
    return "" if all(path.stem in ratios for path in FOLDER.glob("*.yaml")) else "; – was not measured"


def row(method: str, ratios: dict[str, float]) -> tuple[str, ...]:
    """Returns the table cells of one method."""
    text = (FOLDER / f"{method}.yaml").read_text()
    source, objective = source_and_objective(text)
    learner = learner_of(method)
    node = learner_node(method)
    knobs = ", ".join(f"`{name}`" for name in node if name not in SHARED)
    deployed = set(learner.deployed.parameters())
    trained = [p for group in learner.optimizer.param_groups for p in group["params"] if p not in deployed]
    extra = sum(p.numel() for p in trained)
    compared = f"{images_of(target(node))} without labels" if reads_unlabelled(method) else compares(target(node))
    return (
        f"`{method}`",
        source,
        objective,
        compared,
        knobs or "–",
        f"{extra:,}" if extra else "–",
        f"{ratios[method]:.2f}×" if method in ratios else "–",
    )


def reads_unlabelled(method: str) -> bool:
    """Returns whether the method learns from images without labels."""
    return bool(target(learner_node(method)).unlabelled)


def images_of(method: type[Distiller]) -> str:
    """Returns the views of images without labels that the method reads, in words."""
    return " and ".join(method.unlabelled) + " views of images"


def source_and_objective(text: str) -> tuple[str, str]:
    """Returns the source and the objective of a method from the first comments of its YAML file."""
    first, *more = list(_comments(text))
    formula = " ".join(line.strip() for line in more if line.startswith("  "))
    return _plain(first), _plain(formula or "as `none`")


def _comments(text: str) -> Iterator[str]:
    for line in text.splitlines():
        if not line.startswith("# "):
            return
        yield line.removeprefix("# ")


def _plain(text: str) -> str:
    return text.replace("|", "\\|").removesuffix(".")


def compares(method: type[Distiller]) -> str:
    """Returns what the method compares between the two networks if no layers are named."""
    if not method.uses_teacher:
        return "no teacher"
    if not issubclass(method, FeatureDistiller):
        return "logits"
    pairs = [" + ".join(names).replace("_", " ") for names in (method.landmarks, method.teacher_landmarks) if names]
    return " with the teacher's ".join(pairs)


def learner_node(method: str) -> dict:
    """Returns the composed node of a method."""
    return composed(method)["distillation"]


@cache
def composed(method: str) -> DictConfig:
    """Returns the configuration of a method between the pair of networks that is measured."""
    return compose_command(["dataset=cifar100", "teacher=resnet32x4", "student=resnet8x4", f"distillation={method}"])


def learner_of(method: str) -> Learner:
    """Returns the untrained learner of a method."""
    return untrained_pair(composed(method), SHAPE, batch_size=64)[0]


if __name__ == "__main__":
    PAGE.write_text(page())
