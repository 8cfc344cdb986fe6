"""Run graphs of standard operators, among them the loss with its gradients."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
import onnxruntime

from exportloss import YoloLoss, pad_targets
from exportloss.export.loss_gradients import loss_with_gradients
from tests.golden_cases import GoldenCase, StepResult


def open_session(model: ir.Model, *, threads: int = 1) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    serialized = ir.to_proto(model).SerializeToString()
    return onnxruntime.InferenceSession(serialized, options, providers=["CPUExecutionProvider"])


def portable_loss(case: GoldenCase) -> ir.Model:
    loss = YoloLoss(case.anchors_px, case.strides, case.num_classes, case.config)
    shapes = [level.shape for level in case.steps[0].predictions]
    return loss_with_gradients(loss, shapes, max_targets=case.max_rows + 10)


def run_portable(
    case: GoldenCase, *, threads: int = 1, model: ir.Model | None = None
) -> Iterator[StepResult]:
    """Run a golden case, on a graph that was made for it before or on a new one."""
    session = open_session(model or portable_loss(case), threads=threads)
    names = [output.name for output in session.get_outputs()]
    balance = YoloLoss(case.anchors_px, case.strides, case.num_classes).initial_balance.numpy()
    for step in case.steps:
        targets = pad_targets(
            step.targets,
            case.max_rows + 10,
            batch_size=case.batch_size,
            num_classes=case.num_classes,
        )
        feed = {f"predictions_{i}": level for i, level in enumerate(step.predictions)}
        feed |= {"targets": targets, "balance": balance}
        values = dict(zip(names, session.run(names, feed), strict=True))
        balance = values["new_balance"]
        yield StepResult(
            loss=float(values["loss"]),
            items=values["items"],
            gradients=tuple(values[f"gradient_{i}"] for i in range(case.num_levels)),
            balance=np.asarray(balance),
        )
