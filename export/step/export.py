"""The portable step: a whole training step as one graph of standard operators."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import onnx_ir as ir
from torch import nn

from exportloss.export.aten.to_onnx import to_onnx
from exportloss.export.detector.describe import describe, graph_metadata
from exportloss.export.detector.head_choice import HeadChoice
from exportloss.export.detector.inference_graph import inference_graph
from exportloss.export.detector.wrapper import Detector, prepare
from exportloss.export.step.flat_state import unflatten
from exportloss.export.step.functions import Step
from exportloss.loss.yolo_loss import YoloLoss
from exportloss.runtime.artifact.flat_layout import StateLayout
from exportloss.runtime.artifact.folder import new_folder, write_artifact
from exportloss.runtime.artifact.manifest import Manifest, OptimizerName, Precision
from exportloss.runtime.artifact.state import TrainState, save_state
from exportloss.runtime.optimizers.table import OPTIMIZERS

__all__ = ["export_train_step"]


def export_train_step(
    model: nn.Module,
    loss: YoloLoss,
    folder: str | Path,
    *,
    image_size: tuple[int, int],
    batch_size: int,
    max_targets: int,
    optimizer: OptimizerName = "sgd",
    freeze: int | Sequence[int] = 0,
    ema: bool = False,
    precision: Precision = "float32",
    head: HeadChoice = "auto",
    provider: Literal["any", "gpu"] = "any",
    names: Sequence[str] | None = None,
    exist_ok: bool = False,
) -> Manifest:
    """Write a folder whose graphs train with any ONNX runtime: no training build, no torch.

    `train_step.onnx` is forward pass, loss with target building, backward pass and optimizer in
    operators of the `ai.onnx` domain, without a dynamic dimension. P is the number of trainable
    parameters, S that of the BatchNorm statistics.

    | input | shape | meaning |
    |---|---|---|
    | `images` | (B, 3, H, W) | uint8, RGB, 0 to 255 |
    | `targets` | (max_targets, 6) | as `exportloss.pad_targets` gives them |
    | `learning_rates` | (3,) | rates of weights, norms and biases |
    | `momentum` | () | momentum, or the first beta of Adam and AdamW |
    | `weight_decay` | () | decay of the weights |
    | `max_norm` | () | L2 norm that gradients are scaled down to; infinity for none |
    | `ema_decay` | () | with `ema`: fraction of the moving average that stays |
    | `loss_scale` | () | with float16: factor of the loss, by which gradients are divided |
    | `update` | () | bool; false only adds to `gradients` |
    | `parameters` | (P,) | flat; `layout` in the manifest says where each lies |
    | `statistics` | (S,) | the same; absent where no BatchNorm is trained |
    | `ema_parameters` | (P,) | with `ema`: their moving average |
    | `ema_statistics` | (S,) | the same |
    | `balance` | (nl,) | objectness weights of the levels |
    | `updates` | () | float, optimizer steps done |
    | `gradients` | (P,) | sum since the last update |
    | `optimizer_...` | (P,) | optimizer state: `momentum` of SGD and so on |

    Outputs are `loss` (), `items` (3,), `skipped` () bool and the new state, `new_parameters` and
    so on: what the next step takes. `skipped` is true, and the new state is the old one bit for
    bit, where the loss, the L2 norm of the summed gradients, a new statistic, a target or a
    setting is not finite, or `max_norm` is not above 0. An update moves the averages:
    ema += (1 - ema_decay) * (value - ema). YOLOv5's decay is
    `exportloss.runtime.optimizers.ema.decay_after`.

    `eval_step.onnx` takes `images`, `targets`, `parameters`, `statistics` and `balance` and gives
    `loss`, `items` and, where the model has a `decode`, `output0`. `inference.onnx`, in that case
    too, is the detector alone: `images` as floats in [0, 1], `parameters` and `statistics` in,
    `output0` out, for any number of images where the model's operators need it for shapes only.
    Both take the averages as `parameters` and `statistics` just as well.
    `state.safetensors` holds the model's tensors under their own names.

    Args:
        model: detector; forward takes (B, 3, H, W) in [0, 1] and returns one raw map per level. It
            is copied, not changed. Frozen parameters (`requires_grad=False`) are constants of the
            graph.
        loss: the loss to train with.
        folder: folder to write; complete or absent afterwards.
        image_size: height and width of the images in pixels.
        batch_size: images per batch, >= 1.
        max_targets: most target rows per batch, >= 1.
        optimizer: update rule in the graph, with torch's arithmetic.
        freeze: layers whose weights and BatchNorm statistics stay, as YOLOv5's `--freeze`: a number
            of layers from the first, or their indices.
        ema: whether to keep a moving average of parameters and statistics, which starts as a copy.
        precision: element type of the network, forward and backward, in training. Parameters,
            optimizer, BatchNorm and loss stay float32; so does evaluation. Half precision is for
            GPUs: few CPU kernels exist. A float16 step whose gradients overflow is skipped.
        head: evaluation of the head, everywhere ("dense") or where the loss looks ("sparse"), the
            same mathematics; "auto" takes the faster for these sizes. Evaluation is dense.
        provider: "gpu" for graphs without a scatter that reduces, as `export_loss` has them:
            TensorRT takes them, and every run gives the same bits. "any" is faster on a CPU.
        names: nc class names; default the class numbers.
        exist_ok: whether to replace an artifacts folder that is there.

    Returns:
        What was written to `manifest.json`.

    Raises:
        ExportError: the step would not train as torch does, or the model has an ATen operator
            without a translation; the message names it and its module.
        ArtifactError: the folder is in use or cannot be written.
    """
    with new_folder(folder, exist_ok=exist_ok) as temporary:
        detector = prepare(
            model,
            loss.as_pairwise() if provider == "gpu" else loss,
            image_size=image_size,
            batch_size=batch_size,
            max_targets=max_targets,
            frozen=freeze,
            head=head,
        )
        step = Step(detector, optimizer, ema=ema, precision=precision)
        manifest = describe(
            detector,
            kind="train-step",
            optimizer=optimizer,
            names=names,
            model_name=model,
            ema=ema,
            precision=precision,
            provider=provider,
            layout=StateLayout(
                parameters=step.parameters,
                statistics=step.statistics,
                optimizer_state=OPTIMIZERS[step.optimizer].state_names,
            ),
        )
        graphs = {
            "train_step": (step.train, step.train_example()),
            "eval_step": (step.evaluate, step.evaluation_example()),
        }
        written = {
            name: to_onnx(
                function,
                example,
                modules=step.modules,
                name=name,
                repeatable=provider != "gpu",  # which has no threads
                provider=provider,
            )
            for name, (function, example) in graphs.items()
        }
        if hasattr(detector.model, "decode"):
            written["inference"] = inference_graph(
                step.infer, step.inference_example(), modules=step.modules
            )
        newest = 0  # where the network computes in bfloat16, its graph needs a newer opset
        for name, graph in written.items():
            graph.metadata_props.update(graph_metadata(manifest))
            newest = max(newest, graph.opset_imports[""])
            ir.save(graph, temporary / f"{name}.onnx")
        save_state(
            temporary / "state.safetensors",
            _initial_state(step, manifest.averaged),
            manifest=manifest,
        )
        return write_artifact(temporary, dataclasses.replace(manifest, opset=newest))


def _initial_state(step: Step, averaged: Sequence[str]) -> TrainState:
    detector: Detector = step.detector
    tensors = {
        **dict(detector.model.named_parameters()),
        **{k: v for k, v in detector.model.named_buffers() if k in detector.buffers},
    }
    model = {name: tensor.detach().numpy() for name, tensor in tensors.items()}
    state = step.state
    kept = {
        name: unflatten(step.parameters, state[f"optimizer_{name}"])
        for name in OPTIMIZERS[step.optimizer].state_names
    }
    return TrainState(
        model=model,
        optimizer={
            name: {parameter: tensor.numpy() for parameter, tensor in entries.items()}
            for name, entries in kept.items()
        },
        balance=detector.loss.initial_balance.numpy(),
        updates=0,
        ema={name: model[name] for name in averaged},
    )
