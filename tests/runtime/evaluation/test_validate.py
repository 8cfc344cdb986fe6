import numpy as np
import pytest
from PIL import Image

from exportloss.errors import ConfigError
from exportloss.runtime import TrainSession
from exportloss.runtime.data.dataset import Dataset, read_data_yaml
from exportloss.runtime.data.loader import Batches
from exportloss.runtime.evaluation.boxes import box_iou, to_centres, to_corners
from exportloss.runtime.evaluation.validate import true_boxes, validate
from exportloss.runtime.sessions.session import Evaluation, LossTerms
from tests.support.messages import mentions

SIZES = [(60, 90), (200, 40), (64, 64), (31, 57), (90, 60)]


@pytest.fixture
def dataset(tmp_path):
    """Images of several sizes, three objects each; the last has none."""
    rng = np.random.default_rng(0)
    for index, (height, width) in enumerate(SIZES):
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(image).save(tmp_path / f"{index}.png")
        lines = [f"{k} {0.2 + 0.3 * k} {0.3 + 0.2 * k} 0.25 0.4" for k in range(3)]
        text = "\n".join(lines) if index < 4 else ""
        (tmp_path / f"{index}.txt").write_text(text)
    images = tuple(sorted(tmp_path.glob("*.png")))
    labels = tuple(path.with_suffix(".txt") for path in images)
    return Dataset(images=images, labels=labels, names=("a", "b", "c"))


def perfect(batch):
    """Rows that say where the objects are, and one row that says nothing."""
    height, width = batch.images.shape[2:]
    rows = np.zeros((len(batch.images), 4, 8), np.float32)
    for row, (image, label, *box) in zip(np.arange(len(batch.targets)), batch.targets, strict=True):
        slot = int(image), int(np.sum(batch.targets[:row, 0] == image))
        rows[slot][:4] = np.array(box) * (width, height, width, height)
        rows[slot][4:6] = 0.9, 0
        rows[slot][5 + int(label)] = 1
    return rows


def test_a_perfect_detector_in_pixels_of_the_files(dataset):
    batches = Batches(dataset, 2, (96, 64))
    told = []
    result = validate(perfect, batches, num_classes=3, tell=told.append)
    metrics = result.metrics
    assert (metrics.images, metrics.objects) == (5, 12)  # repeated images do not count
    assert metrics.map50_95 == pytest.approx(1)
    assert np.trace(result.confusion.counts) == result.confusion.counts.sum() == 12
    assert result.items is None
    assert result.inference_ms > 0 < result.nms_ms
    assert [found.number for found in told] == [0, 1, 2]
    boxes = [boxes for found in told for boxes in found.on_image]
    assert [len(one) for one in boxes] == [3, 3, 3, 3, 0]
    for one, (height, width) in zip(boxes[:4], SIZES, strict=False):
        shares = to_centres(one[np.argsort(one[:, 5])]) / (width, height, width, height)
        expected = [(0.2 + 0.3 * k, 0.3 + 0.2 * k, 0.25, 0.4) for k in range(3)]
        np.testing.assert_allclose(shares, expected, atol=1e-5)
    for found in told:
        for one, truth in zip(found.on_canvas, true_boxes(found.batch), strict=True):
            np.testing.assert_allclose(np.diag(box_iou(one[:, :4], truth[:, :4])), 1, atol=1e-5)


def test_losses_are_averaged_where_they_are_known(dataset):
    items = iter([LossTerms(1, 2, 3), LossTerms(3, 2, 1), LossTerms(2, 5, 2)])
    result = validate(
        lambda batch: Evaluation(loss=0.0, items=next(items), predictions=perfect(batch)),
        Batches(dataset, 2, (64, 64)),
        num_classes=3,
    )
    assert result.items == LossTerms(2, 3, 2)
    assert result.metrics.map50 == pytest.approx(1)


def test_with_several_classes_a_row_may_yield_several_boxes(dataset):
    def unsure(batch):
        rows = perfect(batch)
        rows[..., 5:] = np.where(rows[..., 5:] == 1, 0.6, 0.5)
        return rows

    told = []
    options = {"num_classes": 3, "tell": told.append}
    validate(unsure, Batches(dataset, 5, (64, 64)), **options)
    assert [len(boxes) for boxes in told[0].on_canvas] == [9, 9, 9, 9, 0]
    validate(unsure, Batches(dataset, 5, (64, 64)), max_det=2, **options)
    assert [len(boxes) for boxes in told[1].on_canvas] == [2, 2, 2, 2, 0]


def test_a_detector_of_other_classes_is_refused(dataset):
    with pytest.raises(ConfigError, match=mentions("3 classes", "4")):
        validate(perfect, Batches(dataset, 2, (64, 64)), num_classes=4)


def test_a_session_gives_loss_and_metrics(step_artifact, shapes):
    session = TrainSession.open(step_artifact, threads=1)
    dataset = Dataset.open(read_data_yaml(shapes), "val")
    result = validate(
        lambda batch: session.evaluate(batch.images, batch.targets),
        Batches(dataset, 2, (64, 64)),
        num_classes=dataset.num_classes,
    )
    assert result.items is not None
    assert result.metrics.images == len(dataset)
    assert 0 <= result.metrics.map50 < 0.5  # it has learnt nothing


def test_true_boxes_of_repeated_images(dataset):
    last = list(Batches(dataset, 2, (64, 64)))[-1]
    assert len(true_boxes(last)) == 1
    assert len(true_boxes(last, repeated=True)) == 2


def test_corners_and_centres_are_inverse():
    boxes = np.random.default_rng(0).uniform(0, 9, (7, 4))
    np.testing.assert_allclose(to_centres(to_corners(boxes)), boxes)
    assert to_corners(np.array([[5.0, 6.0, 2.0, 4.0]])).tolist() == [[4, 4, 6, 8]]


def test_iou():
    one = np.array([[0, 0, 10, 10], [0, 0, 0, 0], [3, 3, 3, 3]])
    other = np.array([[5, 0, 15, 10], [0, 0, 10, 10], [3, 3, 3, 3]])
    np.testing.assert_allclose(box_iou(one, other), [[1 / 3, 1, 0], [0, 0, 0], [0, 0, 0]])
    assert box_iou(one[:0], other).shape == (0, 3)
