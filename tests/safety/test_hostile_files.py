"""What broke a reader once, found by fuzzing or by hand: each is refused, and says why."""

from __future__ import annotations

import io
import json
import pickle
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from exportloss.config import LossConfig
from exportloss.errors import ArtifactError, ConfigError, DataError, ExportLossError
from exportloss.models import read_checkpoint
from exportloss.runtime.artifact import limits
from exportloss.runtime.evaluation.inference import Detector
from exportloss.runtime.training.run_folder import read_yaml, write_yaml
from fuzzing.targets import SEEDS, TARGETS, read_made_up
from tests.support.messages import mentions

_MANIFEST = (SEEDS / "manifest" / "step").read_bytes()
_STATE = (SEEDS / "state" / "small").read_bytes()
_ONNX = (SEEDS / "onnx" / "detector.onnx").read_bytes()


def _pair_of_pairs(depth: int) -> bytes:
    """A dictionary whose key is a pair of one pair twice, and so on: it is hashed without end."""
    pairs = b"".join(b"q%ch%c\x86" % (level, level) for level in range(depth))
    return b"\x80\x02}()" + pairs + b"K\x01u."


FOUND: list[tuple[str, bytes, type[ExportLossError], str]] = [
    ("manifest", b'{"a": ' + b"[" * 100_000, ArtifactError, "manifest"),
    ("manifest", _MANIFEST.replace(b" 64,", b" Infinity,"), ArtifactError, "Infinity"),
    ("manifest", b'{"format": "' + b"x" * 99_999 + b'"}', ArtifactError, r"has format 'x+\.\.\.;"),
    ("state", _STATE.replace(b'"updates"', b'"updated"'), ArtifactError, "KeyError"),
    ("results", b'"' + b"1" * 200_000, ArtifactError, "results.csv"),
    ("results", b'"' + b"1" * 200_000 + b'"\n1', ArtifactError, "results.csv"),
    (
        "options_yaml",
        b"1: 2\nepochs: [3]\nweights: a\ndata: b",
        ArtifactError,
        r"epochs.*\[3\].*int",
    ),
    ("options_yaml", b"weights: 3\ndata: b", ArtifactError, "weights.*3.*str"),
    *(
        ("options_yaml", b"weights: a\ndata: b\n" + wrong, ArtifactError, "expected")
        for wrong in (
            *(b"imgsz: {a: 1}", b"imgsz: []", b"imgsz: [x]", b"imgsz: [true]", b"imgsz: 64"),
            *(b"freeze: x", b"batch_size: [2]", b"threads: 1.5", b"model: 3", b"head: [a]"),
            *(b"epochs: true", b"cos_lr: 1", b"name: null", b"hyp: {}", b"project: 7"),
        )
    ),
    ("options_yaml", b"a: &a [x]\nb: *a", ArtifactError, "aliases"),
    ("hyp_yaml", b"criterion: " + b"x" * 100_000, ConfigError, r"criterion is 'x+\.\.\.;"),
    ("hyp_yaml", b"? " + b"x" * 500_000 + b"\n: 1", ConfigError, "'x"),
    ("image_list", b"x" * 100_000 + b".jpg", DataError, r"x\.\.\."),
    ("class_names", b"{0: '\xed\xa0\x80'}", ArtifactError, "'utf-8'"),
    ("onnx", _ONNX.replace(b"Reshape", b"\xffeshape"), ArtifactError, "ONNX"),
    *(
        ("manifest", _MANIFEST.replace(b'"train_step.onnx"', name), ArtifactError, "outside")
        for name in (
            *(rb'"\u0000"', rb'"\ud800"', b'"../a"', b'"/etc/passwd"', b'"."', b'".."', b'""'),
            *(rb'"a\n"', rb'"a\u001b[2J"', b'"a/b"', b'"' + b"x" * 256 + b'"'),
        )
    ),
    *(
        ("manifest", _MANIFEST.replace(b'"cat"', name), ArtifactError, r"(class|name) 0 |surrogate")
        for name in (rb'"a\nb"', rb'"\ud800"', rb'"\u001b[2J"', b'"' + b"x" * 201 + b'"')
    ),
    *(
        ("data_yaml", b"train: a\nnames: [" + name + b", b]", DataError, r"(class|name) 0 ")
        for name in (rb'"a\nb"', rb'"\ud800"', rb'"\e[2J"', b"x" * 201, b"y" * 200_000)
    ),
    ("data_yaml", b"names: [a]\ntrain: [" + b"a, " * 20_000 + b"a]", DataError, "20001"),
    ("pickle", _pair_of_pairs(40), ArtifactError, "without end"),
    *(
        ("coco", content, DataError, r"\\ud800")
        for content in (
            *(rb'{"\ud800": nul}', rb'{"\ud800": [1, nul]}', rb'{"\ud800" 1}', rb'["\ud800"]'),
            rb'{"images": ["\ud800"]}',
            rb'{"images": [{"id": "\ud800"}]}',
        )
    ),
]


