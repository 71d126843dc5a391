"""Files of weights as training scripts write them: which are accepted, with which notes, and which are refused, and why."""

import argparse
import datetime
import enum
import functools
import io
import pathlib
import pickle
import tarfile
import warnings
import zipfile
from collections import Counter, OrderedDict, defaultdict, deque

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from kdexp.errors import BadCheckpoint
from kdexp.network.checkpoint.fit import load_checkpoint
from kdexp.network.checkpoint.read import read_checkpoint


def net(seed=0, width=5):
    torch.manual_seed(seed)
    body = nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width))
    made = nn.Sequential(OrderedDict(body=body, head=nn.Linear(width, 2)))
    made(torch.randn(6, 4))
    return made


def weights(seed=1, prefix="", **given):
    return {prefix + name: value for name, value in net(seed, **given).state_dict().items()}


def same(found, expected):
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


class Mode(enum.Enum):
    """An enumeration defined by a training script."""

    FAST = 1


class Settings(dict):
    """A mapping defined by a training script or configuration library."""


def objects():
    """Objects that scripts store next to weights."""
    moments = {
        number: {"step": torch.tensor(3.0), "exp_avg": torch.ones_like(p)} for number, p in enumerate(net().parameters())
    }
    return {
        "opt": argparse.Namespace(lr=0.1, path=pathlib.Path("data")),
        "optimizer": {"state": moments, "param_groups": [{"lr": 0.1, "params": list(moments)}]},
        "best": [np.float64(71.5), np.int64(3), np.zeros((2, 3)), np.zeros(3, dtype=object)],
        "random": [np.random.RandomState(0), np.random.default_rng(0), torch.get_rng_state(), np.random.get_state()],
        "time": [datetime.datetime.now(datetime.UTC), datetime.timedelta(3), datetime.date.today()],
        "mode": Mode.FAST,
        "config": Settings(a=1, b=Settings(c=[2])),
        "shapes": [torch.Size([2, 3]), torch.float16, torch.device("cpu")],
        "history": defaultdict(list, {"loss": [1.0, 2.0]}),
        "more": [Counter("ab"), deque([1], 3), {1, 2}, frozenset({3}), range(3), slice(1, 2), 1j, b"ab", bytearray(b"c")],
        "function": functools.partial(print, 1),
        "error": ValueError("text"),
        3: (None, True),
    }


READ, DROPPED = "weights read from {!r}".format, "{!r} dropped from the names".format
UNREAD = "objects that are no tensors were left unread ({})".format
LEFT = "left out, no part of the network: "
WHOLE = "a network that was pickled whole; its tensors were read, its code was not run"
PREFIXES = ["module.", "_orig_mod.", "model.", "net.", "backbone.", "student.", "_orig_mod.module.", "a.b.module.c.", "1."]
KEYS = ["model", "state_dict", "model_state_dict", "net", "weights", "params"]

LAYOUTS = {
    "plain": (lambda: weights(), []),
    "with numbers": (lambda: weights() | {"epoch": 3, "name": "x"}, []),
    **{f"prefix {prefix}": (lambda p=prefix: weights(prefix=p), [DROPPED(prefix)]) for prefix in PREFIXES},
    **{f"key {key}": (lambda k=key: {k: weights(), "epoch": 3}, [READ(key)]) for key in KEYS},
    "two deep": (lambda: {"run": {"net": weights()}, "epoch": 3}, [READ("run.net")]),
    "in a list": (lambda: {"nets": [weights()]}, [READ("nets.0")]),
    "in an object": (lambda: argparse.Namespace(net=weights()), [UNREAD("argparse.Namespace"), READ("net")]),
    "Lightning's": (
        lambda: {
            "state_dict": weights(prefix="model.") | {"criterion.weight": torch.ones(2)},
            "loops": {},
            "hparams_name": "x",
        },
        [READ("state_dict"), DROPPED("model."), LEFT + "criterion"],
    ),
    "parts apart": (lambda: {part: net(1).get_submodule(part).state_dict() for part in ("body", "head")}, []),
    "wrapped inside": (
        lambda: {name.replace("body.", "body.module._orig_mod."): value for name, value in weights().items()},
        ["'_orig_mod', 'module' left out of the names"],
    ),
    "profiled": (
        lambda: weights() | {name: torch.zeros(1) for name in ("total_ops", "body.0.total_params", "body.0.total_ops")},
        [LEFT + "total_ops, total_params"],
    ),
    "with a loss": (
        lambda: weights(prefix="module.") | {"module.criterion.weight": torch.ones(2), "module.aux_head.bias": torch.ones(3)},
        [DROPPED("module."), LEFT + "module.criterion, module.aux_head"],
    ),
    "averaged": (
        lambda: {"state_dict": weights(5), "state_dict_ema": weights()},
        ["averaged weights (EMA) taken", READ("state_dict_ema")],
    ),
    "averaged by name": (
        lambda: weights(5, prefix="online.") | weights(prefix="ema_model."),
        ["averaged weights (EMA) taken", DROPPED("ema_model."), LEFT + "online"],
    ),
    "AveragedModel": (
        lambda: torch.optim.swa_utils.AveragedModel(net(1)).state_dict(),
        [DROPPED("module."), LEFT + "n_averaged"],
    ),
    "of another teacher": (
        lambda: {"model": weights(prefix="module.student.") | weights(5, prefix="module.teacher.", width=7)},
        [READ("model"), DROPPED("module.student."), LEFT + "module.teacher"],
    ),
    "a network twice": (lambda: {"last": (same_one := weights()), "best": dict(same_one)}, [READ("last")]),
    "next to objects": (
        lambda: objects() | {"net": weights()},
        [UNREAD(f"argparse.Namespace, {__name__}.Mode, {__name__}.Settings"), READ("net")],
    ),
    "pickled whole": (lambda: net(1), [WHOLE]),
    "pickled whole in parallel": (lambda: {"net": nn.DataParallel(net(1))}, [WHOLE, READ("net"), DROPPED("module.")]),
    "a parameter": (lambda: {"net": dict(net(1).named_parameters()) | dict(net(1).named_buffers())}, [READ("net")]),
    "exact names first": (lambda: weights() | {"ema": weights(5), "model": weights(6)}, []),
}

