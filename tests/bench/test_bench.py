"""Benchmarks: statistics, turns, and the check that implementations agree."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exportloss import BenchmarkError, ConfigError
from exportloss.bench import Scenario
from exportloss.bench.implementations.implementation import Implementation
from exportloss.bench.machine.limits import count_multiply_adds
from exportloss.bench.measuring import check_agreement, measure
from exportloss.bench.process import ImplementationProcess, Unavailable
from exportloss.bench.scenario import make_head, make_maps, make_padded_targets, make_targets
from exportloss.bench.statistics import Timing, fitted_exponent, fitted_slope
from tests.support.messages import mentions, missing


def test_timing_is_of_the_scaled_milliseconds():
    timing = Timing.of([0.004, 0.001, 0.002], scale=2)
    assert (timing.median_ms, timing.min_ms, timing.max_ms, timing.samples) == (4, 2, 8, 3)
    assert Timing.of([0.001, 0.003]).median_ms == 2


@given(
    exponent=st.floats(-3, 3),
    factor=st.floats(0.01, 100),
    sizes=st.lists(st.integers(1, 64), min_size=2, max_size=6, unique=True),
)
def test_an_exact_power_has_its_exponent(exponent, factor, sizes):
    times = [factor * size**exponent for size in sizes]
    assert fitted_exponent(sizes, times) == pytest.approx(exponent, abs=1e-6)


def test_the_fit_is_by_least_squares():
    assert fitted_slope([0, 1, 2], [0, 0, 3]) == 1.5
    assert math.isnan(fitted_slope([1, 1], [2, 3]))


def test_an_implementation_that_is_not_available_says_why():
    absent = Implementation(
        name="absent", about="", prepare="os:abort", libraries=("numpy", "no_package")
    )
    with (
        ImplementationProcess(absent) as process,
        pytest.raises(Unavailable, match=mentions("no_package")),
    ):
        process.prepare(Scenario(), None)


def test_an_implementation_that_breaks_down_shows_what_it_wrote():
    broken = Implementation(name="broken", about="", prepare="os:getenv", libraries=("numpy",))
    with ImplementationProcess(broken) as process, pytest.raises(BenchmarkError) as caught:
        process.prepare(Scenario(), None)
    # The error is Python's own.
    assert not missing(str(caught.value), "broken", "prepare", 1, "TypeError: str expected")


class Recorder:
    def __init__(self, name, log):
        self.name, self.log = name, log

    def turn(self, *, unmeasured, steps):
        self.log.append(self.name)
        return [unmeasured + 0.5] * steps


def test_everybody_has_a_turn_in_every_round_in_changing_order():
    log: list[str] = []
    seconds = measure({n: Recorder(n, log) for n in "abc"}, rounds=8, steps=2, unmeasured=3)
    assert seconds == {name: [3.5] * 16 for name in "abc"}
    rounds = ["".join(log[i : i + 3]) for i in range(0, 24, 3)]
    assert all(sorted(one) == ["a", "b", "c"] for one in rounds)
    assert len(set(rounds)) > 1


def test_an_implementation_that_computes_something_else_is_named():
    check_agreement({})
    check_agreement({"eager": (2.0, 1.0), "static": (2.0001, 1.0)})
    for wrong in (2.0003, math.nan):
        told = mentions("portable", "eager", f"{wrong}, 1", "2, 1")
        with pytest.raises(BenchmarkError, match=told):
            check_agreement({"eager": (2.0, 1.0), "portable": (wrong, 1.0)})


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"batch_size": 0}, ("batch size", 0, 1)),
        ({"image_size": (64, 0)}, ("image size", 0, 1)),
        ({"targets": 65}, ("targets", 65, 64)),
        ({"threads": 0}, ("threads", 0, 1)),
        ({"device": "tpu"}, ("device", "'tpu'", "cpu")),
        ({"layout": "flat"}, ("layout", "'flat'", "'permuted'", "'head-output'", "'head-input'")),
    ],
)
def test_a_scenario_refuses_sizes_that_cannot_be(wrong, told):
    with pytest.raises(ConfigError, match=mentions(*told)):
        Scenario(**wrong)


def test_the_batch_has_the_sizes_that_were_asked_for():
    scenario = Scenario(num_classes=2, image_size=(64, 32), batch_size=3, targets=5, max_targets=8)
    shapes = [x.shape for x in make_maps(scenario, (8, 16), 3, (5, 7))]
    assert shapes == [(3, 3, 8, 4, 7), (3, 3, 4, 2, 7)]
    head = Scenario(**{**vars(scenario), "layout": "head-output"})
    shapes = [x.shape for x in make_maps(head, (8, 16), 3, (5, 7))]
    assert shapes == [(3, 21, 8, 4), (3, 21, 4, 2)]
    features = Scenario(**{**vars(scenario), "layout": "head-input"})
    shapes = [x.shape for x in make_maps(features, (8, 16), 3, (5, 7))]
    assert shapes == [(3, 5, 8, 4), (3, 7, 4, 2)]
    assert [x.shape for x, _ in make_head(features, 3, (5, 7))] == [(21, 5, 1, 1), (21, 7, 1, 1)]
    padded = make_padded_targets(scenario)
    assert padded.shape == (8, 6)
    assert (padded[:5] == make_targets(scenario)).all() and not padded[5:].any()


def test_multiply_adds_follow_what_is_trained():
    def count(side: int, **more) -> int:
        return count_multiply_adds(Scenario(image_size=(side, side), batch_size=1, **more))

    # Three times the forward pass, without the gradient of the images: 3 channels to 16, 6 x 6.
    stem = 3 * 16 * 6 * 6 * 32 * 32
    forward = (count(64) + stem) / 3
    # YOLOv5 publishes 4.5 GFLOPs, two a multiply-add, at 640 px.
    assert 100 * forward == pytest.approx(4.5e9 / 2, rel=0.02)
    # Where the head alone is trained it has the gradient of its weights besides.
    head = 255 * (64 * 64 + 128 * 16 + 256 * 4)
    assert count(64, freeze=(24,)) == forward + head