@pytest.mark.parametrize(
    ("target", "content", "error", "message"),
    FOUND,
    ids=[f"{number}-{target}" for number, (target, *_) in enumerate(FOUND)],
)
def test_what_broke_a_reader_is_refused(tmp_path, target, content, error, message):
    path = tmp_path / TARGETS[target].file_name
    path.write_bytes(TARGETS[target].wrap(content))
    with pytest.raises(error, match=message) as caught:
        TARGETS[target].read(path)
    assert len(str(caught.value)) < 2_000
    assert not read_made_up(TARGETS[target], content, tmp_path)


def test_unknown_keys_are_named_up_to_a_limit():
    with pytest.raises(ConfigError, match=mentions("'a19'", "980 more", "yolov5")):
        LossConfig.from_mapping({f"a{number}": 1 for number in range(1_000)})


def test_a_class_number_too_long_to_print_is_no_name(tmp_path):
    path = tmp_path / "a.onnx"
    path.write_bytes(TARGETS["class_names"].wrap(b"[0x" + b"f" * 9_000 + b"]"))
    assert Detector.open(path).names == ()


class _Storage:
    """Pickled as the n-th storage of a torch file, which says how many values it has."""

    def __init__(self, key: int, numel: int) -> None:
        self.identity = ("storage", torch.HalfStorage, str(key), "cpu", numel, None)


class _Tensor:
    """Pickled as a tensor of one dimension."""

    def __init__(self, storage: _Storage, numel: int) -> None:
        self.arguments = (storage, 0, (numel,), (1,), False, OrderedDict())

    def __reduce__(self) -> tuple[Any, ...]:
        return torch._utils._rebuild_tensor_v2, self.arguments


class _Pickler(pickle.Pickler):
    def persistent_id(self, value: object) -> object:
        return value.identity if isinstance(value, _Storage) else None


def _old_torch_file(tensors: dict[str, _Tensor], storages: dict[int, int]) -> bytes:
    """What torch.save wrote before 1.6; `storages` has how many values of each are in it."""
    file = io.BytesIO()
    sizes = {"short": 2, "int": 4, "long": 4}
    about = {"protocol_version": 1001, "little_endian": True, "type_sizes": sizes}
    for value in (torch.serialization.MAGIC_NUMBER, 1001, about):
        pickle.dump(value, file, 2)
    _Pickler(file, 2).dump(tensors)
    pickle.dump(list(map(str, storages)), file, 2)
    for numel in storages.values():
        file.write(struct.pack("<q", numel) + bytes(2 * numel))
    return file.getvalue()


def test_values_that_the_file_does_not_have_are_not_made_up(tmp_path):
    """Torch makes room for every storage that is spoken of, and reads those that are there."""
    numel = 1 << 28
    content = _old_torch_file({"a": _Tensor(_Storage(0, numel), numel)}, {})
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(ArtifactError, match=mentions(tmp_path / "a.pt", "storages")):
        read_checkpoint(tmp_path / "a.pt")


def test_values_are_not_taken_many_times_over(tmp_path):
    storage = _Storage(0, 1_000)
    content = _old_torch_file({f"a{n}": _Tensor(storage, 1_000) for n in range(100)}, {0: 1_000})
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(ArtifactError, match=mentions(tmp_path / "a.pt", "200000 bytes")):
        read_checkpoint(tmp_path / "a.pt")


def test_a_header_may_not_claim_more_than_there_is(tmp_path):
    """Of safetensors: the length of the header, and where tensors lie."""
    for claimed in ((1 << 64) - 1, 1 << 40):
        (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", claimed) + b"{}")
        with pytest.raises(
            ArtifactError,
            match=mentions(tmp_path / "a.safetensors", claimed, limits.MAX_HEADER_BYTES),
        ):
            read_checkpoint(tmp_path / "a.safetensors")
    about = {"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}
    assert not read_made_up(TARGETS["weights"], json.dumps(about).encode(), tmp_path)


def test_options_that_share_a_list_can_be_read_again(tmp_path: Path):
    shared = [1, 2]
    write_yaml(tmp_path / "opt.yaml", {"a": shared, "b": shared})
    assert read_yaml(tmp_path / "opt.yaml") == {"a": shared, "b": shared}
