"""What the files hold that say what is stored, how a run went and what a sweep is made of, declared once for every reader."""

# No annotations of tomorrow here: with them, TypedDict would not see which keys need not be there.
from typing import Annotated, Any, Literal, NotRequired, TypedDict

from kdexp.configuration.arguments import Count, Fraction, NonNegative, NonNegativeInt, Positive, Range
from kdexp.configuration.roles import PARTS
from kdexp.store.schema import Digest, Key, Name, Text

MOST_CLASSES, MOST_CHANNELS, LARGEST_IMAGE = 10**6, 4096, 4096

FileName = Annotated[str, Text(r"(?!\.\.?$)[^/\\:\0]{1,255}", "the name of a file next to it")]
"""No path that leads out of a folder, on any system."""


class Node(TypedDict):
    """A class or function and its arguments; `kdexp.deployment.trust` judges what it may be."""

    _target_: Name


class Data(TypedDict):
    """What a network and its images depend on in a data set."""

    num_classes: Annotated[int, Range(at_least=1, at_most=MOST_CLASSES)]
    in_channels: Annotated[int, Range(at_least=1, at_most=MOST_CHANNELS)]
    image_size: Annotated[int, Range(at_least=1, at_most=LARGEST_IMAGE)]
    mean: list[float]
    std: list[Positive]
    classes: NotRequired[list[Name] | None]


class DataOfLearner(Data):
    """The same, and the hash of its images and labels."""

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
    sources: dict[str, Digest]


class Metrics(TypedDict):
    """What test answers are worth; a likelihood that is no finite number is null."""

    top1: Fraction | None
    top5: NotRequired[Fraction]
    nll: float | None
    ece: float | None


class Test(TypedDict):
    """After the last epoch, and after the best on validation data where there are any."""

    last: Metrics
    best: NotRequired[Metrics]


class Epoch(TypedDict):
    """The means of an epoch, a method's own terms among them."""

    epoch: Count
    loss: float
    train_accuracy: Fraction
    validation_accuracy: NotRequired[Fraction]


class Git(TypedDict):
    """The state of the folder that a command ran in."""

    commit: Name
    changed: bool


class Versions(TypedDict):
    """Of packages, these among others."""

    kdexp: Name
    torch: Name


class Provenance(TypedDict):
    """Where and with what something was computed."""

    python: Name
    versions: Versions
    device: Name
    threads: Count
    git: Git | None


class Entry(TypedDict):
    """What `result.json` says of a folder in the store: the digests of its files, and of itself."""

    model: Name
    dataset: Name
    files: dict[FileName, Digest]
    digest: Digest


class Learner(Entry):
    """`result.json` of a finished learner."""

    method: Name
    spec: Spec
    parameters: NonNegativeInt
    training_only_parameters: NonNegativeInt
    macs: NonNegativeInt | None
    size_mb: NonNegative
    train_images: NonNegativeInt
    test: Test
    best_epoch: Count | None
    history: list[Epoch]
    train_seconds: NonNegative
    trained_at: Name
    continued_after: NotRequired[list[NonNegativeInt]]
    provenance: Provenance


class OutputsSpec(TypedDict):
    """`identity_of` and a layer: all that a teacher's outputs depend on."""

    format: int
    teacher: Key
    weights: Digest
    data: DataOfLearner
    layer: Annotated[str, Text(".{0,2000}", "a text of at most 2,000 characters")]


class Outputs(Entry):
    """`result.json` of a teacher's outputs."""

    spec: OutputsSpec
    computed_at: Name


class Exported(Data):
    """The metadata of a safetensors file that `kdexp-export` wrote, its values parsed."""

    model: Node


Role = Literal[tuple(PARTS)]  # type: ignore[valid-type]


class TableRow(TypedDict):
    """A learner of a run: what became of it, and what was measured nowhere else."""

    role: Role  # type: ignore[valid-type]
    key: Key
    status: Annotated[str, Text(".+", "a text")]
    latency_ms: NotRequired[NonNegative | None]


class Table(TypedDict):
    """`table.json` of a run; `store` is the path of the store's learners from there."""

    store: Annotated[str, Text(r"(\.\./){0,50}((?!\.\.?/)[^/\0]{1,255}/){0,50}learner", "a relative path to a folder learner/")]
    rows: list[TableRow]
    digest: NotRequired[Digest]


class Status(TypedDict):
    """`status.json` of a run: how far it is, and why it did not end well."""

    state: Literal["running", "finished", "failed", "interrupted", "killed"]
    reason: NotRequired[str]


class JobOfSweep(TypedDict):
    """A job: the words that were its own, and the name of its folder inside the sweep's."""

    overrides: list[str]
    folder: FileName


class Jobs(TypedDict):
    """`jobs.json` of a sweep."""

    command: NotRequired[list[str]]
    jobs: list[JobOfSweep]


class Summary(TypedDict):
    """What is cached of a data set that stays on disk."""

    fingerprint: Digest
    mean: list[Fraction] | None
    std: list[Fraction] | None
    warnings: list[str]
    digest: Digest


class Choices(TypedDict):
    """The option that was chosen in each group, these among others."""

    dataset: str | None
    distillation: str | None


class Configuration(TypedDict):
    """`config.yaml` of a run, as far as reports read it."""

    choices: Choices
    dataset: Node
    teacher: NotRequired[Node | None]
    student: Node
    distillation: Node
    baseline: Node
    optimizer: Node
    schedule: Node
    teacher_optimizer: Node
    teacher_schedule: Node
    seed: NotRequired[int]
    epochs: int
    teacher_epochs: int
    batch_size: int
    limit_batches: int | None
    published: NotRequired[dict[str, Any] | None]
