"""Weights in YOLOv5's files and others: read exactly, or refused without running anything."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from exportloss.errors import ArtifactError, ExportLossError
from exportloss.models import YoloV5, read_checkpoint, save_state_dict, transfer, yolov5
from tests.support.yolov5_files import save_checkpoint

NAMES = ("cat", "dog", "ünïcode 🐕")


def detector(seed: int = 0, name: str = "yolov5n", **options: object) -> YoloV5:
    """A detector whose every tensor differs from its initial value and is exact in float16."""
    torch.manual_seed(seed)
    model = yolov5(name, 3, **options)
    for key, tensor in model.state_dict().items():
        if not key.endswith("anchors"):
            tensor.copy_(tensor + 7 if tensor.dtype == torch.long else torch.rand_like(tensor))
    return model.half().float()


def assert_same(state: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert state.keys() == expected.keys()
    for name, tensor in expected.items():
        assert state[name].dtype == tensor.dtype, name
        assert torch.equal(state[name], tensor), name


@pytest.fixture(scope="module")
def model() -> YoloV5:
    return detector()


@pytest.fixture(scope="module")
def checkpoint_file(model, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("files") / "best.pt"
    save_checkpoint(path, model, names=list(NAMES))
    return path


class TestYolov5Files:
    @pytest.mark.parametrize("bare", [True, False], ids=["bare", "dictionary"])
    @pytest.mark.parametrize("names", [list(NAMES), dict(enumerate(NAMES))], ids=["list", "dict"])
    @pytest.mark.parametrize("root", ["Model", "DetectionModel"])
    def test_the_state_dict_is_the_same_bit_for_bit(self, model, tmp_path, root, names, bare):
        path = tmp_path / "last.pt"
        save_checkpoint(path, model, root=root, names=names, bare=bare)
        checkpoint = read_checkpoint(path)
        assert (checkpoint.model, checkpoint.num_classes) == ("yolov5n", 3)
        assert checkpoint.names == NAMES
        assert checkpoint.strides == (8, 16, 32)
        assert checkpoint.anchors[0] == (10, 13, 16, 30, 33, 23)
        assert checkpoint.yaml["depth_multiple"] == 0.33
        transferred = transfer(checkpoint)
        assert transferred.taken == transferred.total == 291
        assert_same(transferred.model.state_dict(), model.state_dict())

    def test_the_moving_average_is_preferred(self, model, tmp_path):
        averaged = detector(1)
        save_checkpoint(tmp_path / "a.pt", model, names=NAMES, ema=averaged)
        checkpoint = read_checkpoint(tmp_path / "a.pt")
        assert checkpoint.what == "the moving average of a checkpoint"
        assert_same(transfer(checkpoint).model.state_dict(), averaged.state_dict())

    @pytest.mark.parametrize("name", ["yolov5s", "yolov5n6"])
    def test_the_size_is_found(self, name, tmp_path):
        sized = detector(name=name)
        save_checkpoint(tmp_path / "a.pt", sized, names=NAMES)
        checkpoint = read_checkpoint(tmp_path / "a.pt")
        assert checkpoint.model == name
        assert_same(transfer(checkpoint).model.state_dict(), sized.state_dict())

    def test_float32_stays(self, tmp_path):
        torch.manual_seed(0)
        exact = yolov5("yolov5n", 3)
        save_checkpoint(tmp_path / "a.pt", exact, names=NAMES, half=False)
        state = transfer(read_checkpoint(tmp_path / "a.pt")).model.state_dict()
        assert_same(state, exact.state_dict())

    def test_its_anchors_are_kept(self, tmp_path):
        anchors = [[10, 11, 20, 21], [30, 31, 40, 41], [50, 51, 60, 61]]  # two a level
        own = detector(anchors=anchors)
        save_checkpoint(tmp_path / "a.pt", own, names=NAMES)
        checkpoint = read_checkpoint(tmp_path / "a.pt")
        for classes in (3, 5):
            got = transfer(checkpoint, classes).model
            assert got.anchors_px.flatten(1).tolist() == anchors
            assert got.num_classes == classes

    def test_other_classes_take_all_but_the_head(self, model, checkpoint_file):
        transferred = transfer(read_checkpoint(checkpoint_file), 5)
        assert (transferred.taken, transferred.total) == (285, 291)
        expected = model.state_dict()
        for name, tensor in transferred.model.state_dict().items():
            if not name.startswith("model.24.m."):
                assert torch.equal(tensor, expected[name]), name


class TestOtherArchitectures:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda m: m.model[0].register_module("act", nn.Hardswish()), "'model.0.act' is Hard"),
            (lambda m: m.model[3].register_parameter("more", nn.Parameter(torch.ones(2))), "more"),
            (lambda m: m.model[9].register_module("cv2", nn.Identity()), "model.9.cv2.* missing"),
            (lambda m: setattr(m.model[4], "shortcut", False), "layer 4 is .*False"),
            (
                lambda m: setattr(m, "sources", (*m.sources[:12], (11, 5), *m.sources[13:])),
                "layer 12",
            ),
        ],
        ids=["activation", "more", "less", "shortcut", "wiring"],
    )
    def test_are_refused(self, tmp_path, change, message):
        other = detector()
        change(other)
        save_checkpoint(tmp_path / "a.pt", other, names=NAMES)
        with pytest.raises(ArtifactError, match=rf"a\.pt is .*\byolov5n: .*{message}"):
            transfer(read_checkpoint(tmp_path / "a.pt"))

    @pytest.mark.parametrize(
        ("state", "message"),
        [
            ({"layer.weight": torch.ones(1)}, "no YOLOv5 detector.* got 'layer.weight'"),
            ({}, "no YOLOv5 detector.* got none"),
            (
                {
                    "model.0.conv.weight": torch.ones(24, 3, 6, 6),
                    "model.24.m.0.bias": torch.ones(24),
                },
                "25 layers, the first of 24 channels",
            ),
        ],
    )
    def test_of_other_detectors(self, tmp_path, state, message):
        torch.save(state, tmp_path / "a.pt")
        with pytest.raises(ArtifactError, match=rf"a\.pt: .*{message}"):
            read_checkpoint(tmp_path / "a.pt")

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"names": ["cat"]}, "names 1 classes; its head has 3"),
            ({"names": {1: "a", 2: "b", 3: "c"}}, "neither a list of text nor numbered from 0"),
            ({"names": 3}, "neither a list of text"),
            ({"stride": torch.tensor([4.0, 8.0, 16.0])}, r"its stride is \(4.0, 8.0, 16.0\)"),
            ({"stride": torch.tensor([8.0, float("nan"), 32.0])}, "strides have shape"),
            ({"yaml": {"backbone": 3}}, "its yaml describes no layers"),
        ],
    )
    def test_what_it_says_of_itself_must_fit(self, model, tmp_path, changes, message):
        save_checkpoint(tmp_path / "a.pt", model, **{"names": NAMES, **changes})
        with pytest.raises(ArtifactError, match=message):
            transfer(read_checkpoint(tmp_path / "a.pt"))


class TestOtherFiles:
    def test_a_half_precision_state_dict_is_widened(self, model, tmp_path):
        torch.save({name: t.half() for name, t in model.state_dict().items()}, tmp_path / "a.pt")
        state = transfer(read_checkpoint(tmp_path / "a.pt")).model.state_dict()
        assert_same(state, model.state_dict())

    def test_a_state_dict_in_the_old_format(self, model, tmp_path):
        path = tmp_path / "a.pt"
        torch.save(model.state_dict(), path, _use_new_zipfile_serialization=False)
        assert_same(transfer(read_checkpoint(path)).model.state_dict(), model.state_dict())

    @pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
    def test_a_whole_model_in_the_old_format(self, model, tmp_path):
        """Torch's safe loader does not read the source text that is in these files."""
        save_checkpoint(tmp_path / "a.pt", model, names=NAMES, zipped=False)
        with pytest.raises(ArtifactError, match=r"format from before 1\.6"):
            read_checkpoint(tmp_path / "a.pt")

    def test_a_state_dict_within_a_dictionary(self, model, tmp_path):
        torch.save({"model": model.state_dict(), "epoch": 3}, tmp_path / "a.pth")
        assert_same(
            transfer(read_checkpoint(tmp_path / "a.pth")).model.state_dict(), model.state_dict()
        )

    def test_a_training_state(self, model, tmp_path):
        """As training saves it: memory and an average beside the weights, no counters."""
        kept = {
            name: tensor
            for name, tensor in model.state_dict().items()
            if not name.endswith(("anchors", "num_batches_tracked"))
        }
        averaged = {f"ema/{name}": tensor / 2 for name, tensor in kept.items()}
        memory = {f"optimizer/momentum/{name}": tensor + 1 for name, tensor in kept.items()}
        anchors = [[[10, 10], [20, 20]], [[30, 30], [40, 40]], [[50, 50], [60, 60]]]
        about = {
            "format": "exportloss-weights/1",
            "model": "yolov5n",
            "names": json.dumps(["a", "b", "c", "d", "e", "f", "g"]),  # 2 x (5 + 7) = 24
            "anchors": json.dumps(anchors),
            "strides": "[8, 16, 32]",
        }
        path = tmp_path / "last.safetensors"
        save_file(kept | averaged | memory | {"balance": torch.ones(3)}, path, metadata=about)
        checkpoint = read_checkpoint(path)
        assert checkpoint.what == "the moving average of a training state"
        assert checkpoint.names == ("a", "b", "c", "d", "e", "f", "g")
        got = transfer(checkpoint)
        assert got.taken == len(kept)
        assert got.model.anchors_px.tolist() == anchors
        for name, tensor in kept.items():
            assert torch.equal(got.model.state_dict()[name], tensor / 2)

    @pytest.mark.parametrize("key", ["names", "anchors", "strides"])
    @pytest.mark.parametrize("value", ["[", '["x", [1]]', "[NaN]", '{"a": 1}'])
    def test_metadata_that_is_wrong_is_refused(self, model, tmp_path, key, value):
        path = tmp_path / "a.safetensors"
        state = {n: t for n, t in model.state_dict().items() if not n.endswith("anchors")}
        save_file(state, path, metadata={"format": "exportloss-weights/1", key: value})
        with pytest.raises(ArtifactError, match=r"a\.safetensors: .*(names|anchors|strides)"):
            read_checkpoint(path)

    @pytest.mark.parametrize("suffix", ["pt", "safetensors"])
    def test_what_is_written_is_read(self, model, tmp_path, suffix):
        path = tmp_path / f"a.{suffix}"
        save_state_dict(model, path, names=NAMES)
        checkpoint = read_checkpoint(path)
        assert_same(transfer(checkpoint).model.state_dict(), model.state_dict())
        if suffix == "safetensors":
            assert checkpoint.names == NAMES
            assert checkpoint.strides == (8, 16, 32)
            written = load_file(path)
        else:
            written = torch.load(path, weights_only=True)
            assert type(written) is dict
        assert_same(written, model.state_dict())


