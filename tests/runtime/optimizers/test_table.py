"""Every optimizer in the table: torch's numbers, its own state, its bounds."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from exportloss.errors import ArtifactError
from exportloss.export import export_train_step, export_training_artifacts
from exportloss.export.step.optimizers import UPDATES, Update
from exportloss.export.verify.report import Bounds
from exportloss.export.verify.verify import verify
from exportloss.runtime import Manifest, TrainSession
from exportloss.runtime.optimizers.table import (
    OPTIMIZERS,
    Hyperparameters,
    OptimizerName,
    ParameterGroupNames,
    make_optimizer,
    sum_of_squares,
)
from tests.support.tiny_detector import IMAGE, DecodingDetector, make_batch, make_loss

GROUPS = ParameterGroupNames(weights=("weight",), norms=("norm",), biases=("bias",))
HYPER = Hyperparameters(lr=(1e-3, 2e-3, 5e-3), momentum=0.9, weight_decay=0.05)
DECAYS = (HYPER.weight_decay, 0.0, 0.0)
SIZE = 40
RUN = {"lr": 1e-4, "momentum": 0.9, "weight_decay": 0.05, "max_norm": 10.0}

every_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)


def make_torch(name: OptimizerName, parameters: list[torch.Tensor]) -> torch.optim.Optimizer:
    spec = OPTIMIZERS[name]
    groups = [
        {"params": [parameter], "lr": rate, "weight_decay": decay}
        for parameter, rate, decay in zip(parameters, HYPER.lr, DECAYS, strict=True)
    ]
    return getattr(torch.optim, spec.torch_class)(groups, **spec.torch_options(HYPER.momentum))


def draw(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(SIZE, np.float32) for name in GROUPS.all}


def assert_rounding(got: torch.Tensor, expected: torch.Tensor) -> None:
    """Bound the difference by the largest element: terms as large cancel in others."""
    torch.testing.assert_close(got, expected, rtol=2e-6, atol=3e-7 * float(expected.abs().max()))


def test_every_name_has_an_entry_and_a_traced_update():
    assert get_args(OptimizerName) == tuple(OPTIMIZERS)
    assert OPTIMIZERS.keys() == UPDATES.keys()


@every_optimizer
def test_constants_are_torchs_defaults(name):
    spec = OPTIMIZERS[name]
    defaults = inspect.signature(getattr(torch.optim, spec.torch_class)).parameters
    for key, value in spec.torch_options(0.9).items():
        if key == "betas":
            assert value == (0.9, defaults[key].default[1])
        elif key in ("momentum", "nesterov"):
            assert value == {"momentum": 0.9, "nesterov": True}[key]
        else:
            assert value == defaults[key].default, key


@every_optimizer
def test_momentum_warms_up_where_torchs_groups_have_one(name):
    (group, *_) = make_torch(name, [torch.zeros(1) for _ in GROUPS.all]).param_groups
    assert OPTIMIZERS[name].warms_up_momentum == ("momentum" in group)


@every_optimizer
def test_updates_are_torchs(name):
    """On the host in numpy and as what is traced, from the same gradients, with groups."""
    spec, start = OPTIMIZERS[name], draw(0)
    parameters = [torch.tensor(start[key]) for key in GROUPS.all]
    reference = make_torch(name, parameters)
    host_parameters = {key: tensor.copy() for key, tensor in start.items()}
    host = make_optimizer(name, GROUPS, host_parameters)
    flat = torch.cat([torch.tensor(start[key]) for key in GROUPS.all])
    state = [torch.full_like(flat, tensor.initial) for tensor in spec.state]
    for update in range(1, 6):
        gradients = draw(update)
        gradients["bias"][:5] = 0  # as where a bias reaches nothing in a batch
        for parameter, key in zip(parameters, GROUPS.all, strict=True):
            parameter.grad = torch.tensor(gradients[key])
        reference.step()
        traced_update = Update(
            parameters=flat,
            gradient=torch.cat([torch.tensor(gradients[key]) for key in GROUPS.all]),
            rate=torch.tensor(HYPER.lr).repeat_interleave(SIZE),
            decay=torch.tensor(DECAYS).repeat_interleave(SIZE),
            momentum=torch.tensor(HYPER.momentum),
            updates=torch.tensor(float(update)),
        )
        state = UPDATES[name].state(traced_update, state)
        flat = UPDATES[name].parameters(traced_update, state)
        host.step(host_parameters, gradients, HYPER, squares=sum_of_squares(gradients.values()))
        expected = torch.cat(parameters)
        on_host = np.concatenate([host_parameters[key] for key in GROUPS.all])
        for got in (flat, torch.tensor(on_host)):
            assert_rounding(got, expected)
        for tensor, traced in zip(spec.state, state, strict=True):
            kept = torch.cat([reference.state[p][tensor.torch_name] for p in parameters])
            on_host = np.concatenate([host.state[tensor.name][key] for key in GROUPS.all])
            for got in (traced, torch.tensor(on_host)):
                assert_rounding(got, kept)
    changed = np.abs(flat.numpy() - np.concatenate([start[key] for key in GROUPS.all]))
    assert changed.max() > 1e-3  # or bounds hold for anything


def test_sum_of_squares():
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape, np.float32) for shape in ((7, 3000), (1024,), (5,), (0,))]
    exact = sum(float(np.square(array, dtype=np.float64).sum()) for array in arrays)
    assert sum_of_squares(arrays) == pytest.approx(exact, rel=1e-7)
    for last in (np.inf, np.nan, np.float32(1e20)):
        arrays[2][-1] = last
        assert not sum_of_squares(arrays) <= float(np.finfo(np.float32).max)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """Artifacts of every optimizer and kind, partly frozen; training artifacts share graphs."""
    parent = tmp_path_factory.mktemp("optimizers")
    sizes = {"image_size": (IMAGE, IMAGE), "batch_size": 2, "max_targets": 8}
    for kind, export in (("step", export_train_step), ("ort", export_training_artifacts)):
        for name in OPTIMIZERS:
            export(make_model(), make_loss(), parent / f"{kind}-{name}", optimizer=name, **sizes)
    return {folder.name: folder for folder in parent.iterdir()}


def make_model() -> DecodingDetector:
    torch.manual_seed(0)
    model = DecodingDetector()
    model.stem.requires_grad_(False)
    return model


every_kind = pytest.mark.parametrize("kind", ["step", "ort"])


@every_kind
@every_optimizer
def test_sessions_train_as_eager_torch(folders, kind, name):
    found = verify(folders[f"{kind}-{name}"], steps=3, threads=1, model=make_model())
    assert found.bounds == Bounds.of(name)
    assert found.broken == (), found.worst


@every_kind
@every_optimizer
def test_a_saved_state_resumes_bit_for_bit(folders, kind, name, tmp_path):
    sessions = [TrainSession.open(folders[f"{kind}-{name}"], threads=1) for _ in range(2)]
    first, second = sessions
    train(first, 0)
    first.save(tmp_path / "state.safetensors")
    second.resume(tmp_path / "state.safetensors")
    for session in sessions:
        train(session, 1)
    mine, theirs = (session.state() for session in sessions)
    assert tuple(mine.optimizer) == OPTIMIZERS[name].state_names
    for one, other in (
        (mine.model, theirs.model),
        *((mine.optimizer[key], theirs.optimizer[key]) for key in OPTIMIZERS[name].state_names),
    ):
        for tensor in one:
            np.testing.assert_array_equal(one[tensor], other[tensor], err_msg=tensor)


def train(session: TrainSession, seed: int) -> None:
    images, targets = make_batch(seed)
    session.step(images.numpy(), targets.numpy(), **RUN)


@every_kind
@every_optimizer
def test_a_negative_mean_of_squares_is_refused(folders, kind, name):
    session = TrainSession.open(folders[f"{kind}-{name}"], threads=1)
    squares = [tensor.name for tensor in OPTIMIZERS[name].state if tensor.is_square]
    state = session.state()
    for key, entries in state.optimizer.items():
        wrong = {parameter: tensor - 1 for parameter, tensor in entries.items()}
        changed = dataclasses.replace(state, optimizer={**state.optimizer, key: wrong})
        if key in squares:
            with pytest.raises(ArtifactError, match=f"{key} tensor"):
                session.load_state(changed)
        else:
            session.load_state(changed)


@every_optimizer
def test_onnxruntimes_own_optimizer_is_written_where_it_has_one(folders, name):
    files = Manifest.read(folders[f"ort-{name}"]).files
    assert ("optimizer_model.onnx" in files) == (OPTIMIZERS[name].ort_type is not None)


@every_kind
def test_gradients_are_those_since_the_last_update(folders, kind):
    session = TrainSession.open(folders[f"{kind}-sgd"], threads=1)
    images, targets = make_batch(0)
    batch = images.numpy(), targets.numpy()
    assert not any(gradient.any() for gradient in session.gradients().values())
    session.step(*batch, lr=0.0, update=False)
    once = session.gradients()
    session.step(*batch, lr=0.0, update=False)
    twice = session.gradients()
    assert once.keys() == set(session.manifest.groups.all)
    for parameter, gradient in once.items():
        assert gradient.any(), parameter
    session.step(*batch, **RUN)
    assert not any(gradient.any() for gradient in session.gradients().values())
    assert max(np.abs(twice[p] - 2 * once[p]).max() for p in once) < 1e-4
