"""A detector with 8-bit weights and activations: ONNX Runtime's static quantisation.

Each convolution computes in integers: its weights have a scale for each output channel, its input
and output one that a few training images calibrate. The detection layer and what makes boxes of its
output stay in float32: box sides of hundreds of pixels and probabilities share one tensor there.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from exportloss.errors import ConfigError
from exportloss.runtime.artifact.checksum import add_model_checksum
from exportloss.runtime.data.loader import Batches
from exportloss.runtime.storage.files import new_file

__all__ = ["CALIBRATION_IMAGES", "quantize_detector"]

CALIBRATION_IMAGES = 100


def quantize_detector(path: str | Path, output: str | Path, batches: Batches) -> None:
    """Write an inference file with 8-bit convolutions.

    Args:
        path: written by `export_inference`, without non-maximum suppression.
        output: file to write.
        batches: images to calibrate with, without augmentation; the first hundred are taken.

    Raises:
        ConfigError: the batches have no image.
        ArtifactError: the file cannot be written.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    if len(batches.dataset) == 0:
        raise ConfigError("there is no image to calibrate with")
    with tempfile.TemporaryDirectory() as scratch, _quiet():
        prepared, quantized = Path(scratch) / "prepared.onnx", Path(scratch) / "int8.onnx"
        # Folds BatchNorm into the convolutions before it.
        quant_pre_process(path, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            quantized,
            _Reader(batches),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=_detection_convolutions(onnx.load(prepared)),
        )
        model = onnx.load(quantized)
    del model.metadata_props[:]
    held = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    onnx.helper.set_model_props(model, {k: v for k, v in held.items() if k != "sha256"})
    with new_file(output) as temporary:
        temporary.write_bytes(add_model_checksum(model.SerializeToString()))


def _detection_convolutions(model: onnx.ModelProto) -> list[str]:
    """Name the convolutions that nothing but the decoding of boxes comes behind."""
    consumers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            consumers.setdefault(name, []).append(node)

    def leads_to_convolution(node: onnx.NodeProto, seen: set[str]) -> bool:
        for name in node.output:
            if name in seen:
                continue
            seen.add(name)
            for follower in consumers.get(name, []):
                if follower.op_type == "Conv" or leads_to_convolution(follower, seen):
                    return True
        return False

    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    return [node.name for node in convolutions if not leads_to_convolution(node, set())]


class _Reader:
    """Images one by one, as ONNX Runtime's calibration takes them."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches
        self._images = self._each()

    def get_next(self) -> dict[str, Any] | None:
        return next(self._images, None)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Take all at once: they are few."""

    def __len__(self) -> int:
        return min(len(self._batches.dataset), CALIBRATION_IMAGES)

    def _each(self) -> Iterator[dict[str, Any]]:
        left = len(self)
        for batch in self._batches:
            for image in batch.images[: min(batch.count, left)]:
                yield {"images": image[None].astype(np.float32) / 255}
            left -= min(batch.count, left)
            if not left:
                return


class _quiet:  # noqa: N801 - a context manager
    """Keep the quantiser's advice, which is about models of others, off the terminal."""

    def __enter__(self) -> None:
        logging.disable(logging.WARNING)

    def __exit__(self, *_: object) -> None:
        logging.disable(logging.NOTSET)
