"""The loss alone on a device: the smallest graph with room for a batch, and the same numbers."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from exportloss import (
    ArtifactError,
    ConfigError,
    DataError,
    SparseHeadLoss,
    TargetError,
    TooManyTargetsError,
    pad_targets,
)
from exportloss.runtime import LossResult, LossSession
from exportloss.runtime.sessions import graph_session
from tests.support.graphs.portable_loss import open_session
from tests.support.graphs.small_losses import (
    BATCH,
    LAYOUTS,
    MAX_TARGETS,
    OPTIONS,
    export_small_loss,
    make_head,
)
from tests.support.messages import mentions
from tests.support.old_folders import unpack
from tests.support.tiny_detector import CLASSES, make_loss

Inputs = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def sessions(small_losses) -> dict[str, LossSession]:
    return {layout: LossSession.open(folder, threads=1) for layout, folder in small_losses.items()}


@pytest.fixture
def session(sessions) -> LossSession:
    return sessions["permuted"]


@pytest.fixture
def folder(small_losses, tmp_path) -> Path:
    """A copy of an artifact, to be damaged."""
    return shutil.copytree(small_losses["permuted"], tmp_path / "loss")


def draw_inputs(session: LossSession, seed: int = 0) -> Inputs:
    rng = np.random.default_rng(seed)
    return {
        name: rng.standard_normal(shape, dtype=np.float32)
        for name, shape in session.input_shapes.items()
    }


def draw_rows(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    index = rng.integers(0, (BATCH, CLASSES), (count, 2))
    boxes = (rng.uniform(0, 1, (count, 2)), rng.uniform(0.1, 0.6, (count, 2)))
    return np.column_stack((index, *boxes)).astype(np.float32)


def pad(rows: np.ndarray) -> np.ndarray:
    return pad_targets(rows, MAX_TARGETS, batch_size=BATCH, num_classes=CLASSES)


def in_torch(layout: str, inputs: Inputs, rows: np.ndarray) -> dict[str, np.ndarray]:
    """YOLOv5's loss in torch, under the names that the graph gives its outputs."""
    loss, leaves = make_loss(**OPTIONS), {}
    for name, array in inputs.items():
        leaves[name] = torch.from_numpy(array).requires_grad_()
    if layout == "head-input":
        head = make_head()
        for level, convolution in enumerate(head.m):
            convolution.weight = torch.nn.Parameter(leaves[f"weight_{level}"])
            convolution.bias = torch.nn.Parameter(leaves[f"bias_{level}"])
            leaves[f"weight_{level}"], leaves[f"bias_{level}"] = convolution.parameters()
        loss = SparseHeadLoss(head, loss)
    maps = [leaf for name, leaf in leaves.items() if name.startswith(("pred", "feat"))]
    initial = make_loss(**OPTIONS).initial_balance
    value, items, balance = loss(maps, torch.from_numpy(pad(rows)), initial)
    gradients = torch.autograd.grad(value, list(leaves.values()))
    named = {}
    for name, gradient in zip(leaves, gradients, strict=True):
        kind, _, level = name.rpartition("_")
        of = f"{kind}_" if kind in ("weight", "bias") else ""
        named[f"{of}gradient_{level}"] = gradient.numpy()
    values = {"loss": value, "items": items, "new_balance": balance}
    return {name: tensor.detach().numpy() for name, tensor in values.items()} | named


def values_of(result: LossResult) -> dict[str, np.ndarray]:
    return {
        "loss": np.float32(result.loss),
        "items": np.array([result.items.box, result.items.objectness, result.items.category]),
        "new_balance": result.balance,
        **{name: value.numpy() for name, value in result.gradients.items()},
    }


