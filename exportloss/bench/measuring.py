"""Rounds in which every rival has a turn, and the check that all of them do the same work."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from exportloss.bench.scenario import Arithmetic
from exportloss.bounds import at_least
from exportloss.errors import BenchmarkError

__all__ = ["TOLERANCES", "Stepper", "check_agreement", "measure"]

# Relative, by what products are computed in.
TOLERANCES: Mapping[Arithmetic, float] = {
    "float32": 1e-4,
    "tf32": 1e-2,
    "float16": 2e-2,
    "bfloat16": 5e-2,
}


class Stepper(Protocol):
    """Whoever has a turn; see `RivalProcess`."""

    def turn(self, *, unmeasured: int, steps: int) -> list[float]:
        """Do so many steps unmeasured, then so many; return the seconds of each of the latter."""


def measure(
    steppers: Mapping[str, Stepper],
    *,
    rounds: int,
    steps: int,
    unmeasured: int = 1,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, list[float]]:
    """Give each its turn in every round, in an order that is shuffled anew.

    So what slows the machine down for a while slows all of them down, and nobody always comes after
    the same one.

    Args:
        steppers: who has turns.
        rounds: how many, >= 1.
        steps: measured in a turn, >= 1.
        unmeasured: at the start of a turn, >= 0.
        say: told the number of each round.

    Returns:
        Seconds of each measured step, rounds * steps of them, by name.

    Raises:
        ConfigError: a number is out of range.
    """
    at_least(1, rounds=rounds, steps=steps)
    order, seconds = random.Random(0), {name: list[float]() for name in steppers}
    for number in range(1, rounds + 1):
        say(f"round {number} of {rounds}")
        for name in order.sample(list(steppers), len(steppers)):
            seconds[name] += steppers[name].turn(unmeasured=unmeasured, steps=steps)
    return seconds


def check_agreement(
    numbers: Mapping[str, Sequence[float]], *, precision: Arithmetic = "float32"
) -> None:
    """See that all computed the same.

    Args:
        numbers: what each computed, by name; the first is what the others are held to.
        precision: what products are computed in, which says how near they can come.

    Raises:
        BenchmarkError: one did not; the message names it and both numbers.
    """
    if not numbers:
        return
    tolerance = TOLERANCES[precision]
    (reference, expected), *others = numbers.items()
    for name, found in others:
        for one, other in zip(found, expected, strict=True):
            if not abs(one - other) <= tolerance * abs(other):  # NaN agrees with nothing
                raise BenchmarkError(
                    f"{name} does not do what {reference} does, so their times compare nothing: "
                    f"{_listed(found)} against {_listed(expected)}, expected within {tolerance:g}"
                )


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.7g}" for value in values)