class _Call:
    """Pickled as a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class TestMalice:
    @pytest.mark.parametrize("protocol", [2, 4])
    @pytest.mark.parametrize("zipped", [True, False])
    @pytest.mark.parametrize("name", ["posix.system", "builtins.eval", "builtins.exec"])
    def test_a_forbidden_object_is_named_and_not_called(self, tmp_path, name, zipped, protocol):
        mark = tmp_path / "mark"
        path = tmp_path / "evil.pt"
        touch = f"__import__('pathlib').Path({str(mark)!r}).touch()"
        call = {
            "posix.system": _Call(__import__("posix").system, f"touch {mark}"),
            "builtins.eval": _Call(eval, touch),
            "builtins.exec": _Call(exec, touch),
        }[name]
        torch.save(
            {"model": call, "epoch": 1},
            path,
            pickle_protocol=protocol,
            _use_new_zipfile_serialization=zipped,
        )
        mark.unlink(missing_ok=True)
        with pytest.raises(ArtifactError, match=f"refused: it names '{name}', "):
            read_checkpoint(path)
        assert not mark.exists()
        with path.open("rb") as file:  # the file is what it is meant to be
            torch.load(file, weights_only=False)
        assert mark.exists()

    def test_a_plain_pickle(self, tmp_path):
        (tmp_path / "evil.pt").write_bytes(pickle.dumps(_Call(eval, "1 + 1")))
        with pytest.raises(ArtifactError, match=r"it names 'builtins\.eval"):
            read_checkpoint(tmp_path / "evil.pt")

    @pytest.mark.parametrize("function", [torch.load, torch.save, torch.set_num_threads])
    def test_torchs_own_functions(self, tmp_path, function):
        torch.save({"model": _Call(function, 1)}, tmp_path / "evil.pt")
        with pytest.raises(ArtifactError, match=function.__name__):
            read_checkpoint(tmp_path / "evil.pt")

    def test_a_call_of_a_stand_in_is_no_call(self, tmp_path, model, monkeypatch):
        """A function named as one of YOLOv5's is not looked up, wherever it is."""
        called = []
        monkeypatch.setattr(nn.modules.module, "called", lambda *a: called.append(a), raising=False)
        nn.modules.module.called.__module__ = "torch.nn.modules.module"
        nn.modules.module.called.__qualname__ = "called"
        value = {"model": model.state_dict(), "extra": _Call(nn.modules.module.called, 1)}
        torch.save(value, tmp_path / "a.pt")
        assert read_checkpoint(tmp_path / "a.pt").model == "yolov5n"
        assert called == []

    def test_a_compressed_archive(self, checkpoint_file, tmp_path):
        with (
            zipfile.ZipFile(checkpoint_file) as source,
            zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as target,
        ):
            for name in source.namelist():
                target.writestr(name, source.read(name))
        with pytest.raises(ArtifactError, match="is compressed"):
            read_checkpoint(tmp_path / "a.pt")

    def test_a_tensor_larger_than_its_values(self, tmp_path):
        torch.save({"model.0.conv.weight": torch.ones(1).expand(10**12)}, tmp_path / "a.pt")
        with pytest.raises(ArtifactError, match=r"has shape .* but fewer values"):
            read_checkpoint(tmp_path / "a.pt")

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("model.0.conv.weight", float("nan")),
            ("model.24.m.0.bias", float("-inf")),
            ("model.1.bn.running_mean", 1e300),  # more than float32 has
            ("model.1.bn.running_var", -1.0),
        ],
    )
    @pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
    def test_weights_that_are_no_numbers(self, tmp_path, model, name, value, suffix):
        tensors = {key: tensor.double() for key, tensor in model.state_dict().items()}
        tensors[name].view(-1)[0] = value
        path = tmp_path / f"a{suffix}"
        save_file(tensors, path) if suffix == ".safetensors" else torch.save(tensors, path)
        with pytest.raises(ArtifactError, match=name):
            read_checkpoint(path)

    def test_a_model_that_contains_itself(self, tmp_path, model):
        module = nn.Module()
        module._modules["again"] = module
        torch.save(module, tmp_path / "a.pt")
        with pytest.raises(ArtifactError, match="modules: it is damaged"):
            read_checkpoint(tmp_path / "a.pt")


