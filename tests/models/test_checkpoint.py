"""Weights in YOLOv5's files and others: read exactly, or refused by what does not fit."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from exportloss.errors import ArtifactError
from exportloss.models import YoloV5, read_checkpoint, save_state_dict, transfer, yolov5
from tests.support.messages import mentions, missing
from tests.support.yolov5_files import CLASSES, make_detector, save_checkpoint


def assert_same(state: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert state.keys() == expected.keys()
    for name, tensor in expected.items():
        assert state[name].dtype == tensor.dtype, name
        assert torch.equal(state[name], tensor), name


@pytest.fixture(scope="module")
def model() -> YoloV5:
    return make_detector()


class TestYolov5Files:
    @pytest.mark.parametrize("bare", [True, False], ids=["bare", "dictionary"])
    @pytest.mark.parametrize(
        "names", [list(CLASSES), dict(enumerate(CLASSES))], ids=["list", "dict"]
    )
    @pytest.mark.parametrize("root", ["Model", "DetectionModel"])
    def test_the_state_dict_is_the_same_bit_for_bit(self, model, tmp_path, root, names, bare):
        path = tmp_path / "last.pt"
        save_checkpoint(path, model, root=root, names=names, bare=bare)
        checkpoint = read_checkpoint(path)
        assert (checkpoint.model, checkpoint.num_classes) == ("yolov5n", 3)
        assert checkpoint.names == CLASSES
        assert checkpoint.strides == (8, 16, 32)
        assert checkpoint.anchors[0] == (10, 13, 16, 30, 33, 23)
        assert checkpoint.yaml["depth_multiple"] == 0.33
        transferred = transfer(checkpoint)
        assert transferred.taken == transferred.total == 291
        assert_same(transferred.model.state_dict(), model.state_dict())

    def test_the_moving_average_is_preferred(self, model, tmp_path):
        averaged = make_detector(1)
        save_checkpoint(tmp_path / "a.pt", model, names=CLASSES, ema=averaged)
        checkpoint = read_checkpoint(tmp_path / "a.pt")
        assert not missing(checkpoint.what, "moving average", "checkpoint")
        assert_same(transfer(checkpoint).model.state_dict(), averaged.state_dict())

    @pytest.mark.parametrize("name", ["yolov5s", "yolov5n6"])
    def test_the_size_is_found(self, name, tmp_path):
        sized = make_detector(name=name)
        save_checkpoint(tmp_path / "a.pt", sized, names=CLASSES)
        checkpoint = read_checkpoint(tmp_path / "a.pt")
        assert checkpoint.model == name
        assert_same(transfer(checkpoint).model.state_dict(), sized.state_dict())

    def test_float32_stays(self, tmp_path):
        torch.manual_seed(0)
        exact = yolov5("yolov5n", 3)
        save_checkpoint(tmp_path / "a.pt", exact, names=CLASSES, half=False)
        state = transfer(read_checkpoint(tmp_path / "a.pt")).model.state_dict()
        assert_same(state, exact.state_dict())

    def test_its_anchors_are_kept(self, tmp_path):
        anchors = [[10, 11, 20, 21], [30, 31, 40, 41], [50, 51, 60, 61]]  # two a level
        own = make_detector(anchors=anchors)
        save_checkpoint(tmp_path / "a.pt", own, names=CLASSES)
        checkpoint = read_checkpoint(tmp_path / "a.pt")
        for classes in (3, 5):
            got = transfer(checkpoint, classes).model
            assert got.anchors_px.flatten(1).tolist() == anchors
            assert got.num_classes == classes

    def test_other_classes_take_all_but_the_head(self, model, tmp_path):
        save_checkpoint(tmp_path / "a.pt", model, names=CLASSES)
        transferred = transfer(read_checkpoint(tmp_path / "a.pt"), 5)
        assert (transferred.taken, transferred.total) == (285, 291)
        expected = model.state_dict()
        for name, tensor in transferred.model.state_dict().items():
            if not name.startswith("model.24.m."):
                assert torch.equal(tensor, expected[name]), name


class TestOtherArchitectures:
    @pytest.mark.parametrize(
        ("change", "told"),
        [
            (
                lambda m: m.model[0].register_module("act", nn.Hardswish()),
                ("'model.0.act'", "Hardswish", "SiLU"),
            ),
            (
                lambda m: m.model[3].register_parameter("more", nn.Parameter(torch.ones(2))),
                ("'model.3.more'", (2,)),
            ),
            (
                lambda m: m.model[9].register_module("cv2", nn.Identity()),
                ("'model.9.cv2.conv.weight'", (256, 512, 1, 1)),
            ),
            (
                lambda m: setattr(m.model[4], "shortcut", False),
                ("layer 4", ((3,), False), ((3,), True)),
            ),
            (
                lambda m: setattr(m, "sources", (*m.sources[:12], (11, 5), *m.sources[13:])),
                ("layer 12", (11, 5), (11, 6)),
            ),
        ],
        ids=["activation", "more", "less", "shortcut", "wiring"],
    )
    def test_are_refused(self, tmp_path, change, told):
        other = make_detector()
        change(other)
        save_checkpoint(tmp_path / "a.pt", other, names=CLASSES)
        with pytest.raises(ArtifactError, match=mentions("a.pt", "yolov5n", *told)):
            transfer(read_checkpoint(tmp_path / "a.pt"))

    @pytest.mark.parametrize(
        ("state", "told"),
        [
            ({"layer.weight": torch.ones(1)}, ("'model.0.conv.weight'", "'layer.weight'")),
            ({}, ("'model.0.conv.weight'", "none")),
            (
                {
                    "model.0.conv.weight": torch.ones(24, 3, 6, 6),
                    "model.24.m.0.bias": torch.ones(24),
                },
                (25, 24),
            ),
        ],
    )
    def test_of_other_detectors(self, tmp_path, state, told):
        torch.save(state, tmp_path / "a.pt")
        with pytest.raises(ArtifactError, match=mentions("a.pt", *told)):
            read_checkpoint(tmp_path / "a.pt")

    @pytest.mark.parametrize(
        ("changes", "told"),
        [
            ({"names": ["cat"]}, ("names", 1, 3)),
            ({"names": {1: "a", 2: "b", 3: "c"}}, ("names", "from 0")),
            ({"names": 3}, ("names", "list")),
            ({"stride": torch.tensor([4.0, 8.0, 16.0])}, ("stride", (4.0, 8.0, 16.0))),
            ({"stride": torch.tensor([8.0, float("nan"), 32.0])}, ("strides", "finite")),
            ({"yaml": {"backbone": 3}}, ("yaml", "layers")),
        ],
    )
    def test_what_it_says_of_itself_must_fit(self, model, tmp_path, changes, told):
        save_checkpoint(tmp_path / "a.pt", model, **{"names": CLASSES, **changes})
        with pytest.raises(ArtifactError, match=mentions("a.pt", *told)):
            transfer(read_checkpoint(tmp_path / "a.pt"))


class TestOtherFiles:
    def test_integers_are_no_weights(self, model, tmp_path):
        torch.save({name: t.int() for name, t in model.state_dict().items()}, tmp_path / "a.pt")
        with pytest.raises(
            ArtifactError, match=mentions("a.pt", "model.0.conv.weight", "others hold integers")
        ):
            transfer(read_checkpoint(tmp_path / "a.pt"))

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
        save_checkpoint(tmp_path / "a.pt", model, names=CLASSES, zipped=False)
        with pytest.raises(ArtifactError, match=mentions("a.pt", "1.6")):
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
        assert not missing(checkpoint.what, "moving average", "training state")
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
        with pytest.raises(ArtifactError, match=mentions("a.safetensors", key)):
            read_checkpoint(path)

    @pytest.mark.parametrize("suffix", ["pt", "safetensors"])
    def test_what_is_written_is_read(self, model, tmp_path, suffix):
        path = tmp_path / f"a.{suffix}"
        save_state_dict(model, path, names=CLASSES)
        checkpoint = read_checkpoint(path)
        assert_same(transfer(checkpoint).model.state_dict(), model.state_dict())
        if suffix == "safetensors":
            assert checkpoint.names == CLASSES
            assert checkpoint.strides == (8, 16, 32)
            written = load_file(path)
        else:
            written = torch.load(path, weights_only=True)
            assert type(written) is dict
        assert_same(written, model.state_dict())
