"""Frozen layers keep weights and statistics."""

import copy

import pytest
import torch
from torch import nn

from exportloss.errors import ConfigError
from exportloss.models import FrozenBatchNorm2d, YoloV5, freeze, yolov5
from tests.support.messages import mentions


@pytest.fixture(autouse=True)
def _repeatable() -> None:
    torch.manual_seed(0)


def on_meta(name: str, num_classes: int = 80) -> YoloV5:
    with torch.device("meta"):
        return yolov5(name, num_classes)


def one_step(model: nn.Module) -> None:
    """Run one step of SGD in training mode."""
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    torch.stack(
        [level.square().mean() for level in model(torch.rand(2, 3, 64, 64))]
    ).sum().backward()
    optimizer.step()


def with_random_statistics(model: YoloV5) -> YoloV5:
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.5, 2)
            nn.init.uniform_(norm.weight, 0.5, 2)
            nn.init.normal_(norm.bias)
    return model


class TestFreeze:
    @pytest.mark.parametrize(
        ("layers", "frozen"),
        [
            (10, set(range(10))),
            ([10], set(range(10))),
            ((0, 4, 24), {0, 4, 24}),
            (24, set(range(24))),
            (0, set()),
        ],
    )
    def test_a_step_leaves_frozen_layers_bit_identical(
        self, layers: int | list[int], frozen: set[int]
    ) -> None:
        model = with_random_statistics(yolov5("n", 2))
        freeze(model, layers)
        before = copy.deepcopy(model.state_dict())
        one_step(model)
        after = model.state_dict()
        unchanged = {key for key in before if torch.equal(before[key], after[key])}
        # Everything else moves, the anchors excepted: they are a constant of the head.
        assert unchanged == {
            key for key in before if int(key.split(".")[1]) in frozen or key.endswith("anchors")
        }

    def test_equals_batch_norm_in_evaluation(self) -> None:
        model = with_random_statistics(yolov5("n", 2)).eval()
        images = torch.rand(2, 3, 64, 64)
        expected = model(images)
        freeze(model, 10)
        for training in (False, True):
            model.model[:10].train(training)
            for level, wanted in zip(model(images), expected, strict=True):
                torch.testing.assert_close(level, wanted, rtol=1e-4, atol=1e-4)

    def test_frozen_norm_equals_batch_norm_in_evaluation(self) -> None:
        norm = nn.BatchNorm2d(8, eps=1e-3)
        for tensor in (norm.weight, norm.bias, norm.running_mean):
            nn.init.normal_(tensor)
        nn.init.uniform_(norm.running_var, 0.01, 4)
        x = torch.randn(2, 8, 3, 5)
        expected = norm.eval()(x)
        torch.testing.assert_close(FrozenBatchNorm2d(norm).train()(x), expected)

    def test_names_and_values_in_the_state_dict_stay(self) -> None:
        model = with_random_statistics(yolov5("n", 2))
        before = copy.deepcopy(model.state_dict())
        freeze(model, 10)
        after = model.state_dict()
        assert list(after) == list(before)
        assert all(torch.equal(after[key], before[key]) for key in before)
        yolov5("n", 2).load_state_dict(after, strict=True)
        model.load_state_dict(before, strict=True)

    def test_gradients_pass_through_a_frozen_layer(self) -> None:
        model = yolov5("n", 2)
        freeze(model, [1, 2])
        model(torch.rand(1, 3, 64, 64))[0].square().mean().backward()
        assert model.model[0].conv.weight.grad.abs().max() > 0
        assert all(p.grad is None for p in model.model[1].parameters())

    def test_every_norm_of_a_frozen_layer_is_replaced(self) -> None:
        model = yolov5("n", 2)
        freeze(model, 10)
        kinds = {
            (int(name.split(".")[1]) < 10, type(module))
            for name, module in model.named_modules()
            if isinstance(module, (nn.BatchNorm2d, FrozenBatchNorm2d))
        }
        assert kinds == {(True, FrozenBatchNorm2d), (False, nn.BatchNorm2d)}

    def test_a_norm_that_is_a_layer_is_replaced(self) -> None:
        class Flat(nn.Sequential):
            def layers(self) -> list[nn.Module]:
                return list(self)

        model = Flat(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
        freeze(model, 2)  # type: ignore[arg-type]
        assert [type(layer) for layer in model][1::2] == [FrozenBatchNorm2d, nn.BatchNorm2d]

    @pytest.mark.parametrize("layers", [26, -1, [0, 25], [3, -1], [1, 1.5], [0, True], True, "10"])
    def test_an_index_outside_the_model_is_refused(self, layers: object) -> None:
        with pytest.raises(ConfigError, match=mentions("freeze", repr(layers), "0..25", "0..24")):
            freeze(on_meta("n"), layers)  # type: ignore[arg-type]

    @pytest.mark.parametrize("layers", [25, list(range(25))])
    def test_freezing_everything_is_refused_and_changes_nothing(
        self, layers: int | list[int]
    ) -> None:
        model = on_meta("n")
        with pytest.raises(
            ConfigError, match=mentions("freeze", layers, "yolov5n", "no parameter")
        ):
            freeze(model, layers)
        assert all(parameter.requires_grad for parameter in model.parameters())
        assert not any(isinstance(module, FrozenBatchNorm2d) for module in model.modules())

    def test_a_norm_without_statistics_is_refused(self) -> None:
        with pytest.raises(ConfigError, match=mentions("track_running_stats=True")):
            FrozenBatchNorm2d(nn.BatchNorm2d(4, track_running_stats=False))
