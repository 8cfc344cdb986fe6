"""The anchor-free loss through ONNX Runtime's gradient builder, against golden values."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnxruntime.training import artifacts
from onnxruntime.training.api import CheckpointState, Module
from torch import nn

from exportloss.export.torch_export import Signature, trace_to_onnx
from tests.support.task_aligned_cases import TaskAlignedGolden

# Of equal maps all boxes are squares, at which maxima have no derivative.
_USUAL = ("ties_zero_maps",)


class MapsAsParameters(nn.Module):
    """A detector and its loss, whose parameters are the maps: their gradients are the maps'."""

    def __init__(self, case: TaskAlignedGolden) -> None:
        super().__init__()
        self.levels = nn.ParameterList([torch.from_numpy(level) for level in case.maps])
        self.loss = case.graph.make_loss()

    def forward(self, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        result = self.loss(tuple(self.levels), targets)
        return result.loss, result.terms


def test_gradients_are_those_of_the_original(anchor_free_case, tmp_path, request):
    case = anchor_free_case
    if case.name not in _USUAL and not request.config.getoption("anchor_free_long"):
        pytest.skip("ten seconds a case; pass --anchor-free-long")
    names = [f"levels.{i}" for i in range(len(case.maps))]
    graph = trace_to_onnx(
        MapsAsParameters(case),
        (torch.from_numpy(case.padded()),),
        Signature(inputs=("targets",), outputs=("loss", "items")),
        state={name: name for name in names},
        differentiable=True,
    )
    artifacts.generate_artifacts(
        ir.to_proto(graph),
        requires_grad=names,
        optimizer=artifacts.OptimType.SGD,
        artifact_directory=str(tmp_path),
    )
    state = CheckpointState.load_checkpoint(str(tmp_path / "checkpoint"))
    training = Module(str(tmp_path / "training_model.onnx"), state)
    training.train()
    loss = training(case.padded())[0]
    assert float(np.ravel(loss)[0]) == pytest.approx(case.wanted.loss, rel=1e-5)
    for parameter, want in zip(names, case.wanted.gradients, strict=True):
        got = state.parameters[parameter].grad.reshape(want.shape)
        assert np.linalg.norm(got - want) <= 1e-4 * np.linalg.norm(want)
