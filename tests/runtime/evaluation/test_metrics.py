import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exportloss.errors import ConfigError
from exportloss.runtime.evaluation.metrics import ClassMetrics, MetricsAccumulator
from exportloss.runtime.evaluation.scores import METRICS, Scores
from tests.support.coco_numbers import coco_precision
from tests.support.messages import mentions

NONE = np.zeros((0, 6))


def random_images(seed, images, classes, *, whole=False):
    """Objects, and detections near them and far off; `whole`: ties of IoU and confidence."""
    rng = np.random.default_rng(seed)
    result = []
    for _ in range(images):
        objects = int(rng.integers(0, 9))
        corner, size = rng.uniform(0, 60, (objects, 2)), rng.uniform(8, 50, (objects, 2))
        labels = np.concatenate(
            (rng.integers(0, classes, (objects, 1)), corner, corner + size), axis=1
        )
        copies = labels[rng.integers(0, max(objects, 1), 3 * objects)]
        near = copies[:, 1:] + rng.normal(0, rng.choice((0.5, 3, 10)), (len(copies), 4))
        corner, size = rng.uniform(0, 60, (12, 2)), rng.uniform(8, 50, (12, 2))
        boxes = np.concatenate((near, np.concatenate((corner, corner + size), axis=1)))
        guessed = np.concatenate((copies[:, 0], rng.integers(0, classes, 12)))
        wrong = rng.random(len(guessed)) < 0.2
        guessed[wrong] = rng.integers(0, classes, wrong.sum())
        confidence = rng.random(len(boxes))
        if whole:
            boxes, labels = boxes.round(-1), labels.round(-1) if classes == 1 else labels.round()
            boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
            labels[:, 3:] = np.maximum(labels[:, 3:], labels[:, 1:3] + 1)
            confidence = confidence.round(1)
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 0.5)
        detections = np.concatenate((boxes, confidence[:, None], guessed[:, None]), axis=1)
        result.append((detections, labels))
    return result


def accumulate(images, classes, **options):
    accumulator = MetricsAccumulator(classes, **options)
    for detections, labels in images:
        accumulator.add(detections, labels)
    return accumulator.result()


def precision_of_coco(images, classes, max_det):
    results = [
        {"image_id": image, "category_id": int(label), "score": confidence}
        | {"bbox": [x1, y1, x2 - x1, y2 - y1]}
        for image, (detections, _) in enumerate(images)
        for x1, y1, x2, y2, confidence, label in detections.tolist()
    ]
    return coco_precision([labels for _, labels in images], results, classes, max_det)


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**32),
    images=st.integers(1, 30),
    classes=st.sampled_from([1, 2, 5, 40]),
    max_det=st.sampled_from([1, 7, 100, 300]),
    whole=st.booleans(),
)
def test_average_precision_is_that_of_pycocotools(seed, images, classes, max_det, whole):
    drawn = random_images(seed, images, classes, whole=whole)
    metrics = accumulate(drawn, classes, max_det=max_det)
    precision = precision_of_coco(drawn, classes, max_det)
    present = sorted({int(label) for _, labels in drawn for label in labels[:, 0]})
    assert [one.index for one in metrics.classes] == present
    for one in metrics.classes:
        assert one.ap50 == pytest.approx(precision[0, :, one.index].mean(), abs=1e-6)
        assert one.ap50_95 == pytest.approx(precision[..., one.index].mean(), abs=1e-6)
    if present:
        assert metrics.map50 == pytest.approx(precision[0][:, present].mean(), abs=1e-6)
        assert metrics.map50_95 == pytest.approx(precision[..., present].mean(), abs=1e-6)
        np.testing.assert_allclose(
            metrics.curves.interpolated.T, precision[0][:, present], atol=1e-6
        )


def test_average_precision_is_that_of_pycocotools_on_many_images():
    drawn = random_images(0, 400, 20)
    metrics = accumulate(drawn, 20)
    precision = precision_of_coco(drawn, 20, 300)
    assert metrics.map50 == pytest.approx(precision[0].mean(), abs=1e-6)
    assert metrics.map50_95 == pytest.approx(precision.mean(), abs=1e-6)
    assert 0.05 < metrics.map50_95 < metrics.map50 < 0.95


def count(drawn, index, confidence):
    """Right, all and true at IoU 0.5, box by box."""
    right = total = objects = 0
    for detections, labels in drawn:
        free = labels[labels[:, 0] == index, 1:].tolist()
        objects += len(free)
        found = detections[(detections[:, 5] == index) & (detections[:, 4] >= confidence)]
        for box in found[np.argsort(-found[:, 4])].tolist():
            total += 1
            overlaps = [iou(box, other) for other in free]
            if overlaps and max(overlaps) >= 0.5:
                right += 1
                free.pop(int(np.argmax(overlaps)))
    return right, total, objects


def iou(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    inter = max(width, 0) * max(height, 0)
    return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter)