WRITERS = {
    "zip": torch.save,
    "old": functools.partial(torch.save, _use_new_zipfile_serialization=False),
    "zip protocol 5": functools.partial(torch.save, pickle_protocol=5),
    "pickle": lambda content, path: pathlib.Path(path).write_bytes(pickle.dumps(content)),
}


@pytest.mark.slow
@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_that_are_accepted(tmp_path, layout, write):
    pack, notes = LAYOUTS[layout]
    path, model = tmp_path / "net.pth.tar", net()
    WRITERS[write](pack(), path)
    assert load_checkpoint(model, path) == tuple(f"{path}: {note}" for note in notes)
    assert same(model.state_dict(), weights())


@pytest.mark.parametrize("role", ["teacher", "teacher.members.0", "distilled", "baseline"])
@pytest.mark.parametrize(
    "names", [("student", "teacher"), ("module.student.net", "module.teacher.net"), ("model_s", "model_t")]
)
def test_the_role_decides_between_teacher_and_student(tmp_path, role, names):
    model, states = net(), (weights(1), weights(2))
    content = {f"{part}.{name}": value for part, state in zip(names, states, strict=True) for name, value in state.items()}
    torch.save({"model": content}, tmp_path / "both.pt")
    load_checkpoint(model, tmp_path / "both.pt", role=role)
    assert same(model.state_dict(), states[role.startswith("teacher")])
    with pytest.raises(BadCheckpoint, match=f"several state dicts that fit: 'model.{names[0]}', 'model.{names[1]}'; write"):
        load_checkpoint(model, tmp_path / "both.pt")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_types_are_converted(tmp_path, dtype):
    state = {name: value.to(dtype) if value.is_floating_point() else value.int() for name, value in weights().items()}
    torch.save(state, tmp_path / "net.pt")
    model = net()
    assert load_checkpoint(model, tmp_path / "net.pt") == (
        f"{tmp_path / 'net.pt'}: {str(dtype).removeprefix('torch.')} converted to float32",
    )
    assert same(model.state_dict(), {name: value.to(model.state_dict()[name].dtype) for name, value in state.items()})


def test_counters_missing_in_old_files_are_zero(tmp_path):
    torch.save({name: value for name, value in weights().items() if "tracked" not in name}, tmp_path / "old.pt")
    model = net()
    assert load_checkpoint(model, tmp_path / "old.pt") == (
        f"{tmp_path / 'old.pt'}: num_batches_tracked is missing in the file and starts at 0",
    )
    assert same(model.state_dict(), weights() | {"body.1.num_batches_tracked": torch.tensor(0)})


def test_views_and_tied_tensors_keep_their_values(tmp_path):
    state = weights()
    large = torch.randn(100, 100)
    large[3:8, 10:14] = state["body.0.weight"]
    large[50, ::50] = state["head.bias"]
    state |= {"body.0.weight": large[3:8, 10:14], "head.bias": large[50, ::50]}
    torch.save(state, tmp_path / "net.pt")
    model = net()
    load_checkpoint(model, tmp_path / "net.pt")
    assert same(model.state_dict(), weights())


