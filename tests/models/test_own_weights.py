"""Weights of a file in a detector of the user's own: read as data, and all of them or none."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest
import torch
from torch import nn

from exportloss import ArtifactError
from exportloss.models import load_own_weights
from exportloss.models.torch_file import load_torch_file
from exportloss.runtime.artifact.tensor_file import write_tensors
from tests.support.anchor_free import CLASSES, AnchorFree
from tests.support.messages import mentions


def make(num_classes: int = CLASSES, seed: int = 0) -> AnchorFree:
    torch.manual_seed(seed)
    return AnchorFree(num_classes, width=4)


def equal(one: nn.Module, other: nn.Module) -> bool:
    tensors = other.state_dict()
    return all(torch.equal(tensor, tensors[name]) for name, tensor in one.state_dict().items())


def save(model: nn.Module, path: Path) -> Path:
    tensors = model.state_dict()
    if path.suffix == ".safetensors":
        with path.open("wb") as file:
            write_tensors(file, {name: tensor.numpy() for name, tensor in tensors.items()}, {})
    else:
        torch.save(tensors, path)
    return path


@pytest.fixture
def family(monkeypatch):
    """A class of a package that is not installed where its pickles are read."""
    package, module = types.ModuleType("ultralytics"), types.ModuleType("ultralytics.nn")
    detection = type("DetectionModel", (AnchorFree,), {"__module__": "ultralytics.nn"})
    module.DetectionModel = detection
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "ultralytics", package)
        patch.setitem(sys.modules, "ultralytics.nn", module)
        yield detection


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_state_dict_gives_all_tensors(suffix, tmp_path):
    path = save(make(seed=1), tmp_path / f"weights.{suffix}")
    model = make()
    loaded = load_own_weights(model, path)
    assert equal(model, make(seed=1)) and not equal(model, make())
    assert loaded.taken == loaded.total > 0
    assert (loaded.num_classes, loaded.names) == (CLASSES, None)


def test_a_checkpoint_of_the_family_gives_its_average_in_float32(family, tmp_path):
    torch.manual_seed(2)
    averaged = family(CLASSES, width=4).half()
    averaged.names = {0: "a", 1: "b", 2: "c"}
    torch.save({"epoch": -1, "model": None, "ema": averaged, "date": ""}, tmp_path / "best.pt")
    for name in ("ultralytics", "ultralytics.nn"):
        del sys.modules[name]
    model = make()
    loaded = load_own_weights(model, tmp_path / "best.pt")
    assert loaded.what == "the moving average of a checkpoint"
    assert (loaded.taken, loaded.names) == (loaded.total, ("a", "b", "c"))
    assert all(t.dtype == make().state_dict()[n].dtype for n, t in model.state_dict().items())
    assert equal(model, averaged.float())
    # YOLOv5's own reader goes on refusing it.
    with pytest.raises(ArtifactError, match=mentions("YOLOv8")):
        load_torch_file(tmp_path / "best.pt")


class Runs:
    def __reduce__(self):
        return print, ("executed",)


def test_what_could_run_code_is_refused(tmp_path, capsys):
    torch.save({"model": Runs()}, tmp_path / "evil.pt")
    with pytest.raises(ArtifactError, match=mentions("evil.pt", "print", "refused")):
        load_own_weights(make(), tmp_path / "evil.pt")
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: t.pop("classes.1.1.bias"), ("1 missing", "classes.1.1.bias")),
        (lambda t: t.update(extra=torch.zeros(2)), ("1 unexpected", "extra")),
        (
            lambda t: t.update({"stem.0.0.weight": torch.zeros(4, 3, 5, 5)}),
            ("1 of another shape", "stem.0.0.weight", (4, 3, 5, 5), (4, 3, 3, 3)),
        ),
        (lambda t: t.update({"stem.0.0.weight": torch.full((4, 3, 3, 3), torch.inf)}), ("finite",)),
        (
            lambda t: t.update({"stem.0.0.weight": t["stem.0.0.weight"].char()}),
            ("'stem.0.0.weight' hold integers", "floating point", "quantised", "scales"),
        ),
        (lambda t: [t.pop(name) for name in list(t)], ("missing", "...")),
    ],
)
def test_other_tensors_are_told_and_nothing_is_loaded(change, told, tmp_path):
    tensors = dict(make(seed=1).state_dict())
    change(tensors)
    torch.save(tensors, tmp_path / "other.pt")
    model = make()
    with pytest.raises(ArtifactError, match=mentions("other.pt", *told)):
        load_own_weights(model, tmp_path / "other.pt", rebuild=make)
    assert equal(model, make())


def test_batch_counters_may_be_absent_or_more(tmp_path):
    tensors = make(seed=1).state_dict()
    few = {name: t for name, t in tensors.items() if not name.endswith("num_batches_tracked")}
    few["other.num_batches_tracked"] = torch.tensor(1)
    torch.save(few, tmp_path / "few.pt")
    model = make()
    load_own_weights(model, tmp_path / "few.pt")
    assert equal(model, make(seed=1))


def test_for_other_classes_only_what_depends_on_them_starts_anew(tmp_path):
    path = save(make(7, seed=1), tmp_path / "seven.pt")
    model, start, given = make(), make(), make(7, seed=1).state_dict()
    drawn = torch.random.get_rng_state()
    loaded = load_own_weights(model, path, rebuild=make)
    assert torch.equal(drawn, torch.random.get_rng_state())
    heads = {f"classes.{level}.1.{kind}" for level in (0, 1) for kind in ("weight", "bias")}
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, start.state_dict()[name] if name in heads else given[name])
    assert (loaded.num_classes, loaded.total - loaded.taken) == (7, len(heads))
    with pytest.raises(ArtifactError, match=mentions("of another shape", "classes.0.1.weight")):
        load_own_weights(model, path)


@pytest.mark.parametrize("name", ["nothing.pt", "weights.onnx"])
def test_what_is_no_file_of_weights_is_refused(name, tmp_path):
    (tmp_path / "weights.onnx").write_bytes(b"")
    with pytest.raises(ArtifactError, match=mentions(name, ".safetensors")):
        load_own_weights(make(), tmp_path / name)
