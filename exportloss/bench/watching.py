"""Watched rounds: readings of the machine in each, and some repeated that do not count."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from exportloss.bench.machine.load import fraction_of_others, usage
from exportloss.bench.measuring import Stepper, do_round
from exportloss.bench.process import ImplementationProcess
from exportloss.bench.quiet import Condition, Reading, judge, undisturbed

__all__ = ["PAUSE_S", "Machine", "Watch", "measure_watched"]

# Before each turn. Idle threads of an engine spin for some milliseconds and would keep a core from
# the next one; 30 ms sufficed.
PAUSE_S = 0.05

# Steps of the fixed work in a reading, of which the fastest counts.
_PACE_STEPS = 5


class Watch(Protocol):
    """Something that reads the state of a machine, such as `Machine`."""

    def pace_ms(self) -> float:
        """Do the fixed work; return its time in milliseconds."""

    def start(self) -> None:
        """Start to count the processor time of others."""

    def others(self) -> float | None:
        """Return the fraction of all cores that others used since; None if unknown."""


class Machine:
    """The readings of this machine.

    Args:
        pace: Process that does the fixed work.
        own: Processes that are measured; all that uses the processor beside them is others.
    """

    def __init__(self, pace: ImplementationProcess, own: Sequence[ImplementationProcess]) -> None:
        self._pace = pace
        self._pids = [process.pid for process in (pace, *own)]
        self._cores = os.cpu_count() or 1
        self.start()

    def pace_ms(self) -> float:
        """Do the fixed work; return the shortest of a few times, in milliseconds."""
        return 1e3 * min(self._pace.turn(unmeasured=1, steps=_PACE_STEPS))

    def start(self) -> None:
        """Start to count the processor time of others."""
        self._before = usage(self._pids)

    def others(self) -> float | None:
        """Return the fraction of all cores that others used since; None if unknown."""
        return fraction_of_others(self._before, usage(self._pids), cores=self._cores)


def measure_watched(
    steppers: Mapping[str, Stepper],
    watch: Watch,
    *,
    rounds: int,
    repeats: int,
    steps: int,
    unmeasured: int = 1,
    pause_s: float = PAUSE_S,
    load_average: float | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[dict[str, list[float]], Condition]:
    """Time steppers in rounds, as `measure` does; repeat rounds that other load disturbed.

    Args:
        steppers: Steppers by name.
        watch: Readings of the machine.
        rounds: Number of undisturbed rounds that are wanted, >= 1.
        repeats: Largest number of rounds beyond that, >= 0.
        steps: Timed steps per turn, >= 1.
        unmeasured: Steps at the start of a turn that are not timed, >= 0.
        pause_s: Pause before each turn, seconds.
        load_average: As in `Condition`.
        say: Function that is told the number of each round.

    Returns:
        Seconds of each timed step by name, of the undisturbed rounds, or of all if none was; and
        the condition of the machine.
    """
    order = random.Random(0)
    times: list[dict[str, list[float]]] = []
    readings: list[Reading] = []
    pace = watch.pace_ms()
    while sum(undisturbed(readings)) < rounds and len(readings) < rounds + repeats:
        number = len(times) + 1
        say(f"round {number} of {rounds}" if number <= rounds else f"round {number}, repeated")
        watch.start()
        times.append(do_round(steppers, order, steps=steps, unmeasured=unmeasured, pause_s=pause_s))
        others, before = watch.others(), pace
        pace = watch.pace_ms()
        readings.append(Reading(pace_ms=max(before, pace), others=others))
    counts = undisturbed(readings)
    kept = [one for one, good in zip(times, counts, strict=True) if good or not any(counts)]
    seconds = {name: [value for one in kept for value in one[name]] for name in steppers}
    return seconds, judge(readings, wanted=rounds, load_average=load_average)
