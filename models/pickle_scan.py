"""Analysis of a torch pickle's instructions, without executing them.

The pickle's stack is modelled: the size of every object, and its value if later instructions depend
on it. A pickle is refused if loading it would take memory or time out of proportion to its size. A
few instructions can make a pair of one object twice, a pair of that pair twice, and so on: it takes
little memory, but comparing, hashing or printing it would never end.
"""

from __future__ import annotations

import dataclasses
import pickle
import pickletools
from collections.abc import Callable
from typing import IO, Any, NamedTuple

__all__ = ["PickleScan", "scan_pickle"]

_MOST = 5_000_000  # objects; thirty times as many as in the largest YOLOv5
_MOST_NAMES = 1_000  # torch searches all for each of them; the largest YOLOv5 has 40
_TEXT = 64  # characters that count as one object
_LONGEST_TUPLE = 8  # values that are kept
_PUTS, _GETS = ("PUT", "BINPUT", "LONG_BINPUT"), ("GET", "BINGET", "LONG_BINGET")
_CALLS = ("REDUCE", "NEWOBJ", "NEWOBJ_EX", "OBJ", "INST")
_NAMED = ("GLOBAL", "STACK_GLOBAL", "INST")

_ENCODE, _LATIN = "_codecs.encode", "latin1"
_DICTIONARY = "collections.OrderedDict()"  # value of the objects that a call of it makes
_ELEMENT_SIZES = {
    **dict.fromkeys(("Double", "Long"), 8),
    **dict.fromkeys(("Float", "Int"), 4),
    **dict.fromkeys(("Half", "BFloat16", "Short"), 2),
    **dict.fromkeys(("Char", "Byte", "Bool"), 1),
}


@dataclasses.dataclass(frozen=True)
class PickleScan:
    """Names, storages and texts in a pickle.

    Attributes:
        names: Full names of the classes and functions.
        storages: Declared size in bytes of each storage, by its key.
        texts: All texts, in order.
        operations: Names of the instructions.
    """

    names: frozenset[str]
    storages: dict[str, int]
    texts: tuple[str, ...]
    operations: frozenset[str]


def scan_pickle(file: IO[bytes], check_name: Callable[[str], None]) -> PickleScan:
    """Read the instructions of a pickle, from the file's current position to the pickle's end.

    Args:
        file: File that contains the pickle.
        check_name: Function called with the full name of each class and function; it may raise.

    Raises:
        ValueError: the pickle makes more objects than a checkpoint, or calls what none calls.
        LookupError: the pickle is damaged.
        UnpicklingError: the pickle holds a whole module in torch's format from before 1.6.
    """
    machine = _Machine(check_name)
    for opcode, argument, _ in pickletools.genops(file):
        machine.feed(opcode, argument)
    return PickleScan(
        names=frozenset(machine.names),
        storages=machine.storages,
        texts=tuple(machine.texts),
        operations=frozenset(machine.operations),
    )


class _StackEntry(NamedTuple):
    """An object; its value is known for numbers, texts, class names, and tuples of them."""

    size: int
    value: Any = None


