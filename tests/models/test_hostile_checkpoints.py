"""Files of weights that are damaged or made to do harm: refused without running anything."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from exportloss.errors import ArtifactError, ExportLossError
from exportloss.models import YoloV5, read_checkpoint, transfer
from tests.support.messages import mentions
from tests.support.yolov5_files import CLASSES, make_detector, save_checkpoint


@pytest.fixture(scope="module")
def model() -> YoloV5:
    return make_detector()


@pytest.fixture(scope="module")
def checkpoint_file(model, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("files") / "best.pt"
    save_checkpoint(path, model, names=list(CLASSES))
    return path


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
        with pytest.raises(ArtifactError, match=mentions("evil.pt", "refused", f"'{name}'")):
            read_checkpoint(path)
        assert not mark.exists()
        with path.open("rb") as file:  # the file is what it is meant to be
            torch.load(file, weights_only=False)
        assert mark.exists()

    def test_a_plain_pickle(self, tmp_path):
        (tmp_path / "evil.pt").write_bytes(pickle.dumps(_Call(eval, "1 + 1")))
        with pytest.raises(ArtifactError, match=mentions("evil.pt", "'builtins.eval'")):
            read_checkpoint(tmp_path / "evil.pt")

    @pytest.mark.parametrize("function", [torch.load, torch.save, torch.set_num_threads])
    def test_torchs_own_functions(self, tmp_path, function):
        torch.save({"model": _Call(function, 1)}, tmp_path / "evil.pt")
        with pytest.raises(ArtifactError, match=mentions("evil.pt", f".{function.__name__}'")):
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
        with pytest.raises(ArtifactError, match=mentions("a.pt", "best/data.pkl", "compressed")):
            read_checkpoint(tmp_path / "a.pt")

    def test_a_tensor_larger_than_its_values(self, tmp_path):
        torch.save({"model.0.conv.weight": torch.ones(1).expand(10**12)}, tmp_path / "a.pt")
        with pytest.raises(ArtifactError, match=mentions("a.pt", "'model.0.conv.weight'", 10**12)):
            read_checkpoint(tmp_path / "a.pt")

    @pytest.mark.parametrize(
        ("name", "value", "told"),
        [
            ("model.0.conv.weight", float("nan"), "finite"),
            ("model.24.m.0.bias", float("-inf"), "finite"),
            ("model.1.bn.running_mean", 1e300, "finite"),  # more than float32 has
            ("model.1.bn.running_var", -1.0, "negative"),
        ],
    )
    @pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
    def test_weights_that_are_no_numbers(self, tmp_path, model, *, name, value, told, suffix):
        tensors = {key: tensor.double() for key, tensor in model.state_dict().items()}
        tensors[name].view(-1)[0] = value
        path = tmp_path / f"a{suffix}"
        save_file(tensors, path) if suffix == ".safetensors" else torch.save(tensors, path)
        with pytest.raises(ArtifactError, match=mentions(path, f"'{name}'", told)):
            read_checkpoint(path)

    def test_a_model_that_contains_itself(self, tmp_path, model):
        module = nn.Module()
        module._modules["again"] = module
        torch.save(module, tmp_path / "a.pt")
        with pytest.raises(ArtifactError, match=mentions("a.pt", "damaged")):
            read_checkpoint(tmp_path / "a.pt")


class TestDamage:
    @pytest.mark.parametrize("share", [0, 0.0001, 0.5, 0.999])
    @pytest.mark.parametrize("zipped", [True, False])
    def test_a_truncated_file(self, model, tmp_path, share, zipped):
        path = tmp_path / "a.pt"
        torch.save(model.state_dict(), path, _use_new_zipfile_serialization=zipped)
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(ArtifactError, match=mentions("a.pt", "not readable")):
            read_checkpoint(path)

    def test_a_changed_byte(self, checkpoint_file, tmp_path):
        content = bytearray(checkpoint_file.read_bytes())
        content[len(content) // 2] ^= 1
        (tmp_path / "a.pt").write_bytes(content)
        with pytest.raises(ArtifactError, match=mentions("a.pt", "checksum")):
            read_checkpoint(tmp_path / "a.pt")

    @pytest.mark.parametrize("name", ["a.pt", "a.safetensors", "a.bin", "gone.pt"])
    def test_what_is_no_file_of_weights(self, tmp_path, name):
        for written in ("a.pt", "a.safetensors", "a.bin"):
            (tmp_path / written).write_text("hello")
        with pytest.raises(ArtifactError, match=mentions(tmp_path / name)):
            read_checkpoint(tmp_path / name)

    @pytest.mark.parametrize(
        ("value", "got"),
        [
            (3, "int"),
            ([torch.ones(1)], "list"),
            ({"epoch": 1}, "'epoch'"),
            ({"model": None}, "NoneType"),
            (None, "None"),
        ],
    )
    def test_what_holds_no_weights(self, tmp_path, value, got):
        torch.save(value, tmp_path / "a.pt")
        with pytest.raises(ArtifactError, match=mentions("a.pt", "no weights", got)):
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
    """Bytes replaced, inserted or left out in the pickle, under a checksum that is right."""
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
