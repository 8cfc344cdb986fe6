"""The detectors: their parts, names, shapes, initialisation and errors."""

import math

import pytest
import torch
from torch import Tensor, nn

from exportloss.errors import ConfigError
from exportloss.models import YoloV5, yolov5
from tests.support.messages import mentions

P5_NAMES = ["yolov5n", "yolov5s", "yolov5m", "yolov5l", "yolov5x"]
P6_NAMES = [f"{name}6" for name in P5_NAMES]

# At 80 classes; P6 is published with each BatchNorm folded into its convolution.
PARAMETERS = {
    "yolov5n": 1_872_157,
    "yolov5s": 7_235_389,
    "yolov5m": 21_190_557,
    "yolov5l": 46_563_709,
    "yolov5x": 86_749_405,
}
FUSED_PARAMETERS = {
    "yolov5n6": 3_239_884,
    "yolov5s6": 12_612_508,
    "yolov5m6": 35_704_908,
    "yolov5l6": 76_726_332,
    "yolov5x6": 140_730_220,
}


@pytest.fixture(autouse=True)
def _repeatable() -> None:
    torch.manual_seed(0)


def on_meta(name: str, num_classes: int = 80) -> YoloV5:
    with torch.device("meta"):
        return yolov5(name, num_classes)


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


class TestArchitecture:
    @pytest.mark.parametrize(("name", "expected"), PARAMETERS.items())
    def test_p5_has_the_published_number_of_parameters(self, name: str, expected: int) -> None:
        assert count(on_meta(name)) == expected

    @pytest.mark.parametrize(("name", "expected"), FUSED_PARAMETERS.items())
    def test_p6_has_the_published_number_of_parameters(self, name: str, expected: int) -> None:
        model = on_meta(name)
        # Folding trades a scale and a shift a channel for one bias.
        folded = sum(m.num_features for m in model.modules() if isinstance(m, nn.BatchNorm2d))
        assert count(model) - folded == expected

    @pytest.mark.parametrize(
        ("name", "shapes"),
        [
            (
                "yolov5n",
                {
                    "model.0.conv.weight": (16, 3, 6, 6),
                    "model.0.bn.weight": (16,),
                    "model.0.bn.running_var": (16,),
                    "model.0.bn.num_batches_tracked": (),
                    "model.2.cv1.conv.weight": (16, 32, 1, 1),
                    "model.2.cv2.conv.weight": (16, 32, 1, 1),
                    "model.2.cv3.conv.weight": (32, 32, 1, 1),
                    "model.2.m.0.cv2.conv.weight": (16, 16, 3, 3),
                    "model.4.m.1.cv1.conv.weight": (32, 32, 1, 1),
                    "model.6.m.2.cv1.bn.bias": (64,),
                    "model.9.cv1.conv.weight": (128, 256, 1, 1),
                    "model.9.cv2.conv.weight": (256, 512, 1, 1),
                    "model.10.conv.weight": (128, 256, 1, 1),
                    "model.13.cv1.conv.weight": (64, 256, 1, 1),
                    "model.14.conv.weight": (64, 128, 1, 1),
                    "model.17.cv1.conv.weight": (32, 128, 1, 1),
                    "model.18.conv.weight": (64, 64, 3, 3),
                    "model.20.cv1.conv.weight": (64, 128, 1, 1),
                    "model.23.cv3.conv.weight": (256, 256, 1, 1),
                    "model.24.anchors": (3, 3, 2),
                    "model.24.m.0.weight": (255, 64, 1, 1),
                    "model.24.m.1.weight": (255, 128, 1, 1),
                    "model.24.m.2.bias": (255,),
                },
            ),
            (
                "yolov5n6",
                {
                    "model.0.conv.weight": (16, 3, 6, 6),
                    "model.7.conv.weight": (192, 128, 3, 3),
                    "model.8.cv1.conv.weight": (96, 192, 1, 1),
                    "model.11.cv2.conv.weight": (256, 512, 1, 1),
                    "model.12.conv.weight": (192, 256, 1, 1),
                    "model.15.cv1.conv.weight": (96, 384, 1, 1),
                    "model.20.conv.weight": (64, 128, 1, 1),
                    "model.30.conv.weight": (192, 192, 3, 3),
                    "model.32.cv1.conv.weight": (128, 384, 1, 1),
                    "model.33.anchors": (4, 3, 2),
                    "model.33.m.0.weight": (255, 64, 1, 1),
                    "model.33.m.3.weight": (255, 256, 1, 1),
                },
            ),
        ],
    )
    def test_state_dict_has_yolov5s_names_and_shapes(
        self, name: str, shapes: dict[str, tuple[int, ...]]
    ) -> None:
        state = on_meta(name).state_dict()
        assert {key: tuple(state[key].shape) for key in shapes} == shapes

    @pytest.mark.parametrize(("name", "tensors"), [("yolov5n", 349), ("yolov5n6", 459)])
    def test_state_dict_holds_nothing_else(self, name: str, tensors: int) -> None:
        state = on_meta(name).state_dict()
        norms = sum(key.endswith("num_batches_tracked") for key in state)
        levels = on_meta(name).detect.nl
        # A convolution and five BatchNorm tensors each; weight and bias a level; the anchors.
        assert len(state) == 6 * norms + 2 * levels + 1 == tensors

    def test_depth_follows_the_size(self) -> None:
        models = {name: on_meta(name) for name in P5_NAMES}
        repeats = {
            name: [len(list(model.model[i].m.children())) for i in (2, 4, 6, 8, 13)]
            for name, model in models.items()
        }
        assert repeats == {
            "yolov5n": [1, 2, 3, 1, 1],
            "yolov5s": [1, 2, 3, 1, 1],
            "yolov5m": [2, 4, 6, 2, 2],
            "yolov5l": [3, 6, 9, 3, 3],
            "yolov5x": [4, 8, 12, 4, 4],
        }

    def test_only_the_backbone_has_residual_paths(self) -> None:
        model = on_meta("n")
        shortcuts = {
            index: model.get_submodule(f"model.{index}.m.0").shortcut
            for index in (2, 4, 6, 8, 13, 17, 20, 23)
        }
        assert shortcuts == {index: index < 10 for index in shortcuts}

    @pytest.mark.parametrize("name", ["n", "n6"])
    def test_norms_have_yolov5s_settings(self, name: str) -> None:
        norms = [m for m in on_meta(name).modules() if isinstance(m, nn.BatchNorm2d)]
        assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.03)}


