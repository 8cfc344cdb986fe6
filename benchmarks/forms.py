"""Time each form of the training step's operators in ONNX Runtime or OpenVINO.

    .venv/bin/python -m benchmarks.forms export build/forms
    .venv-engines/bin/python benchmarks/forms.py time build/forms --engine onnxruntime
    .venv-engines/bin/python benchmarks/forms.py time build/forms --engine openvino

YOLOv5n, 80 classes, 320 pixels, batch 4 (`--imgsz 640 --batch-size 2` for another size). The first
command writes a graph for each target, and for each target's graph with one form changed. The
second runs each beside its target's graph in turns and prints processor time of a single thread,
which other programs disturb less than the time of day; with `--threads 2` it is the latter, for a
machine where nothing else runs. It needs neither torch nor exportloss.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, Any]
TARGETS = {"onnxruntime": ("any", "cpu"), "openvino": ("openvino",)}


def export(folder: Path, size: int, batch: int) -> None:
    """Write `TARGET.onnx`, `TARGET--FORM.onnx` with one form changed, and inputs."""
    import dataclasses

    import onnx_ir as ir
    import torch

    from exportloss import YoloLoss
    from exportloss.export.aten.forms import FORMS, Forms
    from exportloss.export.aten.to_onnx import to_onnx
    from exportloss.export.detector.wrapper import prepare
    from exportloss.export.step.functions import Step
    from exportloss.models import yolov5

    torch.manual_seed(0)
    model = yolov5("yolov5n", 80)
    loss = YoloLoss(model.anchors_px, model.strides, 80)
    sizes = {"image_size": (size, size), "batch_size": batch, "max_targets": 64}
    step = Step(prepare(model, loss, **sizes), "sgd")
    changed = {"stacked_channels": 64, "sums": "whole"}
    folder.mkdir(parents=True, exist_ok=True)
    example = step.train_example()
    np.savez(folder / "inputs.npz", **{k: v.detach().numpy() for k, v in example.items()})
    for target in ("any", "cpu", "openvino"):
        graphs = {target: FORMS[target], f"{target}--plain": Forms()}
        for field in dataclasses.fields(Forms):
            old = getattr(FORMS[target], field.name)
            is_plain = old == field.default
            new = changed.get(field.name, True) if is_plain else field.default
            one = dataclasses.replace(FORMS[target], **{field.name: new})
            graphs[f"{target}--{'with' if is_plain else 'without'}-{field.name}"] = one
        for name, forms in graphs.items():
            graph = to_onnx(
                step.train,
                example,
                modules=step.modules,
                name=name,
                provider=target,  # type: ignore[arg-type]
                forms=forms,
            )
            ir.save(graph, folder / f"{name}.onnx")
            print(f"{name}: {len(list(graph.graph))} nodes")


def feed_of(folder: Path) -> Arrays:
    """Return the inputs of a step, with noise as images and 30 boxes."""
    feed = dict(np.load(folder / "inputs.npz"))
    rng = np.random.default_rng(3)
    feed["images"] = rng.integers(0, 256, feed["images"].shape, dtype=np.uint8)
    targets = np.zeros_like(feed["targets"])
    targets[:30, 0] = rng.integers(0, len(feed["images"]), 30)
    targets[:30, 1] = rng.integers(0, 80, 30)
    targets[:30, 2:4] = rng.uniform(0.2, 0.8, (30, 2))
    targets[:30, 4:] = rng.uniform(0.05, 0.5, (30, 2))
    settings = {"learning_rates": [0.01] * 3, "momentum": 0.9, "weight_decay": 5e-4, "max_norm": 10}
    feed |= {name: np.asarray(value, np.float32) for name, value in settings.items()}
    return feed | {"targets": targets, "update": np.asarray(True)}


def in_onnxruntime(path: Path, feed: Arrays, threads: int) -> Callable[[], Any]:
    """Return a function that runs the graph."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    for value in session.get_inputs():
        binding.bind_cpu_input(value.name, feed[value.name])
    for value in session.get_outputs():
        binding.bind_output(value.name, "cpu")
    return lambda: session.run_with_iobinding(binding)


def in_openvino(path: Path, feed: Arrays, threads: int) -> Callable[[], Any]:
    """Return a function that runs the graph, in float32 on every processor."""
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(path), "CPU", settings)
    request = compiled.create_infer_request()
    inputs = {v.get_any_name(): feed[v.get_any_name()] for v in compiled.inputs}
    return lambda: request.infer(inputs, share_inputs=True, share_outputs=True)


ENGINES = {"onnxruntime": in_onnxruntime, "openvino": in_openvino}


def compare(steps: list[Callable[[], Any]], rounds: int, *, threads: int) -> list[np.ndarray]:
    """Return the times of each, in ms, in turns of changing order."""
    clock = time.process_time if threads == 1 else time.perf_counter
    times: list[list[float]] = [[] for _ in steps]
    for step in steps:
        step()
        step()
    for number in range(rounds):
        order = range(len(steps)) if number % 2 else reversed(range(len(steps)))
        for place in order:
            if threads > 1:
                time.sleep(0.03)  # workers of the session before still spin
            started = clock()
            steps[place]()
            times[place].append(1e3 * (clock() - started))
    return [np.array(some) for some in times]


def measure(folder: Path, engine: str, rounds: int, threads: int) -> None:
    """Print a line per changed form: its time against that of the target's graph."""
    feed = feed_of(folder)
    results = {}
    for target in TARGETS[engine]:
        reference = ENGINES[engine](folder / f"{target}.onnx", feed, threads)
        for path in sorted(folder.glob(f"{target}--*.onnx")):
            step = ENGINES[engine](path, feed, threads)
            base, found = compare([reference, step], rounds, threads=threads)
            ratio = float(np.median(found / base))
            results[path.stem] = ratio
            print(
                f"{path.stem:36s} {np.median(base):6.1f} -> {np.median(found):6.1f} ms, minima "
                f"{base.min():6.1f} -> {found.min():6.1f}, median of ratios {ratio:.3f}",
                flush=True,
            )
            del step
            gc.collect()
    print(json.dumps(results))


def main() -> None:
    """Run the chosen part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("export", "time"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--engine", choices=tuple(ENGINES), default="onnxruntime")
    parser.add_argument("--rounds", type=int, default=24)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--batch-size", type=int, default=4)
    options = parser.parse_args()
    if options.part == "export":
        export(options.folder, options.imgsz, options.batch_size)
    else:
        measure(options.folder, options.engine, options.rounds, options.threads)


if __name__ == "__main__":
    main()
