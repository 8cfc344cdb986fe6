"""The benchmarks. A new implementation is an entry here and a `Prepare` function."""

from __future__ import annotations

from collections.abc import Mapping

from exportloss.bench.implementations.implementation import Bench, Implementation

__all__ = ["BENCHES"]


def _torch(bench: str, name: str, about: str) -> Implementation:
    function = name.replace("-", "_")
    prepare = f"exportloss.bench.implementations.torch_{bench}:{function}"
    return Implementation(name=name, about=about, prepare=prepare)


def _ort(module: str, name: str, about: str, artifact: str) -> Implementation:
    return Implementation(
        name=name,
        about=about,
        prepare=f"exportloss.bench.implementations.{module}",
        libraries=("onnxruntime", "numpy"),
        artifact=artifact,
        portable=name == "portable",
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
        _torch("loss", "eager", "the original's algorithm with its dynamic shapes, in torch"),
        _torch("loss", "static", "YoloLoss in torch"),
        _torch("loss", "sparse", "SparseHeadLoss in torch: the head where the loss looks"),
        _torch("loss", "compiled", "YoloLoss under torch.compile"),
        _torch("loss", "cuda-graph", "YoloLoss captured as a CUDA graph"),
        _ort("ort_loss:portable", "portable", "LossSession with gradients, ONNX Runtime", "loss"),
    ),
    limits=(_limit("memory-limit", "reads the predictions and writes their gradient, once"),),
    defaults={"image_size": (640, 640), "batch_size": 16, "max_targets": 300, "targets": 120},
)
_STEP = Bench(
    name="step",
    about="a training step: network, loss, gradients, clipping, SGD with Nesterov momentum",
    implementations=(
        _torch("step", "eager", "torch with the eager loss, NCHW"),
        _torch("step", "eager-channels-last", "the same in torch's channels_last layout"),
        _torch("step", "static", "torch with YoloLoss, NCHW"),
        _torch("step", "sparse", "torch with SparseHeadLoss, NCHW"),
        _torch("step", "sparse-channels-last", "the same in channels_last"),
        _torch("step", "compiled", "torch with YoloLoss under torch.compile"),
        _torch("step", "cuda-graph", "torch with YoloLoss captured as a CUDA graph"),
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
BENCHES: Mapping[str, Bench] = {bench.name: bench for bench in (_LOSS, _STEP, _EXPORT)}
