"""Write the kernels that an ONNX Runtime lists as a table for `exportloss.export.check`.

Run as a file, in an environment with PyYAML and the onnxruntime to list; the rest of this project
is not needed. The libraries of the provider must load, but no device is needed:

    python scripts/list_kernels.py CPUExecutionProvider --newest-opset 28 > kernels_cpu.yaml
    python scripts/list_kernels.py --webgpu webgpu-operators.md --version 1.30.0 \
        --newest-opset 26 > kernels_webgpu.yaml

A row applies to a range of versions of an operator; a version is the opset in which the operator
changed. A kernel with an open range is listed for its first version only, since ONNX Runtime does
not use it for later ones. Kernels that end before opset 13 are skipped, as are types of sequences
and optionals.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

import yaml

__all__ = ["kernel_table", "webgpu_table"]

Types = frozenset[str]
Constraints = dict[str, Types]  # by type variable or parameter of the operator
Versions = tuple[int, int]

OLDEST_OPSET = 13
_OPEN = 2**31 - 1  # last version of an open range

# Shorthands for sets of types, larger ones first; the text of a set may use later ones.
_SETS: dict[str, Types] = {
    "any": frozenset(
        "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64 "
        "bfloat16".split()
    ),
    "ints": frozenset("int8 int16 int32 int64 uint8 uint16 uint32 uint64".split()),
    "floats": frozenset("float16 float32 float64".split()),
    "float8": frozenset("float8e4m3fn float8e4m3fnuz float8e5m2 float8e5m2fnuz".split()),
}


def kernel_table(provider: str, newest_opset: int) -> str:
    """Return the kernels of a provider in the installed onnxruntime as YAML, for `ai.onnx`."""
    # As in exportloss.runtime.sessions.installation.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    onnxruntime = import_module("onnxruntime")
    bindings = import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    found: dict[str, dict[Versions, list[Constraints]]] = {}
    for kernel in bindings.get_all_opkernel_def():
        first, last = kernel.version_range
        if kernel.provider != provider or kernel.domain or last < OLDEST_OPSET:
            continue
        versions = (first, first if last == _OPEN else last)
        kernels = found.setdefault(kernel.op_name, {}).setdefault(versions, [])
        kernels.append(_constraints(kernel.type_constraints))
    return _document(
        source="onnxruntime_pybind11_state.get_all_opkernel_def(), what docs/OperatorKernels.md "
        "is made from",
        product=f"ONNX Runtime {onnxruntime.__version__}, {provider}",
        newest_opset=newest_opset,
        kernels={name: _joined(versions) for name, versions in found.items()},
    )


def webgpu_table(document: str, version: str, newest_opset: int) -> str:
    """Return onnxruntime-web's list of WebGPU operators, which has no types, as YAML."""
    found: dict[str, dict[Versions, list[Constraints]]] = {}
    for name, ranges in re.findall(r"^\| (\w+) \| ai\.onnx\(([^)]*)\)", document, re.MULTILINE):
        for text in ranges.split(","):
            first, last = re.fullmatch(r"(\d+)(?:-(\d+)|\+)?", text).groups()  # type: ignore[union-attr]
            is_open = text.endswith("+")
            if is_open or int(last or first) >= OLDEST_OPSET:
                versions = (int(first), int(last or first))
                found.setdefault(name, {})[versions] = [{}]
    return _document(
        source="docs/webgpu-operators.md of the npm package onnxruntime-web",
        product=f"onnxruntime-web {version}, WebGPU",
        newest_opset=newest_opset,
        kernels={name: _joined(versions) for name, versions in found.items()},
    )


def _constraints(listed: dict[str, list[str]]) -> Constraints:
    tensors = {
        name: frozenset(
            {"float": "float32", "double": "float64"}.get(type_, type_)
            for type_ in (re.sub(r"^tensor\((\w+)\)$", r"\1", text) for text in types)
            if "(" not in type_
        )
        for name, types in listed.items()
    }
    return {name: types for name, types in tensors.items() if types}


def _joined(found: dict[Versions, list[Constraints]]) -> list[tuple[Versions, Constraints]]:
    """Merge kernels that differ in one constraint, then equal rows of adjacent versions."""
    rows: list[tuple[Versions, Constraints]] = []
    for versions in sorted(found):
        for kernel in _merged(found[versions]):
            before = next((r for r in rows if r[0][1] + 1 == versions[0] and r[1] == kernel), None)
            if before is not None:
                rows.remove(before)
                rows.append(((before[0][0], versions[1]), kernel))
            else:
                rows.append((versions, kernel))
    return sorted(rows, key=lambda row: (row[0], sorted(map(sorted, row[1].values()))))


def _merged(kernels: list[Constraints]) -> list[Constraints]:
    merged: list[Constraints] = []
    for kernel in kernels:
        for other in merged:
            differ = [name for name in other if other[name] != kernel.get(name)]
            if other.keys() == kernel.keys() and len(differ) <= 1:
                for name in differ:
                    other[name] |= kernel[name]
                break
        else:
            merged.append(dict(kernel))
    return merged if len(merged) == len(kernels) else _merged(merged)


def _document(
    *,
    source: str,
    product: str,
    newest_opset: int,
    kernels: dict[str, list[tuple[Versions, Constraints]]],
) -> str:
    lines = [
        "# Written by scripts/list_kernels.py, whose docstring explains the rows. Do not edit.",
        f"product: {product}",
        f"source: {source}",
        f"newest_opset: {newest_opset}",
        "types:",
        *(f"  {name}: {_text(types, name)}" for name, types in _SETS.items()),
        "kernels:",
    ]
    for name in sorted(kernels):
        lines.append(f"  {name}:")
        for (first, last), constraints in kernels[name]:
            cells = ", ".join(f"{key}: {_text(constraints[key])}" for key in sorted(constraints))
            lines.append(f"    - {{versions: {first}-{last}{', ' * bool(cells)}{cells}}}")
    document = "\n".join(lines) + "\n"
    yaml.safe_load(document)
    return document


def _text(types: Types, without: str = "") -> str:
    """Return the names of types, with shorthands for sets other than `without`."""
    words = []
    for name, members in _SETS.items():
        if name != without and members <= types:
            words.append(name)
            types -= members
    return " ".join(words + sorted(types))


def _parse(arguments: Iterable[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("provider", nargs="?", default="CPUExecutionProvider")
    parser.add_argument("--webgpu", type=Path, metavar="FILE", help="webgpu-operators.md")
    parser.add_argument("--version", help="version of onnxruntime-web, with --webgpu")
    parser.add_argument(
        "--newest-opset", type=int, required=True, help="newest one that a session loads"
    )
    return parser.parse_args(list(arguments))


if __name__ == "__main__":
    given = _parse(sys.argv[1:])
    if given.webgpu:
        text = webgpu_table(given.webgpu.read_text(), given.version, given.newest_opset)
    else:
        text = kernel_table(given.provider, given.newest_opset)
    sys.stdout.write(text)
