"""A table of bad input and the sentences that refuse it, each with exit code 2 and nothing written."""

import os
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from kdexp.models.mlp import MLP

COMMANDS = [
    (
        ["distillation=kdd"],
        "distillation='kdd': no such option; did you mean kd? known: at, cosine, ",
    ),
    (["dataset=cifar"], "dataset='cifar': no such option; did you mean cifar10? known: cifar10, cifar100, digits"),
    (["student=nothing"], "student='nothing': no such option; known: convnet_small, deepnn"),
    (["distillation.temprature=2"], "distillation.temprature: unknown key; did you mean distillation.temperature?"),
    (["+distillation.temprature=2"], "distillation.temprature: unknown key; did you mean temperature? known: temperature"),
    (["temperature=2"], "temperature: unknown key; did you mean distillation.temperature?"),
    (["+temperature=2"], "temperature: unknown key; did you mean distillation.temperature?"),
    (["+epoch=3"], "epoch: unknown key; did you mean epochs?"),
    (["+student.hiden=[3]"], "student.hiden: unknown key; did you mean hidden? known: hidden"),
    (["lr=0.1"], "lr: unknown key; did you mean optimizer.lr?"),
    (["distillation.temperature=hot"], "distillation.temperature='hot': must be a finite number"),
    (["distillation.temperature='4'"], "distillation.temperature='4': must be a finite number"),
    (["distillation.temperature=nan"], "distillation.temperature=nan: must be a finite number"),
    (["distillation.temperature=inf"], "distillation.temperature=inf: must be a finite number"),
    (["distillation.temperature=null"], "distillation.temperature=None: must be a finite number"),
    (["distillation.temperature=true"], "distillation.temperature=True: must be a finite number"),
    (["distillation.temperature=0"], "distillation.temperature=0: must be above 0"),
    (["distillation.alpha=1.5"], "distillation.alpha=1.5: must be at least 0 and at most 1"),
    (["distillation.alpha=-0.1"], "distillation.alpha=-0.1: must be at least 0 and at most 1"),
    (["distillation.ce_weight=1"], "distillation.alpha=0.1: is short for ce_weight=alpha, kd_weight=1-alpha and excludes them"),
    (["distillation=mse_logits", "distillation.weight=0"], "distillation: every weight is 0"),
    (["distillation=hint", "distillation.weight=-1"], "distillation.weight=-1: must be at least 0"),
    (["distillation=hint", "distillation.student_layers=features"], "distillation.student_layers='features': must be a list"),
    (["distillation=hint", "distillation.student_layers=[3]"], "each entry must be a text"),
    (["epochs=0"], "epochs=0: must be at least 1"),
    (["epochs=2.5"], "epochs=2.5: must be a whole number"),
    (["teacher_epochs=-1"], "teacher_epochs=-1: must be at least 1"),
    (["batch_size=0"], "batch_size=0: must be at least 1"),
    (["batch_size=null"], "batch_size=None: must be a whole number"),
    (["seed=one"], "seed='one': must be a whole number"),
    (["seed=-1"], "seed=-1: must be at least 0"),
    (["num_threads=0"], "num_threads=0: must be at least 1"),
    (["workers=0"], "workers=0: must be at least 1 (or null)"),
    (["memory=tape"], "memory='tape': must be one of auto, device, ram, disk"),
    (["memory=disk"], "memory='disk': only dataset=image_folder can be decoded during training; choose auto or ram"),
    (["limit_batches=0"], "limit_batches=0: must be at least 1"),
    (["force=maybe"], "force='maybe': must be true or false"),
    (["store=null"], "store=None: must be a text"),
    (["optimizer.lr=0"], "optimizer.lr=0: must be above 0"),
    (["optimizer.lr=nan"], "optimizer.lr=nan: must be a finite number"),
    (["teacher_optimizer.lr=-1"], "teacher_optimizer.lr=-1: must be above 0"),
    (["optimizer.weight_decay=-1"], "optimizer.weight_decay=-1: must be at least 0"),
    (["optimizer=sgd", "optimizer.momentum=1"], "optimizer.momentum=1: must be at least 0 and below 1"),
    (["optimizer=sgd", "optimizer.momentum=0", "optimizer.nesterov=true"], "optimizer.nesterov=True: needs a momentum"),
    (["optimizer.betas=[0.9]"], "optimizer.betas=[0.9]: must be two numbers"),
    (["optimizer.clip_norm=0"], "optimizer.clip_norm=0: must be above 0 (or null)"),
    (["schedule=cosine", "schedule.warmup_epochs=-1"], "schedule.warmup_epochs=-1: must be at least 0"),
    (["device=gpu"], "device='gpu': must be one of auto, cpu, cuda, mps"),
    (["precision=fp16"], "precision='fp16': must be one of auto, fp32, tf32, bf16"),
    (["precision=tf32"], "precision='tf32': only CUDA devices have TF32"),
    (["device=cpu", "precision=tf32"], "precision='tf32': only CUDA devices have TF32"),
    (["dataset.val_fraction=1"], "dataset.val_fraction=1: must be at least 0 and below 1"),
    (["dataset.student_fraction=0"], "dataset.student_fraction=0: must be above 0 and at most 1"),
    (["dataset.mean=[0.1,0.2]"], "dataset.mean=[0.1, 0.2]: must have 1 entries, one per channel"),
    (["student.hidden=[0]"], "student.hidden=[0]: each entry must be at least 1"),
    (["student.hidden=64"], "student.hidden=64: must be a list, written [a,b]"),
    (["student=keras_student", "student.channels=[1,2,3]"], "student.channels=[1, 2, 3]: must be two widths"),
    (["student=lightnn", "student.dropout=2"], "student.dropout=2: must be at least 0 and at most 1"),
    (["teacher=null"], "teacher=None: this method learns from a teacher; choose one, or distillation=none"),
    (["teacher_optimizer=sgd"], "teacher_optimizer='sgd': is a group, chosen with optimizer@teacher_optimizer=OPTION"),
    (["teacher.checkpoint=nowhere.pt"], "teacher.checkpoint='nowhere.pt': no such file"),
    (["student._target_=no.such.Net"], "student._target_='no.such.Net': can't be imported"),
    (
        ["distillation=hint", "distillation.student_layers=[feature]"],
        "MLP has no layer 'feature'; did you mean features? known:",
    ),
    (["distillation=hint", "distillation.student_layers=[features,classifier]"], "name 2 and 1 layers"),
    (["distillation=hint", "teacher=keras_teacher", "student=mlp_small"], "hint compares maps of one size, not 64"),
    (["distillation=cosine", "student.hidden=[60]"], "256 (teacher) is no multiple of 60 (student)"),
    (["dataset=cifar10", "dataset.download=false", "dataset.root=nowhere"], "no CIFAR10 in dataset.root='nowhere'"),
    (["dataset=cifar10", "dataset.download=false", "dataset.root=nowhere"], "add dataset.download=true"),
    (["epochs"], "'epochs' is not KEY=VALUE; write epochs=VALUE; see kdexp --help"),
    (["seed=[1"], "'seed=[1' can't be read"),
    (["-m", "seed=[1", "epochs=1,2"], "'seed=[1' can't be read"),
    (["-m", "epochs"], "'epochs' is not KEY=VALUE"),
    (
        ["-m", "distillation=kd,hint", "distillation.weight=1,2", "seed=0,1"],
        "distillation.weight: only distillation=hint has it, not kd; run them separately: kdexp -m distillation=kd seed=0,1 "
        "and kdexp -m distillation=hint distillation.weight=1,2 seed=0,1",
    ),
    (["-m", "optimizer=adam,sgd", "optimizer.momentum=0.8,0.9"], "optimizer.momentum: only optimizer=sgd has it, not adam"),
    (["-m", "optimizer=adam,sgd", "optimizer.momentom=0.8"], "optimizer.momentom: unknown key"),
    (["-m", "distillation.temperature=1,2,hot"], "distillation.temperature='hot': must be a finite number"),
    (["-m", "seed=0,1", "epochs=0", "batch_size=0"], "kdexp: 2 problems in this command"),
]

