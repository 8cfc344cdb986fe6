"""The moving average of the weights, in both kinds of artifact, against plain torch."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import Tensor, nn

from exportloss import ArtifactError, ConfigError
from exportloss.cli.verify import print_verification
from exportloss.export import export_train_step, export_training_artifacts
from exportloss.export.verify.eager_session import EagerTrainSession
from exportloss.export.verify.verify import verify
from exportloss.models import parameter_groups
from exportloss.runtime import Manifest, TrainSession, TrainState
from exportloss.runtime.artifact.state import load_state, save_state
from exportloss.runtime.optimizers.ema import decay_after
from exportloss.runtime.sessions.ort_training import OrtTrainSession
from tests.support.graphs.on_gpu import assert_detects_on_gpus, assert_runs_on_gpus
from tests.support.messages import mentions
from tests.support.tiny_detector import ANCHORS, IMAGE, STRIDES, TinyDetector, make_batch, make_loss

RATE, DECAY, MOMENTUM = 1e-3, 0.05, 0.9
SIZES: dict[str, Any] = {"image_size": (IMAGE, IMAGE), "batch_size": 2, "max_targets": 8}
KINDS = ["ort", "step"]


class Decoding(TinyDetector):
    """A tiny detector that can be evaluated; its boxes mean nothing."""

    def decode(self, levels: list[Tensor]) -> Tensor:
        return torch.cat([level.sigmoid().flatten(1, 3) for level in levels], dim=1)


def make_model() -> Decoding:
    torch.manual_seed(0)
    return Decoding()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("ema")
    for optimizer in ("sgd", "adam", "adamw"):
        export_train_step(
            *(make_model(), make_loss(), folder / optimizer), ema=True, optimizer=optimizer, **SIZES
        )
    export_training_artifacts(make_model(), make_loss(), folder / "ort", ema=True, **SIZES)
    export_train_step(make_model(), make_loss(), folder / "without", **SIZES)
    return {path.name: path for path in folder.iterdir()}


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_graphs_run_on_gpus(folders: dict[str, Path], optimizer: str):
    for name in ("train_step", "eval_step"):
        assert_runs_on_gpus(folders[optimizer] / f"{name}.onnx")
    assert_detects_on_gpus(folders[optimizer] / "inference.onnx")


def open_session(folders: dict[str, Path], kind: str, optimizer: str = "sgd") -> TrainSession:
    if kind == "step":
        return TrainSession.open(folders[optimizer], threads=1)
    # Training artifacts differ in the manifest only: the optimizer runs in the session.
    manifest = dataclasses.replace(Manifest.read(folders["ort"]), optimizer=optimizer)
    return OrtTrainSession(folders["ort"], manifest, threads=1)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def session(folders: dict[str, Path], kind: str) -> TrainSession:
    return open_session(folders, kind)


def step(session: TrainSession, seed: int, **options: Any) -> None:
    images, targets = make_batch(seed)
    settings = {"lr": RATE, "momentum": MOMENTUM, "weight_decay": DECAY, "max_norm": 10.0}
    session.step(images.numpy(), targets.numpy(), **settings, **options)


def evaluate(session: TrainSession, **options: bool) -> tuple[float, np.ndarray]:
    images, targets = make_batch(9)
    result = session.evaluate(images.numpy(), targets.numpy(), **options)
    return result.loss, result.predictions


def vector(tensors: dict[str, Any]) -> np.ndarray:
    return np.concatenate([np.asarray(tensors[name]).ravel() for name in sorted(tensors)])


def assert_same_bits(one: TrainState, other: TrainState) -> None:
    assert one.updates == other.updates
    for mine, theirs in (
        (one.model, other.model),
        (one.ema, other.ema),
        *((one.optimizer[memory], other.optimizer[memory]) for memory in one.optimizer),
    ):
        assert mine.keys() == theirs.keys()
        for name, tensor in mine.items():
            np.testing.assert_array_equal(tensor, theirs[name], err_msg=name)


class PlainTorch:
    """A training loop with a moving average of the whole state dict, as one writes it in torch."""

    def __init__(self, optimizer: str) -> None:
        self.model = make_model().train()
        self.average = {
            name: tensor.clone()
            for name, tensor in self.model.state_dict().items()
            if tensor.is_floating_point()
        }
        groups, tensors = parameter_groups(self.model), dict(self.model.named_parameters())
        settings = [
            {"params": [tensors[name] for name in names], "weight_decay": decay}
            for names, decay in ((groups.weights, DECAY), (groups.norms, 0.0), (groups.biases, 0.0))
        ]
        self.optimizer: torch.optim.Optimizer = (
            torch.optim.AdamW(settings, lr=RATE, betas=(MOMENTUM, 0.999))
            if optimizer == "adamw"
            else torch.optim.SGD(settings, lr=RATE, momentum=MOMENTUM, nesterov=True)
        )

    def step(self, seed: int, *, update: bool, decay: float) -> None:
        images, targets = make_batch(seed)
        value, _ = make_loss()(self.model(images.float() / 255), targets)
        value.backward()
        if not update:
            return
        nn.utils.clip_grad_norm_(self.model.parameters(), 10.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        for name, tensor in self.model.state_dict().items():
            if name in self.average:
                self.average[name].mul_(decay).add_((1 - decay) * tensor)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_it_is_torchs_over_steps_with_accumulation(
    folders: dict[str, Path], kind: str, optimizer: str
) -> None:
    session, torch_run = open_session(folders, kind, optimizer), PlainTorch(optimizer)
    updates = 0
    # YOLOv5's decay hardly differs from none at first, so most are given.
    for seed, given in enumerate((0.5, None, 0.9, 0.75, None, 0.9, 1.0, 0.9)):
        update = seed % 3 != 0
        updates += update
        decay = 0.9999 * (1 - math.exp(-updates / 2000)) if given is None else given
        step(session, seed, update=update, ema_decay=given)
        torch_run.step(seed, update=update, decay=decay)
        state = session.state()
        assert state.updates == session.updates == updates
        got, want = vector(state.ema), vector(torch_run.average)
        assert state.ema.keys() == torch_run.average.keys()
        bound = 1e-6 if optimizer == "sgd" else 1e-5
        difference = np.linalg.norm(got - want) / np.linalg.norm(want)
        assert difference <= bound, seed
    lag = vector({name: tensor - state.model[name] for name, tensor in state.ema.items()})
    assert np.linalg.norm(lag) > 100 * bound * np.linalg.norm(want)  # or it shows nothing


def test_decay_is_yolov5s() -> None:
    for updates, expected in ((1, 0.9999 * (1 - math.exp(-1 / 2000))), (2000, 0.63205734)):
        assert decay_after(updates) == pytest.approx(expected, rel=1e-7)
    assert decay_after(10**6) == 0.9999


def test_it_begins_as_a_copy_and_stays_until_an_update(session: TrainSession) -> None:
    start = session.state()
    for name, tensor in start.ema.items():
        np.testing.assert_array_equal(tensor, start.model[name], err_msg=name)
    step(session, 0, update=False, ema_decay=0.5)
    after = session.state()
    assert any(not np.array_equal(after.model[name], start.model[name]) for name in after.ema)
    for name, tensor in after.ema.items():
        np.testing.assert_array_equal(tensor, start.ema[name], err_msg=name)


def test_save_and_resume_is_bit_identical(
    session: TrainSession, folders: dict[str, Path], kind: str, tmp_path: Path
) -> None:
    for seed in range(2):
        step(session, seed, ema_decay=0.9)
    session.save(tmp_path / "state.safetensors")
    resumed = open_session(folders, kind).resume(tmp_path / "state.safetensors")
    for one in (session, resumed):
        step(one, 2)
        step(one, 3, ema_decay=0.5)
    assert_same_bits(session.state(), resumed.state())


def test_both_kinds_exchange_states(folders: dict[str, Path], tmp_path: Path) -> None:
    ort, portable = (open_session(folders, kind) for kind in KINDS)
    assert_same_bits(ort.state(), portable.state())
    for one, other in ((ort, portable), (portable, ort)):
        step(one, 0, ema_decay=0.9)
        one.save(tmp_path / "state.safetensors")
        assert_same_bits(other.resume(tmp_path / "state.safetensors").state(), one.state())


def test_evaluation_and_inference_take_the_average(session: TrainSession, tmp_path: Path) -> None:
    for seed in range(3):
        step(session, seed, ema_decay=0.9)
    step(session, 3, update=False)  # gradients that an evaluation must not drop
    state = session.state()
    own, (loss, predictions) = evaluate(session), evaluate(session, ema=True)
    session.export_inference(tmp_path / "ema.onnx", ema=True)
    assert_same_bits(session.state(), state)
    assert evaluate(session)[0] == own[0] != loss

    images = make_batch(9)[0].numpy().astype(np.float32) / np.float32(255)
    inference = onnxruntime.InferenceSession(tmp_path / "ema.onnx")
    (output,) = inference.run(["output0"], {"images": images})
    np.testing.assert_allclose(output, predictions, rtol=1e-5, atol=1e-6)

    step(session, 4)
    after = session.state()
    session.load_state(dataclasses.replace(state, model={**state.model, **state.ema}))
    assert evaluate(session)[0] == loss
    session.load_state(state)
    step(session, 4)
    assert not np.array_equal(vector(session.state().ema), vector(after.ema))  # one batch less


def test_saved_states_say_what_the_weights_are(
    session: TrainSession, folders: dict[str, Path], tmp_path: Path
) -> None:
    path = tmp_path / "state.safetensors"
    session.save(path)
    for file_name in (path, folders["sgd"] / "state.safetensors"):
        with safe_open(file_name, framework="numpy") as file:
            about = file.metadata()
        assert about["model"] == "Decoding"
        assert json.loads(about["names"]) == ["0", "1", "2"]
        assert json.loads(about["anchors"]) == ANCHORS
        assert json.loads(about["strides"]) == STRIDES
    with safe_open(path, framework="numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert {name.removeprefix("ema/") for name in tensors if name.startswith("ema/")} == set(
        session.manifest.averaged
    )
    save_file(tensors, path, metadata=about | {"model": "yolov5n"})
    with pytest.raises(ArtifactError, match=mentions(path)):
        load_state(path)
    state = session.state()
    save_state(path, state)  # as 0.1 wrote it
    assert_same_bits(load_state(path), state)


def test_artifacts_without_it_are_as_they_were(folders: dict[str, Path], tmp_path: Path) -> None:
    session = TrainSession.open(folders["without"], threads=1)
    graph = ir.load(folders["without"] / "train_step.onnx").graph
    assert [value.name for value in graph.inputs] == (
        "images targets learning_rates momentum weight_decay max_norm update parameters statistics "
        "balance updates gradients optimizer_momentum"
    ).split()
    assert not any("ema" in value.name for value in (*graph.inputs, *graph.outputs))
    assert session.manifest.averaged == () and session.state().ema == {}
    step(session, 0)
    missing = mentions(session.folder, "moving average", "ema=True")
    with pytest.raises(ConfigError, match=missing):
        step(session, 0, ema_decay=0.5)
    with pytest.raises(ConfigError, match=missing):
        evaluate(session, ema=True)
    with pytest.raises(ConfigError, match=missing):
        session.export_inference(tmp_path / "model.onnx", ema=True)
    session.save(tmp_path / "state.safetensors")
    with pytest.raises(ArtifactError, match=mentions("state.safetensors", "EMA")):
        open_session(folders, "step").resume(tmp_path / "state.safetensors")


@pytest.mark.parametrize("decay", [-0.1, 1.1, math.nan])
def test_bad_decay_is_refused(session: TrainSession, decay: float) -> None:
    with pytest.raises(ConfigError, match=mentions("ema_decay", decay)):
        step(session, 0, ema_decay=decay)


@pytest.mark.parametrize("name", ["sgd", "ort"])
def test_verification_covers_it(
    folders: dict[str, Path], capsys: pytest.CaptureFixture[str], name: str
) -> None:
    found = verify(folders[name], steps=2, lr=1e-4, threads=1, model=make_model())
    assert found.passed, found.broken
    assert 0 < found.worst.ema.value <= found.bounds.ema == found.bounds.parameters
    print_verification(found)
    assert "moving average" in capsys.readouterr().out


def test_verification_sees_another_average(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = TrainSession.step

    def with_decay(self: TrainSession, *batch: Any, **options: Any) -> Any:
        if not isinstance(self, EagerTrainSession):
            options["ema_decay"] = 0.51
        return original(self, *batch, **options)

    monkeypatch.setattr(TrainSession, "step", with_decay)
    assert verify(folders["sgd"], steps=1, threads=1, model=make_model()).broken == ("ema",)


def test_torch_evaluates_with_it_too(folders: dict[str, Path], tmp_path: Path) -> None:
    session = open_session(folders, "step")
    for seed in range(2):
        step(session, seed, ema_decay=0.9)
    eager = EagerTrainSession(session.folder, session.manifest, model=make_model())
    eager.load_state(copy.deepcopy(session.state()))
    loss, predictions = evaluate(session, ema=True)
    assert evaluate(eager, ema=True)[0] == pytest.approx(loss, rel=1e-5)
    eager.export_inference(tmp_path / "ema.onnx", ema=True)
    images = make_batch(9)[0].numpy().astype(np.float32) / np.float32(255)
    inference = onnxruntime.InferenceSession(tmp_path / "ema.onnx")
    (output,) = inference.run(["output0"], {"images": images})
    np.testing.assert_allclose(output, predictions, rtol=1e-4, atol=1e-5)
