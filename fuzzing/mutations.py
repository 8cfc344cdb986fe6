"""Mutated seeds, the same on every run, for the tests, which run without atheris."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

__all__ = ["mutated"]

_INTERESTING = (b"\0", b"\xff", b"\xff" * 8, b"\x7f\xff\xff\xff", b"\xed\xa0\x80", b"\n", b" ")
_MOST_CHANGES = 4
_LONG = 2_000  # repetitions, above the recursion limit


def mutated(seeds: Sequence[bytes], tokens: Sequence[bytes], number: int) -> Iterator[bytes]:
    """Yield seeds with a few bytes replaced, removed, inserted, repeated or exchanged.

    Args:
        seeds: Seeds, at least one.
        tokens: Words of the format, inserted like single bytes.
        number: Number of mutations to yield.
    """
    chance = random.Random(0)
    for _ in range(number):
        content = bytearray(chance.choice(seeds))
        for _ in range(chance.randint(1, _MOST_CHANGES)):
            start = chance.randint(0, len(content))
            end = min(start + chance.choice((0, 1, 4, 64)), len(content))
            content[start:end] = _replacement(chance, bytes(content[start:end]), seeds, tokens)
        yield bytes(content)


def _replacement(
    chance: random.Random, old: bytes, seeds: Sequence[bytes], tokens: Sequence[bytes]
) -> bytes:
    kind = chance.randrange(6)
    if kind == 0:
        return b""
    if kind == 1:
        return chance.choice((*_INTERESTING, *tokens))
    if kind == 2:
        return chance.choice((old, *tokens)) * chance.choice((2, 16, _LONG))
    if kind == 3:
        return bytes(byte ^ 1 << chance.randrange(8) for byte in old)
    if kind == 4:
        other = chance.choice(seeds)
        start = chance.randint(0, len(other))
        return other[start : start + chance.choice((1, 16, 256))]
    return chance.randbytes(len(old))
