"""Export of the portable step: a whole training step as one graph of standard operators."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import onnx_ir as ir
from torch import nn

from exportloss.errors import ExportError
from exportloss.export.aten.forms import FORMS, Forms
from exportloss.export.aten.to_onnx import to_onnx
from exportloss.export.detector.describe import describe, graph_metadata
from exportloss.export.detector.head_choice import HeadChoice
from exportloss.export.detector.inference_graph import inference_graph
from exportloss.export.detector.wrapper import TrainableDetector, prepare
from exportloss.export.step.features import cut_features
from exportloss.export.step.flat_state import unflatten
from exportloss.export.step.functions import Step
from exportloss.export.step.order import order
from exportloss.export.step.recompute import recompute
from exportloss.loss.protocol import DetectionLoss
from exportloss.runtime.artifact.flat_layout import StateLayout
from exportloss.runtime.artifact.folder import new_folder, write_artifact
from exportloss.runtime.artifact.manifest import Manifest, OptimizerName, Precision, StepProvider
from exportloss.runtime.artifact.state import TrainState, save_state
from exportloss.runtime.optimizers.table import OPTIMIZERS

__all__ = ["export_train_step"]

# Targets for which a step computes activations again unasked, which takes them no longer.
_SAVING: Sequence[StepProvider] = ("any", "cpu")


def export_train_step(
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
    precision: Precision = "float32",
    head: HeadChoice = "auto",
    provider: StepProvider = "any",
    memory: float | None = None,
    tell: Callable[[str], object] | None = None,
    features: bool = False,
    names: Sequence[str] | None = None,
    exist_ok: bool = False,
) -> Manifest:
    """Write a folder whose graphs train in any ONNX runtime, without a training build or torch.

    `train_step.onnx` holds forward pass, loss with target building, backward pass and optimizer, in
    operators of the `ai.onnx` domain and without dynamic dimensions. P is the number of trainable
    parameters, S that of trained BatchNorm statistics.

    | input | shape | meaning |
    |---|---|---|
    | `images` | (B, 3, H, W) | uint8, RGB, 0 to 255 |
    | `targets` | (max_targets, 6) | target rows, from `exportloss.pad_targets` |
    | `learning_rates` | (3,) | rates of weights, norms and biases |
    | `momentum` | () | momentum, or the first beta of Adam and AdamW |
    | `weight_decay` | () | decay of the weights |
    | `max_norm` | () | L2 norm to which larger gradients are scaled down; infinity for none |
    | `ema_decay` | () | with `ema`: fraction of the moving average that an update keeps |
    | `loss_scale` | () | with float16: factor of the loss; gradients are divided by it |
    | `update` | () | bool; false only adds to `gradients`, without an update |
    | `parameters` | (P,) | flat; `layout` in the manifest gives names and shapes |
    | `statistics` | (S,) | flat; absent if no BatchNorm is trained |
    | `ema_parameters` | (P,) | with `ema`: moving average of `parameters` |
    | `ema_statistics` | (S,) | with `ema`: moving average of `statistics` |
    | `balance` | (nl,) | YOLOv5's loss: objectness weights of the levels |
    | `updates` | () | float, number of updates so far |
    | `gradients` | (P,) | sum of gradients since the last update |
    | `optimizer_...` | (P,) | optimizer state, such as `optimizer_momentum` of SGD |

    Outputs are `loss` (), its terms `items` (3,), `skipped` () bool and the new state,
    `new_parameters` and so on, which are inputs of the next step. If the loss, the L2 norm of the
    summed gradients, a new statistic, a target or a setting is not finite, or `max_norm` is not
    above 0, `skipped` is true and the new state equals the old one bit for bit. An update moves the
    averages: ema += (1 - ema_decay) * (value - ema). YOLOv5's decay is
    `exportloss.runtime.optimizers.ema.decay_after`.

    `apply_step.onnx` is the update alone, for gradients that were summed over several sessions: it
    takes the settings and the state, without `images`, `targets`, `loss_scale`, `update` and the
    state of the loss (and without `statistics` unless there is an average of them), and returns
    `skipped` and the new state, bit for bit what `train_step.onnx` makes of the same sum.

    `eval_step.onnx` takes `images`, `targets`, `parameters`, `statistics` and `balance` (the state
    of the loss, if it has one) and returns `loss`, `items` and, if the model has a `decode`,
    `output0`. In that case there is also `inference.onnx`, the detector alone: from `images` as
    floats in [0, 1], `parameters` and `statistics` it computes `output0`, for any number of images
    if only shapes in the model depend on it. Both also accept the moving averages as `parameters`
    and `statistics`. `state.safetensors` holds the model's tensors under their own names.

    Args:
        model: Detector; forward takes (B, 3, H, W) in [0, 1] and returns one raw map per level. It
            is copied, not changed. Frozen parameters (`requires_grad=False`) become constants of
            the graph.
        loss: Loss to train with.
        folder: Folder to write; complete or absent afterwards.
        image_size: Height and width of the images in pixels.
        batch_size: Images per batch, >= 1.
        max_targets: Maximum number of target rows per batch, >= 1.
        optimizer: Update rule in the graph, with torch's arithmetic.
        freeze: Layers whose weights and BatchNorm statistics stay unchanged, as with YOLOv5's
            `--freeze`: a number of layers from the first, or their indices.
        update: Parameters to train of the layers that are not frozen: "all"; "bias" for biases;
            "norm" for biases and the scales of normalisation layers; "last-K" for the last K
            layers; or patterns of names, such as `model.24.*`. No gradients of the others are
            computed. See `exportloss.models.train_only`, also on BatchNorm's statistics.
        ema: Whether to keep a moving average of parameters and statistics, which starts as a copy.
        precision: Element type of the network in training, forward and backward. Parameters,
            optimizer, BatchNorm and loss stay float32, as does evaluation. Half precision is meant
            for GPUs: few CPU kernels exist. A float16 step whose gradients overflow is skipped.
        head: Form of evaluating the head in training: in all cells ("dense"), only in those the
            loss needs ("sparse"), with equal results, or the faster for these sizes ("auto").
            `eval_step.onnx` is always dense.
        provider: Target of the graphs, see docs/benchmarks.md for how fast each is: "any" runtime;
            "cpu" for ONNX Runtime's CPU provider alone; "openvino", for graphs that others run as
            well; or "gpu" for graphs without a reducing scatter, as in `export_loss`, which
            TensorRT accepts and which give the same bits in every run.
        memory: Megabytes (10^6 bytes) of activations that a step may keep from the forward for the
            backward pass; what does not fit and is cheap (BatchNorm, activations, joins) is
            computed again. None keeps as little as possible for "any" and "cpu", where that takes
            no longer, and everything otherwise. Weights and state come on top.
        tell: Function called with the plan of `memory` as text.
        features: Whether to write the frozen layers as a graph of their own, `features.onnx`, and
            `train_features.onnx`, a step from what they compute: for `TrainSession.features`.
        names: Class names, nc of them; default the class numbers.
        exist_ok: Whether to replace an existing artifacts folder.

    Returns:
        The manifest as written to `manifest.json`.

    Raises:
        ExportError: the step would not train as torch does, `memory` is no number above 0 or too
            little, or the model has an ATen operator without a translation; the message names it
            and its module.
        ArtifactError: the folder is in use or cannot be written.
    """
    if memory is not None and not 0 < memory < math.inf:
        raise ExportError(
            f"memory is {memory:g}; expected megabytes above 0, or None for no budget"
        )
    with new_folder(folder, exist_ok=exist_ok) as temporary:
        detector = prepare(
            model,
            loss.as_pairwise() if provider == "gpu" else loss,
            image_size=image_size,
            batch_size=batch_size,
            max_targets=max_targets,
            frozen=freeze,
            update=update,
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
        # Half precision is for GPUs.
        forms = FORMS[provider] if precision == "float32" else Forms()
        graphs = {
            "train_step": (step.train, step.train_example()),
            "apply_step": (step.apply, step.apply_example()),
            "eval_step": (step.evaluate, step.evaluation_example()),
        }
        written = {
            name: to_onnx(
                function,
                example,
                modules=step.modules,
                name=name,
                repeatable=provider != "gpu",  # thread counts matter on a CPU only
                provider=provider,
                forms=Forms() if name == "eval_step" else forms,
            )
            for name, (function, example) in graphs.items()
        }
        if features:
            written["features"], written["train_features"] = cut_features(written["train_step"])
        if memory is not None or (provider in _SAVING and precision == "float32"):
            budget = None if memory is None else int(memory * 1e6)
            for name in ("train_step", *(["train_features"] if features else [])):
                plan = recompute(written[name], budget)
                order(written[name])
                if budget is not None and tell is not None:
                    tell(f"{name}: {plan.about}")
        if hasattr(detector.model, "decode"):
            written["inference"] = inference_graph(
                step.infer, step.inference_example(), modules=step.modules
            )
        newest = 0  # opset; a network in bfloat16 needs a newer one
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
    detector: TrainableDetector = step.detector
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
        loss={name: tensor.numpy() for name, tensor in detector.loss.initial_state.items()},
        updates=0,
        ema={name: model[name] for name in averaged},
    )
