"""A detector of YOLOv8's shape and width trains in both artifacts as in eager torch, in float64."""

from __future__ import annotations

import pytest
import torch

from tests.support.wide_anchor_free import RATE, make_wide, verify_wide


def test_it_has_the_size_of_the_smallest_of_the_family():
    """YOLOv8n has 3.157 million parameters and 8,400 cells at 640 pixels."""
    model = make_wide().eval()
    assert sum(parameter.numel() for parameter in model.parameters()) == 3_157_184
    with torch.no_grad():
        levels = model(torch.zeros(1, 3, 64, 64))
        boxes = model.decode(levels)
    assert [tuple(level.shape) for level in levels] == [(1, 144, n, n) for n in (8, 4, 2)]
    assert boxes.shape == (1, 84, 85) and torch.isfinite(boxes).all()


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_both_artifacts_train_as_eager_torch_does(optimizer, tmp_path, request):
    if not request.config.getoption("anchor_free_long"):
        pytest.skip("a minute; pass --anchor-free-long")
    for found in verify_wide(
        tmp_path, make_wide(), optimizer=optimizer, image=160, batch=4, steps=5, lr=RATE
    ):
        assert found.broken == ()
        assert all(term.value > 0 for term in found.worst.terms.values())  # not with itself
