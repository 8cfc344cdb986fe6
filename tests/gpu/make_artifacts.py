"""Make what `tests/gpu` and `benchmarks/gpu.py` run on, in an environment that has onnx.

    python -m tests.gpu.make_artifacts build/gpu [--tests-only] [--device cuda]

The folder can be copied to a machine without onnx. Exports run side by side, as many as there are
processors and memory for. For the benchmarks a whole step of 64 images is traced, which takes as
much memory as it does in eager torch.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.numpy import load_file, save_file

from benchmarks.gpu import RUNS, sizes_of
from exportloss.bench.implementations.artifacts import find_or_export
from exportloss.bench.scenario import Scenario
from exportloss.export import export_loss, export_train_step
from tests.device.make_artifacts import SETTINGS, draw_batches, export_case, make_case
from tests.support.golden_cases import find_cases, load

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = ("yolov5n", "yolov5s")
MEMORY_PER_EXPORT = 8 << 30  # bytes; a batch of 64 takes more, but not all of them do

Job = Callable[[], Any]


def make_for_benchmark(folder: Path, run: str, device: str) -> None:
    """Export what a benchmark of `RUNS` needs for ONNX Runtime."""
    bench, sizes = RUNS[run][0], sizes_of(run, device)
    scenario = Scenario(
        model=sizes["weights"],
        num_classes=sizes["nc"],
        image_size=(sizes["imgsz"], sizes["imgsz"]),
        batch_size=sizes["batch-size"],
        max_targets=sizes["max-targets"],
        targets=sizes["targets"],
        precision=sizes.get("precision", "float32"),
        device=device,
    )
    find_or_export(bench, scenario, folder / run)  # an artifact of the benchmark's own name


def make_step(folder: Path, name: str) -> dict[str, list[float]]:
    """Export a step for GPUs, train in eager torch, and return its losses."""
    batches = load_file(folder / "batches.safetensors")
    return make_case(folder / name, batches, model=name, provider="gpu")


def make_half(folder: Path, precision: str) -> None:
    """Export a step in half precision."""
    target = folder / f"yolov5n-{precision}"
    export_case(export_train_step, target, precision=precision, provider="gpu")


def make_golden(folder: Path, path: Path) -> None:
    """Export the loss of a golden case in both forms that GPUs run."""
    graph = load(path).graph
    for provider in ("any", "gpu"):
        target = folder / f"golden-{provider}" / path.stem
        options = {"tiers": (), "gradients": True, "provider": provider, **graph.sizes}
        export_loss(graph.make_loss(), target, **options)


def jobs_for_tests(folder: Path) -> Iterator[Job]:
    """Exports for `tests/gpu`, but for `CASES`."""
    yield from (partial(make_half, folder, precision) for precision in ("float16", "bfloat16"))
    yield from (partial(make_golden, folder, path) for path in find_cases(GOLDEN))


def jobs_for_benchmarks(folder: Path, device: str) -> Iterator[Job]:
    """Exports for `benchmarks/gpu.py`, the longest first."""
    by_batch = sorted(RUNS, key=lambda run: -sizes_of(run, device)["batch-size"])
    yield from (partial(make_for_benchmark, folder, run, device) for run in by_batch)


def main(folder: Path, *, tests_only: bool, device: str) -> None:
    """Make all of it anew; `expected.json` as soon as the tests could run."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    save_file(draw_batches(), folder / "batches.safetensors")
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    workers = max(1, min(os.cpu_count() or 1, memory // MEMORY_PER_EXPORT))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, torch.set_num_threads, (1,)) as pool:
        losses = {name: pool.submit(make_step, folder, name) for name in CASES}
        for_tests = list(map(pool.submit, jobs_for_tests(folder)))
        others = [] if tests_only else list(map(pool.submit, jobs_for_benchmarks(folder, device)))
        for future in for_tests:
            future.result()
        content = {"settings": SETTINGS, "losses": {k: v.result() for k, v in losses.items()}}
        (folder / "expected.json").write_text(json.dumps(content, indent=1) + "\n")
        for future in others:
            future.result()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tests-only", action="store_true")
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    main(options.folder, tests_only=options.tests_only, device=options.device)
