"""Reads pickles without importing or calling anything that they name.

Names become `Global`s, objects `Inert`s, and tensors descriptions. A call that would run code in Python's own unpickler is
refused by name.
"""

from __future__ import annotations

import pickle
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable, Sequence
from typing import IO, Any

from kdexp.network.checkpoint.calls import Global, is_plain, may_iterate, only_makes
from kdexp.network.checkpoint.stored_tensors import REBUILDERS, Source, Storage, Unreadable, storage_of


class WouldRunCode(ValueError):
    """A pickle that would call `names` if Python's own unpickler read it."""

    def __init__(self, names: list[str]):
        super().__init__(", ".join(names))
        self.names = names


MAPPINGS = frozenset(
    ("builtins.dict", "collections.OrderedDict", "collections.defaultdict", "collections.Counter", "collections.UserDict")
)


class Inert(dict):
    """A placeholder for an object of the class `kind`, with its arguments, state and (for a mapping) items as pickled."""

    def __init__(self, kind: str, arguments: Sequence[Any] = ()):
        super().__init__()
        self.kind, self.arguments, self.state = kind, arguments, None

    __hash__ = object.__hash__  # type: ignore[assignment]  # objects may be keys
    __eq__ = object.__eq__

    def add(self, *_items: Any) -> None:
        """Ignores the elements of a list or set subclass."""

    append = extend = add


class InertUnpickler(pickle._Unpickler):
    """Python's unpickler without the ability to import, call or set anything.

    `kinds` are the classes of the objects in the pickle, `storages` its storages by key. It is based on the slower pure-Python
    unpickler, whose memory does not grow with sizes that a pickle merely claims.
    """

    dispatch = dict(pickle._Unpickler.dispatch)
    proto: int
    stack: list[Any]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]
    read: Callable[[int], bytes]
    readline: Callable[[], bytes]

    def __init__(self, stream: IO[bytes], source: Source):
        super().__init__(stream, encoding="latin1")
        self.source = source
        self.code: list[str] = []
        self.kinds: set[str] = set()
        self.storages: dict[str, Storage] = {}

    def load(self) -> Any:
        """Reads the next pickle in the stream; raises `WouldRunCode`, `Unreadable`, or anything on a damaged one."""
        try:
            found = super().load()
        except Exception:
            if not self.code:
                raise
        if self.code:
            raise WouldRunCode(list(dict.fromkeys(self.code)))
        return found

    def find_class(self, module: str, name: str) -> Any:
        """Returns the name alone, translated from Python 2 if needed."""
        if self.proto < 3:
            module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        return Global(module, name)

    def get_extension(self, code: int) -> None:
        """Refuses codes of copyreg's extension registry, which stand for names."""
        raise Unreadable(f"its pickle names object {code} of copyreg's extension registry")

    def persistent_load(self, pid: Any) -> Any:
        """Returns a storage, or the class of a module that old versions of torch saved with its source."""
        if isinstance(pid, tuple) and len(pid) > 1 and pid[0] == "module":
            return pid[1]
        storage = storage_of(pid, self.source)
        self.storages[storage.key] = storage
        return storage

    def _call(self, function: Any, arguments: Any) -> Any:
        """Returns a stand-in for the result of a call, and records calls that would run code."""
        if not isinstance(function, Global):
            self.code.append(f"the result of {function.kind}" if isinstance(function, Inert) else "an object")
            return self._object(None, ())
        name = str(function)
        if name == "torch._tensor._rebuild_from_type_v2" and len(arguments) == 4:
            return self._call(arguments[0], arguments[2])  # a tensor with attributes, made by another such function
        if name.startswith("torch._utils.") and function.name in REBUILDERS:
            return REBUILDERS[function.name](*arguments)
        if name == "torch.storage._load_from_bytes":
            return self.source.nested(*arguments)
        if name == "_codecs.encode" and arguments[1:] == ("latin1",):
            return arguments[0].encode("latin1")
        if name == "builtins.getattr" and isinstance(arguments[0], Global):
            return Global(arguments[0].module, f"{arguments[0].name}.{arguments[1]}")
        if name == "copyreg._reconstructor" and len(arguments) == 3 and is_plain(arguments[1]):
            return self._object(arguments[0], arguments[2:])
        if not only_makes(function):
            self.code.append(name)
        if name in MAPPINGS:
            return dict(arguments[0]) if arguments and isinstance(arguments[0], list | dict) else {}
        if name in ("builtins.set", "builtins.frozenset"):
            return set(arguments[0]) if arguments else set()
        of_class = name.startswith("copyreg.") or name.endswith("._reconstruct")
        return self._object(arguments[0] if of_class and arguments else function, arguments)

    def _object(self, kind: Any, arguments: Sequence[Any]) -> Inert:
        name = str(kind) if isinstance(kind, Global) else "an object"
        self.kinds.add(name)
        return Inert(name, arguments)

    def load_reduce(self) -> None:
        """Handles a call of a function with arguments."""
        arguments = self.stack.pop()
        self.stack[-1] = self._call(self.stack[-1], arguments)

    def load_inst(self) -> None:
        """Handles a call of a class, as Python 2 pickled instances."""
        module, name = (self.readline()[:-1].decode("ascii") for _ in range(2))
        arguments = self.pop_mark()
        self.append(self._call(self.find_class(module, name), arguments))

    def load_obj(self) -> None:
        """Handles the same call with the class on the stack."""
        function, *arguments = self.pop_mark()
        self.append(self._call(function, arguments))

    def load_newobj(self) -> None:
        """Handles `__new__` without the constructor, which is enough to make an iterator that calls a function."""
        arguments, kind = self.stack.pop(), self.stack.pop()
        if isinstance(kind, Global) and may_iterate(kind):
            self.code.append(str(kind))
        self.append(self._object(kind, arguments))

    def load_newobj_ex(self) -> None:
        """Handles `__new__` with keyword arguments."""
        self.stack.pop()
        self.load_newobj()

    def load_build(self) -> None:
        """Stores the state of an object; on a function or class this would set attributes."""
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Inert):
            target.state = state
        elif isinstance(target, Global):
            self.code.append(str(target))

    def load_bytearray8(self) -> None:
        """Reads as many bytes as there are; Python would first allocate as many as the pickle claims."""
        self.append(bytearray(self.read(int.from_bytes(self.read(8), "little"))))

    for _opcode, _handler in (
        (pickle.BYTEARRAY8, load_bytearray8),
        (pickle.REDUCE, load_reduce),
        (pickle.INST, load_inst),
        (pickle.OBJ, load_obj),
        (pickle.NEWOBJ, load_newobj),
        (pickle.NEWOBJ_EX, load_newobj_ex),
        (pickle.BUILD, load_build),
    ):
        dispatch[_opcode[0]] = _handler  # type: ignore[assignment]
