"""Make what `tests/gpu` and `benchmarks/gpu.py` run on, in the environment that has onnx.

    python -m tests.gpu.make_artifacts build/gpu [--tests-only]

The folder can be copied to a machine without onnx. For the benchmarks a whole step of 64 pictures
is traced, which takes as much memory as it does in eager torch.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.numpy import save_file

from benchmarks.gpu import RUNS
from exportloss.bench.artifacts import find_or_export
from exportloss.bench.scenario import Scenario
from exportloss.export import export_loss, export_train_step
from tests.device.make_artifacts import SETTINGS, draw_batches, export_case, make_case
from tests.golden_cases import find_cases, load

GOLDEN = Path(__file__).parents[1] / "golden"


def make_for_benchmarks(folder: Path) -> None:
    for run, (bench, sizes) in RUNS.items():
        scenario = Scenario(
            model=sizes["weights"],
            num_classes=sizes["nc"],
            image_size=(sizes["imgsz"], sizes["imgsz"]),
            batch_size=sizes["batch-size"],
            max_targets=sizes["max-targets"],
            targets=sizes["targets"],
        )
        find_or_export(bench, scenario, folder / run)  # an artifact of the benchmark's own name


def make_for_tests(folder: Path) -> None:
    torch.set_num_threads(1)
    batches = draw_batches()
    save_file(batches, folder / "batches.safetensors")
    losses = {
        name: make_case(folder / name, batches, model=name) for name in ("yolov5n", "yolov5s")
    }
    for precision in ("float16", "bfloat16"):
        export_case(export_train_step, folder / f"yolov5n-{precision}", precision=precision)
    for case in map(load, find_cases(GOLDEN)):
        graph = case.graph
        options = {"tiers": (), "gradients": True, **graph.sizes}
        export_loss(graph.make_loss(), folder / "golden" / case.name, **options)
    expected = {"settings": SETTINGS, "losses": losses}
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


def main(folder: Path, *, tests_only: bool) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    make_for_tests(folder)
    if not tests_only:
        make_for_benchmarks(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), tests_only="--tests-only" in sys.argv)
