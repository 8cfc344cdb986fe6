"""YOLOv5's three optimizer groups."""

import pytest
import torch
from torch import nn

from exportloss.models import YoloV5, freeze, parameter_groups, yolov5


def on_meta(name: str, num_classes: int = 80) -> YoloV5:
    with torch.device("meta"):
        return yolov5(name, num_classes)


class TestParameterGroups:
    @pytest.mark.parametrize(("name", "sizes"), [("n", (60, 57, 60)), ("n6", (79, 75, 79))])
    def test_partitions_all_parameters(self, name: str, sizes: tuple[int, int, int]) -> None:
        model = on_meta(name)
        groups = parameter_groups(model)
        names = [*groups.weights, *groups.norms, *groups.biases]
        assert len(names) == len(set(names))
        assert set(names) == {key for key, _ in model.named_parameters()}
        assert all(model.get_parameter(key).dim() == 4 for key in groups.weights)
        assert all(key.endswith(".bn.weight") for key in groups.norms)
        assert all(key.endswith(".bias") for key in groups.biases)
        assert (len(groups.weights), len(groups.norms), len(groups.biases)) == sizes

    def test_leaves_out_what_is_frozen(self) -> None:
        model = on_meta("n")
        everything = parameter_groups(model)
        freeze(model, 10)
        kept = parameter_groups(model)

        def from_layer_10(names: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(name for name in names if int(name.split(".")[1]) >= 10)

        assert kept.weights == from_layer_10(everything.weights)
        assert kept.norms == from_layer_10(everything.norms)
        assert kept.biases == from_layer_10(everything.biases)

    def test_sorts_any_module(self) -> None:
        model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2), nn.PReLU(), nn.GroupNorm(1, 2))
        groups = parameter_groups(model)
        assert groups.weights == ("0.weight", "2.weight")
        assert groups.norms == ("1.weight", "3.weight")
        assert groups.biases == ("0.bias", "1.bias", "3.bias")

    def test_takes_a_single_layer(self) -> None:
        groups = parameter_groups(nn.BatchNorm2d(3))
        assert (groups.weights, groups.norms, groups.biases) == ((), ("weight",), ("bias",))

    def test_lists_a_shared_parameter_once(self) -> None:
        first, second = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
        second.weight = first.weight
        assert parameter_groups(nn.Sequential(first, second)).weights == ("0.weight",)