GREY = ["dataset=image_folder", "dataset.image_size=8", "dataset.in_channels=1", "dataset.val_fraction=0"]
COLOUR = ["dataset=image_folder", "dataset.image_size=8", "teacher=keras_teacher", "student=keras_student"]


def own(name, *words, start=GREY):
    """A command that trains on the folder of that name in `wrong`."""
    return [*start, f"dataset.root={{wrong}}/{name}", *words]


DATA = [
    (GREY, "dataset.root: must be given, there is no default"),
    (own("nowhere"), "no such folder"),
    (own("god"), "no such folder; did you mean good?"),
    (own("nothing"), "holds no images; looked for train/CLASS/ and test/CLASS/, or CLASS/ with images"),
    (own("differing"), "train/ and test/ have different classes (only in train/: dog, only in test/: dgo)"),
    (own("empty_class"), "no images in {wrong}/empty_class/train/dog"),
    (own("one_class"), "only one class (cat), there must be at least two"),
    (own("good/train"), "no train/ and test/ found, only classes (cat, dog); add dataset.test_fraction=0.2 to hold"),
    (own("good", "dataset.test_fraction=0.2"), "has its own test/, which dataset.test_fraction=0.2 would leave unused"),
    (
        own("one_each", "dataset.val_fraction=0.5"),
        "dataset.val_fraction=0.5 gives no validation image (at most 1 training images per class)",
    ),
    (own("one_each", "dataset.val_fraction=0.6"), "dataset.val_fraction=0.6 leaves no training image of cat, dog"),
    (own("zero_bytes"), "1 image can't be read: {wrong}/zero_bytes/train/cat/00.png (the file is empty), repair or remove it"),
    (own("no_image"), "{wrong}/no_image/train/cat/00.png (not an image that Pillow can read)"),
    (own("truncated"), "{wrong}/truncated/train/cat/00.png (image file is truncated"),
    (own("deep"), "{wrong}/deep/train/cat/00.tiff (32-bit pixels, whose range is unknown"),
    (own("good", "dataset.image_size=0"), "dataset.image_size=0: must be at least 1"),
    (own("good", "dataset.in_channels=4"), "dataset.in_channels=4: must be one of 1, 3"),
    (own("good", "dataset.resized_crop=[1]"), "dataset.resized_crop=[1]: must be [smallest, largest]"),
    (own("good", "dataset.image_size=1000000"), "choose a smaller dataset.image_size than 1000000"),
    (["dataset=cifar10", "dataset.download=false", "dataset.root=nowhere"], "no CIFAR10 in dataset.root='nowhere'"),
    (
        ["dataset=mnist", "dataset.root={wrong}/mnist", "teacher=keras_teacher", "student=keras_student"],
        "MNIST/raw/train-images-idx3-ubyte is damaged, its sha256 is not the published file's",
    ),
    (
        ["dataset=cifar10", "dataset.root={wrong}/cifar", "teacher=deepnn", "student=lightnn"],
        "cifar-10-batches-py/data_batch_1 is damaged, its sha256 is not the published file's",
    ),
]


