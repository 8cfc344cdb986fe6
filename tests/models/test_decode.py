"""Decoding raw maps to boxes, and tracing it."""

import math

import pytest
import torch
from torch import Tensor, nn

from exportloss.errors import ConfigError
from exportloss.models import YoloV5, yolov5


@pytest.fixture(autouse=True)
def _repeatable() -> None:
    torch.manual_seed(0)


def decoded_by_loop(model: YoloV5, levels: tuple[Tensor, ...]) -> Tensor:
    """Decode one box at a time, in python floats."""

    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    batch = []
    for image in range(levels[0].shape[0]):
        boxes = []
        for level, stride, anchors in zip(levels, model.strides, model.anchors_px, strict=True):
            for a, (anchor_w, anchor_h) in enumerate(anchors.tolist()):
                for row in range(level.shape[2]):
                    for column in range(level.shape[3]):
                        x, y, w, h, *scores = map(sigmoid, level[image, a, row, column].tolist())
                        boxes.append(
                            [
                                (2 * x - 0.5 + column) * stride,
                                (2 * y - 0.5 + row) * stride,
                                (2 * w) ** 2 * anchor_w,
                                (2 * h) ** 2 * anchor_h,
                                *scores,
                            ]
                        )
        batch.append(boxes)
    return torch.tensor(batch)


class TestDecode:
    @pytest.mark.parametrize("name", ["n", "n6"])
    def test_agrees_with_a_plain_loop(self, name: str) -> None:
        model = yolov5(name, 2)
        levels = tuple(torch.randn(2, 3, 128 // s, 64 // s, 7) * 2 for s in model.strides)
        decoded = model.decode(levels)
        assert decoded.shape == (2, sum(3 * 128 * 64 // s**2 for s in model.strides), 7)
        torch.testing.assert_close(decoded, decoded_by_loop(model, levels), rtol=1e-5, atol=1e-4)

    def test_follows_the_anchors_of_a_loaded_state(self) -> None:
        model = yolov5("n", 1)
        levels = tuple(torch.randn(1, 3, 32 // s, 32 // s, 6) for s in model.strides)
        before = model.decode(levels)
        state = model.state_dict()
        model.load_state_dict(state | {"model.24.anchors": state["model.24.anchors"] * 2})
        torch.testing.assert_close(model.decode(levels)[..., 2:4], before[..., 2:4] * 2)

    def test_number_of_levels_is_checked(self) -> None:
        model = yolov5("n", 1)
        levels = [torch.randn(1, 3, 32 // s, 32 // s, 6) for s in model.strides]
        with pytest.raises(ConfigError, match=r"got 2 levels.* 3 of yolov5n"):
            model.decode(levels[:2])


class TestExport:
    """Whole graphs are tested with the export; here only that tracing meets no obstacle."""

    def test_forward_traces(self) -> None:
        model, images = yolov5("n", 2).eval(), torch.rand(1, 3, 32, 64)
        program = torch.export.export(model, (images,), strict=False)
        torch.testing.assert_close(program.module()(images), model(images))

    @pytest.mark.parametrize("name", ["n", "n6"])
    def test_decode_traces_strictly(self, name: str) -> None:
        class Decoder(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.network = yolov5(name, 2)

            def forward(self, *levels: Tensor) -> Tensor:
                return self.network.decode(levels)

        decoder = Decoder()
        levels = tuple(torch.randn(1, 3, 128 // s, 64 // s, 7) for s in (8, 16, 32, 64))
        levels = levels[: decoder.network.detect.nl]
        program = torch.export.export(decoder, levels, strict=True)
        torch.testing.assert_close(program.module()(*levels), decoder(*levels))
