"""Pickles read as data: a small machine of its own that runs no code, whatever the file says.

Python's unpickler imports the names in a pickle and calls them, so that opening a file may do anything. Here a name
stays a string (`Name`); "calling" it looks it up in a `Vocabulary` of a few functions of jaxseg's, which take plain
values and return plain values or descriptions of arrays; every name outside the vocabulary is refused. Nothing is
imported, and no method of an object from the file is called, because there are no such objects.

The meaning of the opcodes is the documentation of `pickletools` in the standard library, which also cuts the stream
into opcodes.
"""

from __future__ import annotations

import dataclasses
import io
import pickletools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, BinaryIO

import numpy as np

# Hashing a tuple is recursive in C: one that is nested deeply enough would end the process.
_KEYS = (str, int, float, bytes, type(None))
_LITERALS = frozenset(
    [
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
        *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BYTEARRAY8"),
    ]
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_RENAMED = (
    ("__builtin__.", "builtins."),
    ("copy_reg.", "copyreg."),
    ("numpy._core.", "numpy.core."),
)


class Refused(ValueError):
    """The pickle is whole, and holds what is not admitted."""


@dataclasses.dataclass(frozen=True)
class Name:
    """A class or function that the pickle names: `module.name`, spelled as in Python 3 and NumPy 1."""

    full: str


class Value:
    """Stands for an object. `set_state` gets what the pickle says about its inside."""

    def set_state(self, state: Any) -> None:
        """Nothing is kept of it."""


class Inert(Value):
    """Stands for an object that is known to be harmless and is of no use here."""


class Deferred(Value):
    """An array whose numbers are read when `read` is called."""

    def size(self) -> int:
        """The number of elements; ValueError if the file contradicts itself."""
        raise NotImplementedError

    def read(self) -> np.ndarray:
        """The array, in the dtype of the file; ValueError if the file contradicts itself."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The names that a kind of file may hold.

    Attributes:
      calls: functions that may be called by their name.
      constants: names that may stand as values, e.g. as a tensor's type.
      inert: classes whose objects, methods and attributes become `Inert`.
    """

    calls: Mapping[str, Callable[..., Any]]
    constants: frozenset[str] = frozenset()
    inert: frozenset[str] = frozenset()

    def __or__(self, other: Vocabulary) -> Vocabulary:
        return Vocabulary(
            {**self.calls, **other.calls},
            self.constants | other.constants,
            self.inert | other.inert,
        )

    def is_inert(self, full: str) -> bool:
        """Whether it is an inert class or something of it."""
        return any(full == name or full.startswith(f"{name}.") for name in self.inert)


class Bounded:
    """A file whose `read` never asks for more than there is: a forged length allocates nothing."""

    def __init__(self, file: BinaryIO, size: int):
        self._file, self._size = file, size
        self.readline, self.tell = file.readline, file.tell

    def read(self, n: int) -> bytes:
        return self._file.read(max(0, min(n, self._size - self._file.tell())))


def bounded(content: bytes) -> Bounded:
    """A file of `content`."""
    return Bounded(io.BytesIO(content), len(content))


def load(
    file: Bounded, vocabulary: Vocabulary, persistent: Callable[[Any], Value] | None = None
) -> Any:
    """Reads one pickle and leaves `file` behind it.

    Args:
      file: at the pickle's first byte.
      vocabulary: what it may name.
      persistent: makes a value from a persistent id, i.e. a reference to data outside of the pickle.

    Returns:
      None, numbers, text, bytes, lists, tuples, dicts (of such keys as are text, numbers or None; the others are left
      out) and `Value`s. Sets are lists, frozen sets tuples.

    Raises:
      ValueError: a name outside the vocabulary, or the pickle is damaged or truncated.
    """
    machine = _Machine(vocabulary, persistent)
    position = file.tell()
    try:
        for op, argument, at in pickletools.genops(file):
            position = at
            if op.name == "STOP":
                return machine.stack.pop()
            machine.step(op.name, argument)
    except Refused:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, Warning) as error:
        # Whatever goes wrong below is the file's fault: the machine takes its operands as they come.
        raise ValueError(
            f"it is truncated or damaged: its pickle makes no sense at byte {position} ({error})"
        ) from error
    raise ValueError("it is truncated: its pickle has no end")


def containers() -> Vocabulary:
    """The plain containers of Python that pickles spell as calls."""
    return Vocabulary(
        {
            "collections.OrderedDict": lambda pairs=(): _filled({}, _pairs(pairs)),
            "collections.Counter": lambda counts=(): _filled({}, _pairs(counts)),
            "collections.defaultdict": lambda factory=None, pairs=(): _filled({}, _pairs(pairs)),
            "builtins.set": lambda items=(): list(items),
            "builtins.frozenset": lambda items=(): tuple(items),
            "builtins.bytes": lambda: b"",
            "builtins.bytearray": lambda content=b"": bytes(_encoded(content)),
            "_codecs.encode": _encode,
        },
        constants=frozenset(f"builtins.{name}" for name in ("int", "float", "list", "dict")),
    )


