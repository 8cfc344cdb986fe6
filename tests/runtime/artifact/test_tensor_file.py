"""Our reader and writer of safetensors, against the package of that name."""

from __future__ import annotations

import contextlib
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
from safetensors.numpy import load, save

from exportloss.errors import ArtifactError
from exportloss.models import read_checkpoint
from exportloss.runtime.artifact.state import TrainState, load_state, save_state
from exportloss.runtime.artifact.tensor_file import (
    parse_tensor_file,
    read_tensor_file,
    write_tensors,
)
from fuzzing.differences import read_tensors_twice
from fuzzing.mutations import mutated
from fuzzing.targets import SEEDS

DTYPES = "f8 f4 f2 i8 i4 i2 i1 u8 u4 u2 u1 ?".split()


def tensors() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    made = {f"{dtype}-ü": draw.integers(0, 2, (2, 3)).astype(dtype) for dtype in DTYPES}
    return made | {"scalar": np.array(1.5, np.float32), "none": np.zeros((0, 4), np.float32)}


def written(about: dict[str, str]) -> bytes:
    file = io.BytesIO()
    write_tensors(file, tensors(), about)
    return file.getvalue()


def made_of(header: object, values: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + values


def entry(dtype: Any = "F32", shape: Any = (1,), offsets: Any = (0, 4)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_the_package_reads_what_is_written_here(tmp_path):
    about = {"b": "2", "a": '"ü\n'}
    (tmp_path / "a").write_bytes(written(about))
    with safetensors.safe_open(tmp_path / "a", framework="numpy") as file:
        assert file.metadata() == about
    found = load(written(about))
    assert found.keys() == tensors().keys()
    for name, tensor in tensors().items():
        np.testing.assert_array_equal(found[name], tensor)
        assert found[name].dtype == tensor.dtype


def test_what_the_package_writes_is_read_here():
    file = parse_tensor_file(save(tensors(), {"a": "ü"}), "a")
    assert file.about == {"a": "ü"}
    assert file.tensors.keys() == tensors().keys()
    for name, tensor in tensors().items():
        np.testing.assert_array_equal(file.tensors[name].numpy(), tensor)
        assert not file.tensors[name].numpy().flags.writeable


def test_what_is_read_may_be_changed(tmp_path):
    (tmp_path / "a").write_bytes(written({}))
    tensor = read_tensor_file(tmp_path / "a").tensors["f4-ü"].numpy()
    tensor += 1
    np.testing.assert_array_equal(tensor, tensors()["f4-ü"] + 1)
    assert (tmp_path / "a").read_bytes() == written({})


def test_the_same_is_written_the_same(tmp_path):
    assert written({"a": "1", "b": "2"}) == written({"b": "2", "a": "1"})
    ones = np.ones(2, np.float32)
    state = TrainState(
        model={"w": ones}, optimizer={"momentum": {"w": ones}}, loss={"balance": ones}, updates=3
    )
    for name in ("a", "b"):
        save_state(tmp_path / name, state)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\2\0\0\0\0\0\0",
        made_of(b"{"),
        made_of(b"[]"),
        made_of(b"{} {}"),
        made_of(b"\xff"),
        (1 << 63).to_bytes(8, "little") + b"{}",
        made_of(b"[" * 50_000),
        made_of(b'{"__metadata__": ' + b"[" * 50_000 + b"]" * 50_000 + b"}"),
        made_of({"__metadata__": []}),
        made_of({"__metadata__": {"a": 1}}),
        made_of(b'{"__metadata__": {"a": "\\ud800"}}'),
        made_of(b'{"\\ud800": ' + json.dumps(entry()).encode() + b"}", bytes(4)),
        made_of(b'{"__metadata__": {}, "__metadata__": {}}'),
        made_of(b'{"a": %b, "a": %b}' % ((json.dumps(entry()).encode(),) * 2), bytes(4)),
        made_of({"a": entry(dtype="F4")}, bytes(4)),
        made_of({"a": entry(dtype="F8_E4M3", shape=(4,))}, bytes(4)),
        made_of({"a": entry(dtype=["F32"])}, bytes(4)),
        made_of({"a": entry(shape=(2,))}, bytes(4)),
        made_of({"a": entry(shape=(-1, -1))}, bytes(4)),
        made_of({"a": entry(shape=(1.0,))}, bytes(4)),
        made_of({"a": entry(shape=(True,))}, bytes(4)),
        made_of({"a": entry(shape=[1] * 65)}, bytes(4)),
        made_of({"a": entry(shape=(1 << 62, 1 << 62))}, bytes(4)),
        made_of({"a": entry(offsets=(0, 4, 4))}, bytes(4)),
        made_of({"a": entry(offsets=(4, 0))}, bytes(4)),
        made_of({"a": entry(offsets=(-4, 0))}, bytes(4)),
        made_of({"a": entry(offsets=(4, 8))}, bytes(8)),
        made_of({"a": entry()}, bytes(3)),
        made_of({"a": entry()}, bytes(5)),
        made_of({"a": entry(), "b": entry()}, bytes(4)),
        made_of({"a": entry(), "b": entry(offsets=(2, 6))}, bytes(6)),
        made_of({"a": entry() | {"more": 1}}, bytes(4)),
        made_of({"a": 3}),
        made_of({"a": {"dtype": "F32"}}),
        made_of({"a": entry(offsets=(0, "4"))}, bytes(4)),
    ],
)
def test_what_is_no_such_file_is_refused(tmp_path, content):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    for read in (read_tensor_file, load_state, read_checkpoint):
        with pytest.raises(ArtifactError) as caught:
            read(path)
        assert str(path) in str(caught.value)
        assert len(str(caught.value).encode()) < 1_000


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe"])
def test_what_is_no_file_is_refused(tmp_path, kind):
    path = tmp_path / "a.safetensors"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    for read in (read_tensor_file, load_state, read_checkpoint):
        with pytest.raises(ArtifactError, match=r"a\.safetensors"):
            read(path)


