"""Declarations of all stored files (results, runs, sweeps), which every reader checks against."""

# Without `from __future__ import annotations`, which would hide from TypedDict which keys are NotRequired.
from typing import Annotated, Any, Literal, NotRequired, TypedDict

from kdexp.configuration.arguments import Count, Fraction, NonNegative, NonNegativeInt, Positive, Range
from kdexp.configuration.roles import PARTS
from kdexp.store.schema import Digest, Key, Name, Text

MOST_CLASSES, MOST_CHANNELS, LARGEST_IMAGE = 10**6, 4096, 4096

FileName = Annotated[str, Text(r"(?!\.\.?$)[^/\\:\0]{1,255}", "the name of a file next to it")]
"""A name that can't lead out of a folder on any system."""


class Node(TypedDict):
    """A class or function and its arguments; `kdexp.deployment.trust` judges what it may be."""

    _target_: Name


class Data(TypedDict):
    """The properties of a data set that networks and images depend on."""

    num_classes: Annotated[int, Range(at_least=1, at_most=MOST_CLASSES)]
    in_channels: Annotated[int, Range(at_least=1, at_most=MOST_CHANNELS)]
    image_size: Annotated[int, Range(at_least=1, at_most=LARGEST_IMAGE)]
    mean: list[float]
    std: list[Positive]
    classes: NotRequired[list[Name] | None]


class DataOfLearner(Data):
    """`Data`, and the hash of all images and labels."""

    fingerprint: Digest


class Spec(TypedDict):
    """`LearnerSpec.identity`, whose hash is a learner's key."""

    format: int
    data: DataOfLearner
    model: Node
    method: Node
    optimizer: Node
    schedule: Node
    epochs: NonNegativeInt
    batch_size: Count
    seed: int
    precision: Name
    limit_batches: Count | None
    teacher: Key | None
    members: NotRequired[list[Key]]
    quantised: NotRequired[Node]
    class_weights: NotRequired[Literal["balanced"] | list[Positive]]
    averaging: NotRequired[Node]
    strong_view: NotRequired[Node]
    start: NotRequired[Key]
    sources: dict[str, Digest]


class Metrics(TypedDict):
    """Measures on the test images; a likelihood that is not finite is null."""

    top1: Fraction | None
    top5: NotRequired[Fraction | None]
    nll: float | None
    ece: float | None
    balanced_accuracy: NotRequired[Fraction | None]
    class_accuracies: NotRequired[list[Fraction | None] | None]
    majority: NotRequired[Fraction | None]


class Test(TypedDict):
    """After the last epoch, and after the epoch with the best validation accuracy if there are validation images."""

    last: Metrics
    best: NotRequired[Metrics]


class EpochRecord(TypedDict):
    """Means over an epoch, with the terms of the method as further keys."""

    epoch: Count
    loss: float
    train_accuracy: NotRequired[Fraction]
    validation_accuracy: NotRequired[Fraction]


class Git(TypedDict):
    """Git state of the folder in which a command ran."""

    commit: Name
    changed: bool


class Versions(TypedDict):
    """Versions of packages: at least these."""

    kdexp: Name
    torch: Name


class Provenance(TypedDict):
    """Software and hardware that computed a result."""

    python: Name
    versions: Versions
    device: Name
    threads: Count
    git: Git | None


class StoredFile(TypedDict):
    """`result.json` of any folder in the store: digests of its files and of itself."""

    model: Name
    dataset: Name
    files: dict[FileName, Digest]
    digest: Digest


class FewLabels(TypedDict):
    """Numbers of images, where only some of the training images have a label."""

    training_images: Count
    validation_images: NonNegativeInt


class LearnerFile(StoredFile):
    """`result.json` of a finished learner."""

    method: Name
    spec: Spec
    parameters: NonNegativeInt
    training_only_parameters: NonNegativeInt
    macs: NonNegativeInt | None
    size_mb: NonNegative
    train_images: NonNegativeInt
    few_labels: NotRequired[FewLabels]
    test: Test
    best_epoch: Count | None
    history: list[EpochRecord]
    train_seconds: NonNegative
    trained_at: Name
    continued_after: NotRequired[list[NonNegativeInt]]
    provenance: Provenance


class OutputsSpec(TypedDict):
    """Everything that a teacher's outputs depend on: `identity_of` and a layer."""

    format: int
    teacher: Key
    weights: Digest
    data: DataOfLearner
    layer: Annotated[str, Text(".{0,2000}", "a text of at most 2,000 characters")]


class OutputsFile(StoredFile):
    """`result.json` of a teacher's outputs."""

    spec: OutputsSpec
    computed_at: Name


class Resizing(TypedDict):
    """The part of an exported file's `preprocessing` that `Data` does not say."""

    resize: Annotated[int, Range(at_least=1, at_most=2 * LARGEST_IMAGE)]


class Exported(Data):
    """Parsed metadata of a safetensors file written by `kdexp-export`."""

    model: Node
    preprocessing: NotRequired[Resizing]


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
    """`trackers.json` of a run: its name and group in the trackers, and per tracker its id and the epochs of each learner."""

    name: Annotated[str, Text(r"(?!\.)[^/\\:\0]{1,255}(/\d{1,9})?", "a name of a run, or of a sweep and a job's number")]
    group: str
    ids: dict[str, Name]
    epochs: dict[str, dict[str, NonNegativeInt]]


class JobOfSweep(TypedDict):
    """A job of a sweep: its overrides, and the name of its folder in the sweep's folder."""

    overrides: list[str]
    folder: FileName


class LayersRead(TypedDict):
    """The layers of a teacher that the jobs of a sweep read in one view."""

    network: Annotated[str, Text(".{1,100000}", "a text")]
    view: Name
    layers: list[Name]


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


class Summary(TypedDict):
    """Properties of a data set's images."""

    fingerprint: Digest
    mean: list[Fraction] | None
    std: list[Fraction] | None
    warnings: list[str]
    counts: list[NonNegativeInt]
    digest: Digest


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
