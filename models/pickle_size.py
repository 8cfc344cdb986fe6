"""How much work a pickle is, once every reference in it is followed.

A few lines of pickle can make a pair of one object twice, a pair of that pair twice, and so on: it
takes no memory, but whoever compares, hashes or prints it is never done.
"""

from __future__ import annotations

import pickletools
from typing import Any

__all__ = ["PickleSize"]

_MOST = 5_000_000  # thirty times what the largest YOLOv5 has
_PUTS, _GETS = ("PUT", "BINPUT", "LONG_BINPUT"), ("GET", "BINGET", "LONG_BINGET")


class PickleSize:
    """The sizes of what lies on the stack of one pickle, without making any of it.

    What is put into a list or dictionary after it was memorised is not counted where it is used
    again: those cannot be hashed.
    """

    def __init__(self) -> None:
        self._stack: list[int | None] = []  # None: a mark
        self._memo: dict[int, int | None] = {}

    def feed(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
        """Take one operation, in their order.

        Raises:
            ValueError: it makes an object that is larger than any checkpoint's.
            LookupError: the pickle is damaged.
        """
        if opcode.name in _PUTS:
            self._memo[int(argument)] = self._stack[-1]
        elif opcode.name == "MEMOIZE":
            self._memo[len(self._memo)] = self._stack[-1]
        elif opcode.name in _GETS:
            self._stack.append(self._memo[int(argument)])
        elif opcode.name == "MARK":
            self._stack.append(None)
        else:
            size = 1 + self._taken(opcode)
            if size > _MOST:
                raise ValueError("its objects refer to each other without end")
            self._stack.extend([size] * len(opcode.stack_after))

    def _taken(self, opcode: pickletools.OpcodeInfo) -> int:
        """Take from the stack what an operation takes, and return the sum of its sizes."""
        before = list(opcode.stack_before)
        total = 0
        if pickletools.markobject in before:
            while (size := self._stack.pop()) is not None:
                total += size
            before = before[: before.index(pickletools.markobject)]
        for _ in before:
            total += self._stack.pop() or 0
        return total
