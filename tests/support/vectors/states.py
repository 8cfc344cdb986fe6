"""States: their checksums and bytes, and files to open or refuse."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from exportloss.runtime.artifact.state_digest import state_digest, state_digest_1
from exportloss.runtime.artifact.tensor_file import StoredTensor, write_stored_tensors

Tensors = dict[str, StoredTensor]

_FLOATS = np.array([1.0, -2.5, 0.0, -0.0, 1e-45, 3.4028235e38], np.float32)


def floats(*shape: int, start: float = 1.0) -> StoredTensor:
    """Return a tensor of float32: start, start + 0.5, ..."""
    size = int(np.prod(shape))
    return StoredTensor.of((start + np.arange(size, dtype=np.float32) / 2).reshape(shape))


def stored(dtype: str, shape: tuple[int, ...], content: bytes) -> StoredTensor:
    return StoredTensor(dtype, shape, memoryview(content))


def file_of(tensors: Mapping[str, StoredTensor], about: Mapping[str, str]) -> bytes:
    file = io.BytesIO()
    write_stored_tensors(file, tensors, about)
    return file.getvalue()


def with_checksum(tensors: Tensors, about: Mapping[str, str]) -> bytes:
    digest = state_digest_1 if about.get("format") == "exportloss-state/1" else state_digest
    return file_of(tensors, {**about, "sha256": digest(tensors, about)})


def raw(header: object, values: bytes = b"") -> bytes:
    """Return a file with a header as given."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + values


def _about(**more: str) -> dict[str, str]:
    return {"format": "exportloss-state/2", "updates": "3", "skipped": "1", **more}


def _usual() -> Tensors:
    return {
        "balance": floats(3, start=0.5),
        "model.0.conv.weight": floats(2, 1, 3, 3, start=-4),
        "model.0.bn.running_mean": floats(2, start=-1),
        "model.0.bn.running_var": floats(2),
        "optimizer/momentum/model.0.conv.weight": floats(2, 1, 3, 3),
        "ema/model.0.conv.weight": floats(2, 1, 3, 3),
    }


_DESCRIPTION = {
    "model": "yolov5n",
    "names": '["scratch","Fu\u00dfg\u00e4nger","\U0001f6b2"]',
    "anchors": "[[[10,13],[16.5,30]],[[30,61],[62,45]]]",
    "strides": "[8,16]",
}
# In the order of UTF-16 code units, the second of these comes before the first.
_TRAPS = ("\uff5a", "\U0001f600")
_ESCAPED = 'quote " backslash \\ newline \n escape \x1b delete \x7f separator \u2028 slash /'


def _whole() -> Iterator[tuple[str, Tensors, dict[str, str]]]:
    """Yield name, tensors and metadata of states that every reader opens."""
    yield "smallest", {"balance": floats(1)}, {"format": "exportloss-state/2", "updates": "0"}
    yield "usual", _usual(), _about(**_DESCRIPTION)
    yield "extreme floats", {"balance": floats(3), "w": StoredTensor.of(_FLOATS)}, _about()
    yield (
        "order of names",
        {"balance": floats(2)}
        | {
            name: floats(1, start=at) for at, name in enumerate(("9", "10", "", *_TRAPS, "e\u0301"))
        },
        _about(**{name: name for name in ("9", "10", "", *_TRAPS)}),
    )
    yield "escapes", {"balance": floats(2), _ESCAPED: floats(1)}, _about(note=_ESCAPED)
    yield "empty value", {"balance": floats(2)}, _about(model="")
    yield (
        "zero sizes and scalars",
        {"balance": floats(1), "none": floats(0), "rows": floats(0, 4), "scalar": floats()},
        _about(),
    )
    yield (
        "old format",
        _usual() | {"\u00e9": floats(1), "none": floats(0, 4), "scalar": floats()},
        {"format": "exportloss-state/1", "updates": "7", "note": "\u00e9 \U0001f600 \n"},
    )


