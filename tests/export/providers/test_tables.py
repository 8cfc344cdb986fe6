"""Tables of kernels: their operators and types exist in ONNX, and each names its source."""

from __future__ import annotations

import onnx
import pytest

from exportloss.export.providers.tables import ANY_FLOAT, PROVIDERS, provider_table

TABLES = (*PROVIDERS, "webgpu")
TYPES = set(
    """bool string int2 int4 int8 int16 int32 int64 uint2 uint4 uint8 uint16 uint32 uint64 float16
    bfloat16 float32 float64 float8e4m3fn float8e4m3fnuz float8e5m2 float8e5m2fnuz float8e8m0
    float4e2m1""".split()
)
# ONNX Runtime's own operators in the domain of ONNX, and operators that ONNX has dropped.
OWN = set(
    """Affine Crop DynamicSlice ImageScaler MemcpyFromHost MemcpyToHost ParametricSoftplus
    Scale ScaledTanh SimplifiedLayerNormalization""".split()
)
SCHEMAS = {schema.name for schema in onnx.defs.get_all_schemas() if not schema.domain}


@pytest.mark.parametrize("name", TABLES)
def test_table_is_well_formed(name):
    table = provider_table(name)
    oldest, newest = table.opsets
    assert any(digit.isdigit() for digit in table.product) and table.source
    assert 9 <= oldest < 18 < newest
    assert set(table.kernels) - SCHEMAS <= OWN
    assert len(table.kernels) > 70
    for operator, kernels in table.kernels.items():
        assert kernels, operator
        for kernel in kernels:
            assert 1 <= kernel.versions[0] <= kernel.versions[1] < 40, operator
            for variable, types in kernel.types.items():
                assert types and types <= TYPES, (operator, variable)
    assert set(table.undecided) <= set(table.kernels)


@pytest.mark.parametrize("name", ["cuda", "cpu"])
def test_constraints_are_those_of_the_operators(name):
    """A constraint under a name that the operator lacks would never apply."""
    held = 0
    for operator, kernels in provider_table(name).kernels.items():
        for kernel in kernels:
            try:
                schema = onnx.defs.get_schema(operator, max_inclusive_version=kernel.versions[1])
            except onnx.defs.SchemaError:
                continue  # an operator of ONNX Runtime's own or a draft of ONNX's
            parameters = (*schema.inputs, *schema.outputs)
            names = {name for p in parameters for name in (p.type_str, p.name)}
            assert set(kernel.types) <= names, (operator, kernel.versions)
            held += 1
    assert held > 150


def test_facts_that_the_project_relies_on():
    def types(name: str, operator: str, variable: str = "T") -> frozenset[str]:
        return provider_table(name).kernels[operator][-1].types[variable]  # type: ignore[arg-type]

    assert "Atan" not in provider_table("cuda").kernels
    assert types("cuda", "Pad") == {"bool", "float16", "float32", "float64"}
    assert "int64" in types("cuda", "ScatterElements")
    assert types("tensorrt", "ReduceMin", ANY_FLOAT) >= {"float32", "int32", "int64"}
    assert not types("tensorrt", "Conv", ANY_FLOAT) & {"float64", "uint8"}
    assert types("tensorrt", "Cast", ANY_FLOAT) >= {"uint8", "bool"}
    assert "ScatterElements" not in provider_table("webgpu").kernels
