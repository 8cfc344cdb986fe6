"""A detector with 8-bit weights and activations, by ONNX Runtime's static quantisation.

Convolutions compute in integers. Their weights have one scale per output channel; their inputs and
outputs have one scale each, calibrated with a few training images. The detection layer and the
decoding of boxes stay in float32: there, sides of hundreds of pixels and probabilities share one
tensor.
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
from exportloss.runtime.artifact.onnx_files.model_checksum import add_model_checksum
from exportloss.runtime.data.loader import Batches
from exportloss.runtime.storage.files import new_file

__all__ = ["CALIBRATION_IMAGES", "quantize_detector"]

CALIBRATION_IMAGES = 100


def quantize_detector(path: str | Path, output: str | Path, batches: Batches) -> None:
    """Write an inference file with 8-bit convolutions.

    Args:
        path: File that `export_inference` wrote, without non-maximum suppression.
        output: File to write.
        batches: Images for calibration, without augmentation; the first hundred are used.

    Raises:
        ConfigError: the batches have no images.
        ArtifactError: the file cannot be written.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    if len(batches.dataset) == 0:
        raise ConfigError("got no images to calibrate with; expected at least one")
    with tempfile.TemporaryDirectory() as scratch, _quiet():
        prepared, quantized = Path(scratch) / "prepared.onnx", Path(scratch) / "int8.onnx"
        # Folds each BatchNorm into the convolution before it.
        quant_pre_process(path, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            quantized,
            _CalibrationImages(batches),
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
    """Return the names of the convolutions that only the decoding of boxes follows."""
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


class _CalibrationImages:
    """Single images, as a data reader of ONNX Runtime's calibration."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches
        self._images = self._each()

    def get_next(self) -> dict[str, Any] | None:
        return next(self._images, None)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Do nothing: the images are few enough to be calibrated with at once."""

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
    """Silence the quantiser's advice, which does not apply to our models."""

    def __enter__(self) -> None:
        logging.disable(logging.WARNING)

    def __exit__(self, *_: object) -> None:
        logging.disable(logging.NOTSET)
