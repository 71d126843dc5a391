"""Declarations of the files in a store and of exported ones, which every reader checks against; of runs: `run_files.py`."""

# Without `from __future__ import annotations`, which would hide from TypedDict which keys are NotRequired.
from typing import Annotated, Literal, NotRequired, TypedDict

from kdexp.configuration.arguments import Count, Fraction, NonNegative, NonNegativeInt, Positive, Range
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
    unlabelled: NotRequired[Digest]
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


class FolderImages(TypedDict):
    """A folder of images without classes, and how many of them a learner could read."""

    folder: Name
    images: NonNegativeInt


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
    unlabelled: NotRequired[FolderImages]
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


class UnlabelledSummary(TypedDict):
    """Properties of the images of `dataset.unlabelled_root`."""

    fingerprint: Digest
    validation_copies: list[NonNegativeInt]


class Summary(TypedDict):
    """Properties of a data set's images."""

    fingerprint: Digest
    mean: list[Fraction] | None
    std: list[Fraction] | None
    warnings: list[str]
    counts: list[NonNegativeInt]
    unlabelled: NotRequired[UnlabelledSummary]
    digest: Digest
