"""Only chosen parameters are trained, and only the statistics that go with them."""

import copy

import pytest
import torch
from torch import nn

from exportloss.errors import ConfigError
from exportloss.models import freeze, parameter_groups, train_only, yolov5
from tests.support.messages import mentions
from tests.support.tiny_detector import make_detector


def trained(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("update", ["bias", "norm", "last-2", ["model.2[34].*.bias", "model.9.*"]])
def test_a_step_changes_what_was_chosen_and_nothing_else(update: str | list[str]):
    torch.manual_seed(0)
    model = yolov5("n", 2)
    for parameter in model.parameters():  # new layers are too alike for every scale to move
        if parameter.dim() == 1:
            nn.init.uniform_(parameter, 0.5, 2)
    everything = parameter_groups(model)
    train_only(model, update)
    names = trained(model)
    expected = {
        "bias": {*everything.biases},
        "norm": {*everything.biases, *everything.norms},
        "last-2": {name for name, _ in model.named_parameters() if name[6:8] in ("23", "24")},
    }
    if isinstance(update, str):
        assert names == expected[update]
    else:
        assert {name[:8] for name in names} == {f"model.{k}" for k in ("23", "24", "9.")}
    before = copy.deepcopy(model.state_dict())
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    torch.stack([x.square().mean() for x in model(torch.rand(2, 3, 64, 64))]).sum().backward()
    optimizer.step()
    after = model.state_dict()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    statistics = {key for key in changed if "running" in key or "num_batches" in key}
    assert changed - statistics == names
    # The statistics of a BatchNorm follow its scale.
    assert {key.rpartition(".")[0] for key in statistics} == {
        name.rpartition(".")[0] for name in names if name.endswith("bn.weight")
    }


def test_what_is_frozen_stays_frozen():
    model = yolov5("n", 2)
    freeze(model, 10)
    train_only(model, "bias")
    assert trained(model)
    assert all(int(name.split(".")[1]) >= 10 and name.endswith("bias") for name in trained(model))


def test_all_is_all():
    model = yolov5("n", 2)
    before = [type(module) for module in model.modules()]
    train_only(model, "all")
    assert trained(model) == {name for name, _ in model.named_parameters()}
    assert [type(module) for module in model.modules()] == before


@pytest.mark.parametrize(
    ("update", "said"),
    [
        ("biases", ("biases", "all, bias, norm, last-K")),
        ("last-0", ("last-0", "last-25")),
        ("last-26", ("last-26", "last-25")),
        (["model.24.*", "head.*"], ("head.*", "none of", "model.0.conv.weight")),
        ([], ("leaves no parameter",)),
    ],
)
def test_another_choice_is_refused_and_changes_nothing(update, said):
    model = yolov5("n", 2)
    with pytest.raises(ConfigError, match=mentions("update", *said)):
        train_only(model, update)
    assert trained(model) == {name for name, _ in model.named_parameters()}


def test_layers_are_needed_to_count_them():
    with pytest.raises(ConfigError, match=mentions("last-1", "layers", "TinyDetector", "patterns")):
        train_only(make_detector(), "last-1")


def test_nothing_left_is_refused():
    model = yolov5("n", 2)
    freeze(model, 24)
    with pytest.raises(ConfigError, match=mentions("leaves no parameter", "freeze less")):
        train_only(model, ["model.0.*"])


def test_layers_may_be_none_to_count(monkeypatch):
    model = make_detector()
    monkeypatch.setattr(type(model), "layers", lambda self: [], raising=False)
    told = mentions("last-1", "`layers`", "TinyDetector", "returns none", "patterns")
    with pytest.raises(ConfigError, match=told):
        train_only(model, "last-1")
