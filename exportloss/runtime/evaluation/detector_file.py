"""A detector in an ONNX file: its inputs, outputs and metadata, checked."""

from __future__ import annotations

import ast
import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from exportloss.class_names import tidy_names
from exportloss.errors import ArtifactError, excerpt
from exportloss.runtime.evaluation.other_detectors import refuse_other_detectors
from exportloss.runtime.images.resize import ImageArray

__all__ = ["INPUT_TYPES", "Description", "PredictRows", "Rows", "read_detector"]

Rows = npt.NDArray[np.float32]
PredictRows = Callable[[ImageArray], Rows]

INPUT_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
_LONGEST_METADATA = 1_000_000  # characters
_COLUMNS = 6  # least number per row: a box, objectness and one class
_MOST_VALUES = 1 << 28  # values of the images that a file may take at once


@dataclasses.dataclass(frozen=True, kw_only=True)
class Description:
    """Names and input of a detector.

    Attributes:
        names: Class names; empty if the file does not state them.
        stride: Divisor of the height and width of its images, >= 1.
        batch_size: Number of images that it takes at once; None for any number.
        image_size: (height, width) of its images, pixels; None for any.
    """

    names: tuple[str, ...]
    stride: int
    batch_size: int | None
    image_size: tuple[int, int] | None


def read_detector(session: Any, path: str) -> tuple[PredictRows, Description]:
    """Check that an ONNX Runtime session is a YOLOv5 detector, and describe it.

    Args:
        session: Session of the file.
        path: Path of the file, for messages.

    Returns:
        A function from (B, 3, H, W) uint8 RGB images to decoded rows (B, N, 5 + nc), and the
        description of the detector. The function raises `ArtifactError` if the file cannot be run.

    Raises:
        ArtifactError: the file is no such detector.
    """
    inputs, output = session.get_inputs(), session.get_outputs()[0]
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type not in INPUT_TYPES:
        described = ", ".join(f"{one.name} {one.type} {one.shape}" for one in inputs)
        raise ArtifactError(
            f"{path} takes {described}; expected images alone, (B, 3, H, W), float32 or float16"
        )
    columns = output.shape[-1] if output.shape else None
    if len(output.shape) != 3 or (isinstance(columns, int) and columns < _COLUMNS):
        raise ArtifactError(
            f"{path} gives {output.name} {output.shape}; expected (B, N, 5 + classes): a YOLOv5 "
            "detector, without non-maximum suppression in the file"
        )
    if any(isinstance(side, int) and side < 1 for side in inputs[0].shape):
        raise ArtifactError(f"{path} takes {inputs[0].shape}; expected sides of at least 1")
    if inputs[0].shape[1] == 1:
        raise ArtifactError(f"{path} takes grey images, {inputs[0].shape}; expected three colours")
    if isinstance(inputs[0].shape[1], int) and inputs[0].shape[1] != 3:
        raise ArtifactError(f"{path} takes {inputs[0].shape}; expected images of 3 channels")
    fixed = [side for side in inputs[0].shape if isinstance(side, int)]
    if math.prod(fixed) > _MOST_VALUES:
        raise ArtifactError(
            f"{path} takes {inputs[0].shape}, {math.prod(fixed)} values at once; expected at "
            f"most {_MOST_VALUES}"
        )
    name, dtype = inputs[0].name, INPUT_TYPES[inputs[0].type]
    batch, _, *sides = (side if isinstance(side, int) else None for side in inputs[0].shape)
    height, width = sides
    metadata = session.get_modelmeta().custom_metadata_map
    names = _names(metadata.get("names", ""))
    image_size = None if height is None or width is None else (height, width)
    shapes = [one.shape for one in session.get_outputs()]
    refuse_other_detectors(path, shapes, names=names, image_size=image_size, metadata=metadata)

    def predict(images: ImageArray) -> Rows:
        scaled = (images.astype(np.float32) / np.float32(255)).astype(dtype, copy=False)
        try:
            rows = session.run([output.name], {name: scaled})[0]
        except Exception as error:  # ONNX Runtime's errors have no common base
            raise ArtifactError(f"{path} cannot be run: {excerpt(error, 500)}") from error
        if not isinstance(rows, np.ndarray) or rows.dtype.kind != "f":
            kind = getattr(rows, "dtype", type(rows).__name__)
            raise ArtifactError(f"{path} gives {kind}; expected numbers, (B, N, 5 + classes)")
        if not isinstance(columns, int):  # a dynamic side is known only now
            refuse_other_detectors(
                path, [rows.shape], names=names, image_size=scaled.shape[2:], metadata=metadata
            )
        if rows.ndim != 3 or len(rows) != len(images) or rows.shape[2] < _COLUMNS:
            raise ArtifactError(
                f"{path} gives {rows.shape} for {len(images)} images; expected (B, N, 5 + classes)"
            )
        return rows.astype(np.float32, copy=False)

    description = Description(
        names=names,
        stride=_stride(metadata.get("stride", "")),
        batch_size=batch,
        image_size=image_size,
    )
    return predict, description


def _names(text: str) -> tuple[str, ...]:
    """Read class names, a dictionary or list in Python's notation; () for anything else."""
    if len(text) > _LONGEST_METADATA:
        return ()
    try:
        value = ast.literal_eval(text)
        if isinstance(value, dict) and set(value) == set(range(len(value))):
            value = [value[index] for index in range(len(value))]
        if not isinstance(value, list | tuple):
            return ()
        return tidy_names(value)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return ()


def _stride(text: str) -> int:
    """Read the stride; 32, as in YOLOv5, for anything but a positive whole number."""
    match = re.fullmatch(r"(\d{1,4})(\.0)?", text.strip())
    return int(match[1]) or 32 if match else 32