def test_the_content_decides_the_format_and_not_the_suffix(tmp_path):
    save_file(weights(), tmp_path / "net.bin")
    torch.save(weights(), tmp_path / "net.safetensors")
    for name in ("net.bin", "net.safetensors"):
        assert same(read_checkpoint(tmp_path / name).tensors, weights())


def test_archives_without_checksums_are_read(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(weights(), tmp_path / "net.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert same(read_checkpoint(tmp_path / "net.pt").tensors, weights())


def test_torchscript_archives_are_read_as_data(tmp_path):
    with pytest.warns(FutureWarning):
        torch.jit.save(torch.jit.script(net(1)), tmp_path / "net.pt")
    model = net()
    (note,) = load_checkpoint(model, tmp_path / "net.pt")
    assert note.endswith(": a TorchScript archive; its tensors were read, its code was not run")
    assert same(model.state_dict(), weights())


WORDS = st.text("abcxyz_", min_size=1, max_size=6).filter(lambda word: not {"teacher", "student"} & {word})
LAYER = st.one_of(
    st.tuples(st.just("prefix"), st.sampled_from([*PREFIXES, "x.", "_."])),
    st.tuples(st.just("key"), st.one_of(WORDS, st.sampled_from(KEYS))),
    st.tuples(st.just("list"), st.just("")),
)


@pytest.mark.slow
@settings(max_examples=40)
@given(layers=st.lists(LAYER, max_size=5), zipped=st.booleans(), protocol=st.integers(2, 5))
def test_weights_are_found_however_they_are_wrapped(tmp_path_factory, layers, zipped, protocol):
    content = weights()
    for kind, word in layers:
        if kind == "prefix":
            content = {word + name: value for name, value in content.items()} if isinstance(content, dict) else content
        elif kind == "list":
            content = [content, 3]
        else:
            content = {word: content, "epoch!": 3, "optimizer!": {"state": {0: {"exp_avg": torch.ones(5, 4)}}}}
    path = tmp_path_factory.mktemp("wrapped") / "net.pt"
    torch.save(content, path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    assert same(read_checkpoint(path, net()).tensors, weights())


# Refusals


def changed(**values):
    """Returns the weights with some of them replaced; a double underscore stands for a dot."""
    return weights() | {name.replace("__", "."): value for name, value in values.items()}


def with_value(value, *places):
    """Returns the first layer's weight with that value at some positions."""
    weight = weights()["body.0.weight"].clone()
    weight.view(-1)[list(places)] = value
    return changed(body__0__weight=weight)


def quantized():
    with warnings.catch_warnings(action="ignore"):
        return torch.quantize_per_tensor(torch.zeros(2), 0.1, 0, torch.qint8)


CANT = "can't be used: head.bias is "
REFUSED = {
    "two": (lambda: {"a": weights(1), "b": weights(2)}, "holds several state dicts that fit: 'a', 'b'; write"),
    "two averaged": (lambda: {"ema": weights(1), "ema_2": weights(2), "x": weights(3)}, "fit: 'ema', 'ema_2'; write"),
    "numbers as names": (lambda: {0: torch.ones(2), 1: torch.ones(3)}, "names to tensors): 0 is no name; 1 is no name"),
    "tuples as names": (lambda: {"model": {("head", "bias"): torch.ones(2)}}, "names to tensors): ('head', 'bias') is no name"),
    "arrays": (lambda: {"head.bias": np.zeros(2)}, "(a mapping of names to tensors): 'head.bias' is a ndarray"),
    "itself": (
        lambda: (inner := {"epoch": 3}) | {"model": inner.setdefault("model", inner)},
        "'epoch' is a int; 'model' is a dict",
    ),
    "nothing": (dict, "holds no state dict (a mapping of names to tensors): it is empty"),
    "meta": (lambda: changed(head__bias=torch.zeros(2, device="meta")), CANT + "a meta tensor, which has no values"),
    "sparse": (lambda: changed(head__bias=torch.zeros(2).to_sparse()), CANT + "sparse"),
    "quantized": (lambda: changed(head__bias=quantized()), CANT + "quantized"),
    "complex": (lambda: changed(head__bias=torch.zeros(2, dtype=torch.complex64)), CANT + "complex64, not float32"),
    "bool": (lambda: changed(head__bias=torch.zeros(2, dtype=torch.bool)), CANT + "bool, not float32"),
    "int": (lambda: changed(head__bias=torch.zeros(2, dtype=torch.int8)), CANT + "int8, not float32"),
    "conjugated": (lambda: changed(head__bias=torch.zeros(2, dtype=torch.complex64).conj()), CANT + "a conjugated or"),
    "NaN": (lambda: with_value(torch.nan, 3, 8), "can't be used: body.0.weight holds NaN (2 of 20 values)"),
    "infinity": (lambda: with_value(-torch.inf, 7), "can't be used: body.0.weight holds infinity (1 of 20 values)"),
    "an infinite statistic": (
        lambda: changed(body__1__running_var=torch.full((5,), torch.inf)),
        "can't be used: body.1.running_var holds infinity (5 of 5 values)",
    ),
    "several": (
        lambda: {name: value * torch.nan for name, value in weights().items()},
        "body.0.weight holds NaN (20 of 20 values), body.0.bias holds NaN (5 of 5 values), body.1.weight holds NaN (5 of 5 "
        "values) and 5 more",
    ),
    "a larger network": (
        lambda: changed(tail__weight=torch.ones(2, 2)),
        "does not fit Sequential: 1 tensors differ, first tail.weight (model none, file 2×2)",
    ),
    "other names": (
        lambda: {"encoder.0.w": torch.ones(5, 4), "encoder.0.b": torch.ones(5)},
        "first body.0.weight (model 5×4, file none); body.0.bias (model 5, file none); body.1.weight (model 5, file none); "
        "names in the file: encoder.0.w, encoder.0.b",
    ),
}


def refusal(path, model=None):
    model = model or net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(BadCheckpoint) as refused:
        load_checkpoint(model, path)
    assert same(model.state_dict(), before)
    assert str(refused.value).startswith(f"{path} ") and "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("case", REFUSED)
def test_files_that_are_refused(tmp_path, case, zipped):
    content, sentence = REFUSED[case]
    torch.save(content(), tmp_path / "net.pt", _use_new_zipfile_serialization=zipped)
    assert sentence in refusal(tmp_path / "net.pt")


def test_overflow_in_conversion_is_named(tmp_path):
    torch.save(changed(head__bias=torch.tensor([1e300, 0], dtype=torch.float64)), tmp_path / "net.pt")
    assert "head.bias holds infinity (1 of 2 values)" in refusal(tmp_path / "net.pt")


# Damaged and crafted files


def repacked(path, change):
    """Rewrites the archive with its members changed by `change(name, data)` and correct checksums."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, change(name, data))


def test_a_wrong_checksum_is_named(tmp_path):
    path = tmp_path / "net.pt"
    torch.save(weights(), path)
    value = weights()["head.weight"].numpy().tobytes()
    path.write_bytes(path.read_bytes().replace(value, value[:-1] + bytes([value[-1] ^ 1])))
    assert refusal(path).endswith("can't be read as weights: it is damaged: Bad CRC-32 for file 'net/data/7'")


def test_a_compressed_archive_is_refused(tmp_path):
    path = tmp_path / "net.pt"
    torch.save(weights(), path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    assert refusal(path).endswith("it is a compressed zip archive, which torch.save does not write")


@pytest.mark.parametrize("dtype", [torch.complex64, torch.bool, torch.int8])
def test_safetensors_of_other_types_are_refused(tmp_path, dtype):
    save_file(changed(head__bias=torch.zeros(2, dtype=dtype)), tmp_path / "net.safetensors")
    assert f"{CANT}{str(dtype).removeprefix('torch.')}, not float32" in refusal(tmp_path / "net.safetensors")


def test_other_archives_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("text", "text")
    assert refusal(tmp_path / "other.zip").endswith("it is a zip archive, but not one that torch.save wrote")
    with tarfile.open(tmp_path / "net.tar", "w") as archive:
        archive.add(tmp_path / "other.zip")
    assert "it is a tar archive; unpack it" in refusal(tmp_path / "net.tar")


def test_a_shorter_storage_than_promised_is_refused(tmp_path):
    path = tmp_path / "net.pt"
    torch.save(weights(), path)
    repacked(path, lambda name, data: data[:4] if name == "net/data/0" else data)
    assert refusal(path).endswith("it is damaged: 4 bytes where the file promises 80")


class Rebuilt:
    """Pickled like a tensor, with given arguments."""

    def __init__(self, length, offset, shape, stride):
        self.length, self.arguments = length, (offset, shape, stride, False, OrderedDict())

    def __reduce__(self):
        return torch._utils._rebuild_tensor_v2, (StorageOf(self.length), *self.arguments)


class StorageOf:
    """Pickled like a storage of that many values."""

    def __init__(self, length):
        self.length = length


class Pickler(pickle.Pickler):
    """Writes storages as torch does."""

    def persistent_id(self, value):
        return ("storage", torch.FloatStorage, "0", "cpu", value.length) if isinstance(value, StorageOf) else None


def crafted(path, content, data=bytes(80)):
    """Writes an archive with that content and one storage."""
    stream = io.BytesIO()
    Pickler(stream, 2).dump(content)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/data.pkl", stream.getvalue())
        archive.writestr("net/data/0", data)
    return path


BEYOND = [
    (Rebuilt(20, 1, (5, 4), (4, 1)), "a tensor (5×4) reaches beyond its storage of 20 values"),
    (Rebuilt(20, 0, (5, 4), (5, 1)), "a tensor (5×4) reaches beyond its storage of 20 values"),
    (Rebuilt(20, 10**30, (5, 4), (4, 1)), "a tensor (5×4) reaches beyond its storage of 20 values"),
    (Rebuilt(20, -1, (5, 4), (4, 1)), "a tensor has an impossible shape"),
    (Rebuilt(20, 0, (5, -4), (4, 1)), "a tensor has an impossible shape"),
    (Rebuilt(20, 0, (5, 4), (1,)), "a tensor has an impossible shape"),
    (Rebuilt(-1, 0, (5, 4), (4, 1)), "a storage has no name or no length"),
    (Rebuilt(10**18, 0, (5, 4), (4, 1)), "80 bytes where the file promises 4000000000000000000"),
    (Rebuilt(10**18, 0, (10**9, 10**9), (10**9, 1)), "80 bytes where the file promises 4000000000000000000"),
]


@pytest.mark.parametrize(("tensor", "sentence"), BEYOND)
def test_tensors_that_lie_about_their_memory_are_refused(tmp_path, tensor, sentence):
    message = refusal(crafted(tmp_path / "net.pt", changed_to(tensor)))
    assert message.endswith(f"it is damaged: {sentence}")


def changed_to(tensor):
    fitting = {name: Rebuilt(20, 0, tuple(value.shape), value.stride()) for name, value in weights().items()}
    return fitting | {"body.0.weight": tensor}


def test_a_value_repeated_too_often_is_refused(tmp_path):
    message = refusal(crafted(tmp_path / "net.pt", changed_to(Rebuilt(20, 0, (10**6, 10**6), (0, 0)))))
    assert message.endswith("a tensor repeats 20 values 1000000000000 times over")


def test_correctly_crafted_files_are_read(tmp_path):
    read_checkpoint(crafted(tmp_path / "net.pt", changed_to(Rebuilt(20, 0, (5, 4), (1, 5)))), net())


@pytest.mark.parametrize(
    "pickled",
    [
        b"\x80\x05\x96" + (1 << 40).to_bytes(8, "little") + b".",  # a bytearray of 1 TB
        b"\x80\x05\x8e" + (1 << 40).to_bytes(8, "little") + b".",  # bytes of 1 TB
        b"\x80\x05Nr\xff\xff\xff\xff.",  # the memo's last place
        b"\x80\x02" + b"]" * 20_000 + b"a" * 19_999 + b".",  # lists within lists
    ],
)
def test_claims_take_no_memory(tmp_path, pickled):
    (tmp_path / "net.pt").write_bytes(pickled)
    refusal(tmp_path / "net.pt")


@pytest.mark.slow
@settings(max_examples=60)
@given(place=st.floats(0, 1), value=st.integers(0, 255), zipped=st.booleans())
def test_a_changed_byte_is_refused_or_does_not_matter(tmp_path_factory, place, value, zipped):
    path = tmp_path_factory.mktemp("changed") / "net.pt"
    torch.save(weights(), path, _use_new_zipfile_serialization=zipped)
    data = bytearray(path.read_bytes())
    data[int(place * (len(data) - 1))] = value
    path.write_bytes(data)
    try:
        load_checkpoint(net(), path)
    except BadCheckpoint as error:
        assert str(path) in str(error)


def test_tensors_that_may_belong_to_the_network_are_not_reported_as_left_out(tmp_path):
    content = {name: value for name, value in weights().items() if not name.startswith("head")}
    torch.save(content | {"head.0.weight": torch.ones(2, 5), "loss.weight": torch.ones(2)}, tmp_path / "net.pt")
    checkpoint = read_checkpoint(tmp_path / "net.pt", net())
    assert checkpoint.notes == (f"{tmp_path / 'net.pt'}: {LEFT}loss",)
    assert checkpoint.tensors.keys() == content.keys() | {"head.0.weight"}
