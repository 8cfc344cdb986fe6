"""Pixels against OpenCV's, in the order of calls that YOLOv5 makes."""

import numpy as np
import pytest
from PIL import Image

from exportloss.errors import ConfigError
from exportloss.runtime.data.augment import Augmentation, draw_recipe, make_image
from exportloss.runtime.data.dataset import Dataset
from exportloss.runtime.data.loader import Batches
from exportloss.runtime.evaluation.inference import Detector
from exportloss.runtime.evaluation.nms import non_max_suppression
from exportloss.runtime.images.letterbox import Letterbox, letterbox
from exportloss.runtime.images.load import load_image, load_scaled
from exportloss.runtime.images.resize import resize_area, resize_linear
from tests.support.bright_detector import write_bright_detector

cv2 = pytest.importorskip("cv2")

GREY = (114, 114, 114)
TURNED = 6  # EXIF: to be shown turned a quarter clockwise


def random_image(rng, most=700):
    height, width = rng.integers(1, most, 2)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    # Noise is the hardest; real images are smooth.
    return cv2.GaussianBlur(image, (0, 0), 3) if rng.random() < 0.3 else image


def assert_within_a_level(found, expected):
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max(initial=0) <= 1


def read_by_opencv(image, side, *, augment):
    """Scale an image as YOLOv5 reads it for training (`augment`) or validation."""
    height, width = image.shape[:2]
    ratio = side / max(height, width)
    if ratio == 1:
        return image
    how = cv2.INTER_LINEAR if augment or ratio > 1 else cv2.INTER_AREA
    size = max(int(width * ratio), 1), max(int(height * ratio), 1)
    return cv2.resize(image, size, interpolation=how)


def letterbox_by_opencv(image, size, *, scale_up=True):
    height, width = image.shape[:2]
    ratio = min(size[0] / height, size[1] / width)
    if not scale_up:
        ratio = min(ratio, 1.0)
    wanted = max(round(width * ratio), 1), max(round(height * ratio), 1)
    if (width, height) != wanted:
        image = cv2.resize(image, wanted, interpolation=cv2.INTER_LINEAR)
    across, down = (size[1] - wanted[0]) / 2, (size[0] - wanted[1]) / 2
    edges = round(down - 0.1), round(down + 0.1), round(across - 0.1), round(across + 0.1)
    return cv2.copyMakeBorder(image, *edges, cv2.BORDER_CONSTANT, value=GREY)


@pytest.mark.parametrize("seed", range(200))
def test_resizing_is_opencvs(seed):
    rng = np.random.default_rng(seed)
    image = random_image(rng)
    size = tuple(rng.integers(1, 700, 2).tolist())
    if seed % 4 == 0:  # exactly half, where OpenCV takes another way
        size = max(image.shape[0] // 2, 1), max(image.shape[1] // 2, 1)
    expected = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    assert_within_a_level(resize_linear(image, size), expected)
    smaller = tuple(int(rng.integers(1, side + 1)) for side in image.shape[:2])
    for shrunk in (smaller, tuple(map(min, size, image.shape[:2]))):
        expected = cv2.resize(image, shrunk[::-1], interpolation=cv2.INTER_AREA)
        assert_within_a_level(resize_area(image, shrunk), expected)


@pytest.mark.parametrize("seed", range(60))
def test_detection_sees_the_original_pixels(seed):
    rng = np.random.default_rng(seed)
    image = random_image(rng)
    size = tuple((32 * rng.integers(1, 15, 2)).tolist())
    canvas, _ = letterbox(image, size)
    assert_within_a_level(canvas, letterbox_by_opencv(image, size))


@pytest.mark.parametrize("seed", range(60))
def test_validation_sees_the_original_pixels(tmp_path, seed):
    rng = np.random.default_rng(seed)
    image, side = random_image(rng), int(32 * rng.integers(1, 15))
    Image.fromarray(image).save(tmp_path / "a.png")
    (tmp_path / "a.txt").touch()
    dataset = Dataset(images=(tmp_path / "a.png",), labels=(tmp_path / "a.txt",), names=("a",))
    (batch,) = Batches(dataset, 1, (side, side))
    loaded = read_by_opencv(image, side, augment=False)
    expected = letterbox_by_opencv(loaded, (side, side), scale_up=False)
    assert_within_a_level(batch.images[0].transpose(1, 2, 0), expected)


@pytest.mark.parametrize("seed", range(60))
def test_training_sees_the_original_pixels(tmp_path, seed):
    rng = np.random.default_rng(seed)
    image, side = random_image(rng), int(32 * rng.integers(1, 15))
    Image.fromarray(image).save(tmp_path / "a.png")
    loaded = read_by_opencv(image, side, augment=True)
    scaled = load_scaled(tmp_path / "a.png", (side, side), linear=True)
    assert_within_a_level(np.asarray(scaled), loaded)

    recipe = draw_recipe(0, [image.shape[:2]], (side, side), Augmentation(), rng)
    whole = make_image(recipe, lambda _: scaled)
    # The second enlargement, of an image that was read a pixel short, is of what was read here.
    expected = letterbox_by_opencv(np.asarray(scaled), (side, side))
    assert_within_a_level(np.asarray(whole), expected)


@pytest.mark.parametrize("seed", range(8))
def test_the_same_boxes_are_found_on_the_original_pixels(tmp_path, seed):
    detector = Detector.open(write_bright_detector(tmp_path / "a.onnx"), threads=1)
    rng = np.random.default_rng(seed)
    image = random_image(rng)
    thresholds = {"conf_thres": 0.2, "iou_thres": 0.45, "max_det": 300}
    (ours,) = detector.detect([image], size=(160, 160), **thresholds)
    canvas = letterbox_by_opencv(image, (160, 160))
    rows = detector.predict(np.ascontiguousarray(canvas.transpose(2, 0, 1)[None]))
    (theirs,) = non_max_suppression(rows, **thresholds)
    box = Letterbox.fit(image.shape[:2], (160, 160))
    assert len(ours) == len(theirs) > 0
    np.testing.assert_allclose(ours, box.unmap_boxes(theirs), atol=0.01)


def test_a_side_that_is_cut_is_not_rounded(tmp_path):
    Image.new("RGB", (500, 281)).save(tmp_path / "a.png")
    assert load_scaled(tmp_path / "a.png", (160, 160)).size == (160, 89)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
@pytest.mark.parametrize("orientation", [1, TURNED])
def test_decoding_is_opencvs(tmp_path, mode, orientation):
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = orientation
    smooth = cv2.GaussianBlur(rng.integers(0, 256, (61, 94, 3), dtype=np.uint8), (0, 0), 2)
    for name in ["a.png"] if mode == "RGBA" else ["a.png", "a.jpg"]:
        Image.fromarray(smooth).convert(mode).save(tmp_path / name, exif=exif)
        expected = cv2.imread(str(tmp_path / name))[..., ::-1]  # BGR
        assert_within_a_level(load_image(tmp_path / name), expected)


def test_impossible_sizes_are_refused():
    image = np.zeros((4, 4, 3), np.uint8)
    for resize, size, said in (
        (resize_linear, (0, 4), r"\b0\b.*\b1\b"),
        (resize_area, (4, 0), r"\b0\b.*\b1\b"),
        (resize_area, (5, 4), r"\(5, 4\).*\(4, 4\)"),
    ):
        with pytest.raises(ConfigError, match=rf"\bsize\b.*{said}"):
            resize(image, size)
