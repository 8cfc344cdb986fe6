"""The exported step against torch: autograd, `torch.optim` and BatchNorm's own statistics."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

from exportloss import YoloLoss
from exportloss.errors import ExportError
from exportloss.export.aten.forms import FORMS
from exportloss.export.aten.to_onnx import to_onnx
from exportloss.export.detector.wrapper import prepare
from exportloss.export.step.flat_state import flatten
from exportloss.export.step.functions import Step
from exportloss.models import yolov5
from exportloss.runtime.optimizers.table import OPTIMIZERS, OptimizerName
from tests.support.graphs.on_gpu import assert_runs_on_gpus
from tests.support.graphs.portable_loss import open_session
from tests.support.tiny_detector import (
    CLASSES,
    IMAGE,
    TinyDetector,
    make_batch,
    make_detector,
    make_loss,
)

RATES = (1e-3, 2e-3, 5e-3)
DECAY, MAX_NORM = 0.05, 10.0


def make_step(model: nn.Module, optimizer: str = "sgd", **options: object) -> Step:
    return step_of(model, make_loss(**options), optimizer)


def step_of(model: nn.Module, loss: YoloLoss, optimizer: str = "sgd") -> Step:
    detector = prepare(model, loss, image_size=(IMAGE, IMAGE), batch_size=2, max_targets=8)
    return Step(detector, optimizer)  # type: ignore[arg-type]


class Runner:
    """Drives the graph of a training step as a device would."""

    def __init__(self, step: Step, graph: ir.Model, *, threads: int = 1) -> None:
        self.step = step
        self.session = open_session(graph, threads=threads)
        self.outputs = [output.name for output in self.session.get_outputs()]

    def __call__(
        self, state: dict[str, Tensor], seed: int, *, momentum: float = 0.9, update: bool = True
    ) -> dict[str, Tensor]:
        images, targets = make_batch(seed)
        settings = {
            "learning_rates": np.asarray(RATES, np.float32),
            "momentum": np.asarray(momentum, np.float32),
            "weight_decay": np.asarray(DECAY, np.float32),
            "max_norm": np.asarray(MAX_NORM, np.float32),
            "update": np.asarray(update),
        }
        feed = {name: np.asarray(tensor) for name, tensor in state.items()} | settings
        feed |= {"images": images.numpy(), "targets": targets.numpy()}
        results = self.session.run(self.outputs, feed)
        return dict(zip(self.outputs, map(torch.tensor, results), strict=True))


def make_graph(step: Step) -> ir.Model:
    graph = to_onnx(
        step.train,
        step.train_example(),
        modules=step.modules,
        name="train_step",
        forms=FORMS["any"],
    )
    assert_runs_on_gpus(graph)
    return graph


@pytest.fixture(scope="module")
def sgd_graph() -> ir.Model:
    return make_graph(make_step(make_detector()))


@pytest.fixture
def sgd(sgd_graph: ir.Model) -> Runner:
    return Runner(make_step(make_detector()), sgd_graph)


def next_state(results: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix("new_"): value
        for name, value in results.items()
        if name.startswith("new_")
    }


def torch_optimizer(step: Step, model: nn.Module, name: OptimizerName) -> torch.optim.Optimizer:
    tensors = dict(model.named_parameters())
    groups = step.detector.groups
    settings = [
        {"params": [tensors[n] for n in names], "lr": rate, "weight_decay": decay}
        for names, rate, decay in zip(
            (groups.weights, groups.norms, groups.biases), RATES, (DECAY, 0, 0), strict=True
        )
    ]
    spec = OPTIMIZERS[
        name
    ]  # tests/runtime/optimizers/test_table.py holds its options to torch's defaults
    return getattr(torch.optim, spec.torch_class)(settings, **spec.torch_options(0.9))


def torch_steps(step: Step, name: OptimizerName, count: int) -> Iterator[dict[str, Tensor]]:
    """Loss and state of each step, the state before it first, as eager torch has them."""
    model = copy.deepcopy(step.detector.model).train()
    optimizer = torch_optimizer(step, model, name)
    for seed in range(count):
        before = torch_state(step, model, optimizer, seed)
        images, targets = make_batch(seed)
        optimizer.zero_grad()
        loss, items, _ = step.detector.loss(
            model(images.float() / 255), targets, step.detector.loss.initial_balance
        )
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
        optimizer.step()
        after = torch_state(step, model, optimizer, seed + 1)
        yield {
            **before,
            **{f"new_{key}": value for key, value in after.items()},
            "loss": loss.detach(),
            "items": items,
            "skipped": torch.tensor(False),
        }


def torch_state(
    step: Step, model: nn.Module, optimizer: torch.optim.Optimizer, updates: int
) -> dict[str, Tensor]:
    parameters = dict(model.named_parameters())
    state = dict(step.state)
    state["parameters"] = flatten(step.parameters, parameters).detach().clone()
    state["statistics"] = flatten(step.statistics, dict(model.named_buffers())).clone()
    state["updates"] = torch.tensor(float(updates))
    for kept in OPTIMIZERS[step.optimizer].state:
        buffers = {
            key: optimizer.state[tensor].get(kept.torch_name)
            for key, tensor in parameters.items()
            if tensor.requires_grad
        }
        if all(buffer is not None for buffer in buffers.values()):
            state[f"optimizer_{kept.name}"] = flatten(step.parameters, buffers).clone()
    return state


def relative(got: Tensor, want: Tensor) -> float:
    return float((got.double() - want.double()).norm() / want.double().norm().clamp(min=1e-12))


BOUNDS = {
    "loss": 1e-6,
    "items": 1e-6,
    "skipped": 0.0,
    "new_parameters": 1e-6,
    "new_statistics": 1e-6,
    "new_gradients": 0.0,
    "new_updates": 0.0,
    "new_balance": 0.0,
    **{
        f"new_optimizer_{tensor.name}": 2e-4
        for spec in OPTIMIZERS.values()
        for tensor in spec.state
    },
}


# RMSProp's first update is 1 / sqrt(1 - alpha) = 10 times the rate in each element, whatever the
# size of its gradient; Adam's is the rate. Here decay cancels one gradient down to rounding: torch
# in float32 is 2.5e-6 off torch in float64.
FIRST_UPDATE = {"rmsprop": {"new_parameters": 1e-5}}


def compare(run: Runner, optimizer: OptimizerName, *, steps: int, slack: float = 1.0) -> None:
    """Hold each step against torch's from the same state; `slack` widens the bounds."""
    for seed, expected in enumerate(torch_steps(run.step, optimizer, steps)):
        got = run({name: expected[name] for name in run.step.state}, seed)
        bounds = BOUNDS | (FIRST_UPDATE.get(optimizer, {}) if seed == 0 else {})
        for name, value in got.items():
            assert value.shape == expected[name].shape, name
            assert relative(value, expected[name]) <= slack * bounds[name], (seed, name)