def assert_near(got: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert got.keys() == wanted.keys()
    for name, value in wanted.items():
        assert got[name].shape == value.shape
        assert np.linalg.norm(got[name] - value) <= 1e-6 * np.linalg.norm(value), name


@pytest.mark.parametrize(
    ("rows", "slots"), [(0, 2), (1, 2), (2, 2), (3, 5), (5, 5), (6, MAX_TARGETS), (9, MAX_TARGETS)]
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_smallest_graph_with_room_gives_the_numbers_of_the_largest(
    small_losses, sessions, layout, rows, slots
):
    session, targets = sessions[layout], draw_rows(rows)
    inputs = draw_inputs(session)
    result = session.compute(inputs, targets)
    assert result.slots == slots
    largest = open_session((small_losses[layout] / "loss.onnx").read_bytes())
    names = [output.name for output in largest.get_outputs()]
    balance = make_loss().initial_balance.numpy()
    feed = inputs | {"targets": pad(targets), "balance": balance}
    assert_near(values_of(result), dict(zip(names, largest.run(names, feed), strict=True)))
    assert_near(values_of(result), in_torch(layout, inputs, targets))


def test_a_graph_is_opened_when_it_is_first_needed(folder):
    session = LossSession.open(folder, threads=1)
    inputs = draw_inputs(session)
    assert session.compute(inputs, draw_rows(2)).slots == 2
    assert session._sessions.keys() == {2}
    for path in folder.iterdir():  # what was checked is kept
        path.unlink()
    assert session.compute(inputs, draw_rows(3)).slots == 5
    assert session._sessions.keys() == {2, 5}


def test_rows_of_zeros_at_the_end_cost_nothing(session):
    inputs, rows = draw_inputs(session), draw_rows(2)
    first = values_of(session.compute(inputs, rows))
    first = {name: value.copy() for name, value in first.items()}
    padded = session.compute(inputs, pad(rows))
    assert padded.slots == 2
    for name, value in values_of(padded).items():
        np.testing.assert_array_equal(value, first[name])


def test_all_graphs_write_into_the_same_memory(session):
    inputs = draw_inputs(session)
    first = session.compute(inputs, draw_rows(2))
    before, balance = first.gradients["gradient_0"].numpy().copy(), first.balance.copy()
    second = session.compute(inputs, draw_rows(9, seed=1), balance=[1, 2])
    assert first.gradients["gradient_0"].data_ptr() == second.gradients["gradient_0"].data_ptr()
    assert (first.gradients["gradient_0"].numpy() != before).any()
    assert (first.balance == balance).all() and first.balance[0] != second.balance[0]


def test_the_balance_goes_on(session):
    inputs, rows = draw_inputs(session), draw_rows(3)
    first = session.compute(inputs, rows)
    again = session.compute(inputs, rows, balance=first.balance)
    assert again.items.box == first.items.box
    assert again.items.objectness != first.items.objectness
    assert session.compute(inputs, rows).items == first.items


def test_arrays_in_any_order_and_values_of_the_runtime(session):
    inputs, rows = draw_inputs(session), draw_rows(4)
    wanted = session.compute(inputs, rows).loss
    turned = {name: np.asfortranarray(array) for name, array in inputs.items()}
    assert session.compute(turned, rows).loss == wanted
    values = {n: onnxruntime.OrtValue.ortvalue_from_numpy(a) for n, a in inputs.items()}
    assert session.compute(values, rows).loss == wanted


def test_without_gradients(tmp_path):
    export_small_loss(tmp_path / "loss", gradients=False, tiers=())
    session = LossSession.open(tmp_path / "loss", threads=1)
    inputs, rows = draw_inputs(session), draw_rows(4)
    result = session.compute(inputs, rows)
    assert result.gradients == {}
    assert result.slots == MAX_TARGETS
    assert result.loss == pytest.approx(in_torch("permuted", inputs, rows)["loss"], rel=1e-6)


def test_what_cannot_be_computed_is_refused(session):
    inputs, rows = draw_inputs(session), draw_rows(2)
    one = inputs["predictions_1"]

    def refused(error, message, *, targets=rows, balance=None, **changes):
        given = {name: value for name, value in (inputs | changes).items() if value is not None}
        with pytest.raises(error, match=message):
            session.compute(given, targets, balance=balance)

    names = "predictions_0, predictions_1"
    refused(DataError, rf"\bpredictions_0; .*\b{names}$", predictions_1=None)
    refused(DataError, rf"\b{names}, images; .*\b{names}$", images=one)
    refused(DataError, r"predictions_1.*float32 \(1, .*float32 \(2, ", predictions_1=one[:1])
    double = one.astype(np.float64)
    refused(DataError, mentions("predictions_1", "float64", (2, 2, 4, 4, 8)), predictions_1=double)
    value = onnxruntime.OrtValue.ortvalue_from_numpy(double)
    refused(
        DataError, mentions("predictions_1", "tensor(double)", (2, 2, 4, 4, 8)), predictions_1=value
    )
    refused(DataError, mentions("predictions_1", "list ()"), predictions_1=one.tolist())
    refused(DataError, mentions("balance", (3,), (2,)), balance=[4, 1, 0.4])
    refused(TooManyTargetsError, r"\b10\b.*\b9\b", targets=draw_rows(10))
    refused(TargetError, mentions("row 1", "class is 3"), targets=[[0] * 6, [0, 3, 0, 0, 0, 0]])


def test_another_kind_of_artifact_is_refused(small_losses, tmp_path):
    with pytest.raises(ArtifactError, match=mentions(tmp_path, "'train-step'", "loss")):
        LossSession.open(unpack("0.1", tmp_path) / "step")
    for wrong, message in (({"threads": -1}, "threads.*-1"), ({"device": "tpu"}, "'tpu'")):
        with pytest.raises(ConfigError, match=message):
            LossSession.open(small_losses["permuted"], **wrong)


def test_an_arena_that_the_process_shares_already_is_used(small_losses):
    for _ in range(2):
        graph_session._share_arena.cache_clear()
        session = LossSession.open(small_losses["permuted"], threads=1)
        assert session.compute(draw_inputs(session), draw_rows(3)).loss > 0


@pytest.mark.parametrize("layout", LAYOUTS)
def test_for_a_cpu_alone_the_numbers_are_the_same(sessions, tmp_path, layout):
    inputs, rows = draw_inputs(sessions[layout]), draw_rows(MAX_TARGETS)
    folder = export_small_loss(tmp_path / "loss", layout, provider="cpu")
    result = LossSession.open(folder, threads=1).compute(inputs, rows)
    assert_near(values_of(result), values_of(sessions[layout].compute(inputs, rows)))
    with pytest.raises(ConfigError, match=mentions("device is cuda", folder, "CPU")) as caught:
        LossSession.open(folder, device="cuda")
    assert caught.value.argument == "device"
