import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exportloss.errors import ConfigError
from exportloss.runtime.evaluation.nms import non_max_suppression
from tests.support.messages import mentions


def reference(
    rows,
    *,
    conf_thres,
    iou_thres,
    max_det=300,
    agnostic=False,
    multi_label=False,
    classes=None,
    max_candidates=30_000,
):
    """The definition, box by box."""
    found = []
    for x, y, w, h, objectness, *probabilities in rows.tolist():
        if not objectness > conf_thres:
            continue
        scores = [np.float32(objectness) * np.float32(p) for p in probabilities]
        chosen = range(len(scores)) if multi_label else [scores.index(max(scores))]
        corners = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
        wanted = [c for c in chosen if classes is None or c in classes]
        found += [(*corners, scores[c], c) for c in wanted if scores[c] > conf_thres]
    found.sort(key=lambda box: -box[4])
    kept = []
    for box in found[:max_candidates]:
        rivals = [other for other in kept if agnostic or other[5] == box[5]]
        if all(iou(box, other) <= iou_thres for other in rivals):
            kept.append(box)
    return np.array(kept[:max_det], dtype=np.float32).reshape(-1, 6)


def iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    inter = max(width, 0) * max(height, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter
    return inter / union if union else 0


def random_predictions(seed, batch, rows, classes):
    rng = np.random.default_rng(seed)
    xy = rng.uniform(0, 60, (batch, rows, 2))
    wh = rng.uniform(5, 40, (batch, rows, 2))
    scores = rng.uniform(0, 1, (batch, rows, 1 + classes)) ** 0.5
    return np.concatenate([xy, wh, scores], axis=2).astype(np.float32)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    rows=st.integers(0, 40),
    count=st.integers(1, 4),
    conf_thres=st.sampled_from([0.0, 0.25, 0.6]),
    iou_thres=st.sampled_from([0.0, 0.2, 0.45, 0.7, 1.0]),
    max_det=st.sampled_from([1, 3, 300]),
    agnostic=st.booleans(),
    multi_label=st.booleans(),
    classes=st.sampled_from([None, (), (0,), [3, 1]]),
    max_candidates=st.sampled_from([1, 10, 30_000]),
)
def test_agrees_with_the_definition(seed, rows, count, **options):
    predictions = random_predictions(seed, 2, rows, count)
    if options["classes"]:
        options["classes"] = [one for one in options["classes"] if one < count]
    found = non_max_suppression(predictions, **options)
    assert len(found) == 2
    for one, image in zip(found, predictions, strict=True):
        assert one.dtype == np.float32
        expected = reference(image, **options)
        assert one.shape == expected.shape
        np.testing.assert_allclose(one, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize("max_candidates", [700, 30_000])
def test_agrees_with_the_definition_over_many_boxes(agnostic, max_candidates):
    predictions = random_predictions(0, 1, 400, 3)
    predictions[..., :2] *= 10
    options = {"conf_thres": 0.001, "iou_thres": 0.6, "multi_label": True}
    options |= {"agnostic": agnostic, "max_candidates": max_candidates}
    (found,) = non_max_suppression(predictions, **options)
    expected = reference(predictions[0], **options)
    assert len(found) == len(expected) == 300
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


def rows_of(*rows):
    return np.array([rows], dtype=np.float32)


def test_values():
    predictions = rows_of(
        (50, 40, 20, 10, 0.9, 0.1, 0.8),
        (51, 40, 20, 10, 0.8, 0.1, 0.8),  # the same object, less confident
        (51, 40, 20, 10, 0.8, 0.9, 0.1),  # the same place, another class
        (10, 10, 4, 4, 0.2, 1.0, 0.0),  # too weak an objectness
        (10, 10, 4, 4, 0.4, 0.5, 0.4),  # too weak a product
    )
    (found,) = non_max_suppression(predictions)
    expected = [[41, 35, 61, 45, 0.72, 0], [40, 35, 60, 45, 0.72, 1]]
    np.testing.assert_allclose(found[np.argsort(found[:, 5])], expected, rtol=1e-6)
    (one,) = non_max_suppression(predictions, agnostic=True)
    assert len(one) == 1


def test_thresholds_are_exclusive():
    predictions = rows_of((5, 5, 10, 10, 1, 0.5), (5, 5, 10, 5, 1, 0.5))  # IoU exactly 0.5
    assert len(non_max_suppression(predictions, conf_thres=0.5)[0]) == 0
    assert len(non_max_suppression(predictions, iou_thres=0.5)[0]) == 2
    assert len(non_max_suppression(predictions, iou_thres=0.49)[0]) == 1


def test_multi_label_gives_a_box_for_every_class():
    (found,) = non_max_suppression(rows_of((5, 5, 4, 4, 1, 0.5, 0.9, 0.1)), multi_label=True)
    np.testing.assert_allclose(found[:, 4:], [[0.9, 1], [0.5, 0]], rtol=1e-6)


def test_equal_confidences_keep_the_earlier_row():
    (found,) = non_max_suppression(rows_of((9, 9, 8, 8, 1, 0.5), (8, 8, 8, 8, 1, 0.5)))
    np.testing.assert_array_equal(found[:, :2], [[5, 5]])
    apart = [(10 * index, 0, 4, 4, 1, 0.5 if index % 3 else 0.7) for index in range(60)]
    (found,) = non_max_suppression(rows_of(*apart), max_det=20)
    np.testing.assert_array_equal(found[:, 0], 30 * np.arange(20) - 2)


def test_boxes_without_area_or_without_a_value():
    nan, inf = float("nan"), float("inf")
    point = (5, 5, 0, 0, 1, 0.9)
    predictions = rows_of(
        point, point, (nan, 5, 1, 1, 1, 1), (5, inf, 1, 1, 1, 1), (5, 5, 1, 1, nan, 1)
    )
    (found,) = non_max_suppression(predictions)
    np.testing.assert_allclose(found[:, :5], [[5, 5, 5, 5, 0.9]] * 2)


def test_nothing_found_keeps_the_columns():
    (found,) = non_max_suppression(np.zeros((1, 0, 85), dtype=np.float32))
    assert (found.shape, found.dtype) == ((0, 6), np.float32)


@pytest.mark.parametrize(
    "options",
    [
        {"conf_thres": 1.1},
        {"iou_thres": -0.1},
        {"iou_thres": float("nan")},
        {"classes": [0, 2]},
        {"classes": [-1]},
        {"max_det": 0},
        {"max_candidates": 0},
    ],
)
def test_refuses_settings_out_of_range(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        non_max_suppression(np.zeros((1, 4, 6), dtype=np.float32), **options)


@pytest.mark.parametrize("shape", [(4, 6), (1, 4, 5), (1, 3, 4, 4, 6)])
def test_refuses_other_shapes(shape):
    with pytest.raises(ConfigError, match=mentions(shape)):
        non_max_suppression(np.zeros(shape, dtype=np.float32))
