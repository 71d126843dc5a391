"""Writes docs/methods.md from the methods' YAML files, their classes, and what benchmarks/methods.py measured.

python docs/make_methods.py
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

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
SHARED = ("_target_", "temperature", "alpha", "ce_weight", "kd_weight", "student_layers", "teacher_layers")
COLUMNS = ("method", "source", "objective", "compares", "own knobs", "training only", "step")


def page() -> str:
    """The whole page."""
    measured = json.loads(MEASURED.read_text())
    rows = [row(path.stem, measured["ratios"]) for path in sorted(FOLDER.glob("*.yaml"))]
    table = [COLUMNS, ("---",) * 5 + ("--:",) * 2, *rows]
    return f"""# Distillation methods

`kdexp distillation=METHOD` chooses one; its file is `kdexp/distillation/METHOD.py`, its knobs are in
`conf/distillation/METHOD.yaml`. Every method also has `temperature`, and `alpha` (short for `ce_weight=alpha
kd_weight=1-alpha`) or the two weights themselves; methods that compare layers have `student_layers` and `teacher_layers`, names
in pairs. `CE` is the cross-entropy with the labels, `KL` that of the teacher's soft targets, summed over classes and averaged
over the batch, `T` the temperature.

*Training only* are the parameters that are trained beside the deployed network, and *step* the time of a training step, the
teacher's outputs given, as a multiple of a step of plain training: both for resnet8x4 taught by resnet32x4 at 100 classes,
batch size 64, fp32, one thread, torch {measured["torch"]} (`{measured["command"]}`).

{chr(10).join(f"| {' | '.join(cells)} |" for cells in table)}

This page is written by `python docs/make_methods.py`; a test holds it to the files that it tells of.
"""


def row(method: str, ratios: dict[str, float]) -> tuple[str, ...]:
    """The cells of one method."""
    text = (FOLDER / f"{method}.yaml").read_text()
    source, objective = said(text)
    learner = learner_of(method)
    node = learner_node(method)
    knobs = ", ".join(f"`{name}`" for name in node if name not in SHARED)
    deployed = set(learner.deployed.parameters())
    trained = [p for group in learner.optimizer.param_groups for p in group["params"] if p not in deployed]
    extra = sum(p.numel() for p in trained)
    uses = compares(target(node))
    return f"`{method}`", source, objective, uses, knobs or "–", f"{extra:,}" if extra else "–", f"{ratios[method]:.2f}×"


def said(text: str) -> tuple[str, str]:
    """What a YAML file's comments say first: whose method it is, and its objective."""
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


def compares(made: type[Distiller]) -> str:
    """What of the two networks the method looks at, where no layers are named."""
    if not made.uses_teacher:
        return "nothing of a teacher"
    if not issubclass(made, FeatureDistiller):
        return "logits"
    pairs = [" + ".join(landmarks).replace("_", " ") for landmarks in (made.landmarks, made.teacher_landmarks) if landmarks]
    return " with the teacher's ".join(pairs)


def learner_node(method: str) -> dict:
    """The composed node of a method."""
    return compose_command(words(method))["distillation"]


def words(method: str) -> list[str]:
    """The command of a method between the pair that is counted."""
    return ["dataset=cifar100", "teacher=resnet32x4", "student=resnet8x4", f"distillation={method}"]


def learner_of(method: str) -> Learner:
    """The untrained learner of a method."""
    return untrained_pair(compose_command(words(method)), SHAPE, batch_size=64)[0]


if __name__ == "__main__":
    PAGE.write_text(page())