def checkpoint(name, sentence):
    """A command with the file of that name in `wrong` as the student's checkpoint, and the sentence that refuses it."""
    return [f"student.checkpoint={{wrong}}/{name}"], f"student.checkpoint: {{wrong}}/{name} {sentence}"


CHECKPOINTS = [
    (["student.checkpoint={wrong}/none.pt"], "student.checkpoint='{wrong}/none.pt': no such file"),
    checkpoint("empty.pt", "can't be read as weights: it is empty"),
    checkpoint("text.pt", "can't be read as weights: it is damaged, or not a state dict that torch.save wrote"),
    checkpoint("half.pt", "can't be read as weights: it is damaged, or not a state dict that torch.save wrote"),
    checkpoint("half.safetensors", "can't be read as weights: it is no safetensors file, or a damaged one"),
    checkpoint("evil.pt", "is refused: loading it would run code (posix.system)"),
    checkpoint("bare_evil.pt", "is refused: loading it would run code (posix.system)"),
    checkpoint("nan.pt", "can't be used: classifier.bias holds NaN (10 of 10 values)"),
    checkpoint("two.pt", "holds several state dicts that fit: 'first', 'second'; "),
    checkpoint("other.pt", "does not fit MLP: 7 tensors differ, first features.1.weight (model 64×64, file none)"),
    checkpoint("wide.pt", "does not fit MLP: 3 tensors differ, first features.1.weight (model 64×64, file 96×64)"),
    (["teacher=mlp_small", "teacher.checkpoint={wrong}/hundred.pt"], "does not fit the data (file: 100 classes, data: 10)"),
]

NETWORKS = [
    (
        ["student=torchvision", "student.name=resnet19"],
        "student.name='resnet19': no such classifier in torchvision; did you mean",
    ),
    (
        ["student=torchvision", "student.name=fcn_resnet50"],
        "belongs to torchvision.models.segmentation and is no image classifier",
    ),
    (["student=torchvision", "student.weights=V9"], "student.weights='V9': resnet18 has IMAGENET1K_V1, DEFAULT (or null)"),
    (["student=torchvision", "student.name=alexnet"], "student: alexnet needs images of at least 63×63, not 8×8"),
    (["student=torchvision", "student.name=inception_v3"], "student: inception_v3 needs images of at least 75×75, not 8×8"),
    (["student=torchvision", "student.name=vgg11", "student.stem=small"], "vgg11 already starts at full resolution"),
    (["student=torchvision", "student.stem=tiny"], "student.stem='tiny': must be one of default, small"),
    (["student=mlp_small", "teacher=deepnn", "distillation=hint"], "hint compares maps of one size, not 64"),
    (
        ["student._target_=own_networks.HundredClasses", "~student.hidden"],
        "gives 100 logits per image, but the data have 10 classes",
    ),
    (
        ["teacher._target_=own_networks.AnswersWithDict", "~teacher.hidden"],
        "teacher: answers with a dict, not with a tensor of logits",
    ),
    (["student._target_=own_networks.NeedsALicence", "~student.hidden"], "no licence file"),
    (["student._target_=os.getcwd", "~student.hidden"], "student"),
]

