"""Detectors with weights written into them, and checksums of ONNX files."""

from __future__ import annotations

import numpy as np

from exportloss.runtime.artifact.onnx_files.baked_model import with_initializers
from exportloss.runtime.artifact.onnx_files.model_checksum import add_model_checksum
from exportloss.runtime.artifact.onnx_files.protobuf import embedded, number

_FLOAT = 1


def _value(name: str, *sides: int | str) -> bytes:
    """Return a ValueInfoProto of float32."""
    dimensions = b"".join(
        embedded(1, number(1, side) if isinstance(side, int) else embedded(2, side.encode()))
        for side in sides
    )
    tensor = number(1, _FLOAT) + embedded(2, dimensions)
    return embedded(1, name.encode()) + embedded(2, embedded(1, tensor))


def _node(operator: str, inputs: tuple[str, ...], output: str) -> bytes:
    names = b"".join(embedded(1, name.encode()) for name in inputs)
    return names + embedded(2, output.encode()) + embedded(4, operator.encode())


def _model() -> bytes:
    """Return a model that multiplies by `parameters` and adds `statistics`."""
    graph = (
        embedded(1, _node("Mul", ("images", "parameters"), "scaled"))
        + embedded(1, _node("Add", ("scaled", "statistics"), "output0"))
        + embedded(2, b"inference")
        + embedded(11, _value("images", "batch", 4))
        + embedded(11, _value("parameters", 4))
        + embedded(11, _value("statistics", 1))
        + embedded(12, _value("output0", "batch", 4))
    )
    opset = embedded(8, embedded(1, b"") + number(2, 18))
    entry = embedded(14, embedded(1, b"names") + embedded(2, "{0: 'caf\u00e9'}".encode()))
    return number(1, 8) + embedded(7, graph) + opset + entry


def make(files: dict[str, bytes]) -> list[object]:
    cases: list[object] = []
    model = _model()
    files["detectors/inference.onnx"] = model
    weights = {
        "parameters": np.array([1.0, -2.0, 0.5, 1e-20], np.float32),
        "statistics": np.array([0.25], np.float32),
    }
    for name, values in {
        "weights": weights,
        "parameters alone": {"parameters": weights["parameters"]},
    }.items():
        path = f"detectors/{len(cases):03}.onnx"
        files[path] = add_model_checksum(with_initializers(model, values))
        given = [
            {"name": key, "shape": value.shape, "hex": value.astype("<f4").tobytes().hex()}
            for key, value in values.items()
        ]
        cases.append(
            {
                "what": "written",
                "name": name,
                "file": "detectors/inference.onnx",
                "weights": given,
                "result": path,
            }
        )
    whole = files["detectors/000.onnx"]
    changed = bytearray(whole)
    changed[-1] ^= 1
    for name, content, is_whole in (
        ("whole", whole, True),
        ("no checksum", model, True),
        ("a bit of a weight", bytes(changed), False),
        ("a byte too few", whole[:-1], False),
        ("a byte too many", whole + b"\0", False),
        ("another first byte", b"\x0a" + whole[1:], False),
        ("a digit of the checksum", whole[:20] + bytes([whole[20] ^ 1]) + whole[21:], False),
    ):
        path = f"detectors/{len(cases):03}.onnx"
        files[path] = content
        cases.append({"what": "checksum", "name": name, "file": path, "whole": is_whole})
    return cases
