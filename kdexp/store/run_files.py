"""Declarations of the files in the folders of runs, sweeps and searches, which every reader checks against."""

# Without `from __future__ import annotations`, which would hide from TypedDict which keys are NotRequired.
from typing import Annotated, Any, Literal, NotRequired, TypedDict

from kdexp.configuration.arguments import Count, Fraction, NonNegative, NonNegativeInt, Positive
from kdexp.configuration.roles import PARTS
from kdexp.store.descriptions import FileName, Node
from kdexp.store.schema import Digest, Key, Name, Text

Role = Literal[tuple(PARTS)]  # type: ignore[valid-type]


class TableRow(TypedDict):
    """A learner of a run: its status, and measurements that are stored nowhere else."""

    role: Role  # type: ignore[valid-type]
    key: Key
    status: Annotated[str, Text(".+", "a text")]
    latency_ms: NotRequired[NonNegative | None]


class Table(TypedDict):
    """`table.json` of a run; `store` is the relative path of the folder of learners."""

    store: Annotated[str, Text(r"(\.\./){0,50}((?!\.\.?/)[^/\0]{1,255}/){0,50}learner", "a relative path to a folder learner/")]
    rows: list[TableRow]
    digest: NotRequired[Digest]


class Status(TypedDict):
    """`status.json` of a run: its state, and why it failed."""

    state: Literal["running", "finished", "failed", "interrupted", "killed"]
    reason: NotRequired[str]


class Tracked(TypedDict):
    """`trackers.json` of a run or a sweep: its name and group in the trackers, and per tracker what it has.

    That is an id, the number of epochs of each learner, and the digest of a sweep's report.
    """

    name: Annotated[
        str, Text(r"(?!\.)[^/\\:\0]{1,255}(/(trials/)?\d[\d_-]{0,30})?", "a name of a run, or of a sweep and a job")
    ]
    group: str
    ids: dict[str, Annotated[str, Text(".{0,2000}", "a text of at most 2,000 characters")]]
    epochs: dict[str, dict[str, NonNegativeInt]]
    reports: NotRequired[dict[str, Digest]]


class JobOfSweep(TypedDict):
    """A job of a sweep: its overrides, and the name of its folder in the sweep's folder."""

    overrides: list[str]
    folder: FileName


class LayersRead(TypedDict):
    """The layers of a teacher that the jobs of a sweep read in one view."""

    network: Annotated[str, Text(".{1,100000}", "a text")]
    view: Name
    layers: list[Name]


JOBS = "jobs.json"


class Jobs(TypedDict):
    """`jobs.json` of a sweep: its command, and what another process needs to run its jobs."""

    command: NotRequired[list[str]]
    jobs: list[JobOfSweep]
    cwd: NotRequired[Name]
    config_dir: NotRequired[Name | None]
    config_name: NotRequired[Name]
    stores: NotRequired[list[Name]]
    by_workers: NotRequired[bool]
    forced: NotRequired[bool]
    layers: NotRequired[list[LayersRead]]
    search: NotRequired[list[str]]


class SearchedMethod(TypedDict):
    """The trials of one method in a search, by how they ended, and the best one's mean validation accuracy and overrides."""

    trials: NonNegativeInt
    finished: NonNegativeInt
    pruned: NonNegativeInt
    failed: NonNegativeInt
    validation: Fraction | None
    words: list[str]


class SearchedBaseline(TypedDict):
    """A baseline that a search has chosen: its settings, and the number of baselines among which it was best."""

    settings: dict[Name, Any]
    trials: NonNegativeInt


class Searched(TypedDict):
    """`search.json` of a search whose trials are over; the first of `baselines` is the best next to any trial."""

    sampler: Name
    seeds: list[NonNegativeInt]
    fresh_seeds: list[NonNegativeInt]
    methods: dict[Name, SearchedMethod]
    baselines: list[SearchedBaseline]


class Choices(TypedDict):
    """The option chosen in each group: at least these."""

    dataset: str | None
    distillation: str | None


class Dataset(Node):
    """A data set, with the share of the teacher's images that its students see, and a limit of all training images."""

    student_fraction: NotRequired[Fraction]
    limit: NotRequired[Count | None]
    labels: NotRequired[Count | None]


class Configuration(TypedDict):
    """The keys of a run's `config.yaml` that reports read."""

    choices: Choices
    dataset: Dataset
    teacher: NotRequired[Node | None]
    student: Node
    distillation: Node
    baseline: Node
    optimizer: Node
    schedule: Node
    teacher_optimizer: Node
    teacher_schedule: Node
    averaging: NotRequired[Node]
    seed: NotRequired[int]
    epochs: int
    teacher_epochs: int
    batch_size: int
    limit_batches: int | None
    class_weights: NotRequired[Literal["balanced"] | list[Positive] | None]
    published: NotRequired[dict[str, Any] | None]