TABLE = [*COMMANDS, *DATA, *CHECKPOINTS, *NETWORKS]


def picture(path, pixels=None):
    pixels = np.full((8, 8), 7, np.uint8) if pixels is None else pixels
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def classes(folder, names=("cat", "dog"), images=2):
    for name in names:
        for number in range(images):
            picture(folder / name / f"{number:02}.png", np.full((8, 8), 20 * number + len(name), np.uint8))


def write_data(wrong):
    for name in ("good", "differing", "empty_class", "one_class", "zero_bytes", "no_image", "truncated", "deep"):
        for part in ("train", "test"):
            classes(wrong / name / part, ("cat",) if name == "one_class" else ("cat", "dog"))
    classes(wrong / "one_each" / "train", images=1), classes(wrong / "one_each" / "test", images=1)
    (wrong / "nothing").mkdir()
    (wrong / "differing" / "test" / "dog").rename(wrong / "differing" / "test" / "dgo")
    for path in (wrong / "empty_class" / "train" / "dog").iterdir():
        path.unlink()
    (wrong / "zero_bytes" / "train" / "cat" / "00.png").write_bytes(b"")
    (wrong / "no_image" / "train" / "cat" / "00.png").write_bytes(b"hello")
    big = picture(
        wrong / "truncated" / "train" / "cat" / "00.png", np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)
    )
    big.write_bytes(big.read_bytes()[:2000])
    picture(wrong / "deep" / "train" / "cat" / "00.tiff", np.ones((8, 8), np.float32))
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
        (wrong / "mnist" / "MNIST" / "raw").mkdir(parents=True, exist_ok=True)
        (wrong / "mnist" / "MNIST" / "raw" / name).write_bytes(b"damaged")
    (wrong / "cifar" / "cifar-10-batches-py").mkdir(parents=True)
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"):
        (wrong / "cifar" / "cifar-10-batches-py" / name).write_bytes(pickle.dumps(Mischief()))


class Mischief:
    """A pickle that runs code when it is loaded."""

    def __reduce__(self):
        return os.system, ("exit 1",)


def mlp(num_classes=10, hidden=(64, 64)):
    return MLP(num_classes=num_classes, in_channels=1, image_size=8, hidden=list(hidden))


def write_checkpoints(wrong):
    torch.save(mlp().state_dict(), wrong / "whole.pt")
    save_file(mlp().state_dict(), wrong / "whole.safetensors")
    for suffix in ("pt", "safetensors"):
        whole = (wrong / f"whole.{suffix}").read_bytes()
        (wrong / f"half.{suffix}").write_bytes(whole[: len(whole) // 2])
    (wrong / "empty.pt").write_bytes(b"")
    (wrong / "text.pt").write_text("hello world")
    torch.save({"weight": Mischief()}, wrong / "evil.pt")
    (wrong / "bare_evil.pt").write_bytes(pickle.dumps(Mischief()))
    torch.save(mlp().state_dict() | {"classifier.bias": torch.full((10,), torch.nan)}, wrong / "nan.pt")
    torch.save({"first": mlp().state_dict(), "second": mlp().state_dict()}, wrong / "two.pt")
    torch.save({"weight": torch.zeros(3)}, wrong / "other.pt")
    torch.save(mlp(hidden=(96, 64)).state_dict(), wrong / "wide.pt")
    torch.save(mlp(num_classes=100).state_dict(), wrong / "hundred.pt")


@pytest.fixture(scope="module")
def wrong(tmp_path_factory):
    """A folder of data sets and checkpoints that can't be used."""
    folder = tmp_path_factory.mktemp("wrong")
    write_data(folder)
    write_checkpoints(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("words", "sentence"), TABLE, ids=[" ".join(words) for words, _ in TABLE])
def test_refused_with_a_sentence(refused, wrong, words, sentence):
    printed = refused(*(word.format(wrong=wrong) for word in words))
    assert sentence.format(wrong=wrong) in printed


def test_the_table_is_long():
    assert len(TABLE) >= 100


@pytest.mark.slow
def test_valid_input_is_not_refused(here, wrong):
    good = [word.format(wrong=wrong) for word in own("good", "dry_run=true", "dataset.std=[1]", "dataset.mean=[0]")]
    assert here(*good)[0] == 0
    assert here("dry_run=true", f"student.checkpoint={wrong}/whole.pt", f"teacher.checkpoint={wrong}/whole.pt")[0] == 2
    assert here("dry_run=true", f"student.checkpoint={wrong}/whole.safetensors")[0] == 0
