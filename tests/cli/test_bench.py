"""`exportloss bench` from end to end at tiny sizes, its tables, its errors."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from exportloss.bench import BENCHES, BenchResult, Row
from exportloss.bench.quiet import Reading, judge
from exportloss.bench.statistics import Timing
from exportloss.cli import main
from exportloss.cli.bench import command
from exportloss.errors import BenchmarkError
from exportloss.runtime import Manifest
from tests.support.messages import error_of, missing

TINY = ["--imgsz", "64", "--batch-size", "1", "--nc", "2", "--max-targets", "8", "--threads", "1"]
ONCE = ["--rounds", "1", "--steps", "1"]


def run_json(capsys, *arguments: str) -> dict:
    assert main(["bench", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_bench_loss(capsys, tmp_path):
    found = run_json(
        *(capsys, "loss", *TINY, *ONCE, "--rivals", "eager,portable,cuda-graph"),
        *("--artifacts", str(tmp_path), "--plot", str(tmp_path / "loss.png")),
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
    condition = found["condition"]
    assert condition["rounds"] == 1 and condition["quiet"] in (True, False)
    least, median, most = condition["pace_ms"]
    assert 0 < least <= median <= most
    (unavailable,) = found["unavailable"]
    assert unavailable["rival"] == "cuda-graph"
    assert not missing(unavailable["reason"], "--device cuda")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    # What was exported is used again, or refused where it is of other sizes.
    other = ["bench", "loss", *TINY, *ONCE, "--rivals", "portable", "--artifacts", str(tmp_path)]
    assert main([*other, "--nc", "3"]) == 2
    assert not missing(error_of(capsys.readouterr().err), "num_classes", 2, 3)


def test_bench_of_the_anchor_free_loss(capsys, tmp_path):
    rivals = "eager,static,portable,portable-for-cpu"
    arguments = ("loss", "--loss", "task-aligned", *TINY, *ONCE, "--artifacts", str(tmp_path))
    found = run_json(capsys, *arguments, "--rivals", rivals)
    assert [row["rival"] for row in found["rows"]] == rivals.split(",")  # they agree
    assert (found["unavailable"], found["limits"]) == ([], [])
    assert (found["scenario"]["loss"], found["scenario"]["layout"]) == (
        "task-aligned",
        "head-output",
    )
    kinds = ("task-aligned-loss", "task-aligned-loss-cpu")
    manifests = [Manifest.read(tmp_path / kind) for kind in kinds]
    assert [one.provider for one in manifests] == ["any", "cpu"]
    assert {one.loss.kind for one in manifests} == {"task-aligned"}
    for refused in (["--layout", "permuted"], ["--weights", "yolov5s"], ["--growth", "model"]):
        assert main(["bench", *arguments, *refused]) == 2
        assert not missing(error_of(capsys.readouterr().err), refused[0], "task-aligned")
    assert main(["bench", "memory", "--of", "step", "--loss", "task-aligned"]) == 2
    assert not missing(error_of(capsys.readouterr().err), "--loss", "step")


def test_bench_step(capsys):
    assert (
        main(["bench", "step", *TINY, *ONCE, "--rivals", "eager,portable", "--freeze", "24"]) == 0
    )
    out, progress = capsys.readouterr()
    assert "round 1 of 1" in progress
    title = next(line for line in out.splitlines() if line.startswith("step: yolov5n, 64 x 64, "))
    assert not missing(title, "batch 1", "2 classes", "8 targets", "frozen 24")
    rows = {line.split()[0]: line for line in out.splitlines() if line}
    assert "torch" in rows["eager"] and "onnxruntime" in rows["portable"]
    assert rows["arithmetic-limit:"].split()[2] == "ms"
    assert "load average" in rows["machine:"]


def test_bench_memory(capsys):
    found = run_json(capsys, "memory", "--of", "loss", *TINY, "--rivals", "eager,portable")
    eager, portable = found["rows"]
    assert portable["ratio_to_eager"] == portable["peak_mb"] / eager["peak_mb"] < 1
    for row in found["rows"]:
        assert 0 < row["imported_mb"] <= row["loaded_mb"] <= row["peak_mb"]
        assert "median_ms" not in row


def test_bench_export(capsys):
    assert main(["bench", "export", *TINY, "--rivals", "loss"]) == 0
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("loss ")]
    assert "torch" in row


def pretended(bench, setting, **_):
    """As if time grew with the square of the batch, twice as fast in ONNX Runtime."""
    batch = setting.scenario.batch_size
    rows = tuple(
        Row(
            rival=implementation,
            engine="none 1.0",
            timing=Timing.of([factor * batch**2]),
            ratio_to_eager=factor / 0.004,
            prepare_s=0,
            imported_mb=1,
            loaded_mb=2,
            peak_mb=3,
        )
        for implementation, factor in (("eager", 0.004), ("portable", 0.002))
    )
    machine = {"processor": "abacus", "cores": 1}
    unavailable = {"ort-training": "not here"}
    return BenchResult(
        bench=bench.name,
        scenario=setting.scenario,
        machine=machine,
        rows=rows,
        unavailable=unavailable,
    )


QUIET, LOUD = (
    judge([Reading(5, others), Reading(5, 0)], wanted=2, load_average=0.1) for others in (0, 0.9)
)


@pytest.mark.parametrize(
    ("goal", "condition", "said"),
    [
        (0.5, QUIET, "met"),
        (0.4, QUIET, "not met"),
        (0.5, LOUD, None),  # neither met nor not met
        (0.4, LOUD, None),
    ],
)
def test_goals_have_a_verdict_on_a_quiet_machine_alone(capsys, monkeypatch, goal, condition, said):
    status = 0 if said == "met" else 1

    def run(*arguments, **more):
        return dataclasses.replace(pretended(*arguments, **more), condition=condition)

    monkeypatch.setattr(command, "run_bench", run)
    arguments = ["bench", "step", "--goal", f"portable={goal}"]
    assert main(arguments) == status
    out = capsys.readouterr().out
    assert f"portable / eager: 0.50, goal {goal}: {said or 'no verdict'}" in out
    assert ("NOT QUIET" in out) == (condition is LOUD)
    assert ("up to 90% of the processor" in " ".join(out.split())) == (condition is LOUD)
    for more in ([], ["--growth", "batch", "--at", "1,2"]):
        assert main([*arguments, *more, "--json"]) == status
        found = json.loads(capsys.readouterr().out)
        rows = found["goals"]
        assert len(rows) == (2 if more else 1)
        for row in rows:
            assert (row["rival"], row["against"], row["most"]) == ("portable", "eager", goal)
            assert (row["ratio"], row["verdict"]) == (0.5, said)
        conditions = found["condition"] if more else [found["condition"]]
        assert [one["quiet"] for one in conditions] == [condition is QUIET] * len(rows)
    # What was not measured has not met its goal.
    assert main(["bench", "step", "--goal", f"portable/eager-channels-last={goal}"]) == 1
    assert "portable / eager-channels-last: not measured" in capsys.readouterr().out
    swapped = main(["bench", "step", "--goal", "eager/portable=2"])
    assert swapped == (0 if condition is QUIET else 1)


def test_growth(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(command, "run_bench", pretended)
    arguments = ["bench", "step", "--growth", "batch", "--at", "1,2,4"]
    assert main([*arguments, "--plot", str(tmp_path / "growth.png")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("step: yolov5n, 320 x 320, 80 classes")
    assert lines[-5].split() == ["2", "16.00", "(1.00)", "8.00", "(0.50)"]
    assert lines[-3].split() == ["exponent", "2.00", "2.00"]
    assert lines[-1].startswith("ort-training ") and lines[-1].endswith(": not here")
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")
    found = run_json(capsys, *arguments[1:])
    assert found["growth"] == "batch"
    assert found["exponents"] == {"eager": 2, "portable": 2}
    assert [(row["at"], row["size"], row["median_ms"]) for row in found["rows"]][::2] == [
        ("1", 1, 4),
        ("2", 2, 16),
        ("4", 4, 64),
    ]
    # One size has no exponent, and JSON no NaN.
    assert run_json(capsys, *arguments[1:-1], "2")["exponents"]["eager"] is None


def test_growth_keeps_what_was_measured_before_a_size_failed(capsys, monkeypatch):
    def run(bench, setting, **more):
        if setting.scenario.batch_size == 4:
            raise BenchmarkError("portable does not do what eager does")
        return pretended(bench, setting, **more)

    monkeypatch.setattr(command, "run_bench", run)
    arguments = ["bench", "step", "--growth", "batch", "--at"]
    assert main([*arguments, "1,2,4,8"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("4 ") and last.endswith(": portable does not do what eager does")
    assert main([*arguments, "1,2,4,8", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["failed"] == {"4": "portable does not do what eager does"}
    assert {row["at"] for row in found["rows"]} == {"1", "2", "8"}
    assert main([*arguments, "4,8"]) == 2  # nothing was measured before


def test_targets_grow_with_their_slots(capsys, monkeypatch):
    scenarios = []

    def recorded(bench, setting, **more):
        scenarios.append(setting.scenario)
        return pretended(bench, setting, **more)

    monkeypatch.setattr(command, "run_bench", recorded)
    assert main(["bench", "loss", "--growth", "targets", "--at", "30,1000"]) == 0
    assert [(one.targets, one.max_targets) for one in scenarios] == [(30, 30), (1000, 1000)]
    title = capsys.readouterr().out.splitlines()[0]
    assert missing(title, "batch 16", 30, 64, 1000) == [30, 64, 1000]


def test_a_table_of_memory(capsys, monkeypatch):
    def remembered(bench, setting, **_):
        found = pretended(bench, setting)
        return dataclasses.replace(
            found, rows=tuple(dataclasses.replace(row, timing=None) for row in found.rows)
        )

    monkeypatch.setattr(command, "measure_memory", remembered)
    assert main(["bench", "memory", "--freeze", "10"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("step: yolov5n") and "frozen 10" in lines[0]
    assert lines[3].split() == ["eager", "none", "1.0", "1", "2", "3", "1.00"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["loss", "--rivals", "eager,portible"], ("'portible'", "eager", "static", "portable")),
        (["loss", "--targets", "9"], ("targets", 9, 0, 8)),
        (["loss", "--imgsz", "64", "64", "64"], ("imgsz", 3)),
        (["step", "--batch-size", "0"], ("batch size", 0, 1)),
        (["step", "--device", "cuda"], ("device", "'cuda'", torch.__version__)),
        (
            ["loss", "--rivals", "portable", "--device-python", "/no/python"],
            ("/no/python",),
        ),
        (["loss", "--imgsz", "80"], ("image size", (80, 80), 32, "yolov5n")),
        (["step", "--weights", "yolov5s6", "--imgsz", "96"], ((96, 96), 64, "yolov5s6")),
        (["loss", "--at", "1,2"], ("--at", "--growth")),
        (["step", "--growth", "batch", "--at", "1,few"], ("'few'", "batch size")),
        (["loss", "--growth", "slots", "--at", "0,8"], ("max targets", 0, 1)),
        (["loss", "--growth", "targets", "--at", "few"], ("'few'", "boxes")),
        (["memory", "--layout", "head-output"], ("--layout", "loss")),
        (["memory", "--of", "loss", "--freeze", "10"], ("--freeze", "loss")),
        (["loss", "--rounds", "0"], ("rounds", 0, 1)),
        (["loss", "--goal", "portible=0.9"], ("'portible'", "portable")),
        (["loss", "--goal", "portable/eagre=0.9"], ("'eagre'", "eager")),
        (
            ["loss", "--rivals", "portable", "--goal", "portable=0.9"],
            ("portable", "eager", "not measured"),
        ),
        (["loss", "--goal", "eager=0.9"], ("eager", "itself")),
        (["loss", "--rivals", "cuda-graph"], ("cuda-graph", "--device cuda")),
    ],
)
def test_bad_options_are_refused(capsys, monkeypatch, arguments, told):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    name, *more = arguments
    assert main(["bench", name, *TINY, *more]) == 2
    assert not missing(error_of(capsys.readouterr().err), *told)


def test_implementations_have_names_of_their_own():
    for bench in BENCHES.values():
        names = [implementation.name for implementation in (*bench.implementations, *bench.limits)]
        assert len(set(names)) == len(names)
        assert bench.reference in (None, names[0])
        assert all(implementation.about for implementation in bench.implementations)
        first, *_, last = (implementation.name for implementation in bench.implementations)
        assert [implementation.name for implementation in bench.choose((last, first))] == [
            first,
            last,
        ]