class _Machine:
    """The stack of a pickle.

    If a list or dictionary is filled after it was memorised, its later uses do not count the new
    elements. That is safe, since neither can be hashed.
    """

    def __init__(self, check_name: Callable[[str], None]) -> None:
        self.names: set[str] = set()
        self.storages: dict[str, int] = {}
        self.texts: list[str] = []
        self.operations: set[str] = set()
        self._check_name = check_name
        self._made = 0  # objects made by calls, which copy their arguments
        self._stack: list[_StackEntry | None] = []  # None: a mark
        self._memo: dict[int, _StackEntry | None] = {}

    def feed(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
        name = opcode.name
        self.operations.add(name)
        if name in _PUTS:
            self._memo[int(argument)] = self._stack[-1]
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = self._stack[-1]
        elif name in _GETS:
            self._stack.append(self._memo[int(argument)])
        elif name == "MARK":
            self._stack.append(None)
        else:
            taken = self._taken(opcode)
            text = len(argument) // _TEXT if isinstance(argument, (str, bytes)) else 0
            size = 1 + text + sum(entry.size for entry in taken)
            self._limit(size)
            value = self._value(name, argument, taken, size)
            self._stack.extend([_StackEntry(size, value)] * len(opcode.stack_after))

    def _value(self, name: str, argument: Any, taken: list[_StackEntry], size: int) -> Any:
        """Check an operation, and return the value of the object that it makes, if known."""
        if name in _NAMED:
            if name == "STACK_GLOBAL":
                argument = ".".join(str(entry.value) for entry in taken)
            return self._named(str(argument).replace(" ", ".", 1))
        if name in _CALLS:
            self._made += size
            self._limit(self._made)
            _check_call(taken)
            return f"{taken[0].value}()"
        if name == "BUILD":
            if taken[0].value == _DICTIONARY:  # it gets a copy of its attributes
                self._made += size
                self._limit(self._made)
            return taken[0].value
        if name == "BINPERSID":
            self._storage(taken[0].value)
        if name.startswith(("TUPLE", "EMPTY_TUPLE")):
            return tuple(entry.value for entry in taken[:_LONGEST_TUPLE])
        if isinstance(argument, str):
            self.texts.append(argument)
        return argument if isinstance(argument, (str, int)) and not taken else None

    def _named(self, name: str) -> str:
        # torch writes names of Python 2, which differ in Python 3.
        name = name.replace("__builtin__.", "builtins.", 1)
        if name not in self.names:
            self._check_name(name)
            self.names.add(name)
            if len(self.names) > _MOST_NAMES:
                raise ValueError(f"it names more than {_MOST_NAMES} classes and functions")
        return name

    def _storage(self, identity: Any) -> None:
        """Record the declared size of a storage: torch does not compare it with the actual one."""
        if isinstance(identity, tuple) and identity[:1] == ("module",):  # with its source text
            raise pickle.UnpicklingError("it holds whole modules in the old format")
        if not (isinstance(identity, tuple) and len(identity) >= 5 and identity[0] == "storage"):
            raise ValueError("it refers to an object that is not a storage")
        _, kind, key, _, count, *_ = identity
        kind = str(kind).removeprefix("torch.").removesuffix("Storage")
        if not (
            kind in _ELEMENT_SIZES
            and isinstance(key, str)
            and (key.isascii() and key.isdecimal())
            and isinstance(count, int)
            and count >= 0
        ):
            raise ValueError("it refers to a storage as torch.save does not")
        size = count * _ELEMENT_SIZES[kind]
        if self.storages.setdefault(key, size) != size:
            raise ValueError(f"it declares two sizes of storage {key}, one of them {size} bytes")

    def _taken(self, opcode: pickletools.OpcodeInfo) -> list[_StackEntry]:
        """Pop the arguments of an operation from the stack, the lowest first."""
        before = list(opcode.stack_before)
        taken = []
        if pickletools.markobject in before:
            while (entry := self._stack.pop()) is not None:
                taken.append(entry)
            before = before[: before.index(pickletools.markobject)]
        for _ in before:
            if (entry := self._stack.pop()) is None:
                raise LookupError("an operation takes a mark")
            taken.append(entry)
        return taken[::-1]

    def _limit(self, size: int) -> None:
        if size > _MOST:
            raise ValueError("its objects refer to each other without end")


def _check_call(taken: list[_StackEntry]) -> None:
    """Refuse encodings other than that of pickled bytes: others may be slow, or multiply."""
    if taken[0].value == _ENCODE:
        _, arguments = taken
        if not (isinstance(arguments.value, tuple) and arguments.value[1:] == (_LATIN,)):
            raise ValueError(f"it encodes text as no pickle does, other than in {_LATIN}")
