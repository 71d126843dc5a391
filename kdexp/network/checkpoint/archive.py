"""Opens files of weights: torch's zip archives and older files, plain pickles, safetensors."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from kdexp.errors import first_line
from kdexp.network.checkpoint.pickles import InertUnpickler
from kdexp.network.checkpoint.stored_tensors import Storage, StoredTensor, Unreadable

MAGIC = 0x1950A86A20F9469CFC6C
"""The first pickle of torch's older files."""

ZIP = b"PK\x03\x04"
DEEPEST = 3
"""Deepest nesting of files within files that is read."""


@dataclass(frozen=True)
class Contents:
    """The contents of a file: tensors as `StoredTensor`s, objects as `Inert`s; `kinds` are the names of their classes."""

    root: Any
    kinds: frozenset[str] = frozenset()


@contextmanager
def opened(path: Path) -> Iterator[Contents]:
    """Opens a file and yields its contents. The values of tensors can be read until the context is left.

    Raises `Unreadable`, `WouldRunCode`, or anything on a damaged file.
    """
    with path.open("rb") as stream:
        start = stream.read(9)
        zipped = start.startswith(ZIP)
        if start[8:] == b"{" or (path.suffix == ".safetensors" and not zipped):
            yield Contents({name: _in_memory(name, value) for name, value in load_file(path).items()})
            return
        if not zipped and tarfile.is_tarfile(path):
            raise Unreadable("it is a tar archive; unpack it, or load it with torch and write it again with torch.save")
        stream.seek(0)
        yield (_ZipArchive(stream) if zipped else _OldFile(stream)).contents()


class _InMemory:
    """The bytes of a tensor whose values are in memory."""

    def __init__(self, value: Tensor):
        self.bytes = value.contiguous().flatten().view(torch.uint8)

    def values(self, key: str) -> Tensor:
        return self.bytes

    def nested(self, data: bytes) -> Any:
        raise Unreadable("it holds files within files")


def _in_memory(name: str, value: Tensor) -> StoredTensor:
    storage = Storage(name, value.dtype, value.numel(), _InMemory(value))
    return StoredTensor(tuple(value.shape), value.dtype, storage, 0, value.contiguous().stride())


class _File:
    """A file that contains pickles; `depth` counts the files around it."""

    def __init__(self, stream: IO[bytes], depth: int = 0):
        self.stream, self.depth = stream, depth
        self.kinds: set[str] = set()
        self.storages: dict[str, Storage] = {}
        self.read: dict[str, Tensor] = {}

    def unpickled(self, stream: IO[bytes]) -> Any:
        """Reads the object of the next pickle."""
        unpickler = InertUnpickler(stream, self)
        found = unpickler.load()
        self.kinds |= unpickler.kinds
        self.storages |= unpickler.storages
        return found

    def nested(self, data: bytes) -> Any:
        if self.depth == DEEPEST:
            raise Unreadable("it holds files within files within files")
        reader = _ZipArchive if data.startswith(ZIP) else _OldFile
        contents = reader(io.BytesIO(data), self.depth + 1).contents()
        self.kinds |= contents.kinds
        return contents.root

    def values(self, key: str) -> Tensor:
        if key not in self.read:
            data = bytearray(self.bytes_of(key))
            self.read[key] = torch.frombuffer(data, dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)
        return self.read[key]

    def bytes_of(self, key: str) -> bytes:
        """Reads the bytes of the storage with that key."""
        raise NotImplementedError

    def contents(self) -> Contents:
        """Reads everything but the values of tensors."""
        raise NotImplementedError


class _ZipArchive(_File):
    """A file of `torch.save`: one pickle, and one member per storage."""

    def __init__(self, stream: IO[bytes], depth: int = 0):
        super().__init__(stream, depth)
        self.archive = zipfile.ZipFile(stream)
        members = self.archive.infolist()
        if not any(member.CRC for member in members):  # written under torch.serialization.set_crc32_options(False)
            for member in members:
                del member.CRC
        pickles = [member.filename for member in members if member.filename.rpartition("/")[2] == "data.pkl"]
        if len(pickles) != 1 or len({member.filename for member in members}) < len(members):
            raise Unreadable("it is a zip archive, but not one that torch.save wrote")
        self.folder = pickles[0].removesuffix("data.pkl")

    def contents(self) -> Contents:
        if f"{self.folder}byteorder" in self.archive.namelist() and self.member("byteorder") != b"little":
            raise Unreadable("it was written by a big-endian machine")
        root = self.unpickled(io.BytesIO(self.member("data.pkl")))
        return Contents(root, frozenset(self.kinds))

    def member(self, name: str) -> bytes:
        """Reads a member of the archive and verifies its checksum."""
        found = self.archive.getinfo(self.folder + name)
        if found.compress_type != zipfile.ZIP_STORED:
            raise Unreadable("it is a compressed zip archive, which torch.save does not write")
        try:
            return self.archive.read(found)
        except zipfile.BadZipFile as error:
            raise Unreadable(f"it is damaged: {first_line(error)}") from error

    def bytes_of(self, key: str) -> bytes:
        return self.member(f"data/{key}")


class _OldFile(_File):
    """A file of `torch.save` from before 2020 (header pickles, the object, the storages), or a plain pickle."""

    def contents(self) -> Contents:
        root = self.unpickled(self.stream)
        if root == MAGIC:
            _version, machine, root = (self.unpickled(self.stream) for _ in range(3))
            if not machine.get("little_endian", True):
                raise Unreadable("it was written by a big-endian machine")
            self._find_storages(self.unpickled(self.stream))
        return Contents(root, frozenset(self.kinds))

    def _find_storages(self, keys: list[str]) -> None:
        """Finds offset and length in bytes of each storage."""
        self.extents: dict[str, tuple[int, int]] = {}
        end = self.stream.seek(0, io.SEEK_CUR)
        size = self.stream.seek(0, io.SEEK_END)
        for key in keys:
            self.stream.seek(end)
            length = int.from_bytes(self.stream.read(8), "little") * self.storages[key].dtype.itemsize
            self.extents[key] = (end + 8, length)
            end += 8 + length
            if end > size:
                raise Unreadable("it is damaged: it ends before its weights do")

    def bytes_of(self, key: str) -> bytes:
        start, length = self.extents[key]
        self.stream.seek(start)
        return self.stream.read(length)