def test_yolov5_v5_from_the_same_state():
    torch.manual_seed(0)
    model = yolov5("yolov5s-v5.0", CLASSES)
    step = step_of(model, YoloLoss(model.anchors_px, model.strides, CLASSES))
    # Sixty layers over maps of few cells amplify rounding.
    compare(Runner(step, make_graph(step)), "sgd", steps=1, slack=10)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_from_the_same_state(optimizer):
    step = make_step(make_detector(), optimizer)
    run = Runner(step, make_graph(step))
    compare(run, optimizer, steps=6)
    without_momentum = run(step.state, 0, momentum=0.0)["new_parameters"]
    assert torch.isfinite(without_momentum).all()
    assert not torch.equal(without_momentum, step.state["parameters"])


def test_trace_leaves_the_model_alone():
    step = make_step(make_detector().eval())
    before = copy.deepcopy(step.detector.model.state_dict())
    make_graph(step)
    for name, tensor in step.detector.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert not step.detector.model.training


def test_gradients_accumulate_until_an_update(sgd: Runner):
    state, size = sgd.step.state, sgd.step.parameters.size
    first = sgd(state, 0, update=False)
    for name in ("parameters", "updates", "optimizer_momentum"):
        assert torch.equal(first[f"new_{name}"], state[name]), name
    after = next_state(first)
    second = sgd(after | {"gradients": torch.zeros(size)}, 1, update=False)
    total = first["new_gradients"] + second["new_gradients"]
    assert torch.equal(sgd(after, 1, update=False)["new_gradients"], total)
    updated = sgd(after, 1)
    assert not updated["new_gradients"].any()
    decayed = sum(sgd.step.parameters.sizes[: len(sgd.step.detector.groups.weights)])
    expected = total * min(1.0, MAX_NORM / (float(total.norm()) + 1e-6))
    expected[:decayed] += DECAY * state["parameters"][:decayed]
    torch.testing.assert_close(updated["new_optimizer_momentum"], expected)


def test_norm_clips_the_gradient(sgd: Runner):
    state = sgd.step.state
    gradient = sgd(state, 0, update=False)["new_gradients"]
    large = gradient * 1e3 / gradient.norm()
    clipped = sgd(state | {"gradients": large}, 0)["new_optimizer_momentum"]
    decay = sgd(state | {"gradients": -gradient}, 0)["new_optimizer_momentum"]
    torch.testing.assert_close((clipped - decay).norm(), torch.tensor(MAX_NORM), rtol=1e-4, atol=0)


def test_autobalance_is_state():
    step = make_step(make_detector(), autobalance=True)
    first = Runner(step, make_graph(step))(step.state, 0)
    images, targets = make_batch(0)
    model = copy.deepcopy(step.detector.model).train()
    initial = step.detector.loss.initial_balance
    _, _, balance = step.detector.loss(model(images.float() / 255), targets, initial)
    torch.testing.assert_close(first["new_balance"], balance, rtol=1e-6, atol=0)
    assert not torch.equal(balance, initial)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_frozen_parameters_are_constants_and_stay_out_of_the_state(optimizer):
    model = make_detector()
    model.stem.requires_grad_(False)
    step = make_step(model, optimizer)
    assert not any(name.startswith("stem") for name in step.parameters.names)
    compare(Runner(step, make_graph(step)), optimizer, steps=5)


def test_parameter_that_does_not_reach_the_loss_is_refused():
    model = make_detector()
    model.register_parameter("idle", nn.Parameter(torch.zeros(3)))
    with pytest.raises(ExportError, match="'idle'"):
        make_graph(make_step(model))


class Deaf(TinyDetector):
    """Detaches its coarse level, whose convolution gets no gradient."""

    def forward(self, images: Tensor) -> list[Tensor]:
        fine, coarse = super().forward(images)
        return [fine, coarse.detach()]


def test_level_that_is_detached_is_refused():
    with pytest.raises(ExportError, match=r"'head\.1\.weight'"):
        make_graph(make_step(Deaf()))


def test_two_threads_and_two_runs_give_the_same_bits(sgd: Runner, sgd_graph: ir.Model):
    first = sgd(sgd.step.state, 0)
    for other in (sgd, Runner(sgd.step, sgd_graph, threads=2)):
        for name, value in other(sgd.step.state, 0).items():
            assert torch.equal(value, first[name]), name
