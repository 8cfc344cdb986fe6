"""A detector that needs no training: it finds the cells of 8 x 8 pixels that are bright."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

CELL = 8


def write_bright_detector(
    path: Path,
    *,
    shape: tuple[int | str, ...] = ("batch", 3, "height", "width"),
    names: object = None,
    element_type: int = TensorProto.FLOAT,
    **metadata: str,
) -> Path:
    """Write the file as YOLOv5's export does: `images` in, `output0` (B, N, 7) out.

    Each cell gives a box of its own size. Its objectness is the mean of red, the probabilities of
    classes 0 and 1 are the means of green and blue.
    """
    dtype = helper.tensor_dtype_to_np_dtype(element_type)
    constants: dict[str, Any] = {
        "cell": np.array(CELL, dtype),
        "half": np.array(CELL / 2, dtype),
        "red": np.array([0]),
        "one": np.array([1]),
        "down": np.array(2),
        "right": np.array(3),
        "rows": np.array([0, 7, -1]),
    }
    node = helper.make_node
    nodes = [
        node("AveragePool", ["images"], ["means"], kernel_shape=[CELL] * 2, strides=[CELL] * 2),
        node("Slice", ["means", "red", "one", "one"], ["first"]),  # (B, 1, h, w)
        node("Mul", ["first", "zero"], ["zeros"]),
        node("Add", ["zeros", "cell"], ["size"]),
        node("CumSum", ["size", "right"], ["x_end"]),
        node("CumSum", ["size", "down"], ["y_end"]),
        node("Sub", ["x_end", "half"], ["x"]),
        node("Sub", ["y_end", "half"], ["y"]),
        node("Concat", ["x", "y", "size", "size", "means"], ["maps"], axis=1),
        node("Reshape", ["maps", "rows"], ["flat"]),
        node("Transpose", ["flat"], ["output0"], perm=[0, 2, 1]),
    ]
    constants["zero"] = np.array(0, dtype)
    graph = helper.make_graph(
        nodes,
        "bright",
        [helper.make_tensor_value_info("images", element_type, shape)],
        [helper.make_tensor_value_info("output0", element_type, [shape[0], None, 7])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if names is not None:
        metadata["names"] = str(names)
    helper.set_model_props(model, metadata)
    onnx.save(model, path)
    return path


def make_spots(folder: Path, count: int = 6) -> Path:
    """Write a data set of bright spots on black, and return its `data.yaml`.

    Images are of 64 x 64 or 128 x 96 pixels, for a canvas of 64 x 64. Of each four spots one has
    no label, one a label of the other class, and one a label that is a little off.
    """
    rng = np.random.default_rng(0)
    for name in ("images/val", "labels/val"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for index in range(count):
        scale, columns = (1, 8) if index % 2 else (2, 6)
        spots, lines = [], []
        for number, cell in enumerate(rng.choice(8 * columns, 4, replace=False).tolist()):
            side = CELL * scale
            label, x, y = int(rng.integers(0, 2)), cell % columns * side, cell // columns * side
            spots.append((label, x, y, x + side, y + side))
            shift = side * (number == 3) * (-0.2 if x else 0.2)  # inwards
            centre = (x + side / 2 + shift) / (columns * side), (y + side / 2) / (8 * side)
            if number:
                true = label ^ (number == 1)
                lines.append(f"{true} {centre[0]} {centre[1]} {1 / columns} {1 / 8}\n")
        image = spot_image(64 * scale, columns * CELL * scale, *spots)
        Image.fromarray(image).save(folder / f"images/val/{index:03d}.png")
        (folder / f"labels/val/{index:03d}.txt").write_text("".join(lines))
    (folder / "data.yaml").write_text("path: .\nval: images/val\nnames: [green, blue]\n")
    return folder / "data.yaml"


def spot_image(height: int, width: int, *spots: tuple[int, int, int, int, int]) -> np.ndarray:
    """Return a black image with bright rectangles (class, x1, y1, x2, y2)."""
    image = np.zeros((height, width, 3), np.uint8)
    for label, x1, y1, x2, y2 in spots:
        image[y1:y2, x1:x2, 0] = 255
        image[y1:y2, x1:x2, 1 + label] = 230
    return image
