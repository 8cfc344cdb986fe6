"""Export of a detector as a plain ONNX model, in the form of YOLOv5's own export."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import onnx
import onnx_ir as ir
import torch
from torch import Tensor, nn

from exportloss.export.detector.describe import class_names, inference_metadata
from exportloss.export.detector.nms import NmsSettings, append_nms
from exportloss.export.detector.wrapper import STATISTICS
from exportloss.export.torch_export import Signature, trace_to_onnx
from exportloss.models import YoloV5
from exportloss.runtime.artifact.onnx_files.model_checksum import add_model_checksum
from exportloss.runtime.storage.files import new_file

__all__ = ["export_inference"]


def export_inference(
    model: YoloV5,
    path: str | Path,
    *,
    image_size: tuple[int, int],
    names: Sequence[str] | None = None,
    nms: NmsSettings | None = None,
) -> None:
    """Write a detector for YOLOv5's `detect.py --weights FILE.onnx` and other hosts.

    The input is `images` (B, 3, H, W), float32 in [0, 1], for any B. The output is `output0`
    (B, N, 5 + nc) as `YoloV5.decode` returns it, or with `nms` `detections` (n, 7): image index,
    x1, y1, x2, y2 in pixels, confidence, class. The metadata include YOLOv5's `names` and `stride`.

    Args:
        model: Detector; it is not changed.
        path: File to write; an existing one is replaced.
        image_size: Height and width of the images in pixels, multiples of the largest stride.
        names: Class names, nc of them; default the class numbers.
        nms: Settings of the non-maximum suppression to append; None appends none.

    Raises:
        ConfigError: the image size does not suit the model.
        ExportError: the number of names is not that of the classes.
        ArtifactError: the file cannot be written.
    """
    metadata = inference_metadata(class_names(names, model.num_classes), model.strides)
    model = copy.deepcopy(model).cpu().float().eval()
    state = [name for name, _ in model.named_parameters()]
    state += [name for name, _ in model.named_buffers() if name.endswith(STATISTICS)]
    # Two images: torch would specialise a dimension of 1 to a constant.
    images = torch.zeros(2, 3, *image_size)
    graph = trace_to_onnx(
        _Inference(model),
        (images,),
        Signature(inputs=["images"], outputs=["output0"]),
        state={f"detector.{name}": name for name in state},
        differentiable=False,
        any_batch=True,
    )
    proto = ir.to_proto(graph)
    if nms is not None:
        proto = append_nms(proto, nms)
    onnx.helper.set_model_props(proto, metadata)
    with new_file(path) as temporary:
        temporary.write_bytes(add_model_checksum(proto.SerializeToString()))


class _Inference(nn.Module):
    def __init__(self, detector: YoloV5) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> Tensor:
        return self.detector.decode(self.detector(images))