class _Machine:
    """The stack, the marks in it and the memo."""

    def __init__(self, vocabulary: Vocabulary, persistent: Callable[[Any], Value] | None):
        self.vocabulary = vocabulary
        self.persistent = persistent
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def step(self, op: str, argument: Any) -> None:
        if op in _LITERALS:
            self.stack.append(argument)
        elif op in _CONSTANTS:
            self.stack.append(_CONSTANTS[op])
        elif method := getattr(self, f"op_{op}", None):
            method(argument)
        else:
            raise Refused(f"its pickle uses the opcode {op}, which no file of weights needs")

    def since_mark(self) -> list[Any]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def op_PROTO(self, _):
        pass

    op_FRAME = op_PROTO

    def op_MARK(self, _):
        self.marks.append(len(self.stack))

    def op_POP(self, _):
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.stack.pop()

    def op_POP_MARK(self, _):
        self.since_mark()

    def op_DUP(self, _):
        self.stack.append(self.stack[-1])

    def op_MEMOIZE(self, _):
        self.memo[len(self.memo)] = self.stack[-1]

    def op_PUT(self, index):
        self.memo[index] = self.stack[-1]

    op_BINPUT = op_LONG_BINPUT = op_PUT

    def op_GET(self, index):
        self.stack.append(self.memo[index])

    op_BINGET = op_LONG_BINGET = op_GET

    def op_EMPTY_TUPLE(self, _):
        self.stack.append(())

    def op_EMPTY_LIST(self, _):
        self.stack.append([])

    op_EMPTY_SET = op_EMPTY_LIST

    def op_EMPTY_DICT(self, _):
        self.stack.append({})

    def op_TUPLE(self, _):
        self.stack.append(tuple(self.since_mark()))

    op_FROZENSET = op_TUPLE

    def op_LIST(self, _):
        self.stack.append(self.since_mark())

    def op_DICT(self, _):
        items = self.since_mark()
        self.stack.append(_filled({}, zip(items[::2], items[1::2], strict=True)))

    def op_TUPLE1(self, _):
        self.stack[-1:] = [(self.stack[-1],)]

    def op_TUPLE2(self, _):
        self.stack[-2:] = [(self.stack[-2], self.stack[-1])]

    def op_TUPLE3(self, _):
        self.stack[-3:] = [(self.stack[-3], self.stack[-2], self.stack[-1])]

    def op_APPEND(self, _):
        self.extend([self.stack.pop()])

    def op_APPENDS(self, _):
        self.extend(self.since_mark())

    op_ADDITEMS = op_APPENDS

    def extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, Inert):
            _of(list, target).extend(items)

    def op_SETITEM(self, _):
        value, key = self.stack.pop(), self.stack.pop()
        self.update([(key, value)])

    def op_SETITEMS(self, _):
        items = self.since_mark()
        self.update(zip(items[::2], items[1::2], strict=True))

    def update(self, pairs: Iterable[tuple[Any, Any]]) -> None:
        target = self.stack[-1]
        if not isinstance(target, Inert):
            _filled(_of(dict, target), pairs)

    def op_BINPERSID(self, _):
        if self.persistent is None:
            raise Refused("its pickle refers to data outside of it")
        self.stack.append(self.persistent(self.stack.pop()))

    def op_GLOBAL(self, argument):
        module, _, name = argument.partition(" ")
        self.push_name(module, name)

    def op_STACK_GLOBAL(self, _):
        name, module = _of(str, self.stack.pop()), _of(str, self.stack.pop())
        self.push_name(module, name)

    def push_name(self, module: str, name: str) -> None:
        full = f"{module}.{name}"
        for old, new in _RENAMED:
            if full.startswith(old):
                full = new + full.removeprefix(old)
        known = self.vocabulary
        if full not in known.calls and full not in known.constants and not known.is_inert(full):
            raise refusal(f"{module}.{name}")
        self.stack.append(Name(full))

    def op_REDUCE(self, _):
        arguments, function = _of(tuple, self.stack.pop()), _of(Name, self.stack.pop())
        self.stack.append(self.call(function.full, arguments))

    op_NEWOBJ = op_REDUCE

    def op_NEWOBJ_EX(self, _):
        keywords, arguments = _of(dict, self.stack.pop()), _of(tuple, self.stack.pop())
        if keywords:
            arguments = (*arguments, keywords)  # only an inert class takes them
        self.stack.append(self.call(_of(Name, self.stack.pop()).full, arguments))

    def call(self, full: str, arguments: tuple) -> Any:
        known = self.vocabulary
        if known.is_inert(full):
            return Inert()
        if full not in known.calls:
            raise refusal(full)
        return known.calls[full](*arguments)

    def op_BUILD(self, _):
        state, target = self.stack.pop(), self.stack[-1]
        if not isinstance(target, dict):  # an OrderedDict's attributes say nothing about its items
            _of(Value, target).set_state(state)


def refusal(full: str) -> Refused:
    """What to raise at a name that is not admitted."""
    return Refused(
        f"it holds the Python object {full!r}, which is no array, number, text or plain container. Nothing of it was "
        "run. If you trust the file, load it with the library that wrote it and save the weights alone (a dictionary "
        "of names and arrays), best as .safetensors"
    )


def _of(kind: type, value: Any) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{type(value).__name__} instead of {kind.__name__}")
    return value


def _filled(target: dict, pairs: Iterable[tuple[Any, Any]]) -> dict:
    target.update((key, value) for key, value in pairs if isinstance(key, _KEYS))
    return target


def _pairs(items: Any) -> Iterable[tuple[Any, Any]]:
    return items.items() if isinstance(items, dict) else items


def _encoded(text: str | bytes) -> bytes:
    """Python 2 wrote bytes as text: one character is one byte."""
    return text.encode("latin1") if isinstance(text, str) else _of(bytes | bytearray, text)


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise ValueError(f"bytes in the encoding {encoding!r}")
    return _of(str, text).encode("latin1")
