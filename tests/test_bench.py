"""Benchmarks: statistics, turns, the check that rivals agree, and tiny runs from end to end."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from exportloss import BenchmarkError, ConfigError
from exportloss.bench import BENCHES, Scenario
from exportloss.bench.limits import count_multiply_adds
from exportloss.bench.measuring import check_agreement, measure
from exportloss.bench.scenario import make_maps, make_padded_targets, make_targets
from exportloss.bench.statistics import Timing, fitted_exponent, fitted_slope
from exportloss.cli import main

TINY = ["--imgsz", "64", "--batch-size", "1", "--nc", "2", "--max-targets", "8", "--threads", "1"]
TINY += ["--rounds", "1", "--steps", "1"]


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


def test_a_rival_that_computes_something_else_is_named():
    check_agreement({})
    check_agreement({"eager": (2.0, 1.0), "static": (2.0001, 1.0)})
    for wrong in (2.0003, math.nan):
        with pytest.raises(
            BenchmarkError, match=r"portable does not do what eager does.*1 against"
        ):
            check_agreement({"eager": (2.0, 1.0), "portable": (wrong, 1.0)})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batch_size": 0}, "batch size is 0"),
        ({"image_size": (64, 0)}, "image size is 0"),
        ({"targets": 65}, "targets is 65; expected 0 to max targets, 64"),
        ({"threads": 0}, "threads is 0"),
        ({"device": "tpu"}, "device is 'tpu'"),
        ({"layout": "flat"}, "layout is 'flat'"),
    ],
)
def test_a_scenario_refuses_sizes_that_cannot_be(wrong, message):
    with pytest.raises(ConfigError, match=message):
        Scenario(**wrong)


def test_the_batch_has_the_sizes_that_were_asked_for():
    scenario = Scenario(num_classes=2, image_size=(64, 32), batch_size=3, targets=5, max_targets=8)
    shapes = [x.shape for x in make_maps(scenario, (8, 16), 3)]
    assert shapes == [(3, 3, 8, 4, 7), (3, 3, 4, 2, 7)]
    head = Scenario(**{**vars(scenario), "layout": "head-output"})
    assert [x.shape for x in make_maps(head, (8, 16), 3)] == [(3, 21, 8, 4), (3, 21, 4, 2)]
    padded = make_padded_targets(scenario)
    assert padded.shape == (8, 6)
    assert (padded[:5] == make_targets(scenario)).all() and not padded[5:].any()


def test_multiply_adds_follow_what_is_trained():
    def count(side: int, **more) -> int:
        return count_multiply_adds(Scenario(image_size=(side, side), batch_size=1, **more))

    # Three times the forward pass, without the gradient of the pictures: 3 channels to 16, 6 x 6.
    stem = 3 * 16 * 6 * 6 * 32 * 32
    forward = (count(64) + stem) / 3
    # YOLOv5 publishes 4.5 GFLOPs, two a multiply-add, at 640 px.
    assert 100 * forward == pytest.approx(4.5e9 / 2, rel=0.02)
    # Where the head alone is trained it has the gradient of its weights besides.
    head = 255 * (64 * 64 + 128 * 16 + 256 * 4)
    assert count(64, freeze=(24,)) == forward + head


def run_json(capsys, *arguments: str) -> dict:
    assert main(["bench", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_bench_loss(capsys, tmp_path):
    found = run_json(
        *(capsys, "loss", *TINY, "--rivals", "eager,portable,cuda-graph"),
        *("--artifacts", str(tmp_path)),
    )
    assert [row["rival"] for row in found["rows"]] == ["eager", "portable"]
    for row in found["rows"]:
        assert 0 < row["min_ms"] <= row["median_ms"] <= row["max_ms"]
        assert 0 < row["imported_mb"] <= row["peak_mb"]
    eager, portable = found["rows"]
    assert eager["ratio_to_eager"] == 1
    assert portable["ratio_to_eager"] == portable["median_ms"] / eager["median_ms"]
    assert portable["engine"].startswith("onnxruntime")
    assert portable["peak_mb"] < eager["imported_mb"]  # it has no torch
    assert [limit["name"] for limit in found["limits"]] == ["memory-limit"]
    assert found["machine"]["cores"] >= 1
    assert found["unavailable"] == [
        {"rival": "cuda-graph", "reason": "CUDA graphs need --device cuda"}
    ]
    # What was exported is used again, or refused where it is of other sizes.
    other = ["bench", "loss", *TINY, "--rivals", "portable", "--artifacts", str(tmp_path)]
    assert main([*other, "--nc", "3"]) == 2
    assert "is of num_classes 2, but 3 is to be measured" in capsys.readouterr().err


def test_bench_step(capsys):
    assert main(["bench", "step", *TINY, "--rivals", "eager,portable", "--freeze", "24"]) == 0
    out, progress = capsys.readouterr()
    assert "round 1 of 1" in progress
    assert "step: yolov5n, 64 x 64, batch 1, 2 classes, 8 targets in 8 slots, frozen 24" in out
    rows = {line.split()[0]: line for line in out.splitlines() if line}
    assert "torch" in rows["eager"] and "onnxruntime" in rows["portable"]
    assert rows["arithmetic-limit:"].split()[2] == "ms"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["loss", "--rivals", "eager,portible"], "no rival 'portible'; choose from eager, static"),
        (["loss", "--targets", "9"], "targets is 9; expected 0 to max targets, 8"),
        (["loss", "--imgsz", "64", "64", "64"], "--imgsz got 3 numbers"),
        (["step", "--batch-size", "0"], "batch size is 0"),
        (["step", "--device", "cuda"], "finds no GPU"),
        (
            ["loss", "--rivals", "portable", "--device-python", "/no/python"],
            "cannot start the interpreter /no/python",
        ),
        (["loss", "--rivals", "cuda-graph"], "none of the rivals is available: cuda-graph: CUDA"),
    ],
)
def test_bad_options_are_refused(capsys, monkeypatch, arguments, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    name, *more = arguments
    assert main(["bench", name, *TINY, *more]) == 2
    assert message in capsys.readouterr().err


def test_rivals_have_names_of_their_own():
    for bench in BENCHES.values():
        names = [rival.name for rival in (*bench.rivals, *bench.limits)]
        assert len(set(names)) == len(names)
        assert names[0] == "eager"
        assert all(rival.about for rival in bench.rivals)
        assert [r.name for r in bench.choose(("portable", "eager"))] == ["eager", "portable"]
