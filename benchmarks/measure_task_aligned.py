"""Time the anchor-free loss and its gradient: eager, static, compiled and in ONNX Runtime.

    python -m benchmarks.measure_task_aligned
    python -m benchmarks.measure_task_aligned --max-targets 300 --compiled

Batch 16, 640 pixels, 80 classes, 120 targets, one thread; all take turns in every round. Prints the
load of the machine, without which the times say little.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from exportloss import TaskAlignedLoss, pad_targets
from exportloss.bench.measuring import check_agreement, measure
from exportloss.export.loss.task_aligned import task_aligned_graphs
from exportloss.random_batches import draw_targets
from exportloss.runtime.sessions.installation import import_onnxruntime

STRIDES, SIZE, BATCH, CLASSES, TARGETS = (8, 16, 32), 640, 16, 80, 120

Step = Callable[[], float]


class Turns:
    """Times one implementation when it is its turn."""

    def __init__(self, step: Step) -> None:
        self.step = step

    def turn(self, *, unmeasured: int, steps: int) -> list[float]:
        """See `exportloss.bench.measuring.Stepper`."""
        from time import perf_counter

        for _ in range(unmeasured):
            self.step()
        seconds = []
        for _ in range(steps):
            started = perf_counter()
            self.step()
            seconds.append(perf_counter() - started)
        return seconds


def in_torch(loss: Callable[..., Any], maps: list[torch.Tensor], targets: torch.Tensor) -> Step:
    """Return a step that leaves the gradients in the maps."""

    def step() -> float:
        for level in maps:
            level.grad = None
        value = loss(maps, targets).loss
        value.backward()
        return float(value.detach())

    return step


def in_onnxruntime(
    loss: TaskAlignedLoss, maps: list[torch.Tensor], rows: Any, max_targets: int, provider: Any
) -> Step:
    """Return a step on the smallest graph that the targets fit."""
    sizes: dict[str, Any] = {"image_size": (SIZE, SIZE), "batch_size": BATCH}
    graphs = task_aligned_graphs(
        loss, max_targets=max_targets, gradients=True, provider=provider, **sizes
    )
    capacity = min(capacity for capacity in graphs if capacity >= len(rows))
    import onnx_ir as ir

    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    content = ir.to_proto(graphs[capacity]).SerializeToString()
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    targets = pad_targets(rows, capacity, batch_size=BATCH, num_classes=CLASSES)
    inputs = {f"predictions_{i}": level.detach().numpy() for i, level in enumerate(maps)}
    return lambda: float(session.run(None, inputs | {"targets": targets})[0])


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--max-targets", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--compiled", action="store_true", help="torch.compile too: minutes")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = draw_targets(np.random.default_rng(0), TARGETS, batch_size=BATCH, num_classes=CLASSES)
    padded = pad_targets(rows, options.max_targets, batch_size=BATCH, num_classes=CLASSES)
    loss = TaskAlignedLoss(STRIDES, CLASSES)
    channels = 4 * loss.config.reg_max + CLASSES
    maps = [torch.randn(BATCH, channels, SIZE // s, SIZE // s).requires_grad_() for s in STRIDES]
    targets = torch.from_numpy(padded)
    steps = {
        "eager": in_torch(loss.reference(), maps, torch.from_numpy(rows)),
        "static": in_torch(loss, maps, targets),
    }
    if options.compiled:
        steps["compiled"] = in_torch(torch.compile(loss), maps, targets)
    for provider in ("any", "cpu"):
        steps[f"loss.onnx ({provider})"] = in_onnxruntime(
            loss, maps, rows, options.max_targets, provider
        )
    check_agreement({name: [step()] for name, step in steps.items()})
    seconds = measure(
        {name: Turns(step) for name, step in steps.items()}, rounds=options.rounds, steps=1
    )
    eager = statistics.median(seconds["eager"])
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    for name, times in seconds.items():
        median = statistics.median(times)
        ratios = [one / other for one, other in zip(times, seconds["eager"], strict=True)]
        print(
            f"{name:18} median {1e3 * median:7.0f} ms  least {1e3 * min(times):7.0f} ms  "
            f"{median / eager:.2f} of eager ({min(ratios):.2f} to {max(ratios):.2f} by round)"
        )


if __name__ == "__main__":
    main()
