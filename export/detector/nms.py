"""Non-maximum suppression as an ONNX graph, to append to a detector's."""

from __future__ import annotations

import onnx
from onnx import compose, parser

from exportloss.export.detector.nms_settings import NmsSettings

__all__ = ["NmsSettings", "append_nms"]


# A row competes with its best class only: its other scores are 0. So each row is selected at most
# once, and the scores of selected rows are scattered back to their places, with 0 elsewhere. TopK
# then sorts and truncates them per image; of equal scores, the earlier row comes first.
_NMS = """
<ir_version: {ir_version}, opset_import: ["" : {opset}]>
nms (float[batch, {rows}, {outputs}] output0) => (float[found, 7] detections)
<
  int64[4] widths = {{2, 2, 1, {classes}}}, int64[{classes}] labels = {{{labels}}},
  float conf_thres = {{{conf_thres}}}, float iou_thres = {{{iou_thres}}},
  int64 max_det = {{{max_det}}}, int64[1] most = {{{most}}},
  float half = {{0.5}}, float zero = {{0}}, int64[1] one = {{1}}
>
{{
  centre, size, objectness, probability = Split <axis = 2> (output0, widths)
  half_size = Mul (size, half)
  top_left = Sub (centre, half_size)
  bottom_right = Add (centre, half_size)
  boxes = Concat <axis = 2> (top_left, bottom_right)

  confidence = Mul (objectness, probability)
  label = ArgMax <axis = 2> (confidence)
  is_best = Equal (label, labels)
  best = Where (is_best, confidence, zero)
  scores = Transpose <perm = [0, 2, 1]> (best)
  selected = NonMaxSuppression (boxes, scores, max_det, iou_thres, conf_thres)

  selected_scores = GatherND (scores, selected)
  image, class, row = Split <axis = 1, num_outputs = 3> (selected)
  place = Concat <axis = 1> (image, row)
  all_rows = Shape <start = 0, end = 2> (output0)
  nothing = ConstantOfShape (all_rows)
  kept = ScatterND (nothing, place, selected_scores)
  top, top_row = TopK <axis = 1> (kept, most)

  found = NonZero (top)
  index = Transpose <perm = [1, 0]> (found)
  found_image, rank = Split <axis = 1, num_outputs = 2> (index)
  index_3d = Unsqueeze (index, one)
  found_confidence = GatherND (top, index_3d)
  found_row = GatherND (top_row, index_3d)
  found_place = Concat <axis = 1> (found_image, found_row)
  found_box = GatherND (boxes, found_place)
  found_label = GatherND (label, found_place)
  image_number = Cast <to = 1> (found_image)
  class_number = Cast <to = 1> (found_label)
  detections = Concat <axis = 1> (image_number, found_box, found_confidence, class_number)
}}
"""


def append_nms(model: onnx.ModelProto, settings: NmsSettings) -> onnx.ModelProto:
    """Append non-maximum suppression to a detector, with ONNX's own operator.

    It keeps the boxes that YOLOv5's detect.py keeps by default: each row counts for its most
    probable class only, and boxes suppress boxes of the same class.

    Args:
        model: Detector with the output `output0`, (B, N, 5 + nc); B may be free.
        settings: Thresholds and limit.

    Returns:
        The model with the output `detections` instead, (n, 7): image index in the batch, x1, y1,
        x2, y2 in pixels, confidence, class; sorted by image, the most confident first.
    """
    (output,) = model.graph.output
    _, rows, outputs = (dimension.dim_value for dimension in output.type.tensor_type.shape.dim)
    nms = parser.parse_model(
        _NMS.format(
            ir_version=model.ir_version,
            opset=next(one.version for one in model.opset_import if not one.domain),
            rows=rows,
            outputs=outputs,
            classes=outputs - 5,
            labels=", ".join(map(str, range(outputs - 5))),
            conf_thres=float(settings.conf_thres),
            iou_thres=float(settings.iou_thres),
            max_det=settings.max_det,
            most=min(settings.max_det, rows),
        )
    )
    merged = compose.merge_models(model, nms, io_map=[("output0", "output0")], prefix2="nms/")
    name = "detections"
    merged.graph.node[-1].output[0] = merged.graph.output[0].name = name
    return merged
