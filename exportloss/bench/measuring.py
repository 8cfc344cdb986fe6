"""Rounds with a turn per implementation, and the check that all do the same work."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from exportloss.bench.scenario import Arithmetic
from exportloss.bounds import at_least
from exportloss.errors import BenchmarkError

__all__ = ["TOLERANCES", "Stepper", "check_agreement", "do_round", "measure"]

# Relative tolerance, by the precision of products.
TOLERANCES: Mapping[Arithmetic, float] = {
    "float32": 1e-4,
    "tf32": 1e-2,
    "float16": 2e-2,
    "bfloat16": 5e-2,
}


class Stepper(Protocol):
    """Something that takes turns, such as an `ImplementationProcess`."""

    def turn(self, *, unmeasured: int, steps: int) -> list[float]:
        """Do `unmeasured` steps, then `steps` timed ones; return the seconds of each timed step."""


def measure(
    steppers: Mapping[str, Stepper],
    *,
    rounds: int,
    steps: int,
    unmeasured: int = 1,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, list[float]]:
    """Time steppers in rounds, each with one turn per stepper in a newly shuffled order.

    A temporary slowdown of the machine then affects all of them, and none always follows the same
    other one.

    Args:
        steppers: Steppers by name.
        rounds: Number of rounds, >= 1.
        steps: Timed steps per turn, >= 1.
        unmeasured: Steps at the start of a turn that are not timed, >= 0.
        say: Function that is told the number of each round.

    Returns:
        Seconds of each timed step, rounds * steps per name.

    Raises:
        ConfigError: A number is out of range.
    """
    at_least(1, rounds=rounds, steps=steps)
    order, seconds = random.Random(0), {name: list[float]() for name in steppers}
    for number in range(1, rounds + 1):
        say(f"round {number} of {rounds}")
        one = do_round(steppers, order, steps=steps, unmeasured=unmeasured)
        for name, values in one.items():
            seconds[name] += values
    return seconds


def do_round(
    steppers: Mapping[str, Stepper],
    order: random.Random,
    *,
    steps: int,
    unmeasured: int,
    pause_s: float = 0.0,
) -> dict[str, list[float]]:
    """Give each stepper a turn, in random order, each after a pause.

    Returns:
        Seconds of each timed step by name.
    """
    seconds = {}
    for name in order.sample(list(steppers), len(steppers)):
        time.sleep(pause_s)
        seconds[name] = steppers[name].turn(unmeasured=unmeasured, steps=steps)
    return seconds


def check_agreement(
    numbers: Mapping[str, Sequence[float]], *, precision: Arithmetic = "float32"
) -> None:
    """Check that all computed the same numbers.

    Args:
        numbers: Numbers by name; the first are the reference.
        precision: Precision of products, which determines the tolerance.

    Raises:
        BenchmarkError: One differs; the message names it and both numbers.
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