def _other_types() -> Tensors:
    """Return tensors of types that states do not have, and the checksum covers all the same."""
    return {
        "balance": floats(1),
        "f64": StoredTensor.of(np.array([1.5, -2.0])),
        "f16": StoredTensor.of(np.array([[0.5, 1.0]], np.float16)),
        "bf16": stored("BF16", (2,), b"\x80\x3f\x00\x40"),
        "i64": StoredTensor.of(np.array([-1, 1 << 40])),
        "u8": StoredTensor.of(np.array([0, 255], np.uint8)),
        "bool": StoredTensor.of(np.array([True, False])),
    }


def _described(tensors: Tensors) -> list[dict[str, object]]:
    return [
        {"name": name, "dtype": each.dtype, "shape": each.shape, "hex": bytes(each.content).hex()}
        for name, each in tensors.items()
    ]


def _refused() -> Iterator[tuple[str, str, bytes]]:
    yield from _no_safetensors()
    small: Tensors = {"balance": floats(1)}
    for found in ("exportloss-weights/1", "exportloss-state/0", "exportloss-state/02", "2", ""):
        yield f"format {found!r}", "not-a-state", with_checksum(small, _about(format=found))
    yield "no metadata", "not-a-state", raw({"balance": _entry()}, bytes(4))
    yield from _damaged()
    yield "later format", "newer", with_checksum(small, _about(format="exportloss-state/3"))
    later = _about(format="exportloss-state/12", more="?")
    yield "much later format", "newer", with_checksum({"w": floats(1)}, later)
    yield "later format, no checksum", "newer", file_of(small, later)
    about = {"format": "exportloss-state/2"}
    yield "no updates", "incomplete", with_checksum(small, about)
    for text in ("", " 3", "+3", "-3", "03", "3.0", "1e3", "\u0663", "12345678901", "1_000"):
        yield f"updates {text!r}", "incomplete", with_checksum(small, _about(updates=text))
    yield "skipped 'x'", "incomplete", with_checksum(small, _about(skipped="x"))
    odd = small | {"optimizer/momentum": floats(1)}
    yield "optimizer tensor of no parameter", "incomplete", with_checksum(odd, _about())
    yield from _bad_values()
    for shape, offsets in (("[1.0]", "[0,4]"), ("[1e0]", "[0,4]"), ("[1]", "[0,4.0]")):
        header = f'{{"balance":{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}}}'
        yield f"shape {shape}, offsets {offsets}", "not-safetensors", raw(header.encode(), bytes(4))


