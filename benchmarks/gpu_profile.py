"""Time of a training step on a GPU by kernel: `make gpu`.

    python -m benchmarks.gpu_profile FOLDER --device cuda

The kernels that ONNX Runtime launches are seen by torch's profiler (CUPTI sees all of a process).
CUDA graphs are off. On the CPU there are no kernels: that only tests the script.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from exportloss.runtime import TrainSession

STEPS, SHOWN = 5, 50


def profiled(step: Callable[[], float], device: str) -> dict[str, list[float]]:
    """Return the milliseconds of each run of a kernel, by name, over `STEPS` steps."""
    found: dict[str, list[float]] = defaultdict(list)
    activity = ProfilerActivity.CPU if device == "cpu" else ProfilerActivity.CUDA
    with profile(activities=[activity]) as profiler:
        for _ in range(STEPS):
            step()
        if device != "cpu":
            torch.cuda.synchronize()
    for event in profiler.events():
        found[event.name].append(event.device_time / 1e3)
    return found


def main() -> None:
    """Profile, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tf32", action="store_true")
    options = parser.parse_args()
    if options.device != "cpu":
        torch.zeros(1, device="cuda")  # torch's own context, before anything is measured
    graphs = None if options.device == "cpu" else False
    session = TrainSession.open(
        options.folder, device=options.device, cuda_graph=graphs, tf32=options.tf32
    )
    manifest = session.manifest
    shape = (manifest.batch_size, 3, *manifest.image_size)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    targets = np.array([[0, 0, 0.5, 0.5, 0.2, 0.2]], np.float32)

    def step() -> float:
        return session.step(images, targets, lr=1e-3).loss

    step()
    kernels = profiled(step, options.device)
    total = sum(map(sum, kernels.values())) / STEPS
    print(f"{total:.2f} ms of kernels per step\n")
    print("| kernel | per step | ms per step |\n|---|---:|---:|")
    for name, times in sorted(kernels.items(), key=lambda row: -sum(row[1]))[:SHOWN]:
        print(f"| {name[:120]} | {len(times) / STEPS:g} | {sum(times) / STEPS:.3f} |")


if __name__ == "__main__":
    main()
