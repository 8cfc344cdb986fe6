"""Kernel, stride, padding, dilation and groups of a two-dimensional convolution."""

from __future__ import annotations

import dataclasses
from typing import Any

__all__ = ["Geometry"]


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Settings of a two-dimensional convolution; pairs are (vertical, horizontal)."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int

    @property
    def is_pointwise(self) -> bool:
        """Whether the convolution is a matrix product over channels."""
        return (self.kernel, self.stride, self.padding, self.groups) == ((1, 1), (1, 1), (0, 0), 1)

    def keeps_size(self, kernel: int) -> bool:
        """Whether this is a dense convolution of that kernel whose output has the size of x."""
        pad = kernel // 2
        settings = (self.kernel, self.stride, self.padding, self.dilation, self.groups)
        return settings == ((kernel, kernel), (1, 1), (pad, pad), (1, 1), 1)

    @property
    def has_phases(self) -> bool:
        """Whether the kernel can be split into phases without a gain in size.

        This takes a stride above 1 that divides the kernel, no dilation and no groups.
        """
        whole = all(k % s == 0 for k, s in zip(self.kernel, self.stride, strict=True))
        return whole and self.stride != (1, 1) and (self.dilation, self.groups) == ((1, 1), 1)

    @property
    def steps(self) -> tuple[int, int]:
        """Size of the kernel in strides."""
        return self.kernel[0] // self.stride[0], self.kernel[1] // self.stride[1]

    def attributes(self) -> dict[str, Any]:
        """Return the settings as attributes of Conv and ConvTranspose."""
        return {
            "kernel_shape": self.kernel,
            "strides": self.stride,
            "pads": self.padding * 2,
            "dilations": self.dilation,
            "group": self.groups,
        }
