"""Files made to do harm, thought up from their formats; made here, so that none lies about.

`inputs(victim)` gives them by name, each with the target of `fuzzing.targets` that reads it. Those
that could name another file name `victim`.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from exportloss.runtime.artifact.onnx_files.protobuf import embedded, number
from fuzzing.targets import SEEDS
from tests.runtime.artifact.test_onnx_encoding import external, model_of, tensor_type, varint
from tests.runtime.artifact.test_tensor_file import entry, made_of
from tests.support.torch_archives import archive, call, integer, pickled, storage, tensor, text

__all__ = ["inputs"]

Input = tuple[str, str, bytes]  # name, target, content
_DEEP = 100_000


def inputs(victim: Path) -> Iterator[Input]:
    """Yield all of them."""
    for kind, made in (
        ("onnx", _onnx(victim)),
        ("torch_file", _torch_files()),
        ("pickle", _pickles()),
        ("state", _tensor_files()),
        ("manifest", _manifests(victim)),
        ("data_yaml", _data_yaml(victim)),
        ("hyp_yaml", _hyp_yaml()),
        ("options_yaml", _options()),
        ("labels", _labels()),
        ("image_list", _lists(victim)),
        ("results", _results()),
        ("image", _images()),
        ("class_names", _class_names()),
    ):
        for index, content in enumerate(made):
            yield f"{kind}-{index}", kind, content


def _onnx(victim: Path) -> Iterator[bytes]:
    detector = (SEEDS / "onnx" / "detector.onnx").read_bytes()
    for data in (0x6A, 0x6A | 1 << 32, 0x6A | 1 << 40, 0x6A | 1 << 63):
        for size in (0, 5, 10):
            yield external(varint(data, size=size), varint(0x70, size=size), str(victim))
    for wrapped in (
        lambda t: embedded(25, embedded(7, embedded(5, embedded(5, t)))),  # in a function
        lambda t: embedded(20, embedded(1, embedded(5, t))),  # in training information
        lambda t: embedded(7, embedded(15, embedded(1, t))),  # in a sparse tensor
        lambda t: embedded(7, embedded(1, embedded(5, embedded(11, embedded(5, t))))),
    ):
        place = embedded(13, embedded(1, b"location") + embedded(2, str(victim).encode()))
        yield detector + wrapped(place + number(14, 1))
    compiled = embedded(4, b"EPContext") + embedded(7, b"com.microsoft")
    path = embedded(1, b"ep_cache_context") + embedded(4, str(victim).encode()) + number(20, 3)
    yield detector + embedded(7, embedded(1, compiled + embedded(5, path)))
    yield model_of(embedded(1, b"x") + tensor_type(1, number(1, (1 << 63) - 1)))
    yield model_of(embedded(1, b"\0" * 1000) + tensor_type(1))
    yield b"\x08\x08" * _DEEP
    nested = b""
    for _ in range(2_000):
        nested = embedded(6, embedded(1, embedded(5, nested)))
    yield detector + embedded(7, nested)
    yield detector[:4] + b"ORTM" + detector[4:]
    yield detector + embedded(14, embedded(1, b"sha256"))
    yield detector * 1000
    yield detector + b"\x0b" * _DEEP


def _torch_files() -> Iterator[bytes]:
    good = pickled(b"}" + text("a") + tensor(storage()) + b"s")
    bomb = pickled(call("builtins.bytearray", integer((1 << 31) - 1)))
    version = ("a/version", b"3\n")
    yield archive(("a/data.pkl", good), ("a/data/0", bytes(8)), ("a/data.pkl", bomb), version)
    yield archive(("a/data.pkl", good), ("a/DATA.pkl", bomb), ("a/data/0", bytes(8)), version)
    yield archive(("a/data.pkl", good), ("a/data/0", bytes(8)), ("a/../b", bytes(8)), version)
    yield archive(("a/data.pkl", good), ("a/data/0", bytes(8)), ("/a/data.pkl", bomb), version)
    yield archive(("a/data.pkl\0x", bomb), ("a/data.pkl", good), version)
    yield archive(("a/data.pkl", good), version, prefix=b"PK\3\4" + bytes(100))
    yield archive(*((f"a/data/{index}", b"") for index in range(20_000)), version)
    whole = archive(("a/data.pkl", good), ("a/data/0", bytes(8)), version)
    for at in range(0, len(whole), 41):
        yield whole[:at] + b"\xff" * 4 + whole[at + 4 :]
    yield whole + b"PK\5\6" + bytes(18)
    yield whole[:-2] + struct.pack("<H", 65535) + bytes(65535)
    compressed = io.BytesIO()
    with zipfile.ZipFile(compressed, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a/data.pkl", bytes(1 << 26))
    yield compressed.getvalue()


def _pickles() -> Iterator[bytes]:
    for value in (
        b"h\0",
        b"\x8a\xff" + bytes(255),  # a number of 2,040 bits
        b"X\xff\xff\xff\xff",
        b"(" * _DEEP,
        b"]" * _DEEP,
        b"]" + b"q\0h\0a" * _DEEP,  # a list that holds itself
        b"}" + b"q\0h\0h\0s",  # a dictionary that is its own key
        b"((tq\0" + b"h\0h\0\x86q\0" * 60 + b"}h\0Ks",
        call("_codecs.encode", text("ab" * 5000), text("idna")),
        call("torch.Size", b"(" + integer(-1) * 50_000 + b"t"),
        call("torch.device", text("cuda:99999999999")),
        call("torch._utils._rebuild_tensor_v2", storage(numel=1 << 30), integer(0)),
        tensor(storage(numel=0), numel=1 << 30),
        tensor(storage(kind="BoolStorage", numel=8), numel=-1),
        call("torch._utils._rebuild_parameter", integer(1), b"\x88", b"}"),
        call("models.yolo.Model") + text("state") + b"b",
        call("models.yolo.Model") + b"}" + text("_modules") + integer(3) + b"sb",
        call("models.yolo.Model") + b"}(" + b"K\1K\2" * 1000 + b"ub",
        call("collections.OrderedDict", integer(3)),
        call("collections.OrderedDict") + integer(3) + b"b",
        call("pathlib.PosixPath", text("/etc/passwd")),
        call("numpy.core.multiarray._reconstruct", integer(1)),
        b"\x80\x05" + b"\x95" + struct.pack("<Q", 1 << 62),
    ):
        yield pickled(value)


def _tensor_files() -> Iterator[bytes]:
    floats = entry()
    yield made_of({"a": floats | {"shape": [1] * 1000}}, bytes(4))
    yield made_of({f"t{index}": entry(shape=(0,), offsets=(0, 0)) for index in range(100_001)})
    yield made_of({"optimizer/": floats}, bytes(4))
    yield made_of(
        {"optimizer/a": floats, "__metadata__": {"format": "exportloss-state/1"}}, bytes(4)
    )
    for updates in ("-1", "1" * 5_000, "NaN", "1e3", "", "٣"):
        about = {"format": "exportloss-state/1", "updates": updates}
        yield made_of({"balance": floats, "__metadata__": about}, bytes(4))
    yield made_of(b'{"a":' * _DEEP)
    yield made_of(b"{" + b" " * 1_000_000 + b"}")
    yield made_of({"a" * 100_000: floats}, bytes(3))
    yield made_of({"a": entry(dtype="BF16", shape=(2,))}, bytes(4))
    yield made_of({"a": entry(offsets=(0, 1 << 70))}, bytes(4))


def _manifests(victim: Path) -> Iterator[bytes]:
    values = json.loads((SEEDS / "manifest" / "step").read_bytes())
    file = {"sha256": "0" * 64, "size": 4}
    for changes in (
        {"files": {str(victim): file}},
        {"files": {f"../{victim.name}": file}},
        {"files": {"a\0b": file}},
        {"files": {f"a{index}": file for index in range(10_000)}},
        {"files": {"a": {"sha256": [], "size": 1e400}}},
        {"image_size": [1 << 40, 1]},
        {"batch_size": -1},
        {"names": ["a"] * 100_001},
        {"names": [["a"] * 1000]},
        {"names": "abc"},
        {"anchors": [[[1e308 * 10, 1]]]},
        {"tiers": list(range(1, 10_000))},
        {"layout": {"parameters": [{"name": "w", "shape": [1 << 62] * 9, "offset": 0}]}},
        {"loss": {"box": "x" * 100_000}},
        {"groups": {"weights": "w" * 100_000, "others": []}},
        {"versions": [["a", "b"]] * 10_000},
    ):
        yield json.dumps(values | changes).encode()
    yield b'{"format": "exportloss/3", "format": "exportloss/1"}'
    yield b"[" * _DEEP
    yield b'{"a":' + b"9" * 10_000 + b"}"


def _data_yaml(victim: Path) -> Iterator[bytes]:
    for content in (
        f"train: {victim}\nnames: [a]",
        f"path: {victim}\ntrain: .\nnames: [a]",
        "train: /dev/zero\nnames: [a]",
        "train: !!python/object/apply:os.system ['touch x']\nnames: [a]",
        "names: &a [*a]",
        "names: {0: &a b, <<: *a}",
        "names: " + "[" * 5_000,
        "names: {0: a, 0: b}",
        "names: {1e999: a}",
        "names: {!!timestamp 9999-12-31: a}",
        "names: !!set {a, b}",
        "names: [!!binary aGk=]",
        "nc: 1e400\nnames: [a]",
        "names: [" + "a, " * 99_999 + "a]\nnc: 3",
        "train: " + "a/" * 5_000 + "\nnames: [a]",
        'train: "a\\0b"\nnames: [a]',
        'path: "\\ud800"\ntrain: a\nnames: [a]',
        "? [a, b]\n: c\nnames: [a]",
        "%YAML 9.9\n---\nnames: [a]",
        "--- a\n--- b",
    ):
        yield content.encode()
    yield "names: [a]".encode("utf-16")


def _hyp_yaml() -> Iterator[bytes]:
    for value in ("1e100", "-0x" + "f" * 99, ".inf", ".nan", "!!int '1_'", "1:2:3:4", "9" * 99):
        yield f"lr0: {value}".encode()
    yield from (b"degrees: 1e308", b"scale: -1", b"mosaic: 2", b"warmup_epochs: 1e300")
    yield b"anchor_t: 1e-320\nbox: 1e308"


def _options() -> Iterator[bytes]:
    for line in (
        *("imgsz: [1e3]", "imgsz: [[1]]", "freeze: {}", "seed: 1e3", "workers: 0x7fffffff"),
        *("name: ../../x", 'project: "a\\0"', "epochs: 99999999999999999999", "device: [cpu]"),
    ):
        yield f"weights: a\ndata: b\n{line}".encode()


def _labels() -> Iterator[bytes]:
    yield b"0 " + b"0.5 " * 500_000
    yield b"0 0.5 0.5 0.5 " + b"9" * 1_000_000
    yield "٣ 0.5 0.5 0.5 0.5".encode()
    yield b"0 1e-400 1e-400 1e-46 1e-46"
    yield b"0x1p3 0.5 0.5 0.5 0.5"
    yield b"1_0 0.5 0.5 0.5 0.5"
    yield b"0 nan inf -inf 0.5"
    yield b"\r" * 1_000_000
    yield b"\x0c\x1c\x85 \xe2\x80\xa8" * 1_000


def _lists(victim: Path) -> Iterator[bytes]:
    for line in (str(victim), "/dev/zero", "/proc/self/mem", "a\0.jpg", "../" * 2_000 + "a.jpg"):
        yield line.encode() + b"\n"
    yield b"/etc/passwd.jpg\n" * 50_000
    yield b"\xff\xfe" + "a.jpg".encode("utf-16-le")
    yield b"a" * 1_000_000 + b".jpg"


def _results() -> Iterator[bytes]:
    header = (SEEDS / "results" / "epoch").read_bytes().split(b"\n")[0]
    yield header + b"\n" + b"," * 100_000
    yield header + b"\n" + b"9" * 10_000 + b",1" * 13
    yield header + b"\n-1" + b",nan" * 13
    yield header * 2 + b"\n0" + b",1" * 30
    yield b"\0" * 100_000
    yield b'"' + b"a\n" * 100_000


def _images() -> Iterator[bytes]:
    def png(width: int, height: int, rest: bytes = b"", *, depth: int = 8) -> bytes:
        chunks = ((b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)),)
        content = b"\x89PNG\r\n\x1a\n"
        for kind, held in (*chunks, (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b"")):
            content += struct.pack(">I", len(held)) + kind + held
            content += struct.pack(">I", zlib.crc32(kind + held)) + rest
        return content

    for width, height in ((1 << 30, 1 << 30), (0, 1), (1 << 16, 1), (9_000, 9_000), (1, 1 << 31)):
        yield png(width, height)
    text_chunk = b"zTXt" + b"a\0\0" + zlib.compress(bytes(1 << 26))
    chunk = struct.pack(">I", len(text_chunk) - 4) + text_chunk
    yield png(8, 8, chunk + struct.pack(">I", zlib.crc32(text_chunk)))
    image = Image.fromarray(np.full((8, 8, 3), 90, np.uint8))
    for kind in ("JPEG", "TIFF", "BMP", "WEBP", "PNG"):
        content = io.BytesIO()
        image.save(content, kind)
        whole = content.getvalue()
        for at in (4, 8, 16, 20, 24, len(whole) // 2):
            yield whole[:at] + b"\xff" * 8 + whole[at + 8 :]
    yield b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(%pipe%touch x) (w) file\n"
    yield b"II*\0\x08\0\0\0" + struct.pack("<HHHII", 1, 0x8769, 4, 1, 8) + struct.pack("<I", 8)
    yield b"BM" + struct.pack(
        "<IHHIIiiHHIIiiII", 0, 0, 0, 54, 40, 1 << 30, -1, 1, 24, 0, 0, 0, 0, 0, 0
    )
    yield b"RIFF\xff\xff\xff\xffWEBPVP8X" + b"\xff" * 30
    yield b"\xff\xd8\xff\xe1\xff\xffExif\0\0" + b"MM\0*" + b"\xff" * 65_000


def _class_names() -> Iterator[bytes]:
    yield from (
        b"__import__('os').system('touch x')",
        b"{0: open('/etc/passwd').read()}",
        b"[" * 10_000,
        b"(" * 150 + b")" * 150,
        b"{" + b"0:'a'," * 100_000 + b"}",
        b"'a' " * 100_000,
        b"-" * 100_000 + b"1",
        b"[1" + b"+1j" * 10_000 + b"]",
        b"{0: '" + b"a" * 999_000 + b"'}",
        b"[b'\\x1b[2J', 1e999, None, ...]",
        b"\xff\xfe",
        b"{0: 'a', 2: 'b'}",
        b"['\\N{BELL}\\n\\u202e']",
    )
