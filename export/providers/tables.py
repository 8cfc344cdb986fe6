"""Tables of the kernels of providers, by operator, version and element types."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

__all__ = ["ANY_FLOAT", "PROVIDERS", "Kernel", "ProviderName", "ProviderTable", "provider_table"]

ProviderName = Literal["cuda", "tensorrt", "tensorrt-rtx", "web", "cpu"]
PROVIDERS: tuple[ProviderName, ...] = get_args(ProviderName)

# Key for every type variable of an operator that may be floating-point.
ANY_FLOAT = "*"

_FILES = {
    "cuda": "kernels_cuda.yaml",
    "tensorrt": "operators_tensorrt.yaml",
    "tensorrt-rtx": "operators_tensorrt.yaml",  # the rules cover the differences
    "web": "kernels_cpu.yaml",  # WebAssembly has the CPU provider's kernels
    "cpu": "kernels_cpu.yaml",
    "webgpu": "kernels_webgpu.yaml",
}
_PRODUCTS = {"tensorrt-rtx": "TensorRT for RTX 1.7"}  # for tables of another product


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kernel:
    """Operator versions and element types that one implementation of an operator supports.

    Attributes:
        versions: First and last version of the operator, as opset numbers.
        types: Element types by type variable or parameter of the operator, or by `ANY_FLOAT`.
    """

    versions: tuple[int, int]
    types: Mapping[str, frozenset[str]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProviderTable:
    """Kernels of a provider for operators of the `ai.onnx` domain.

    Attributes:
        product: Name and version of the product.
        source: Origin of the list.
        opsets: Oldest and newest opset of the domain that the table covers.
        kernels: Kernels by operator.
        undecided: Restrictions by operator that the check cannot decide from a graph.
    """

    product: str
    source: str
    opsets: tuple[int, int]
    kernels: Mapping[str, tuple[Kernel, ...]]
    undecided: Mapping[str, str] = dataclasses.field(default_factory=dict)


@cache
def provider_table(name: ProviderName | Literal["webgpu"]) -> ProviderTable:
    """Return the table of a provider, read from a YAML file beside this module."""
    content = yaml.safe_load((Path(__file__).parent / _FILES[name]).read_text(encoding="utf-8"))
    sets: dict[str, str] = content.get("types", {})
    if "operators" in content:
        kernels = _by_types(content["operators"], sets, content["newest_opset"])
    else:
        kernels = {
            operator: tuple(_kernel(dict(row), sets) for row in rows)
            for operator, rows in content["kernels"].items()
        }
    return ProviderTable(
        product=_PRODUCTS.get(name, content["product"]),
        source=content["source"],
        opsets=(content.get("oldest_opset", 13), content["newest_opset"]),
        kernels=kernels,
        undecided=content.get("undecided", {}),
    )


def _kernel(row: dict[str, Any], sets: Mapping[str, str]) -> Kernel:
    first, last = map(int, row.pop("versions").split("-"))
    types = {variable: _types(names, sets) for variable, names in row.items()}
    return Kernel(versions=(first, last), types=types)


def _by_types(
    operators: Mapping[str, list[str]], sets: Mapping[str, str], newest: int
) -> dict[str, tuple[Kernel, ...]]:
    return {
        operator: (Kernel(versions=(1, newest), types={ANY_FLOAT: _types(types, sets)}),)
        for types, names in operators.items()
        for operator in names
    }


def _types(names: str, sets: Mapping[str, str]) -> frozenset[str]:
    """Return the element types in a list of types and shorthands for sets of types."""
    members: frozenset[str] = frozenset()
    for name in names.split():
        members |= _types(sets[name], sets) if name in sets else {name}
    return members