class TestInterface:
    @pytest.mark.parametrize("name", [*P5_NAMES, *P6_NAMES])
    def test_long_and_short_names_agree(self, name: str) -> None:
        assert on_meta(name).name == on_meta(name.removeprefix("yolov5")).name == name

    @pytest.mark.parametrize(("name", "strides"), [("n", (8, 16, 32)), ("n6", (8, 16, 32, 64))])
    def test_head_tells_its_layout(self, name: str, strides: tuple[int, ...]) -> None:
        model = yolov5(name, 7)
        head = model.model[-1]
        assert model.detect is head
        assert model.strides == strides
        assert (head.nl, head.na, head.nc, head.no) == (len(strides), 3, 7, 12)
        assert model.num_classes == 7
        assert head.stride.tolist() == list(strides)
        assert not any(key.endswith("stride") for key in model.state_dict())
        assert torch.equal(model.anchors_px, head.anchors * head.stride[:, None, None])

    def test_default_anchors_are_yolov5s_in_cells(self) -> None:
        model = yolov5("n")
        assert model.state_dict()["model.24.anchors"][1, 2].tolist() == [59 / 16, 119 / 16]
        assert model.anchors_px[0].tolist() == [[10, 13], [16, 30], [33, 23]]
        assert yolov5("n6").anchors_px[3, 2].tolist() == [925, 792]

    def test_own_anchors_set_the_number_of_outputs(self) -> None:
        model = yolov5("n", 2, anchors=[[8, 8, 9, 7], [20, 20, 30, 31], [99, 98, 150, 200]])
        assert model.anchors_px[2].tolist() == [[99, 98], [150, 200]]
        assert [tuple(o.shape) for o in model(torch.rand(1, 3, 32, 64))] == [
            (1, 2, 4, 8, 7),
            (1, 2, 2, 4, 7),
            (1, 2, 1, 2, 7),
        ]

    @pytest.mark.parametrize("training", [True, False])
    @pytest.mark.parametrize("name", ["n", "n6"])
    def test_forward_returns_raw_levels_in_either_mode(self, name: str, training: bool) -> None:
        model = yolov5(name, 2).train(training)
        levels = model(torch.rand(2, 3, 64, 128))
        assert isinstance(levels, tuple)
        assert [tuple(level.shape) for level in levels] == [
            (2, 3, 64 // stride, 128 // stride, 7) for stride in model.strides
        ]
        assert min(level.min().item() for level in levels) < 0  # logits

    def test_level_maps_are_the_convolutions_outputs(self) -> None:
        head = yolov5("n", 2).detect
        features = [torch.rand(2, conv.in_channels, 2, 4) for conv in head.m]
        for conv, x, level in zip(head.m, features, head(*features), strict=True):
            channels = conv(x)  # anchor-major: the 7 outputs of anchor 0, then of anchor 1, ...
            assert torch.equal(level[1, 2, 1, 3], channels[1, 14:21, 1, 3])

    @pytest.mark.parametrize("name", ["n", "n6"])
    def test_state_dict_round_trips_strictly(self, name: str) -> None:
        first, second = yolov5(name, 2).eval(), yolov5(name, 2).eval()
        images = torch.rand(1, 3, 64, 64)
        second.load_state_dict(first.state_dict(), strict=True)
        for a, b in zip(first(images), second(images), strict=True):
            assert torch.equal(a, b)

    def test_a_seed_repeats_the_weights(self) -> None:
        torch.manual_seed(3)
        first = yolov5("n", 1).state_dict()
        torch.manual_seed(3)
        second = yolov5("n", 1).state_dict()
        assert all(torch.equal(first[key], second[key]) for key in first)


class TestInitialBiases:
    @pytest.mark.parametrize("num_classes", [1, 2, 80])
    @pytest.mark.parametrize("name", ["n", "n6"])
    def test_biases_are_torchs_plus_the_priors(self, name: str, num_classes: int) -> None:
        model = yolov5(name, num_classes)
        for conv, stride in zip(model.detect.m, model.strides, strict=True):
            prior = torch.zeros(3, 5 + num_classes)
            prior[:, 4] = math.log(8 / (640 / stride) ** 2)
            prior[:, 5:] = math.log(0.6 / (num_classes - 0.99999))
            rest = conv.bias.detach().view(3, -1) - prior
            bound = conv.in_channels**-0.5  # torch's own: uniform in +- 1 / sqrt(fan in)
            assert rest.abs().max() <= bound + 1e-5
            assert rest.std() > bound / 4
            assert conv.bias.requires_grad


class TestErrors:
    @pytest.mark.parametrize("name", ["yolov5", "yolov8n", "", "N", "n7", "yolov5yolov5n"])
    def test_an_unknown_name_lists_the_names(self, name: str) -> None:
        with pytest.raises(ConfigError) as error:
            yolov5(name)
        assert all(known in str(error.value) for known in [repr(name), *P5_NAMES, *P6_NAMES])

    @pytest.mark.parametrize("num_classes", [0, -1, 2.0, "3", True])
    def test_number_of_classes_is_checked(self, num_classes: object) -> None:
        with pytest.raises(ConfigError, match=mentions("num_classes", repr(num_classes), ">= 1")):
            yolov5("n", num_classes)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("anchors", "told"),
        [
            ([[8, 8], [20, 20]], ("2 levels", "3 levels")),
            ([[8, 8], [20, 20], [99, 99, 1, 1]], ([2, 2, 4],)),
            ([[8], [20], [99]], ([1, 1, 1], "pairs")),
            ([[], [], []], ([0, 0, 0], "pairs")),
            ([[8, 8], [20, 0], [99, 99]], ("> 0",)),
            ([[8, 8], [20, -3], [99, 99]], (-3, "> 0")),
            ([[8, 8], [20, math.nan], [99, 99]], (math.nan,)),
            ([[99, 99], [20, 20], [8, 8]], ("reverse",)),
        ],
    )
    def test_anchors_are_checked(
        self, anchors: list[list[float]], told: tuple[object, ...]
    ) -> None:
        with pytest.raises(ConfigError, match=mentions("anchors", *told)):
            yolov5("n", anchors=anchors)

    @pytest.mark.parametrize(
        ("name", "size", "multiple"),
        [("n", (32, 40), 32), ("n", (33, 32), 32), ("n6", (64, 96), 64)],
    )
    def test_image_size_is_checked(self, name: str, size: tuple[int, int], multiple: int) -> None:
        told = mentions("{} x {}".format(*size), f"yolov5{name}", f"multiples of {multiple}")
        with pytest.raises(ConfigError, match=told):
            on_meta(name)(torch.empty(1, 3, *size, device="meta"))

    @pytest.mark.parametrize(
        "images",
        [
            torch.zeros(3, 32, 32),
            torch.zeros(1, 1, 32, 32),
            torch.zeros(1, 3, 32, 32, dtype=torch.uint8),
        ],
    )
    def test_image_layout_is_checked(self, images: Tensor) -> None:
        with pytest.raises(
            ConfigError, match=mentions("[0, 1]", tuple(images.shape), images.dtype)
        ):
            on_meta("n")(images)
