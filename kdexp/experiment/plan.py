"""The learners of a configuration: what decides their weights, and how the table names them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from kdexp.configuration.nodes import build, nodes_within, target
from kdexp.configuration.roles import RoleSpec, node_at, option, seed_offset
from kdexp.data.dataset import OF_LABELS
from kdexp.data.views import STRONG, STRONG2
from kdexp.deployment.quantisation import QUANTISATION
from kdexp.experiment.journal import Journal
from kdexp.experiment.session import Session
from kdexp.experiment.setup import Setup
from kdexp.files import file_digest
from kdexp.network.build import taken, without_start
from kdexp.network.checkpoint.classes import classes_of, rows_for
from kdexp.network.headless import head_of
from kdexp.store.spec import LearnerSpec
from kdexp.training.entry import Entry

VIEW_KNOBS = ("student_view", "teacher_view")


def _decisive(method: dict[str, Any]) -> dict[str, Any]:
    """A method's node, without the starting weights of networks inside it, since these are always newly initialised.

    Also without what is the method's own choice of images: learners of before there was a choice keep their keys.
    """
    made = target(method)
    own = dict(zip(VIEW_KNOBS, made.own_views, strict=True))
    nodes, own = nodes_within(method), own if made.unlabelled else own | {"unlabelled_ratio": 0}
    named = {name: value for name, value in method.items() if name not in own or value not in (None, own[name])}
    return {name: without_start(value) if name in nodes else value for name, value in named.items()}


class Plan(Setup):
    """A setup whose learners are specified."""

    def __init__(self, config: Mapping[str, Any], journal: Journal, session: Session | None = None, job: str = ""):
        super().__init__(config, journal, session, job)
        self._specs: dict[str, LearnerSpec] = {}

    def teacher_node(self, role: str) -> dict[str, Any] | None:
        """The node of this role's teacher network, None without a teacher."""
        return self.spec(self.part(role).teacher).model if self.uses_teacher(role) else None

    def entry(self, role: str) -> Entry:
        """The learner in this role as it is configured, before the store is searched for it."""
        part = self.part(role)
        checkpoint = None if part.from_scratch else node_at(self.config, part.model).get("checkpoint")
        dataset = self.config["choices"]["dataset"]
        model, classes = option(self.config, part.model), self.dataset.classes
        return Entry(
            role,
            model,
            self._method(role),
            self.spec(role),
            dataset,
            checkpoint,
            classes,
            job=self.job,
            optimizer=part.optimizer,
        )

    def _method(self, role: str) -> str:
        """How the learner in this role is trained or built, for the table."""
        part = self.part(role)
        sources = [option(self.config, self.part(source).model) for source in self.sources(role)] if part.teaches else []
        if "members" in node_at(self.config, part.model):
            counts = Counter(sources).items()
            return "mean of " + ", ".join(f"{count} {name}" if count > 1 else name for name, count in counts)
        head = head_of(node_at(self.config, part.model))
        if head == "none":
            return "features alone"
        described = build(self.method_node(part)).describe() + (", linear probe" if head else "")
        if weights := self.spec(role).class_weights:
            described += ", balanced" if weights == "balanced" else ", weighted"
        if part.start:
            probed = ", linear probe" if self.spec(role).model.get("frozen_backbone") else ""
            return f"{described}{probed}, from {build(self.method_node(self.part(part.start))).label}"
        return f"{described} from {sources[0]}" if sources else described

    def spec(self, role: str) -> LearnerSpec:
        """Everything that decides the weights of the learner in this role."""
        if role not in self._specs:
            self._specs[role] = self._spec(role)
        return self._specs[role]

    def _spec(self, role: str) -> LearnerSpec:
        part, settings = self.part(role), self.settings
        model = dict(node_at(self.config, part.model))
        members = [source for source in self.sources(role) if ".members." in source]
        checkpoint = None if part.from_scratch else model.get("checkpoint")
        of_checkpoint, head = taken(model), head_of(model)
        model = without_start(model)
        if part.from_scratch and "weights" in model:
            model["weights"] = None
        if checkpoint:
            model |= {"checkpoint": file_digest(Path(checkpoint)), **of_checkpoint}
            if (rows := rows_for(self.dataset.classes, classes_of(Path(checkpoint)))) is not None:
                model["checkpoint_rows"] = rows
        if head == "none" or part.pretrains:
            model["head"] = "none"
        probed = head == "probe" and not part.untrained
        probed |= bool(part.start) and self.config[part.start]["frozen_backbone"]
        if part.frozen_backbone or probed or node_at(self.config, part.model).get("frozen_backbone"):
            model["frozen_backbone"] = True
        epochs, batch_size = self._length(part)
        as_it_is = head == "none" or (part.teaches and checkpoint and not probed)
        if part.untrained or part.quantised or members or as_it_is:
            epochs = 0
        return LearnerSpec(
            data=self._data_identity(part),
            model=model,
            method=_decisive(self.method_node(part)),
            optimizer=node_at(self.config, part.optimizer),
            schedule=node_at(self.config, part.schedule),
            epochs=epochs,
            batch_size=batch_size,
            seed=settings.teacher_seed + seed_offset(part.model) if part.teaches else settings.seed,
            precision="int8" if part.quantised else self.precision.label,
            limit_batches=settings.limit_batches,
            class_weights=self._class_weights(part, epochs),
            averaging=self._averaging(part, epochs),
            teacher=self.spec(part.teacher).key if self.uses_teacher(role) else None,
            members=[self.spec(member).key for member in members],
            quantised=QUANTISATION if part.quantised else None,
            strong_view=self._strong_view(part, epochs),
            unlabelled=self.known.unlabelled if self._reads_folder(part, epochs) else None,
            start=self.spec(part.start).key if part.start else None,
        )

    def _reads_folder(self, part: RoleSpec, epochs: int) -> bool:
        """Whether a learner reads the images of `dataset.unlabelled_root` in its training."""
        return bool(epochs and self.dataset.unlabelled and build(self.method_node(part)).unlabelled)

    def _length(self, part: RoleSpec) -> tuple[int, int]:
        """Epochs and batch size of a training."""
        if part.pretrains:
            return self.config["pretraining"]["epochs"], self.config["pretraining"]["batch_size"]
        settings = self.settings
        return settings.teacher_epochs if part.teaches else settings.epochs, settings.batch_size

    def _strong_view(self, part: RoleSpec, epochs: int) -> dict[str, Any] | None:
        """The node of RandAugment, for learners that read strong views in their training."""
        read = build(self.method_node(part)).views_read
        return self.dataset.strong_view if epochs and {STRONG, STRONG2} & read else None

    def _class_weights(self, part: RoleSpec, epochs: int) -> Literal["balanced"] | list[float] | None:
        """The setting, unless it changes nothing: the learner is not trained, or not on labels."""
        if self.settings.class_weights is None or not epochs or not build(self.method_node(part)).ce_weight:
            return None
        return self.settings.class_weights

    def _averaging(self, part: RoleSpec, epochs: int) -> dict[str, Any] | None:
        """The node of the moving average of a student's weights; None for teachers, pretraining, and what is not trained."""
        node = self.config["averaging"]
        return None if part.teaches or part.pretrains or not epochs or not build(node).describe() else node

    def _data_identity(self, part: RoleSpec) -> dict[str, Any]:
        measured = {name: getattr(self.known, name) for name in ("fingerprint", "mean", "std")}
        named = [name for name in self.dataset.decisive if not (part.all_labels and name in OF_LABELS)]
        configured = {name: getattr(self.dataset, name) for name in named}
        share = 1.0 if part.teaches else self.dataset.student_fraction
        return {**measured, **vars(self.shape), **configured, "student_fraction": share}
