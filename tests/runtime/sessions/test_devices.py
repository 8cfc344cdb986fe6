"""Devices by name, what stands in their way, and a step loop that leaves its state where it is."""

from __future__ import annotations

import dataclasses
import gc
import math

import numpy as np
import pytest

from exportloss import ArtifactError, ConfigError, InstallationError
from exportloss.cli import main
from exportloss.export import export_train_step, export_training_artifacts
from exportloss.runtime import TrainSession
from exportloss.runtime.artifact.manifest import Manifest
from exportloss.runtime.sessions import portable_step, registry
from exportloss.runtime.sessions.devices import Device, captures_safely, check_device
from exportloss.runtime.sessions.graph_session import open_graph
from exportloss.runtime.sessions.installation import how_to_install
from exportloss.runtime.sessions.ort_training import OrtTrainSession
from exportloss.runtime.sessions.step_loop import StepLoop
from tests.support import tiny_detector as tiny
from tests.support.messages import mentions
from tests.support.pretended_gpu import CPU, CUDA, TENSORRT, PretendedGpu

CUDA_0 = Device(kind="cuda")
RATE = 1e-3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A portable step with a moving average."""
    folder = tmp_path_factory.mktemp("export") / "step"
    export_tiny(export_train_step, folder)
    return folder


def export_tiny(export, folder):
    export(
        tiny.make_detector(),
        tiny.make_loss(),
        folder,
        image_size=(tiny.IMAGE, tiny.IMAGE),
        batch_size=2,
        max_targets=8,
        ema=True,
    )


def batch(seed):
    return tuple(tensor.numpy() for tensor in tiny.make_batch(seed))


@pytest.fixture
def gpu(monkeypatch) -> PretendedGpu:
    pretended = PretendedGpu()
    monkeypatch.setattr(registry, "import_engine", lambda device: pretended)
    monkeypatch.setattr(portable_step, "import_engine", lambda device: pretended)
    return pretended


@pytest.mark.parametrize(
    ("name", "kind", "index", "text"),
    [
        ("cpu", "cpu", 0, "cpu"),
        ("cuda", "cuda", 0, "cuda:0"),
        ("cuda:12", "cuda", 12, "cuda:12"),
        ("1", "cuda", 1, "cuda:1"),
        ("tensorrt", "tensorrt", 0, "tensorrt:0"),
        ("tensorrt:1", "tensorrt", 1, "tensorrt:1"),
        ("nv-tensorrt-rtx", "nv-tensorrt-rtx", 0, "nv-tensorrt-rtx:0"),
        ("webgpu:2", "webgpu", 2, "webgpu:2"),
        ("directml:1", "directml", 1, "directml:1"),
        ("coreml", "coreml", 0, "coreml"),
        ("qnn", "qnn", 0, "qnn"),
        ("CoreMLExecutionProvider", "coreml", 0, "coreml"),
        ("XnnpackExecutionProvider", "XnnpackExecutionProvider", 0, "XnnpackExecutionProvider"),
    ],
)
def test_names(name, kind, index, text):
    device = Device.parse(name)
    assert device == Device(kind=kind, index=index)
    assert str(device) == text
    assert Device.parse(text) == device


@pytest.mark.parametrize("unit", ["CPU", "GPU", "GPU.1", "NPU"])
def test_processors_of_openvino(unit):
    device = Device.parse(f"openvino:{unit}")
    assert device == Device(kind="openvino", unit=unit)
    assert str(device) == f"openvino:{unit}"
    assert Device.parse("openvino") == Device.parse("openvino:CPU")


def test_bfloat16_only_by_name():
    device = Device.parse("openvino:bf16")
    assert device == Device(kind="openvino", unit="CPU", bfloat16=True)
    assert Device.parse(str(device)) == device
    assert not any(Device.parse(name).bfloat16 for name in ("cpu", "openvino", "openvino:CPU"))


@pytest.mark.parametrize(
    "name",
    [
        *("", "tpu", "cpu:0", "cuda:", "cuda:-1", "CUDA", "0,1", "²", "coreml:0", "openvino:"),
        *(
            "openvino:gpu",
            "openvino:0",
            "openvino:GPU:bf16",
            "cpu:bf16",
            "ExecutionProvider",
            "Xnnpack ExecutionProvider",
        ),
    ],
)
def test_other_names_are_refused(name):
    with pytest.raises(ConfigError) as caught:
        Device.parse(name)
    for part in (repr(name), "cpu, cuda, tensorrt", "openvino", "cuda:1"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("device", "missing", "install"),
    [
        ("cuda", CUDA, "[gpu]"),
        ("0", CUDA, "[gpu]"),
        ("tensorrt:1", TENSORRT, "[gpu]"),
        ("coreml", "CoreMLExecutionProvider", "onnxruntime on macOS"),
        ("directml", "DmlExecutionProvider", "onnxruntime-directml"),
        ("XnnpackExecutionProvider", "XnnpackExecutionProvider", "cpu"),
    ],
)
def test_a_build_without_the_provider(folder, device, missing, install):
    with pytest.raises(InstallationError, match=mentions(missing, install)):
        TrainSession.open(folder, device=device)


@pytest.mark.parametrize(
    ("device", "install"),
    [
        ("webgpu", "pip install onnxruntime-ep-webgpu"),
        ("nv-tensorrt-rtx:1", "pip install onnxruntime-ep-nv-tensorrt-rtx-cu13"),
        ("openvino", r"pip install .*\[openvino\]"),
    ],
)
def test_an_engine_that_is_not_installed(folder, device, install):
    with pytest.raises(InstallationError, match=install):
        TrainSession.open(folder, device=device)


@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
def test_the_command_says_what_to_install(folder, shapes, tmp_path, capsys, device):
    data = ["--data", str(shapes), "--project", str(tmp_path / "runs")]
    for command in (["train", "--weights", "yolov5n", *data], ["verify", str(folder)]):
        assert main([*command, "--device", device]) == 2
        told = capsys.readouterr().err
        assert how_to_install("gpu") in told
        assert told.endswith("(--device)\n")
    assert not (tmp_path / "runs").exists()


def test_a_provider_that_does_not_load():
    ort = PretendedGpu(drives=False, said="\nFailed to load libcublas.so.13: no such file\n...")
    with pytest.raises(InstallationError) as caught:
        check_device(ort, CUDA_0)  # type: ignore[arg-type]
    for part in ("(Failed to load libcublas.so.13: no such file)", "CUDA 13.0 and cuDNN 9"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("trouble", "device", "error", "message"),
    [
        ({"providers": [CPU]}, "cuda", InstallationError, "cuda.*cannot drive"),
        ({"providers": [CUDA, CPU]}, "tensorrt", InstallationError, "TensorRT 10"),
        (
            {"error": RuntimeError("Please install TensorRT libraries as mentioned")},
            "tensorrt",
            InstallationError,
            "TensorRT 10",
        ),
        ({"nodes": {CUDA: 5000, CPU: 3}}, "cuda", ArtifactError, f"in part on {CPU}"),
        (
            {"error": RuntimeError("but fallback to CPU EP has been explicitly disabled by")},
            "cuda",
            ArtifactError,
            r"check\('train_step.onnx', provider='cuda'\)",
        ),
    ],
)
def test_nothing_falls_back_silently(folder, trouble, device, error, message):
    ort = PretendedGpu(**trouble)
    with pytest.raises(error, match=message):
        open_graph(ort, folder / "train_step.onnx", Device.parse(device))  # type: ignore[arg-type]


def test_how_a_gpu_is_asked_for(folder, cache):
    ort = PretendedGpu()
    for device, strict in (("cuda:1", True), ("tensorrt", True), ("cuda", False)):
        open_graph(
            ort,  # type: ignore[arg-type]
            folder / "eval_step.onnx",
            Device.parse(device),
            strict=strict,
            capture=device == "cuda:1",
        )
    (strict, names, (cuda,)), (_, both, (tensorrt, _)), (loose, *_) = ort.opened
    assert names == [CUDA]
    assert (cuda["device_id"], cuda["enable_cuda_graph"], cuda["use_tf32"]) == ("1", "1", "0")
    assert both == [TENSORRT, CUDA]
    assert tensorrt["trt_engine_cache_enable"] == tensorrt["trt_timing_cache_enable"] == "1"
    digest = Manifest.read(folder).files["eval_step.onnx"].sha256
    assert tensorrt["trt_engine_cache_path"] == str(cache / "tensorrt" / digest[:32])
    assert "session.disable_cpu_ep_fallback" in set(strict) - set(loose)


@pytest.mark.parametrize(
    ("version", "safe"), [("1.19.2", False), ("1.31.0", False), ("1.31.1", True), ("1.32", True)]
)
def test_versions_that_capture_safely(version, safe):
    assert captures_safely(PretendedGpu(version=version)) == safe  # type: ignore[arg-type]


@pytest.mark.parametrize("device", ["cpu", "tensorrt"])
def test_cuda_graphs_are_of_cuda(folder, gpu, device):
    with pytest.raises(ConfigError, match=mentions("cuda_graph", "cuda", device)):
        TrainSession.open(folder, device=device, cuda_graph=True)


def test_cuda_graphs_where_they_go_wrong(folder, gpu):
    gpu.__version__ = "1.30.0"
    with pytest.raises(ConfigError, match=mentions("onnxruntime-gpu 1.31.1")):
        TrainSession.open(folder, device="cuda", cuda_graph=True)
    TrainSession.open(folder, device="cuda", self_check=False)
    assert gpu.opened[0][2][0]["enable_cuda_graph"] == "0"


def test_each_direction_is_a_graph(folder, gpu):
    """The same buffers every second step, which is what a captured graph needs."""
    opened = TrainSession.open(folder, device="cuda", cuda_graph=True, self_check=False)
    plain = TrainSession.open(folder, device="cuda", cuda_graph=False)
    images, targets = batch(0)
    for _ in range(3):
        assert opened.step(images, targets, lr=RATE) == plain.step(images, targets, lr=RATE)
    # Before a direction is captured it runs once without.
    assert gpu.runs == ["-1", "1", "-1", "2", "1"]
    assert opened.node_counts == {CUDA: 5000}  # type: ignore[attr-defined]
    one, other = opened.evaluate(images, targets, ema=True), plain.evaluate(images, targets)
    assert math.isfinite(one.loss)
    assert one.loss != other.loss


def test_a_result_stays_what_it_was(folder):
    opened, other = (TrainSession.open(folder, threads=1) for _ in range(2))
    kept = [opened.step(*batch(seed), lr=RATE) for seed in range(4)]
    losses = [other.step(*batch(seed), lr=RATE).loss for seed in range(4)]
    assert [result.loss for result in kept] == losses
    assert len(set(losses)) == 4
    assert dataclasses.asdict(kept[0])["loss"] == losses[0]
    with pytest.raises(AttributeError, match="lost"):
        _ = kept[0].lost  # type: ignore[attr-defined]


def test_what_nobody_looks_at_is_not_fetched(folder, monkeypatch):
    fetched = []
    monkeypatch.setattr(
        StepLoop,
        "fetch_outputs",
        lambda self: fetched.append(1) or {"loss": np.float32(0), "items": np.zeros(3)},
    )
    opened = TrainSession.open(folder, threads=1)
    for seed in range(3):
        opened.step(*batch(seed), lr=RATE)
    gc.collect()
    assert not fetched
    result = opened.step(*batch(3), lr=RATE)
    assert (result.loss, result.loss, len(fetched)) == (0, 0, 1)


def test_a_step_that_fails_changes_nothing(folder, gpu, monkeypatch):
    opened = TrainSession.open(folder, device="cuda")
    opened.step(*batch(0), lr=RATE)
    before = opened.state()

    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(opened._train, "run_with_iobinding", fail, raising=False)  # type: ignore[attr-defined]
        with pytest.raises(RuntimeError, match="out of memory"):
            opened.step(*batch(1), lr=RATE)
    after = opened.state()
    assert (after.updates, before.updates) == (1, 1)
    for name, tensor in before.model.items():
        np.testing.assert_array_equal(after.model[name], tensor, err_msg=name)


class TestTrainingArtifacts:
    @pytest.fixture(scope="class")
    def folder(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("export") / "ort"
        export_tiny(export_training_artifacts, folder)
        return folder

    def test_on_cuda_without_it(self, folder):
        message = mentions("onnxruntime-training 1.19.2", "CUDA 11.8", "step")
        with pytest.raises(InstallationError, match=message):
            TrainSession.open(folder, device="cuda")

    def test_on_tensorrt(self, folder):
        with pytest.raises(ConfigError, match=mentions("TensorRT", "step")):
            TrainSession.open(folder, device="tensorrt")

    def test_copies_train_as_views_do(self, folder):
        """What a GPU needs, for its memory is none of numpy's."""
        manifest, cpu = Manifest.read(folder), Device(kind="cpu")
        views, copies = (
            OrtTrainSession(folder, manifest, device=cpu, threads=1, copies=wanted)
            for wanted in (False, True)
        )
        start = views.state()
        for seed in range(3):
            update = seed != 1
            one, other = (
                opened.step(*batch(seed), lr=RATE, update=update) for opened in (views, copies)
            )
            assert one == other
        for ema in (False, True):
            one, other = (s.evaluate(*batch(4), ema=ema).loss for s in (views, copies))
            assert one == other
        for opened in (views, copies):
            for name, tensor in views.state().model.items():
                np.testing.assert_array_equal(opened.state().model[name], tensor, err_msg=name)
        copies.load_state(start)
        views.load_state(start)
        assert copies.step(*batch(0), lr=RATE) == views.step(*batch(0), lr=RATE)
