"""Tensors as described by a file of torch: checked first, values read on demand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol

import torch
from torch import Tensor

DTYPES = {str(value).removeprefix("torch."): value for value in vars(torch).values() if isinstance(value, torch.dtype)}
"""Element types by their names in pickles."""

STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
    "QInt8Storage": torch.int8,
    "QUInt8Storage": torch.uint8,
    "QInt32Storage": torch.int32,
}
"""The element type of each of torch's storage classes; quantized ones hold integers."""

MOST_DIMENSIONS = 25
MOST_REPEATED = 2**24
"""Most values of a tensor that has more values than its storage, such as an expanded one."""


class Unreadable(ValueError):
    """A file whose weights can't be read; the text says why, after 'can't be read as weights:'."""


class Source(Protocol):
    """A file that holds the bytes of storages."""

    def values(self, key: str) -> Tensor:
        """Reads all bytes of the storage as uint8 [B]; raises `Unreadable`."""

    def nested(self, data: bytes) -> Any:
        """Reads a file within the file; raises the errors of reading a file."""


@dataclass(frozen=True)
class Storage:
    """The memory of one or more tensors, `length` elements long."""

    key: str
    dtype: torch.dtype
    length: int
    source: Source

    @property
    def size(self) -> int:
        """Size in bytes, as claimed by the file."""
        return self.length * self.dtype.itemsize


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that a file describes; `problem` says why it can't be read at all."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    storage: Storage | None = None
    offset: int = 0
    stride: tuple[int, ...] = ()
    problem: str = ""

    def read(self) -> Tensor:
        """Reads the values into new memory; raises `Unreadable`."""
        if self.storage is None:
            raise Unreadable(f"a tensor is {self.problem}")
        if prod(self.shape) > max(self.storage.length, MOST_REPEATED):
            raise Unreadable(f"a tensor repeats {self.storage.length} values {prod(self.shape)} times over")
        values = self.storage.source.values(self.storage.key)
        if len(values) < self.storage.size:
            raise Unreadable(f"it is damaged: {len(values)} bytes where the file promises {self.storage.size}")
        if not prod(self.shape):
            return torch.empty(self.shape, dtype=self.dtype)
        elements = values[: len(values) // self.dtype.itemsize * self.dtype.itemsize].view(self.dtype)
        return elements.as_strided(self.shape, self.stride, self.offset).clone(memory_format=torch.contiguous_format)


def storage_of(parts: Any, source: Source) -> Storage:
    """Returns the storage of a persistent id ('storage', class, key, device, length, ...); raises `Unreadable`."""
    if not isinstance(parts, tuple) or len(parts) < 5 or parts[0] != "storage":
        raise ValueError("no storage of torch")
    _, kind, key, _, length, *view = parts
    dtype = STORAGES.get(getattr(kind, "name", ""))
    if view not in ([], [None]) or dtype is None:
        raise Unreadable(f"it has storages of a kind that is not read ({getattr(kind, 'name', '')!a})")
    if not isinstance(key, str) or type(length) is not int or length < 0:
        raise Unreadable("it is damaged: a storage has no name or no length")
    return Storage(key, dtype, length, source)


def _strided(storage: Any, offset: Any, shape: Any, stride: Any, dtype: torch.dtype | None = None) -> StoredTensor:
    if not isinstance(storage, Storage):
        raise Unreadable("it is damaged: a tensor has no storage")
    numbers = [offset, *shape, *stride]
    if len(shape) != len(stride) or len(shape) > MOST_DIMENSIONS or any(type(n) is not int or n < 0 for n in numbers):
        raise Unreadable("it is damaged: a tensor has an impossible shape")
    dtype = dtype or storage.dtype
    end = offset + 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True)) if prod(shape) else 0
    if end * dtype.itemsize > storage.size:
        size = "×".join(map(str, shape)) or "scalar"
        raise Unreadable(f"it is damaged: a tensor ({size}) reaches beyond its storage of {storage.length} values")
    return StoredTensor(tuple(shape), dtype, storage, offset, tuple(stride))


def _v2(storage: Any, offset: Any, shape: Any, stride: Any, _grad: Any, _hooks: Any, metadata: Any = None) -> StoredTensor:
    # The metadata marks conjugated and negated views.
    return _strided(storage, offset, shape, stride) if not metadata else _unreadable("a conjugated or negated view")(shape)


def _v3(
    storage: Any, offset: Any, shape: Any, stride: Any, _grad: Any, _hooks: Any, dtype: Any, metadata: Any = None
) -> StoredTensor:
    if metadata:
        return _unreadable("a conjugated or negated view")(shape)
    return _strided(storage, offset, shape, stride, DTYPES[dtype.name])


def _unreadable(problem: str, position: int = 0) -> Callable[..., StoredTensor]:
    """Returns a rebuilder for tensors that can't be read; the argument at `position` is the shape, if there is one."""

    def make(*arguments: Any) -> StoredTensor:
        shape = arguments[position] if position < len(arguments) else ()
        given = isinstance(shape, tuple) and all(type(size) is int for size in shape)
        return StoredTensor(tuple(shape) if given else (), torch.float32, problem=problem)

    return make


def _first(data: Any, *_more: Any) -> Any:
    return data


REBUILDERS: dict[str, Callable[..., Any]] = {
    "_rebuild_tensor": _strided,
    "_rebuild_tensor_v2": _v2,
    "_rebuild_tensor_v3": _v3,
    "_rebuild_parameter": _first,
    "_rebuild_parameter_with_state": _first,
    "_rebuild_device_tensor_from_cpu_tensor": _first,
    "_rebuild_meta_tensor_no_storage": _unreadable("a meta tensor, which has no values", 1),
    "_rebuild_sparse_tensor": _unreadable("sparse", 9),
    "_rebuild_sparse_csr_tensor": _unreadable("sparse", 9),
    "_rebuild_qtensor": _unreadable("quantized", 2),
    "_rebuild_nested_tensor": _unreadable("a nested tensor", 9),
    "_rebuild_wrapper_subclass": _unreadable("an instance of a subclass of Tensor", 2),
    "_rebuild_device_tensor_from_numpy": _unreadable("a tensor of a device that is not read", 9),
}
"""Replacements for the functions in `torch._utils` that pickled tensors call."""
