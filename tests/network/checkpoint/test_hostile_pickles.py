"""Pickles that would run code are refused with the name of the function that they call, and never run it."""

import copyreg
import functools
import io
import operator
import os
import pathlib
import pickle
import zipfile
from contextlib import suppress

import pytest
import torch
from torch import nn

from kdexp.errors import BadCheckpoint
from kdexp.network.checkpoint.fit import load_checkpoint


def net():
    return nn.Sequential(nn.Linear(2, 2))


class Call:
    """Pickled as a call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class Makes:
    """A class whose constructor leaves a mark."""

    def __init__(self, path):
        pathlib.Path(path).mkdir()


def text(value):
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


def registered(mark):
    """Pickles a function by its code in the extension registry."""
    copyreg.add_extension("os", "mkdir", 240)
    copyreg.add_extension("posix", "mkdir", 241)
    try:
        return pickle.dumps(Call(os.mkdir, mark), protocol=2)
    finally:
        copyreg.remove_extension("os", "mkdir", 240)
        copyreg.remove_extension("posix", "mkdir", 241)


def nested(mark):
    stream = io.BytesIO()
    torch.save(Call(os.mkdir, mark), stream, _use_new_zipfile_serialization=False)
    return pickle.dumps({"0.weight": Call(torch.storage._load_from_bytes, stream.getvalue())})


MEMOIZED = b"\x80\x04\x8c\x05mkdir\x94\x8c\x02os\x94h\x01h\x00\x93"  # the module is pushed after the function, then both again
ITERATOR = b"cbuiltins\nmap\n(cos\nmkdir\n]"
HOSTILE = {
    **{
        f"protocol {n}": (lambda mark, n=n: pickle.dumps({"0.weight": Call(os.mkdir, mark)}, n), r"\w+.mkdir") for n in range(6)
    },
    "INST": (lambda mark: b"(" + text(mark) + b"ios\nmkdir\n.", "os.mkdir"),
    "OBJ": (lambda mark: b"(cos\nmkdir\n" + text(mark) + b"o.", "os.mkdir"),
    "memoized names": (lambda mark: MEMOIZED + text(mark) + b"\x85R.", "os.mkdir"),
    "an iterator": (
        lambda mark: b"\x80\x02cbuiltins\ntuple\n" + ITERATOR + text(mark) + b"at\x81\x85\x81.",
        "builtins.map",
    ),
    "an iterator by NEWOBJ_EX": (
        lambda mark: b"\x80\x04cbuiltins\ntuple\n" + ITERATOR + text(mark) + b"at}\x92\x85\x81.",
        "builtins.map",
    ),
    "partial": (lambda mark: pickle.dumps(Call(functools.partial(os.mkdir, mark))), "the result of functools.partial"),
    "methodcaller": (
        lambda mark: pickle.dumps(Call(operator.methodcaller("mkdir"), pathlib.Path(mark))),
        "the result of operator.methodcaller",
    ),
    "getattr": (lambda mark: pickle.dumps(Call(pathlib.Path.mkdir, pathlib.Path(mark))), r"pathlib\.Path\.mkdir"),
    "a function within a module": (
        lambda mark: b"\x80\x04\x8c\x05torch\x8c\x08os.mkdir\x93" + text(mark) + b"\x85R.",
        "torch.os.mkdir",
    ),
    "rebuilding a tensor": (
        lambda mark: pickle.dumps(Call(torch._tensor._rebuild_from_type_v2, os.mkdir, torch.Tensor, (mark,), {})),
        r"\w+.mkdir",
    ),
    "reconstructing": (lambda mark: pickle.dumps(Call(copyreg._reconstructor, Makes, Makes, mark)), r"copyreg\._reconstructor"),
    "a file within": (nested, r"\w+.mkdir"),
}


def test_each_of_these_pickles_runs_code_in_pythons_unpickler(tmp_path):
    for name, (make, _) in HOSTILE.items():
        mark = tmp_path / name
        with suppress(Exception):  # that what was made is of no use comes too late
            pickle.loads(make(str(mark)))
        assert mark.is_dir(), name


def archive(path, pickled):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("net/data.pkl", pickled)


def old(path, pickled):
    torch.save(net().state_dict(), path, _use_new_zipfile_serialization=False)
    stream = path.open("rb")
    with stream:
        for _ in range(3):
            pickle.load(stream)
        path_start = stream.tell()
    path.write_bytes(path.read_bytes()[:path_start] + pickled)


PLACES = {"a pickle": lambda path, pickled: path.write_bytes(pickled), "an archive": archive, "an old file": old}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", HOSTILE)
def test_code_is_refused_by_its_name_and_not_run(tmp_path, name, place):
    make, called = HOSTILE[name]
    mark = tmp_path / "mark"
    PLACES[place](tmp_path / "net.pt", make(str(mark)))
    with pytest.raises(
        BadCheckpoint, match=rf"net\.pt is refused: loading it would run code \({called}\); ask for a safetensors"
    ):
        load_checkpoint(net(), tmp_path / "net.pt")
    assert not mark.exists()


def test_code_before_the_end_of_a_damaged_file_is_named_too(tmp_path):
    (tmp_path / "net.pt").write_bytes(pickle.dumps(Call(os.mkdir, "mark"))[:-1] + b"\xff")
    with pytest.raises(BadCheckpoint, match=r"would run code \(\w+\.mkdir\)"):
        load_checkpoint(net(), tmp_path / "net.pt")


def test_codes_of_the_extension_registry_are_refused(tmp_path):
    (tmp_path / "net.pt").write_bytes(registered(str(tmp_path / "mark")))
    copyreg.add_extension("posix", "mkdir", 241)
    try:
        with pytest.raises(BadCheckpoint, match="its pickle names object 241 of copyreg's extension registry"):
            load_checkpoint(net(), tmp_path / "net.pt")
    finally:
        copyreg.remove_extension("posix", "mkdir", 241)
    assert not (tmp_path / "mark").exists()


def test_attributes_of_classes_are_not_set(tmp_path):
    (tmp_path / "net.pt").write_bytes(b"\x80\x02c" + f"{__name__}\nMakes\n".encode() + b"}X\x01\x00\x00\x00aK\x01sb.")
    with pytest.raises(BadCheckpoint, match=rf"would run code \({__name__}\.Makes\)"):
        load_checkpoint(net(), tmp_path / "net.pt")
    assert not hasattr(Makes, "a")


@pytest.mark.parametrize(
    "pid", [3, "storage", ("storage", "x"), ("file", "net.pt", "0", "cpu", 2), ("storage", os.mkdir, "0", "cpu", 2)]
)
def test_persistent_ids_other_than_storages_are_refused(tmp_path, pid):
    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return pid if isinstance(value, nn.Module) else None

    stream = io.BytesIO()
    Pickler(stream).dump({"0.weight": net()})
    archive(tmp_path / "net.pt", stream.getvalue())
    with pytest.raises(
        BadCheckpoint, match=r"can't be read as weights: it (is damaged|has storages of a kind that is not read)"
    ):
        load_checkpoint(net(), tmp_path / "net.pt")


def test_names_from_a_file_can_not_send_terminal_escapes(tmp_path):
    (tmp_path / "net.pt").write_bytes(b"\x80\x04" + text("os\n") + text("\x1b[2Jmkdir") + b"\x93)R.")
    with pytest.raises(BadCheckpoint, match=r"\(os\\n\.\\x1b\[2Jmkdir\)"):
        load_checkpoint(net(), tmp_path / "net.pt")
    torch.save({"\x1b[2J\n": torch.ones(2)}, tmp_path / "net.pt")
    with pytest.raises(BadCheckpoint) as refusal:
        load_checkpoint(net(), tmp_path / "net.pt")
    assert str(refusal.value).isprintable()