def test_the_package_takes_what_is_taken_here(tmp_path):
    """Ours may refuse more: types that no training has, and what is there twice."""
    seeds = [path.read_bytes() for path in (SEEDS / "state").iterdir()]
    tokens = [b"F32", b"[0,4]", b'"a"', b"\0", b'"shape"', b"{}", b","]
    path, taken = tmp_path / "a", 0
    for content in mutated([*seeds, written({"a": "b"})], tokens, 3_000):
        path.write_bytes(content)
        with contextlib.suppress(ArtifactError):
            read_tensors_twice(path)
            taken += 1
    assert taken > 10


def test_a_weight_file_is_not_read_again_by_its_path(tmp_path, monkeypatch):
    """What was compared with its hash is what is used."""
    path = tmp_path / "a.safetensors"
    path.write_bytes((SEEDS / "state" / "small").read_bytes())
    opened = []
    real = os.open

    def watch(name: Any, *arguments: Any, **options: Any) -> int:
        opened.append(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(os, "open", watch)
    with pytest.raises(ArtifactError):
        read_checkpoint(path)
    assert opened == [Path(path)]


def test_a_truncated_file_says_so_with_both_sizes():
    content = written({"a": "b"})
    header = 8 + int.from_bytes(content[:8], "little")
    for size in (header, header + 1, len(content) - 1):
        with pytest.raises(ArtifactError, match=rf"truncated.* {size} .* {len(content)} "):
            parse_tensor_file(content[:size], "x")
    for size in (8, 9, header - 1):
        with pytest.raises(ArtifactError, match=rf"truncated.* {size} .* {header} "):
            parse_tensor_file(content[:size], "x")
    for size in (0, 1, 7):
        with pytest.raises(ArtifactError, match=rf"truncated.* {size} .* 8"):
            parse_tensor_file(content[:size], "x")


def test_a_file_with_more_behind_it_is_not_called_truncated():
    content = written({})
    with pytest.raises(ArtifactError, match=rf" {len(content) + 3} .* {len(content)} ") as raised:
        parse_tensor_file(content + b"...", "x")
    assert "truncated" not in str(raised.value)


def test_a_truncated_state_says_so(tmp_path):
    path = tmp_path / "last.safetensors"
    balance, weight = np.ones(2, np.float32), np.ones(3, np.float32)
    state = TrainState(model={"w": weight}, optimizer={}, loss={"balance": balance}, updates=1)
    save_state(path, state)
    size = path.stat().st_size
    os.truncate(path, size - 5)
    with pytest.raises(ArtifactError, match=rf"last.*truncated.* {size - 5} .* {size} "):
        load_state(path)