def _entry(dtype: Any = "F32", shape: Any = (1,), offsets: Any = (0, 4)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def _no_safetensors() -> Iterator[tuple[str, str, bytes]]:
    code, whole = "not-safetensors", with_checksum(_usual(), _about())
    header = json.dumps({"balance": _entry()})
    yield "empty file", code, b""
    yield "seven bytes", code, whole[:7]
    yield "header cut off", code, whole[:40]
    yield "values cut off", code, whole[:-1]
    yield "a byte too many", code, whole + b"\0"
    yield "header of 2^63 bytes", code, struct.pack("<Q", 1 << 63) + b"{}"
    yield "header is a list", code, raw([])
    yield "header is not JSON", code, raw(b"{")
    yield "header goes on", code, raw(b"{} {}")
    yield "header is not UTF-8", code, raw(b'{"\xff": 1}')
    yield "header in UTF-16", code, raw(header.encode("utf-16-le"), bytes(4))
    yield "header with a byte order mark", code, raw(b"\xef\xbb\xbf" + header.encode(), bytes(4))
    yield (
        "a name twice",
        code,
        raw(f'{{"a": {header[12:-1]}, "a": {header[12:-1]}}}'.encode(), bytes(4)),
    )
    yield "metadata twice", code, raw(b'{"__metadata__": {}, "__metadata__": {}}')
    yield "metadata is a number", code, raw({"__metadata__": {"updates": 3}})
    yield "half a surrogate pair", code, raw(b'{"__metadata__": {"a": "\\ud800"}}')
    for name, entry, size in (
        ("unknown type", _entry("F4"), 4),
        ("size of another shape", _entry(shape=(2,)), 4),
        ("negative sides", _entry(shape=(-1, -1)), 4),
        ("broken side", _entry(shape=(0.5, 2)), 4),
        ("side is true", _entry(shape=(True,)), 4),
        ("33 dimensions", _entry(shape=(1,) * 33), 4),
        ("product beyond 64 bits", _entry(shape=(1 << 32, 1 << 32), offsets=(0, 0)), 0),
        ("offsets reversed", _entry(offsets=(4, 0)), 4),
        ("three offsets", _entry(offsets=(0, 4, 4)), 4),
        ("gap before the values", _entry(offsets=(4, 8)), 8),
        ("a key too many", _entry() | {"more": 1}, 4),
        ("no shape", {"dtype": "F32", "data_offsets": (0, 4)}, 4),
    ):
        yield name, code, raw({"balance": entry}, bytes(size))
    twice = {"a": _entry(), "b": _entry(offsets=(2, 6))}
    yield "overlap", code, raw(twice, bytes(6))


def _damaged() -> Iterator[tuple[str, str, bytes]]:
    whole = with_checksum(_usual(), _about(**_DESCRIPTION))
    changed = bytearray(whole)
    changed[-1] ^= 1
    yield "a bit of a value", "damaged", bytes(changed)
    for old, new in (
        (b'"updates":"3"', b'"updates":"2"'),
        (b'"model":"yolov5n"', b'"model":"yolov5m"'),
        (b"running_mean", b"running_mein"),
        (b'"shape":[2,1,3,3]', b'"shape":[1,2,3,3]'),
        (b"exportloss-state/2", b"exportloss-state/3"),
        (b"exportloss-state/2", b"exportloss-state/1"),
        (b'"sha256":', b'"sha266":'),
    ):
        assert old in whole
        yield f"{new.decode()} in place of {old.decode()}", "damaged", whole.replace(old, new, 1)
    about = _about()
    digest = state_digest(_usual(), about)
    for name, text in (("no", ""), ("an upper case", digest.upper())):
        yield f"{name} checksum", "damaged", file_of(_usual(), about | {"sha256": text})


def _bad_values() -> Iterator[tuple[str, str, bytes]]:
    def of(tensors: Tensors, **about: str) -> bytes:
        return with_checksum({"balance": floats(1)} | tensors, _about(**about))

    for text in ("NaN", "Infinity", "-Infinity"):
        tensor = StoredTensor.of(np.array([0, float(text)], np.float32))
        yield f"{text} in a weight", "values", of({"w": tensor})
    yield "NaN in the balance", "values", of({"balance": StoredTensor.of(np.full(1, np.nan, "f4"))})
    yield "negative variance", "values", of({"bn.running_var": floats(1, start=-1)})
    yield "negative mean of squares", "values", of({"optimizer/exp_avg_sq/w": floats(1, start=-1)})
    for dtype in ("f64", "f16", "bf16", "i64", "u8", "bool"):
        yield f"a weight of type {dtype}", "values", of({"w": _other_types()[dtype]})
    yield "2^31 updates", "values", of({}, updates=str(1 << 31))


def make(files: dict[str, bytes]) -> list[object]:
    cases: list[object] = []

    def add(name: str, content: bytes, **more: object) -> None:
        path = f"states/{len(cases):03}.safetensors"
        files[path] = content
        cases.append({"name": name, "file": path, **more})

    for name, tensors, about in _whole():
        whole = with_checksum(tensors, about)
        is_new = about["format"] != "exportloss-state/1"
        described = {"metadata": about, "tensors": _described(tensors)}
        add(name, whole, result="accept", canonical=is_new, **described)
    about = _about()
    loose = json.dumps(
        {
            "b": {"data_offsets": [4, 8], "shape": [1], "dtype": "F32"},
            "__metadata__": about | {"sha256": state_digest(_loose(), about)},
            "balance": _entry(),
        },
        indent=2,
    ).encode()
    values = b"".join(bytes(_loose()[name].content) for name in ("balance", "b"))
    add(
        "another order, spaces, no padding",
        raw(loose, values),
        result="accept",
        canonical=False,
        metadata=about,
        tensors=_described(_loose()),
    )
    other = _other_types()
    add(
        "other types",
        with_checksum(other, about),
        result="values",
        canonical=True,
        metadata=about,
        tensors=_described(other),
    )
    for name, code, content in _refused():
        add(name, content, result=code)
    return cases


def _loose() -> Tensors:
    return {"balance": floats(1), "b": floats(1, start=7)}
