"""Whether a machine was quiet: judged from readings alone, and the rounds that are repeated."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from exportloss.bench import Scenario
from exportloss.bench.machine.load import Usage, fraction_of_others, load_average, usage
from exportloss.bench.machine.pace import PACE
from exportloss.bench.process import ImplementationProcess
from exportloss.bench.quiet import Reading, judge, undisturbed, verdict
from exportloss.bench.watching import PAUSE_S, Machine, measure_watched


def readings(*paces, others=0.0):
    return [Reading(pace, others) for pace in paces]


@pytest.mark.parametrize(
    ("paces", "counts"),
    [
        ((), ()),
        ((5.0,), (True,)),
        ((5.0, 5.4, 5.2), (True, True, True)),
        ((5.0, 8.0, 5.1, 5.2), (True, False, True, True)),  # the machine was slow for a while
        ((8.0, 8.1, 5.0, 8.2), (True, True, False, True)),  # and for a while fast
        ((5.0, 5.0, 5.0, 8.0, 8.0, 8.0, 8.0), (False, False, False, True, True, True, True)),
        ((100.0, 109.0, 100.0, 111.0), (True, True, True, True)),  # within 10 % of 104.5
        ((100.0, 111.0, 100.0), (True, False, True)),
    ],
)
def test_rounds_count_at_the_pace_of_most(paces, counts):
    assert undisturbed(readings(*paces)) == list(counts)


def test_rounds_do_not_count_while_others_use_the_processor():
    counts = undisturbed(
        [Reading(5, 0.0), Reading(5, 0.05), Reading(5, 0.06), Reading(5, None), Reading(5, 1.0)]
    )
    assert counts == [True, True, False, True, False]


def test_a_quiet_machine_is_judged_quiet():
    condition = judge(readings(5.0, 5.1, 5.2, others=0.01), wanted=3, load_average=0.2)
    assert condition.quiet and condition.reasons == ()
    assert condition.pace_ms == (5.0, 5.1, 5.2)
    assert (condition.rounds, condition.discarded) == (3, 0)
    assert (condition.load_average, condition.others) == (0.2, 0.01)
    json.dumps(condition.to_json(), allow_nan=False)


def test_enough_rounds_beside_a_disturbance_are_quiet_and_it_is_told():
    condition = judge(readings(5.0, 9.0, 5.0, 5.0), wanted=3)
    assert condition.quiet and condition.discarded == 1
    (reason,) = condition.reasons
    assert "changed its pace" in reason and "5.0 to 9.0 ms" in reason and "1 of 4" in reason


@pytest.mark.parametrize(
    ("found", "discarded", "told"),
    [
        ([Reading(5, 0.5), Reading(5, 0.2)], 0, "up to 50% of the processor, in 2 of 2"),
        ([Reading(5, 0.0), Reading(5, 0.2)], 1, "up to 20% of the processor, in 1 of 2"),
        ([Reading(5, None), Reading(5, None), Reading(7, None)], 1, "changed its pace"),
    ],
)
def test_too_few_undisturbed_rounds_are_not_quiet(found, discarded, told):
    condition = judge(found, wanted=len(found))
    assert not condition.quiet
    assert condition.discarded == discarded
    assert told in " ".join(condition.reasons)


def test_a_verdict_needs_a_figure_and_a_quiet_machine():
    assert verdict(0.9, 0.9, quiet=True) == "met"
    assert verdict(0.91, 0.9, quiet=True) == "not met"
    assert verdict(0.5, 0.9, quiet=False) is None
    assert verdict(None, 0.9, quiet=True) is None


class Script:
    """A machine whose readings are given: the pace before, between and after rounds, and others."""

    def __init__(self, paces, others=()):
        self.paces, self.found, self.started = iter(paces), iter(others), 0

    def pace_ms(self):
        return next(self.paces)

    def start(self):
        self.started += 1

    def others(self):
        return next(self.found, 0.0)


class Counting:
    """Its steps take as many seconds as it has had turns."""

    turns = 0

    def turn(self, *, unmeasured, steps):
        self.turns += 1
        return [float(self.turns)] * steps


def watched(script, **settings):
    said: list[str] = []
    seconds, condition = measure_watched(
        {"a": Counting()}, script, steps=1, pause_s=0, say=said.append, **settings
    )
    return seconds["a"], condition, said


def test_quiet_rounds_are_not_repeated():
    seconds, condition, said = watched(Script([5, 5, 5, 5]), rounds=3, repeats=2)
    assert seconds == [1, 2, 3] and condition.quiet
    assert said == [f"round {n} of 3" for n in (1, 2, 3)]


def test_a_disturbed_round_is_repeated_and_its_times_are_discarded():
    script = Script([5] * 6, others=[0.0, 0.9, 0.0, 0.0])
    seconds, condition, said = watched(script, rounds=3, repeats=2)
    assert seconds == [1, 3, 4] and condition.quiet and condition.discarded == 1
    assert said[-1] == "round 4, repeated" and script.started == 4


def test_a_change_between_two_paces_disturbs_the_rounds_on_both_sides_of_it():
    # One slow reading lies between the second and the third round.
    seconds, condition, _ = watched(Script([5, 5, 9, 5, 5, 5, 5, 5]), rounds=4, repeats=2)
    assert seconds == [1, 4, 5, 6] and condition.quiet and condition.discarded == 2


def test_repeating_ends_at_its_bound():
    script = Script([5] * 9, others=[0.9] * 9)
    seconds, condition, _ = watched(script, rounds=4, repeats=2)
    assert seconds == [1, 2, 3, 4, 5, 6]  # none is better than another
    assert not condition.quiet and (condition.rounds, condition.discarded) == (6, 0)


def test_there_is_a_pause_before_each_turn():
    assert PAUSE_S >= 0.03
    started = time.monotonic()
    steppers = {"a": Counting(), "b": Counting()}
    measure_watched(steppers, Script([5, 5, 5]), rounds=2, repeats=0, steps=1, pause_s=0.02)
    assert time.monotonic() - started >= 4 * 0.02


@pytest.mark.parametrize(
    ("all_seconds", "own", "fraction"),
    [(0.0, 0.0, 0), (4.0, 4.0, 0), (4.0, 1.0, 0.75), (4.0, 4.5, 0), (9.0, 1.0, 1)],
)
def test_others_are_all_but_this_benchmark(all_seconds, own, fraction):
    before, after = Usage(10, 50, 3), Usage(12, 50 + all_seconds, 3 + own)
    assert fraction_of_others(before, after, cores=2) == fraction
    assert fraction_of_others(before._replace(all=None), after, cores=2) is None


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="the system has no /proc/stat")
def test_the_time_of_a_process_counts_as_own_only_if_it_is_named():
    busy = "import time; end = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
    with subprocess.Popen([sys.executable, "-c", f"{busy}\ninput()"], stdin=-1) as process:
        pids = [process.pid]
        before = usage(()), usage(pids)
        while usage(pids).own - before[1].own < 0.3:
            time.sleep(0.01)
        after = usage(()), usage(pids)
        process.communicate(b"\n")
    named = after[1].own - before[1].own
    unnamed = after[0].own - before[0].own
    assert named >= unnamed + 0.25
    assert after[0].all is not None and before[0].all is not None
    assert after[0].all - before[0].all >= 0.25
    assert load_average() is not None


def test_the_fixed_work_has_threads_of_its_own_only():
    with ImplementationProcess(PACE) as process:
        process.prepare(Scenario(threads=2), None)
        machine = Machine(process, [])
        assert 0 < machine.pace_ms() < 10_000
        others = machine.others()
        assert others is None or 0 <= others <= 1
        threads = Path(f"/proc/{process.pid}/task")
        if threads.is_dir():
            assert len(list(threads.iterdir())) == 1 + 2  # without a BLAS's
