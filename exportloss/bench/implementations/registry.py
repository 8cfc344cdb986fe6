"""The benchmarks. A new implementation is an entry here and a `Prepare` function."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from exportloss.bench.implementations.implementation import Bench, Implementation

__all__ = ["BENCHES", "LOSS_BENCHES"]


def _torch(module: str, name: str, about: str) -> Implementation:
    function = name.replace("-", "_")
    prepare = f"exportloss.bench.implementations.{module}:{function}"
    return Implementation(name=name, about=about, prepare=prepare)


def _ort(module: str, name: str, about: str, artifact: str) -> Implementation:
    return Implementation(
        name=name,
        about=about,
        prepare=f"exportloss.bench.implementations.{module}",
        libraries=("onnxruntime", "numpy"),
        artifact=artifact,
        portable=name in ("portable", "portable-for-cpu"),
    )


def _export(name: str, about: str) -> Implementation:
    function = name.replace("-", "_")
    return Implementation(
        name=name,
        about=about,
        prepare=f"exportloss.bench.exports:{function}",
        libraries=("torch", "onnx", "onnxscript"),
    )


def _limit(name: str, about: str) -> Implementation:
    function = name.replace("-", "_")
    return Implementation(
        name=name, about=about, prepare=f"exportloss.bench.machine.limits:{function}"
    )


_LOSS = Bench(
    name="loss",
    about="the loss and its gradient with respect to what the head gave",
    implementations=(
        _torch("torch_loss", "eager", "the original's algorithm with its dynamic shapes, in torch"),
        _torch("torch_loss", "static", "YoloLoss in torch"),
        _torch("torch_loss", "sparse", "SparseHeadLoss in torch: the head where the loss looks"),
        _torch("torch_loss", "compiled", "YoloLoss under torch.compile"),
        _torch("torch_loss", "cuda-graph", "YoloLoss captured as a CUDA graph"),
        _ort("ort_loss:portable", "portable", "LossSession with gradients, ONNX Runtime", "loss"),
    ),
    limits=(_limit("memory-limit", "reads the predictions and writes their gradient, once"),),
    defaults={"image_size": (640, 640), "batch_size": 16, "max_targets": 300, "targets": 120},
)
_TASK_ALIGNED = dataclasses.replace(
    _LOSS,
    implementations=(
        _torch("task_aligned_torch", "eager", "its algorithm with dynamic shapes, in torch"),
        _torch("task_aligned_torch", "static", "TaskAlignedLoss in torch"),
        _torch("task_aligned_torch", "compiled", "TaskAlignedLoss under torch.compile"),
        _ort(
            "task_aligned_ort:portable",
            "portable",
            "LossSession with gradients, ONNX Runtime, of the graphs for any runtime",
            "task-aligned-loss",
        ),
        _ort(
            "task_aligned_ort:portable",
            "portable-for-cpu",
            "the same of the graphs for ONNX Runtime's CPU provider",
            "task-aligned-loss-cpu",
        ),
    ),
    limits=(),
    defaults={**_LOSS.defaults, "loss": "task-aligned", "layout": "head-output"},
)
_STEP = Bench(
    name="step",
    about="a training step: network, loss, gradients, clipping, SGD with Nesterov momentum",
    implementations=(
        _torch("torch_step", "eager", "torch with the eager loss, NCHW"),
        _torch("torch_step", "eager-channels-last", "the same in torch's channels_last layout"),
        _torch("torch_step", "static", "torch with YoloLoss, NCHW"),
        _torch("torch_step", "sparse", "torch with SparseHeadLoss, NCHW"),
        _torch("torch_step", "sparse-channels-last", "the same in channels_last"),
        _torch("torch_step", "compiled", "torch with YoloLoss under torch.compile"),
        _torch("torch_step", "cuda-graph", "torch with YoloLoss captured as a CUDA graph"),
        _ort("ort_step:session", "ort-training", "ONNX Runtime training artifacts", "ort"),
        _ort("ort_step:session", "portable", "the portable step, in ONNX Runtime", "step"),
        _ort(
            "ort_step:captured", "portable-cuda-graph", "the same, captured as CUDA graphs", "step"
        ),
        Implementation(
            name="openvino",
            about="the portable step in OpenVINO, where it is installed",
            prepare="exportloss.bench.implementations.ort_step:openvino",
            libraries=("openvino", "numpy"),
            artifact="step",
            portable=True,
        ),
        Implementation(
            name="executorch",
            about="ExecuTorch's training module, where it is installed",
            prepare="exportloss.bench.implementations.executorch_step:executorch",
            libraries=("torch", "executorch.extension.training"),
        ),
    ),
    limits=(_limit("arithmetic-limit", "the convolutions' multiply-adds in a matrix product"),),
)
_EXPORT = Bench(
    name="export",
    about="the export of a detector",
    implementations=(
        _export("portable", "the portable step"),
        _export("ort-training", "ONNX Runtime training artifacts"),
        _export("loss", "the loss alone, with its gradients"),
    ),
    reference=None,
    unmeasured=0,
)
LOSS_BENCHES: Mapping[str, Bench] = {"yolov5": _LOSS, "task-aligned": _TASK_ALIGNED}
BENCHES: Mapping[str, Bench] = {bench.name: bench for bench in (_LOSS, _STEP, _EXPORT)}
