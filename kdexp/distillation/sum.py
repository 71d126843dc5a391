"""Several methods at once, as papers combine them (such as CRD and KD: Tian et al. 2020, arXiv 1910.10699)."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from kdexp.configuration.arguments import problems
from kdexp.configuration.nodes import arguments, build, target
from kdexp.distillation.base import OWN_WAYS, Distiller, declares, is_capturable
from kdexp.errors import InvalidArguments, Problem, refusals

OF_THE_SUM = ("alpha", "ce_weight", "kd_weight")


class Sum(Distiller):
    """`ce_weight`·CE + `kd_weight`·T²·KL + the sum over `methods` of each one's `weight`·(the terms of its `transfer`).

    Terms are called as their methods call them, with `NAME.` in front where two would be called alike.
    """

    capturable = True

    def __init__(self, *, methods: dict[str, Any], **shared):
        super().__init__(**shared)
        self.methods = nn.ModuleDict()
        found = [] if methods else [Problem("methods", "={}: nothing to add up; +distillation@distillation.methods.at=at")]
        for name, node in methods.items():
            if hasattr(self.methods, name):
                found.append(Problem(f"methods.{name}", "PyTorch's modules have something else of that name; choose another"))
                continue
            try:
                self.methods[name] = _built(node)
            except Exception as error:  # importing a user's module may raise anything
                found += [problem.under(f"methods.{name}") for problem in refusals(error)]
        if found:
            raise InvalidArguments(found)
        self.capturable = all(is_capturable(method) for method in self.parts.values())

    @property
    def parts(self) -> dict[str, Distiller]:
        """The methods by their names."""
        return dict(self.methods.items())  # type: ignore[arg-type]

    @property
    def reads_logits(self):
        return self.kd_weight > 0 or not all(declares(method, "features_only") for method in self.parts.values())

    def phase(self, progress):
        return [method.phase(progress) for method in self.parts.values()]

    def layers(self, student, teacher):
        ours: list[str] = []
        theirs: list[str] = []
        for name, method in self.parts.items():
            with _blaming(name):
                asked = method.layers(student, teacher)
            ours, theirs = ours + asked[0], theirs + asked[1]
        return list(dict.fromkeys(ours)), list(dict.fromkeys(theirs))

    def setup(self, probe):
        for name, method in self.parts.items():
            with _blaming(name):
                method.setup(probe)

    def transfer(self, batch, student, teacher, progress):
        found = [
            (name, term, method.weight * value)
            for name, method in self.parts.items()
            for term, value in method.transfer(batch, student, teacher, progress).items()
        ]
        called = Counter(["ce", "kd", *(term for _, term, _ in found)])
        return {term if called[term] == 1 else f"{name}.{term}": value for name, term, value in found}

    def weighted(self):
        return [*super().weighted(), *((method.weight, method.label or name) for name, method in self.parts.items())]


def _built(node: Any) -> Distiller:
    """The method of a node; raises `InvalidArguments` for one that a sum can't hold."""
    if not isinstance(node, dict) or "_target_" not in node:
        raise InvalidArguments([Problem("", f"={node!r}: is no method's node; take it out with ~distillation.methods.NAME")])
    made = target(node)
    if not isinstance(made, type) or not issubclass(made, Distiller):
        raise InvalidArguments([Problem("_target_", f"={node['_target_']!r}: is no distillation method")])
    if made.transfer is Distiller.transfer or any(getattr(made, way) is not getattr(Distiller, way) for way in OWN_WAYS):
        way_out = (
            "train with it alone, or choose another; soft targets are distillation.kd_weight, labels distillation.ce_weight"
        )
        raise InvalidArguments(
            [Problem("", f"{made.__name__} does not just add terms of its own, so no sum can hold it; {way_out}")]
        )
    its_own = [key for key in OF_THE_SUM if node.get(key) is not None]
    of_the_sum = "labels and soft targets are weighed by the sum; set distillation.{key} and leave this null"
    found = [Problem(key, f"={node[key]!r}: {of_the_sum.format(key=key)}") for key in its_own]
    if found := problems(made, arguments(node)) + found:
        raise InvalidArguments(found)
    return build(node)


@contextmanager
def _blaming(name: str) -> Iterator[None]:
    """Names the method whose layers can't be read or joined."""
    try:
        yield
    except ValueError as error:
        raise InvalidArguments(problem.under(f"methods.{name}") for problem in refusals(error)) from error