def test_precision_and_recall_are_those_at_the_confidence_of_the_best_f1():
    drawn = random_images(1, 150, 3)
    metrics = accumulate(drawn, 3)
    for one in metrics.classes:
        right, total, objects = count(drawn, one.index, metrics.confidence)
        # Between two confidences the curves are lines.
        assert one.precision == pytest.approx(right / total, abs=0.01)
        assert one.recall == pytest.approx(right / objects, abs=0.01)
        assert one.objects == objects
    f1 = metrics.curves.f1.mean(axis=0)
    at = int(np.searchsorted(metrics.curves.confidence, metrics.confidence))
    assert f1[at] > 0.97 * f1.max()
    assert metrics.precision == pytest.approx(np.mean([one.precision for one in metrics.classes]))
    assert metrics.recall == pytest.approx(np.mean([one.recall for one in metrics.classes]))


def test_curves_begin_with_all_detections_and_end_with_none():
    curves = accumulate(random_images(2, 60, 2), 2).curves
    assert (curves.recall[:, -1] == 0).all()
    assert (curves.precision[:, -1] == 1).all()
    assert (np.diff(curves.recall, axis=1) <= 1e-12).all()
    assert (np.diff(curves.interpolated, axis=1) <= 0).all()


def test_values():
    labels = np.array([[0, 0, 0, 10, 10], [0, 20, 0, 30, 10], [1, 0, 0, 10, 10]])
    detections = np.array(
        [
            [0, 0, 10, 10, 0.9, 0],  # right at every threshold
            [0, 0, 10, 10, 0.8, 0],  # the same object again: wrong
            [20, 0, 30, 6, 0.7, 0],  # IoU 0.6: right at 0.5, 0.55 and 0.6
        ]
    )
    metrics = accumulate([(detections, labels), (NONE, np.zeros((0, 5)))], 4)
    assert (metrics.images, metrics.objects) == (2, 3)
    first, second = metrics.classes
    assert (first.index, first.images, first.objects) == (0, 1, 2)
    ap50 = (51 * 1 + 50 * 2 / 3) / 101
    assert first.ap50 == pytest.approx(ap50)
    assert first.ap50_95 == pytest.approx((3 * ap50 + 7 * 51 / 101) / 10)
    assert (second.index, second.ap50, second.precision, second.recall) == (1, 0, 0, 0)
    assert metrics.map50 == pytest.approx(ap50 / 2)
    assert metrics.fitness == pytest.approx(0.1 * metrics.map50 + 0.9 * metrics.map50_95)


def test_perfect_detections():
    labels = np.array([[0, 0, 0, 10, 10], [1, 5, 5, 9, 9]])
    detections = np.concatenate((labels[:, 1:], [[1.0], [1.0]], labels[:, :1]), axis=1)
    metrics = accumulate([(detections, labels)], 2)
    assert metrics.precision == metrics.recall == 1
    assert metrics.map50 == metrics.map50_95 == pytest.approx(1)


def test_more_can_be_added_after_a_result():
    drawn = random_images(3, 8, 2)
    accumulator = MetricsAccumulator(2)
    for index, image in enumerate(drawn):
        accumulator.add(*image)
        assert accumulator.result().map50_95 == accumulate(drawn[: index + 1], 2).map50_95


@pytest.mark.parametrize("detections", [NONE, np.array([[0, 0, 5, 5, 0.9, 1]])])
def test_without_objects_there_is_nothing_to_share(detections):
    metrics = accumulate([(detections, np.zeros((0, 5)))], 2)
    assert metrics.classes == ()
    assert metrics.map50 == metrics.map50_95 == metrics.precision == metrics.fitness == 0
    assert metrics.curves.f1.shape == (0, 1000)
    assert accumulate([], 1).images == 0


@pytest.mark.parametrize(
    ("detections", "labels", "said"),
    [
        (np.zeros((1, 5)), np.zeros((0, 5)), [(1, 5), 6]),
        (NONE, np.zeros((1, 6)), [(1, 6), 5]),
        (np.array([[0, 0, 1, 1, np.nan, 0]]), np.zeros((0, 5)), ["detections", "not finite"]),
        (np.array([[0, 0, 1, 1, 0.5, 3]]), np.zeros((0, 5)), ["detections", "class 3"]),
        (NONE, np.array([[-1, 0, 0, 1, 1]]), ["labels", "class -1"]),
        (NONE, np.array([[0.5, 0, 0, 1, 1]]), ["labels", "class 0.5"]),
    ],
)
def test_bad_rows_are_refused(detections, labels, said):
    with pytest.raises(ConfigError, match=mentions(*said)):
        MetricsAccumulator(3).add(detections, labels)


@pytest.mark.parametrize("options", [{"num_classes": 0}, {"num_classes": 2, "max_det": 0}])
def test_numbers_below_one_are_refused(options):
    with pytest.raises(ConfigError, match=rf"\b{list(options)[-1]}\b.*\b0\b.*\b1\b"):
        MetricsAccumulator(**options)


def test_the_table_of_metrics_has_every_score_once():
    assert [metric.name for metric in METRICS] == [one.name for one in dataclasses.fields(Scores)]
    of_class = {one.name for one in dataclasses.fields(ClassMetrics)}
    assert of_class >= {metric.of_class for metric in METRICS}
    assert len({metric.column for metric in METRICS}) == len(METRICS)


def test_scores_are_told_in_a_line():
    scores = Scores(precision=0.1, recall=0.2, map50=0.51249, map50_95=1 / 3)
    assert scores.summary(", ") == "mAP50 0.512, mAP50-95 0.333"
