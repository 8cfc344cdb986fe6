"""Export of training artifacts: graphs of model and loss that ONNX Runtime differentiates."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx
import onnx_ir as ir
from torch import nn

from exportloss.errors import ExportError
from exportloss.export.detector.describe import describe, graph_metadata
from exportloss.export.detector.head_choice import HeadChoice
from exportloss.export.detector.inference_graph import inference_graph
from exportloss.export.detector.wrapper import DetectorGraph, TrainableDetector, prepare
from exportloss.export.step.functions import Step
from exportloss.export.torch_export import Signature, trace_to_onnx
from exportloss.loss.protocol import DetectionLoss
from exportloss.runtime.artifact.folder import new_folder, write_artifact
from exportloss.runtime.artifact.manifest import Manifest, OptimizerName
from exportloss.runtime.optimizers.table import ADAM_EPS, OPTIMIZERS
from exportloss.runtime.sessions.installation import import_onnxruntime_training

__all__ = ["export_training_artifacts"]

DECODED = "output0"

# Newest version that ONNX Runtime 1.19.2, the last one with a training API, can read.
_MAX_IR_VERSION = 10


def export_training_artifacts(
    model: nn.Module,
    loss: DetectionLoss,
    folder: str | Path,
    *,
    image_size: tuple[int, int],
    batch_size: int,
    max_targets: int,
    optimizer: OptimizerName = "sgd",
    freeze: int | Sequence[int] = 0,
    update: str | Sequence[str] = "all",
    ema: bool = False,
    head: HeadChoice = "auto",
    names: Sequence[str] | None = None,
    exist_ok: bool = False,
) -> Manifest:
    """Write a folder for `TrainSession` and for ONNX Runtime's own training API.

    It holds `training_model.onnx` (loss, loss terms, next state of the loss and the gradients of
    all trainable parameters), `eval_model.onnx` (the same without gradients, with decoded
    predictions `output0`), `checkpoint`, `optimizer_model.onnx` and `manifest.json`. The optimizer
    model is ONNX Runtime's own (AdamW with torch's arithmetic, or plain SGD), for hosts in other
    languages; `TrainSession` runs YOLOv5's optimizers itself. If the model has a `decode`, there is
    also `inference.onnx`, the detector alone with its trained tensors as inputs, for
    `TrainSession.export_inference`.

    Args:
        model: Detector; forward takes (B, 3, H, W) in [0, 1] and returns one raw map per level. It
            is copied, not changed.
        loss: Loss to train with.
        folder: Folder to write; complete or absent afterwards.
        image_size: Height and width of the images in pixels.
        batch_size: Images per batch, >= 1.
        max_targets: Maximum number of target rows per batch, >= 1.
        optimizer: Update rule of `TrainSession`, which determines the optimizer state.
        freeze: Layers whose weights and BatchNorm statistics stay unchanged, as with YOLOv5's
            `--freeze`: a number of layers from the first, or their indices.
        update: Parameters to train of the layers that are not frozen: "all"; "bias" for biases;
            "norm" for biases and the scales of normalisation layers; "last-K" for the last K
            layers; or patterns of names, such as `model.24.*`. No gradients of the others are
            computed. See `exportloss.models.train_only`, also on BatchNorm's statistics.
        ema: Whether `TrainSession` keeps a moving average of parameters and statistics.
        head: Form of evaluating the head in training: in all cells ("dense"), only in those the
            loss needs ("sparse"), with equal results, or the faster for these sizes ("auto").
            Decoded predictions always need it dense.
        names: Class names, nc of them; default the class numbers.
        exist_ok: Whether to replace an existing artifacts folder.

    Returns:
        The manifest as written to `manifest.json`.

    Raises:
        ExportError: the artifacts would not train as torch does.
        ArtifactError: the folder is in use or cannot be written.
        InstallationError: ONNX Runtime's training build is missing.
    """
    import_onnxruntime_training()
    with new_folder(folder, exist_ok=exist_ok) as temporary:
        detector = prepare(
            model,
            loss,
            image_size=image_size,
            batch_size=batch_size,
            max_targets=max_targets,
            frozen=freeze,
            update=update,
            head=head,
        )
        manifest = describe(
            detector,
            kind="ort-training",
            optimizer=optimizer,
            names=names,
            model_name=model,
            ema=ema,
        )
        forward = _forward_graph(detector)
        forward.metadata_props.update(graph_metadata(manifest))
        _generate(forward, detector, optimizer, temporary)
        if hasattr(detector.model, "decode"):
            step = Step(detector, optimizer)
            graph = inference_graph(step.infer_named, step.named_example(), modules=step.modules)
            graph.metadata_props.update(graph_metadata(manifest))
            ir.save(graph, temporary / "inference.onnx")
        return write_artifact(temporary, manifest)


def _forward_graph(detector: TrainableDetector) -> ir.Model:
    graph = DetectorGraph(detector)
    state = detector.loss.initial_state
    outputs = ["loss", "items", *(f"new_{name}" for name in state)]
    decoded = [DECODED] if hasattr(detector.model, "decode") else []
    return trace_to_onnx(
        graph,
        (detector.images, detector.targets, *state.values()),
        Signature(inputs=["images", "targets", *state], outputs=outputs + decoded),
        state={
            f"image_loss.detector.{name}": name
            for name in (*detector.parameters, *detector.buffers)
        },
        differentiable=True,
    )


def _generate(
    forward: ir.Model, detector: TrainableDetector, optimizer: OptimizerName, folder: Path
) -> None:
    from onnxruntime.training import artifacts

    ort_type = OPTIMIZERS[optimizer].ort_type
    known = None if ort_type is None else artifacts.OptimType[ort_type]
    trainable = (*detector.groups.weights, *detector.groups.norms, *detector.groups.biases)
    frozen = [n for n in (*detector.parameters, *detector.buffers) if n not in set(trainable)]
    with _quiet_onnxruntime(), tempfile.TemporaryDirectory() as scratch:
        artifacts.generate_artifacts(
            ir.to_proto(forward),
            requires_grad=list(trainable),
            frozen_params=frozen,
            loss=None,  # the graph's first output is the loss
            optimizer=known or artifacts.OptimType.AdamW,
            artifact_directory=scratch,
        )
        training = ir.load(Path(scratch) / "training_model.onnx")
        _finish_training_model(training, trainable)
        ir.save(training, folder / "training_model.onnx")
        if known is not None:
            _finish_optimizer(
                Path(scratch) / "optimizer_model.onnx", folder / "optimizer_model.onnx"
            )
        for name in ("eval_model.onnx", "checkpoint"):
            (folder / name).write_bytes((Path(scratch) / name).read_bytes())


def _finish_training_model(model: ir.Model, trainable: Sequence[str]) -> None:
    """Remove the decoded predictions, which training does not need, and check the gradients."""
    outputs = model.graph.outputs
    for value in [value for value in outputs if value.name == DECODED]:
        outputs.remove(value)
    ir.passes.common.RemoveUnusedNodesPass()(model)
    found = {value.name for value in outputs}
    missing = [name for name in trainable if f"{name}_grad.accumulation.out" not in found]
    if missing:
        raise ExportError(
            f"{len(missing)} trainable parameters got no gradient from ONNX Runtime, among them "
            f"{missing[0]!r}: they do not reach the loss; freeze them, or use them in the forward "
            "pass"
        )
    if foreign := {node.domain for node in model.graph} - {"", "ai.onnx", "com.microsoft"}:
        raise ExportError(
            f"the graph has operators of the domains {sorted(foreign)}, expected only those of "
            "ai.onnx and com.microsoft; write the model without them"
        )


def _finish_optimizer(source: Path, destination: Path) -> None:
    """Lower the IR version to one that ONNX Runtime reads, and give its AdamW torch's settings."""
    model = onnx.load(source)
    model.ir_version = min(model.ir_version, _MAX_IR_VERSION)
    for node in model.graph.node:
        if node.op_type == "AdamWOptimizer":
            attributes = {"adam_mode": 0, "epsilon": ADAM_EPS, "weight_decay": 1e-2}  # torch's
            kept = [a for a in node.attribute if a.name not in attributes]
            del node.attribute[:]
            node.attribute.extend(kept)
            node.attribute.extend(
                onnx.helper.make_attribute(name, value) for name, value in attributes.items()
            )
    onnx.save(model, destination)


@contextlib.contextmanager
def _quiet_onnxruntime() -> Iterator[None]:
    """Discard what the gradient builder writes to the standard error stream.

    It logs from C++ at a fixed level, whatever the settings; errors are raised as exceptions.
    """
    sys.stderr.flush()
    saved = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
