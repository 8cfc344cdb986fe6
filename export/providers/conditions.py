"""Conditions on a node's attributes, constants and shapes under which a rule applies to it."""

from __future__ import annotations

import math
from collections.abc import Callable

import onnx_ir as ir

from exportloss.export.providers.node_facts import (
    array_of,
    attribute,
    input_at,
    is_constant,
    rank_of,
    shape_at,
    type_name,
)

__all__ = [
    "adds_floats",
    "computes_second_input",
    "drops",
    "exceeds_buffers",
    "has_more_indices_than_data",
    "has_odd_groups",
    "has_output",
    "is_asymmetric",
    "is_dilated",
    "is_long_or_unsorted",
    "is_unsupported_resize",
    "pools_other_than_2d_or_3d",
    "reduces",
]


def computes_second_input(node: ir.Node) -> bool:
    """Return whether the second input is given and not a constant."""
    value = input_at(node, 1)
    return value is not None and not is_constant(value)


def reduces(node: ir.Node) -> bool:
    """Return whether a scatter combines updates with the data, instead of overwriting it."""
    return bool(attribute(node, "reduction", "none") != "none")


def adds_floats(node: ir.Node) -> bool:
    """Return whether a scatter adds or multiplies floating-point numbers."""
    is_float = (type_name(input_at(node, 0)) or "").startswith(("float", "bfloat"))
    return is_float and attribute(node, "reduction", "none") in ("add", "mul")


def has_output(first: int) -> Callable[[ir.Node], bool]:
    """Return a condition: the node has an output at index `first` or later."""
    return lambda node: any(value.name for value in node.outputs[first:])


def is_dilated(node: ir.Node) -> bool:
    """Return whether a dilation differs from 1."""
    return any(step != 1 for step in attribute(node, "dilations", ()))


def pools_other_than_2d_or_3d(node: ir.Node) -> bool:
    """Return whether the input is known to have other than 2 or 3 spatial dimensions."""
    return rank_of(node) not in (None, 4, 5)


def is_asymmetric(node: ir.Node) -> bool:
    """Return whether the padding may differ between the start and the end of an axis."""
    pads = list(attribute(node, "pads", ()))
    half = len(pads) // 2
    automatic = attribute(node, "auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER")
    return automatic or pads[:half] != pads[half:]


def has_more_indices_than_data(node: ir.Node) -> bool:
    """Return whether a scatter that overwrites has an axis with more indices than data."""
    data, indices = shape_at(node, 0), shape_at(node, 1)
    if reduces(node) or data is None or indices is None:
        return False
    return any(i > d for i, d in zip(indices, data, strict=True))


def is_unsupported_resize(node: ir.Node) -> bool:
    """Return whether a Resize has a mode or option that TensorRT lacks."""
    allowed = {
        "mode": ("nearest", ("nearest", "linear")),
        "coordinate_transformation_mode": (
            "half_pixel",
            (
                "half_pixel",
                "pytorch_half_pixel",
                "tf_half_pixel_for_nn",
                "asymmetric",
                "align_corners",
            ),
        ),
        "antialias": (0, (0,)),
        "keep_aspect_ratio_policy": ("stretch", ("stretch",)),
    }
    return any(
        attribute(node, name, default) not in values for name, (default, values) in allowed.items()
    )


def is_long_or_unsorted(node: ir.Node) -> bool:
    """Return whether a TopK is unsorted, has 3840 or more results, or an unknown number."""
    count = array_of(input_at(node, 1))
    longest = math.inf if count is None else count.max(initial=0)
    return bool(attribute(node, "sorted", 1) != 1 or longest >= 3840)


def drops(node: ir.Node) -> bool:
    """Return whether a Dropout is, or may be, in training mode."""
    if input_at(node, 2) is None:
        return False
    flag = array_of(input_at(node, 2))
    return flag is None or bool(flag.any())


def exceeds_buffers(node: ir.Node) -> bool:
    """Return whether a Split needs more than the 8 buffers that WebGPU guarantees."""
    return len(node.outputs) > 7


def has_odd_groups(node: ir.Node) -> bool:
    """Return whether a convolution has more than 4 outputs per group, not a multiple of 4."""
    weight, groups = shape_at(node, 1), attribute(node, "group", 1)
    outputs = 0 if weight is None else weight[0] // groups
    return groups > 1 and outputs > 4 and outputs % 4 != 0
