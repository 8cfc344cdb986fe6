import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exportloss.errors import ConfigError
from exportloss.runtime.evaluation.boxes import box_iou
from exportloss.runtime.evaluation.confusion import ConfusionMatrix
from tests.runtime.evaluation.test_metrics import random_images

NO_LABELS = np.zeros((0, 5))


def test_values():
    labels = np.array([[0, 0, 0, 10, 10], [1, 20, 0, 30, 10], [1, 40, 0, 50, 10]])
    detections = np.array(
        [
            [0, 0, 10, 10, 0.9, 0],  # right
            [0, 0, 10, 9, 0.95, 0],  # the same object, overlapping less: background
            [20, 0, 30, 10, 0.5, 2],  # another class
            [20, 0, 30, 10, 0.25, 1],  # not above the confidence
            [40, 0, 50, 4.5, 0.9, 1],  # IoU 0.45: not above the threshold
            [60, 0, 70, 10, 0.4, 2],  # nothing there
        ]
    )
    confusion = ConfusionMatrix(3)
    confusion.add(detections, labels)
    expected = np.zeros((4, 4), int)
    expected[0, 0] = expected[2, 1] = expected[3, 1] = 1
    expected[0, 3] = expected[1, 3] = expected[2, 3] = 1
    np.testing.assert_array_equal(confusion.counts, expected)
    np.testing.assert_allclose(confusion.fractions[:, 1], [0, 0, 0.5, 0.5])
    assert (confusion.fractions[:, 2] == 0).all()


def test_a_image_without_objects_or_detections():
    confusion = ConfusionMatrix(2)
    confusion.add(np.array([[0, 0, 5, 5, 0.9, 1]]), NO_LABELS)
    confusion.add(np.zeros((0, 6)), np.array([[0, 0, 0, 5, 5]]))
    np.testing.assert_array_equal(confusion.counts, [[0, 0, 0], [0, 0, 1], [1, 0, 0]])


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32), iou_thres=st.sampled_from([0.0, 0.2, 0.45, 0.8]))
def test_every_object_and_detection_counts_once(seed, iou_thres):
    confusion = ConfusionMatrix(3, conf_thres=0.3, iou_thres=iou_thres)
    objects, found, pairs = np.zeros(3, int), np.zeros(3, int), 0
    for detections, labels in random_images(seed, 4, 3):
        confusion.add(detections, labels)
        sure = detections[detections[:, 4] > 0.3]
        objects += np.bincount(labels[:, 0].astype(int), minlength=3)
        found += np.bincount(sure[:, 5].astype(int), minlength=3)
        # Written out: the best object of each detection, then the best detection of each object.
        iou = box_iou(sure[:, :4], labels[:, 1:])
        chosen = [(int(r.argmax()), r.max()) for r in iou if r.size and r.max() > iou_thres]
        pairs += len({label for label, _ in chosen})
    np.testing.assert_array_equal(confusion.counts[:, :3].sum(axis=0), objects)
    np.testing.assert_array_equal(confusion.counts[:3].sum(axis=1), found)
    assert confusion.counts[:3, :3].sum() == pairs
    assert confusion.counts[3, 3] == 0


@pytest.mark.parametrize(
    "options", [{"num_classes": 0}, {"conf_thres": -1}, {"iou_thres": float("nan")}]
)
def test_refuses_settings_out_of_range(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        ConfusionMatrix(**({"num_classes": 2} | options))
