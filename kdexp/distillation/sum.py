"""Several methods at once, as papers combine them (such as CRD and KD: Tian et al. 2020, arXiv 1910.10699)."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from kdexp.configuration.arguments import problems
from kdexp.configuration.nodes import arguments, build, target
from kdexp.distillation.base import BEYOND_TERMS, Distiller, overrides
from kdexp.errors import InvalidArguments, Problem, refusals

SHARED = {
    **dict.fromkeys(("alpha", "ce_weight", "kd_weight"), "labels and soft targets are weighted by the sum"),
    **dict.fromkeys(("student_view", "teacher_view"), "all methods of a sum read the same views"),
    "unlabelled_ratio": "all methods of a sum learn from the same unlabelled images",
}
"""Arguments that only the sum itself may set, and why."""


class Sum(Distiller):
    """`ce_weight`·CE + `kd_weight`·T²·KL + the sum over `methods` of their `weight`·(terms of `transfer`).

    Terms keep the names that their methods give them, with `NAME.` in front if two would have the same name.
    """

    capturable = True

    def __init__(self, *, methods: dict[str, Any], **shared):
        super().__init__(**shared)
        self.methods = nn.ModuleDict()
        found = [] if methods else [Problem("methods", "={}: nothing to add up; +distillation@distillation.methods.at=at")]
        for name, node in methods.items():
            if hasattr(self.methods, name):
                found.append(Problem(f"methods.{name}", "PyTorch's modules use that name themselves; choose another"))
                continue
            try:
                self.methods[name] = _build_method(node)
            except Exception as error:  # importing a user's module may raise anything
                found += [problem.under(f"methods.{name}") for problem in refusals(error)]
        if found:
            raise InvalidArguments(found)
        self.capturable = type(self).capturable and all(method.capturable for method in self.parts.values())
        self.of_outputs = all(method.of_outputs for method in self.parts.values())
        self.reads_labels = any(method.reads_labels for method in self.parts.values())

    @property
    def parts(self) -> dict[str, Distiller]:
        """The methods by their names."""
        return dict(self.methods.items())  # type: ignore[arg-type]

    @property
    def reads_logits(self):
        return self.kd_weight > 0 or not all(method.features_only for method in self.parts.values())

    def phase(self, progress):
        return [method.phase(progress) for method in self.parts.values()]

    def layers(self, student, teacher):
        ours: list[str] = []
        theirs: list[str] = []
        for name, method in self.parts.items():
            with _problems_named(name):
                student_layers, teacher_layers = method.layers(student, teacher)
            ours, theirs = ours + student_layers, theirs + teacher_layers
        return list(dict.fromkeys(ours)), list(dict.fromkeys(theirs))

    def setup(self, probe):
        for name, method in self.parts.items():
            with _problems_named(name):
                method.setup(probe)

    def transfer(self, batch, student, teacher, progress):
        terms = [
            (name, term, method.weight * value)
            for name, method in self.parts.items()
            for term, value in method.transfer(batch, student, teacher, progress).items()
        ]
        uses = Counter(["ce", "kd", *(term for _, term, _ in terms)])
        return {term if uses[term] == 1 else f"{name}.{term}": value for name, term, value in terms}

    def weighted(self):
        return [*super().weighted(), *((method.weight, method.label or name) for name, method in self.parts.items())]


def _build_method(node: Any) -> Distiller:
    """Builds the method of a node; raises `InvalidArguments` for one that can't be part of a sum."""
    if not isinstance(node, dict) or "_target_" not in node:
        raise InvalidArguments([Problem("", f"={node!r}: is no method's node; take it out with ~distillation.methods.NAME")])
    method = target(node)
    if not isinstance(method, type) or not issubclass(method, Distiller):
        raise InvalidArguments([Problem("_target_", f"={node['_target_']!r}: is no distillation method")])
    if not overrides(method, "transfer") or overrides(method, *BEYOND_TERMS):
        fix = "train with it alone, or choose another; soft targets are distillation.kd_weight, labels distillation.ce_weight"
        raise InvalidArguments(
            [Problem("", f"{method.__name__} does not just add terms of its own, so it can't be part of a sum; {fix}")]
        )
    found = problems(method, arguments(node))
    for key, why in SHARED.items():
        if node.get(key) is not None:
            found.append(Problem(key, f"={node[key]!r}: {why}; set distillation.{key} and leave this null"))
    if found:
        raise InvalidArguments(found)
    return build(node)


@contextmanager
def _problems_named(name: str) -> Iterator[None]:
    """Adds the method's name to problems with its layers."""
    try:
        yield
    except ValueError as error:
        raise InvalidArguments(problem.under(f"methods.{name}") for problem in refusals(error)) from error
