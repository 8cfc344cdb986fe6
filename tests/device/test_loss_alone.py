"""The loss alone on a plain onnxruntime: torch's values and gradients, without torch."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load_file

from exportloss.runtime import LossSession


@pytest.mark.parametrize(("rows", "slots"), [(0, 4), (4, 4), (5, 16), (12, 16)])
def test_loss_and_gradients_are_torchs(device, batches, rows, slots):
    session = LossSession.open(device / "loss", threads=1)
    expected = load_file(device / "loss-expected.safetensors")
    inputs = {name: expected[name] for name in session.input_shapes}
    _, targets = batches[0]
    result = session.compute(inputs, targets[:rows])
    assert result.slots == slots
    assert result.loss == pytest.approx(expected[f"{rows}/loss"].item(), rel=1e-6)
    items = (result.items.box, result.items.objectness, result.items.category)
    assert items == pytest.approx(expected[f"{rows}/items"].tolist(), rel=1e-6)
    assert result.gradients.keys() == {"gradient_0", "gradient_1", "gradient_2"}
    for name, value in result.gradients.items():
        gradient = expected[f"{rows}/{name}"]
        error = np.linalg.norm(value.numpy() - gradient)
        assert error <= 1e-6 * np.linalg.norm(gradient), name
