"""Steps for each engine: the same numbers, and the old state of a skipped step, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args
from unittest import mock

import numpy as np
import onnx_ir as ir
import pytest

from exportloss.errors import ConfigError
from exportloss.export import export_train_step
from exportloss.export.aten import branches
from exportloss.runtime import Manifest, TrainSession
from exportloss.runtime.artifact.manifest import StepProvider
from tests.support.graphs.portable_loss import open_session
from tests.support.messages import mentions
from tests.support.tiny_detector import IMAGE, make_batch, make_detector, make_loss

PROVIDERS = get_args(StepProvider)
SIZES: dict[str, Any] = {"image_size": (IMAGE, IMAGE), "batch_size": 2, "max_targets": 8}
SETTINGS = {"lr": 1e-3, "momentum": 0.9, "weight_decay": 0.05, "max_norm": 10.0}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A step of a small detector for each engine, with branches though it is small."""
    path = tmp_path_factory.mktemp("steps")
    with mock.patch.object(branches, "_MANY", 64):
        for provider in PROVIDERS:
            export_train_step(
                make_detector(), make_loss(), path / provider, provider=provider, ema=True, **SIZES
            )
    return {provider: path / provider for provider in PROVIDERS}


def trained(folder: Path) -> tuple[list[float], dict[str, np.ndarray]]:
    """Losses of three steps, and the weights after them."""
    session = TrainSession.open(folder, threads=1)
    losses = [
        float(session.step(*map(np.asarray, make_batch(seed)), **SETTINGS).loss)
        for seed in range(3)
    ]
    return losses, dict(session.state().model)


@pytest.mark.parametrize("provider", [name for name in PROVIDERS if name != "any"])
def test_the_numbers_are_those_of_the_step_for_any_engine(folders, provider):
    assert Manifest.read(folders[provider]).provider == provider
    losses, weights = trained(folders[provider])
    expected, wanted = trained(folders["any"])
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    assert weights.keys() == wanted.keys()
    for name, value in weights.items():
        np.testing.assert_allclose(value, wanted[name], rtol=2e-5, atol=2e-6, err_msg=name)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_skipped_step_keeps_every_bit(folders, provider):
    graph = ir.load(folders[provider] / "train_step.onnx")
    assert ("If" in {node.op_type for node in graph.graph}) == (provider == "cpu")
    session = open_session(graph)
    rng = np.random.default_rng(0)
    state = {}
    for value in session.get_inputs():
        kind = np.uint8 if "uint8" in value.type else np.float32
        state[value.name] = np.asarray(np.abs(rng.normal(size=value.shape)), kind)
    state["update"] = np.asarray(True)
    state["targets"][:, 0] = 0
    names = [output.name for output in session.get_outputs()]
    for broken in ("momentum", "max_norm"):
        feed = state | {broken: np.asarray(np.nan, np.float32)}
        found = dict(zip(names, session.run(names, feed), strict=True))
        assert found["skipped"]
        for name in names:
            if name.startswith("new_"):
                old = state[name.removeprefix("new_")]
                assert found[name].tobytes() == old.tobytes(), (broken, name)


def test_a_step_for_onnx_runtime_on_a_cpu_is_for_no_other_device(folders):
    with pytest.raises(ConfigError, match=mentions("device is cuda", folders["cpu"], "CPU")):
        TrainSession.open(folders["cpu"], device="cuda")