class TestDamage:
    @pytest.mark.parametrize("fraction", [0, 0.0001, 0.5, 0.999])
    @pytest.mark.parametrize("zipped", [True, False])
    def test_a_truncated_file(self, model, tmp_path, fraction, zipped):
        path = tmp_path / "a.pt"
        torch.save(model.state_dict(), path, _use_new_zipfile_serialization=zipped)
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * fraction)])
        with pytest.raises(ArtifactError, match=r"a\.pt is not readable as weights"):
            read_checkpoint(path)

    def test_a_changed_byte(self, checkpoint_file, tmp_path):
        content = bytearray(checkpoint_file.read_bytes())
        content[len(content) // 2] ^= 1
        (tmp_path / "a.pt").write_bytes(content)
        with pytest.raises(ArtifactError, match="does not match its checksum"):
            read_checkpoint(tmp_path / "a.pt")

    @pytest.mark.parametrize("name", ["a.pt", "a.safetensors", "a.bin", "gone.pt"])
    def test_what_is_no_file_of_weights(self, tmp_path, name):
        for written in ("a.pt", "a.safetensors", "a.bin"):
            (tmp_path / written).write_text("hello")
        with pytest.raises(ArtifactError, match=name):
            read_checkpoint(tmp_path / name)

    @pytest.mark.parametrize("value", [3, [torch.ones(1)], {"epoch": 1}, {"model": None}, None])
    def test_what_holds_no_weights(self, tmp_path, value):
        torch.save(value, tmp_path / "a.pt")
        with pytest.raises(ArtifactError, match=r"a\.pt: no weights: .* got "):
            read_checkpoint(tmp_path / "a.pt")


@pytest.fixture(scope="module")
def pickled(checkpoint_file) -> dict[str, bytes]:
    """The records of a checkpoint."""
    with zipfile.ZipFile(checkpoint_file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _only_our_errors(path: Path) -> None:
    try:
        transfer(read_checkpoint(path))
    except ExportLossError as error:
        str(error).encode()


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
@settings(max_examples=150, suppress_health_check=list(HealthCheck), deadline=None)
@given(content=st.binary(max_size=200))
def test_random_bytes(tmp_path_factory, suffix, content):
    path = tmp_path_factory.getbasetemp() / f"random.{suffix}"
    path.write_bytes(content)
    _only_our_errors(path)


@settings(max_examples=100, suppress_health_check=list(HealthCheck), deadline=None)
@given(data=st.data())
def test_changed_pickles(tmp_path_factory, pickled, data):
    """Bytes replaced, inserted or dropped in the pickle, under a checksum that is right."""
    records = dict(pickled)
    (name,) = (name for name in records if name.endswith("data.pkl"))
    content = bytearray(records[name])
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(content) - 1))
        content[start : start + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    records[name] = bytes(content)
    path = tmp_path_factory.getbasetemp() / "changed.pt"
    with zipfile.ZipFile(path, "w") as archive:
        for record, value in records.items():
            archive.writestr(record, value)
    _only_our_errors(path)
