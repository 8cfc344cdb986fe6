"""The detectors of YOLOv5 v5.0: layers, checkpoints, inference; test_step_parity trains one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from exportloss.cli.export.weights import is_file_name
from exportloss.errors import ArtifactError, ConfigError
from exportloss.export import export_inference
from exportloss.models import YoloV5, freeze, parameter_groups, read_checkpoint, transfer, yolov5
from exportloss.models.layers import SPP, Focus
from tests.support.yolov5_files import save_checkpoint, yaml_of

NAMES = ("cat", "dog", "bird")
# At 80 classes, in millions, each BatchNorm folded into its convolution: as published.
MILLIONS = {
    "yolov5s-v5.0": 7.3,
    "yolov5m-v5.0": 21.4,
    "yolov5l-v5.0": 47.0,
    "yolov5x-v5.0": 87.7,
    "yolov5s6-v5.0": 12.7,
    "yolov5m6-v5.0": 35.9,
    "yolov5l6-v5.0": 77.2,
    "yolov5x6-v5.0": 141.8,
}


def on_meta(name: str, num_classes: int = 80) -> YoloV5:
    with torch.device("meta"):
        return yolov5(name, num_classes)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def detector(name: str = "yolov5s-v5.0") -> YoloV5:
    """A detector whose tensors are exact in float16, with statistics of their own."""
    torch.manual_seed(0)
    model = yolov5(name, len(NAMES))
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.5, 2)
    return model.half().float()


@pytest.fixture(scope="module")
def model() -> YoloV5:
    return detector()


class TestArchitecture:
    @pytest.mark.parametrize(("name", "millions"), MILLIONS.items())
    def test_it_has_the_published_number_of_parameters(self, name: str, millions: float) -> None:
        model = on_meta(name)
        folded = sum(m.num_features for m in model.modules() if isinstance(m, nn.BatchNorm2d))
        assert round((count(model) - folded) / 1e6, 1) == millions
        assert on_meta(name.removeprefix("yolov5")).name == model.name == name

    def test_layers_have_the_numbers_of_parameters_that_its_training_prints(self) -> None:
        assert count(on_meta("s-v5.0")) == 7_276_605
        backbone = [count(layer) for layer in on_meta("m-v5.0").model][:11]
        assert backbone == [
            *(5280, 41664, 65280, 166272, 629760, 664320, 2512896, 2655744),
            *(1476864, 4134912, 295680),
        ]

    @pytest.mark.parametrize(
        ("name", "pooling", "kernels"), [("s", 8, (5, 9, 13)), ("s6", 10, (3, 5, 7))]
    )
    def test_pooling_precedes_the_last_stage(
        self, name: str, pooling: int, kernels: tuple[int, ...]
    ) -> None:
        old, new = on_meta(f"{name}-v5.0"), on_meta(name)
        assert old.get_submodule(f"model.{pooling}").kernels == kernels
        assert old.get_submodule(f"model.{pooling + 1}").shortcut is False
        assert old.sources == new.sources
        head = [key for key in new.state_dict() if int(key.split(".")[1]) > pooling + 1]
        assert head == [key for key in old.state_dict() if int(key.split(".")[1]) > pooling + 1]
        assert torch.equal(yolov5(f"{name}-v5.0", 1).anchors_px, yolov5(name, 1).anchors_px)

    def test_names(self) -> None:
        state = on_meta("s-v5.0").state_dict()
        assert len(state) == 361
        expected = {
            "model.0.conv.conv.weight": (32, 12, 3, 3),
            "model.0.conv.bn.running_var": (32,),
            "model.4.m.2.cv1.conv.weight": (64, 64, 1, 1),
            "model.8.cv1.conv.weight": (256, 512, 1, 1),
            "model.8.cv2.conv.weight": (512, 1024, 1, 1),
            "model.9.cv3.conv.weight": (512, 512, 1, 1),
        }
        assert {key: tuple(state[key].shape) for key in expected} == expected

    def test_there_is_no_n(self) -> None:
        with pytest.raises(ConfigError, match=r"no model 'n-v5.0'; .*yolov5s-v5\.0, .*x6-v5\.0"):
            yolov5("n-v5.0")

    def test_its_name_is_no_files(self) -> None:
        assert not is_file_name("yolov5s-v5.0")
        assert all(map(is_file_name, ["yolov5s-v5.0.pt", "runs/yolov5s-v5.0", "best.v5.pt"]))

    def test_groups_are_as_many_as_its_training_prints(self) -> None:
        groups = parameter_groups(on_meta("s-v5.0"))
        assert (len(groups.biases), len(groups.weights), len(groups.norms)) == (62, 62, 59)

    def test_ten_layers_are_the_backbone(self) -> None:
        model = on_meta("s-v5.0")
        freeze(model, 10)
        trained = {int(name.split(".")[1]) for name in parameter_groups(model).weights}
        assert min(trained) == 10


class TestLayers:
    def test_focus_stacks_squares_column_by_column(self) -> None:
        focus = Focus(3, 8).eval()
        x = torch.rand(2, 3, 6, 10)
        stacked = torch.empty(2, 12, 3, 5)
        for block, (row, column) in enumerate([(0, 0), (1, 0), (0, 1), (1, 1)]):
            for i in range(3):
                for j in range(5):
                    pixel = x[:, :, 2 * i + row, 2 * j + column]
                    stacked[:, 3 * block : 3 * block + 3, i, j] = pixel
        assert torch.equal(focus(x), focus.conv(stacked))

    @pytest.mark.parametrize("kernels", [(5, 9, 13), (3, 5, 7)])
    def test_spp_joins_the_map_and_its_maxima(self, kernels: tuple[int, ...]) -> None:
        spp = SPP(4, 6, kernels).eval()
        x = torch.randn(2, 4, 3, 8)
        scales = [spp.cv1(x)]
        for kernel in kernels:
            pooled = torch.empty_like(scales[0])
            for i in range(3):
                for j in range(8):
                    rows = slice(max(0, i - kernel // 2), i + kernel // 2 + 1)
                    columns = slice(max(0, j - kernel // 2), j + kernel // 2 + 1)
                    pooled[:, :, i, j] = scales[0][:, :, rows, columns].amax((2, 3))
            scales.append(pooled)
        assert torch.equal(spp(x), spp.cv2(torch.cat(scales, 1)))


def counted(state: dict[str, torch.Tensor]) -> int:
    """How many tensors there are but for counters of batches and the anchors."""
    return sum(not name.endswith(("num_batches_tracked", ".anchors")) for name in state)


class TestCheckpoints:
    @pytest.mark.parametrize("name", ["yolov5s-v5.0", "yolov5s6-v5.0"])
    def test_the_state_dict_is_the_same_bit_for_bit(self, name: str, tmp_path: Path) -> None:
        model = detector(name)
        save_checkpoint(tmp_path / "a.pt", model, root="Model", names=list(NAMES))
        checkpoint = read_checkpoint(tmp_path / "a.pt")
        assert (checkpoint.model, checkpoint.num_classes) == (name, len(NAMES))
        assert checkpoint.classes["model.0"] == "Focus"
        assert checkpoint.anchors == tuple(map(tuple, model.anchors_px.flatten(1).tolist()))
        transferred = transfer(checkpoint)
        expected, state = model.state_dict(), transferred.model.state_dict()
        assert transferred.taken == transferred.total == counted(expected)
        assert state.keys() == expected.keys()
        for key, tensor in expected.items():
            assert torch.equal(state[key], tensor), key

    def test_a_state_dict_with_the_anchors_twice(self, model: YoloV5, tmp_path: Path) -> None:
        state = model.state_dict()
        state["model.24.anchor_grid"] = model.anchors_px.view(3, 1, 3, 1, 1, 2)
        torch.save(state, tmp_path / "a.pt")
        # Of three levels, weight and bias of the convolutions to other classes start anew.
        taken = transfer(read_checkpoint(tmp_path / "a.pt"), 5).taken
        assert taken == counted(model.state_dict()) - 6 == 295

    def test_another_pooling_is_refused(self, model: YoloV5, tmp_path: Path) -> None:
        yaml = yaml_of(model)
        yaml["backbone"][8][3] = [64, [3, 5, 7]]
        save_checkpoint(tmp_path / "a.pt", model, names=NAMES, yaml=yaml)
        with pytest.raises(ArtifactError, match=r"yolov5s-v5\.0: .* layer 8 is .*\(3, 5, 7\)"):
            transfer(read_checkpoint(tmp_path / "a.pt"))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"model.0.conv.conv.weight": torch.ones(16, 12, 3, 3)}, "first of 16 channels"),
            ({"model.2.cv4.conv.weight": torch.ones(1)}, r"yolov5s-v5\.0: .*'model\.2\.cv4"),
        ],
        ids=["width", "before-v4.0"],
    )
    def test_other_architectures_are_refused(
        self, model: YoloV5, tmp_path: Path, change: dict[str, Tensor], message: str
    ) -> None:
        torch.save({**model.state_dict(), **change}, tmp_path / "a.pt")
        with pytest.raises(ArtifactError, match=message):
            transfer(read_checkpoint(tmp_path / "a.pt"))


def test_the_boxes_of_an_inference_model_are_torchs(model: YoloV5, tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    export_inference(model, path, image_size=(64, 96), names=NAMES)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for batch in (1, 3):
        images = torch.rand(batch, 3, 64, 96)
        with torch.no_grad():
            expected = model.eval().decode(model(images)).numpy()
        (got,) = session.run(None, {"images": images.numpy()})
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-4)
