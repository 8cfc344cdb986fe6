"""Manifests to accept, with every value that they imply, and to refuse."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

from exportloss.runtime.artifact.checksum import add_text_checksum

Values = dict[str, Any]

_FILE = {"sha256": "0" * 64, "size": 10}
_COMMON: Values = {
    "model": "yolov5n",
    "names": ["scratch", "Fu\u00dfg\u00e4nger", "\U0001f6b2"],
    "anchors": [[[10.0, 13.0], [16.5, 30.0]], [[30.0, 61.0], [62.0, 45.0]]],
    "strides": [8.0, 16.0],
    "image_size": [64, 96],
    "batch_size": 2,
    "max_targets": 8,
    "tiers": [],
    "loss": {"box": 0.05, "cls": 0.5, "obj": 1.0, "anchor_t": 4.0, "criterion": "bce"},
    "gradients": False,
    "loss_layout": "permuted",
    "provider": "any",
    "optimizer": "adamw",
    "ema": True,
    "precision": "float32",
    "groups": {"weights": ["a.weight"], "norms": ["a.bn.weight"], "biases": ["a.bias"]},
    "statistics": [
        {"mean": "a.bn.running_mean", "var": "a.bn.running_var", "count": 12288, "momentum": 0.03}
    ],
    "head": "dense",
    "opset": 18,
    "versions": {"exportloss": "0.1.0"},
}
_STEP: Values = _COMMON | {
    "kind": "train-step",
    "layout": {
        "parameters": [
            {"name": "a.weight", "shape": [2, 3, 1, 1], "offset": 0},
            {"name": "a.bn.weight", "shape": [2], "offset": 6},
            {"name": "a.bias", "shape": [2], "offset": 8},
        ],
        "statistics": [
            {"name": "a.bn.running_mean", "shape": [2], "offset": 0},
            {"name": "a.bn.running_var", "shape": [2], "offset": 2},
        ],
        "memories": ["exp_avg", "exp_avg_sq"],
    },
    "files": {
        "eval_step.onnx": _FILE,
        "state.safetensors": _FILE,
        "train_step.onnx": _FILE,
    },
}
_LOSS: Values = _COMMON | {
    "kind": "loss",
    "model": "",
    "optimizer": None,
    "ema": False,
    "groups": {"weights": [], "norms": [], "biases": []},
    "statistics": [],
    "layout": {},
    "tiers": [2, 4],
    "gradients": True,
    "loss_layout": "head-input",
    "files": dict.fromkeys(("loss-2.onnx", "loss-4.onnx", "loss.onnx"), _FILE),
}
_START = b'{"sha256": "'
_OLD_MAY_LACK = ("tiers", "head", "loss_layout", "provider", "gradients", "ema", "precision")


def written(values: Values, *, format_: Any = "exportloss/2", **how: Any) -> bytes:
    """Return a manifest with its checksum."""
    text = json.dumps({"sha256": "", "format": format_, **values}, **{"indent": None} | how) + "\n"
    return add_text_checksum(text).encode()


def _without(values: Values, *keys: str) -> Values:
    return {key: value for key, value in values.items() if key not in keys}


def _changed(values: Values, path: str, value: Any) -> Values:
    """Return a copy with one value changed, such as that of `layout.parameters.0.offset`."""
    changed = copy.deepcopy(values)
    *parents, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    place: Any = changed
    for key in parents:
        place = place[key]
    place[last] = value
    return changed


def _accepted() -> Iterator[tuple[str, bytes]]:
    ort = _STEP | {"kind": "ort-training", "optimizer": "sgd", "layout": {}}
    yield "portable step", written(_STEP)
    yield "training artifacts", written(ort)
    yield "loss alone", written(_LOSS)
    yield "raw UTF-8, indented", written(_STEP, ensure_ascii=False, indent=1)
    yield "unknown keys", written(_STEP | {"colour": None, "layouts": [{}]})
    yield (
        "lists and numbers of other writers",
        written(
            _changed(_STEP, "anchors", [[[10, 13], [16.5, 30]], [[30, 61], [62, 45]]])
            | {"opset": 18.0}
        ),
    )
    last = json.dumps({"format": "exportloss/2", **_STEP, "sha256": ""})
    yield "checksum at the end", add_text_checksum(last).encode()
    lesser = _STEP | {"loss": {}, "optimizer": "sgd"}
    lesser["layout"] = {**_STEP["layout"], "memories": ["momentum"]}
    yield "loss of defaults", written(lesser)
    old = {"format": "exportloss/1", **_without(_STEP, *_OLD_MAY_LACK)}
    yield "first format", json.dumps(old, indent=1).encode()
    yield (
        "frozen statistics",
        written(_changed(_STEP | {"statistics": [], "ema": False}, "layout.statistics", [])),
    )


_NEWER = {
    "kind": "federated-step",
    "optimizer": "lion",
    "precision": "float8",
    "head": "shared",
    "loss_layout": "flat",
    "provider": "npu",
    "loss": {"huber": 1.0},
    "loss.criterion": "varifocal",
    "groups.embeddings": [],
}
_DAMAGED = (
    ("kind", None),
    ("kind", ["loss"]),
    ("model", 5),
    ("names", []),
    ("names", "cat"),
    ("names.0", 7),
    ("names.0", "bell \x07"),
    ("names.0", "x" * 201),
    ("anchors", []),
    ("anchors.0.0", [10.0]),
    ("anchors.0.0.0", 0.0),
    ("anchors.0.0.0", "10"),
    ("strides.0", -8.0),
    ("strides", [8.0]),
    ("image_size", [64]),
    ("image_size", [64, 0]),
    ("image_size.0", 65537),
    ("image_size.0", 64.5),
    ("image_size.0", "64"),
    ("image_size.0", True),
    ("batch_size", 0),
    ("batch_size", 1048577),
    ("max_targets", -1),
    ("tiers", [4, 2]),
    ("tiers", [8]),
    ("tiers", [0]),
    ("loss", []),
    ("loss.box", -1.0),
    ("loss.box", True),
    ("loss.anchor_t", 1.0),
    ("loss.criterion", 5),
    ("loss.criterion", "focal"),
    ("gradients", 1),
    ("ema", "true"),
    ("optimizer", 3),
    ("groups", "weights"),
    ("groups.norms", "a"),
    ("statistics", [{}]),
    ("statistics.0.count", "12288"),
    ("layout.parameters", 5),
    ("layout.parameters.1.offset", 7),
    ("layout.parameters.1.offset", 5),
    ("layout.parameters.1.name", "a.weight"),
    ("layout.parameters.1.shape", [0]),
    ("layout.parameters.1.shape", [2.5]),
    ("layout.memories", "momentum"),
    ("opset", None),
    ("files", []),
    ("files", {"train_step.onnx": {"sha256": "0"}}),
    ("files", {"train_step.onnx": {"sha256": "0", "size": "10"}}),
)
_DAMAGED_TOO = (  # at the end of the cases, whose files are numbered
    *(("names.0", f"a{character}") for character in "\x7f\xa0\xad\u2028\u202e\ufeff\ue000"),
    ("names.0", "\U000e0001"),
    *((key, None) for key in ("tiers", "gradients", "ema", "groups.norms")),
    *((key, (1 << 53) + 1) for key in ("opset", "statistics.0.count")),
    ("opset", 1 << 53),
)
_REQUIRED = (
    *("kind", "model", "names", "anchors", "strides", "image_size", "batch_size", "max_targets"),
    *("loss", "optimizer", "groups", "statistics", "layout", "opset", "versions", "files"),
)


def _refused() -> Iterator[tuple[str, str, bytes]]:
    whole = written(_STEP)
    assert whole.startswith(_START)
    yield "empty file", "unreadable", b""
    yield "no JSON", "unreadable", whole[:-3]
    yield "not UTF-8", "unreadable", whole.replace(b"yolov5n", b"yolov5\xff")
    yield "UTF-16", "unreadable", whole.decode().encode("utf-16-le")
    yield "byte order mark", "unreadable", b"\xef\xbb\xbf" + whole
    yield "NaN", "unreadable", whole.replace(b"0.05", b"NaN")
    yield "a list", "not-an-artifact", b"[]"
    yield "no format", "not-an-artifact", json.dumps({"kind": "loss"}).encode()
    for found in ("exportloss/0", "exportloss/02", "exportloss/2.5", "exportloss/", "other/2", 2):
        yield f"format {found!r}", "not-an-artifact", written(_STEP, format_=found)
    for found in ("exportloss/4", "exportloss/12"):
        yield f"format {found!r}", "newer", written({"kind": {}, "more": 1}, format_=found)
    yield "later format, no checksum", "newer", json.dumps({"format": "exportloss/4"}).encode()
    for path, value in _NEWER.items():
        yield f"{path} is {value!r}", "newer", written(_changed(_STEP, path, value))
    for old, new in (
        (b"train-step", b"train-stfp"),
        (b"exportloss/2", b"exportloss/3"),
        (b'"batch_size": 2', b'"batch_size": 3'),
        (b'"sha256": "', b'"sha256":  "'),
        (b"}\n", b"}\n\n"),
    ):
        assert old in whole
        edited = whole.replace(old, new, 1)
        yield f"{new.decode()!r} in place of {old.decode()!r}", "damaged", edited
    yield "no checksum", "damaged", json.dumps({"format": "exportloss/2", **_STEP}).encode()
    yield "empty checksum", "damaged", whole.replace(whole[len(_START) : len(_START) + 64], b"", 1)
    yield (
        "first format with a wrong checksum",
        "damaged",
        json.dumps({"sha256": "0" * 64, "format": "exportloss/1", **_STEP}).encode(),
    )
    yield (
        "unknown word in the first format",
        "damaged",
        json.dumps({"format": "exportloss/1", **_STEP, "kind": "federated-step"}).encode(),
    )
    for path, value in _DAMAGED:
        shown = repr(value) if len(repr(value)) < 40 else "too long"
        yield f"{path} is {shown}", "damaged", written(_changed(_STEP, path, value))
    for key in _REQUIRED:
        yield f"no {key}", "damaged", written(_without(_STEP, key))
    for path, value in _DAMAGED_TOO:
        yield f"{path} is {value!a}", "damaged", written(_changed(_STEP, path, value))


def make(files: dict[str, bytes]) -> list[object]:
    from tests.support.vectors.readers import manifest_values

    cases: list[object] = []

    def add(name: str, content: bytes, **more: object) -> None:
        path = f"manifests/{len(cases):03}.json"
        files[path] = content
        cases.append({"name": name, "file": path, **more})

    for name, content in _accepted():
        add(name, content, result="accept", values=manifest_values(content))
    for name, code, content in _refused():
        add(name, content, result=code)
    return cases
