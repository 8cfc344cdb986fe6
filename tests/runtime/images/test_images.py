import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from exportloss.errors import ConfigError, DataError
from exportloss.runtime.images.letterbox import Letterbox, letterbox
from exportloss.runtime.images.load import inspect_image, load_image, load_scaled
from tests.support.messages import mentions

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def gradient(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    planes = [x * 255 // max(width - 1, 1), y * 255 // max(height - 1, 1), 0 * x + 77]
    return np.stack(planes, axis=2).astype(np.uint8)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp"])
def test_rgb_is_read_exactly(tmp_path, suffix):
    image = gradient(12, 20)
    Image.fromarray(image).save(tmp_path / f"a.{suffix}", lossless=True)
    loaded = load_image(tmp_path / f"a.{suffix}")
    assert loaded.dtype == np.uint8
    np.testing.assert_array_equal(loaded, image)


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned a quarter clockwise
    image = gradient(12, 20)
    Image.fromarray(image).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(load_image(tmp_path / "a.png"), np.rot90(image, -1))


def test_other_pixel_formats_become_rgb(tmp_path):
    path = tmp_path / "a.png"
    grey = 5 * np.arange(48, dtype=np.uint8).reshape(6, 8)
    Image.fromarray(grey).save(path)
    np.testing.assert_array_equal(load_image(path), np.repeat(grey[..., None], 3, axis=2))

    Image.fromarray(grey.astype(np.uint16) * 257).save(path)  # 16 bit, as 257 * 255 = 65535
    np.testing.assert_array_equal(load_image(path), np.repeat(grey[..., None], 3, axis=2))

    Image.fromarray(np.dstack([gradient(6, 8), grey])).save(path)
    np.testing.assert_array_equal(load_image(path), gradient(6, 8))

    palette = Image.new("P", (3, 1))
    palette.putpalette([*RED, *GREEN, *BLUE])
    palette.putdata([2, 0, 1])
    palette.save(path, transparency=bytes([0, 128, 255]))
    np.testing.assert_array_equal(load_image(path), [[BLUE, RED, GREEN]])

    Image.fromarray(grey > 100).save(path)
    assert set(np.unique(load_image(path))) == {0, 255}


def test_damaged_files_are_refused_by_name(tmp_path):
    path = tmp_path / "a.jpg"
    with pytest.raises(DataError, match=mentions(path, "no such")):
        load_image(path)
    Image.fromarray(gradient(64, 64)).save(path)
    whole = path.read_bytes()
    for data in (b"", b"no image at all", whole[: len(whole) // 2], whole[:30]):
        path.write_bytes(data)
        with pytest.raises(DataError, match=mentions(path, "decoded")):
            load_image(path)


@pytest.mark.parametrize("at", range(8, 120, 7))
def test_a_damaged_byte_is_a_image_or_a_data_error(tmp_path, at):
    path = tmp_path / "a.png"
    Image.fromarray(gradient(16, 16)).save(path)
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= 0xFF
    path.write_bytes(data)
    try:
        assert load_image(path).ndim == 3
    except DataError as error:
        assert "a.png" in str(error)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("limit", [400, 1000, 1199])
def test_oversize_images_are_refused_by_name(tmp_path, monkeypatch, limit):
    Image.fromarray(gradient(30, 40)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(DataError, match=mentions(tmp_path / "a.png", "too large")):
        load_image(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1200)
    assert load_image(tmp_path / "a.png").shape == (30, 40, 3)


def test_floating_point_pixels_are_refused(tmp_path):
    Image.fromarray(np.zeros((4, 4), dtype=np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=mentions(tmp_path / "a.tif", "float")):
        load_image(tmp_path / "a.tif")


@pytest.mark.parametrize("largest", [255, 70_000])
def test_integers_of_32_bits_are_refused(tmp_path, largest):
    pixels = np.linspace(0, largest, 16, dtype=np.int32).reshape(4, 4)
    Image.fromarray(pixels).save(tmp_path / "a.tif")
    for read in (load_image, inspect_image):
        with pytest.raises(DataError, match=mentions(tmp_path / "a.tif", "32 bits")):
            read(tmp_path / "a.tif")


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bits_are_read(tmp_path, suffix):
    pixels = (np.arange(16, dtype=np.uint16) * 4369).reshape(4, 4)  # to 65535
    Image.fromarray(pixels).save(tmp_path / f"a.{suffix}")
    expected = np.repeat((pixels >> 8).astype(np.uint8)[..., None], 3, axis=2)
    np.testing.assert_array_equal(load_image(tmp_path / f"a.{suffix}"), expected)


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("size", [(50, 60), (90, 400), (300, 40), (2, 3), (999, 999)])
def test_the_size_of_a_turned_image_is_known_without_decoding_it(tmp_path, orientation, size):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(gradient(481, 640)).save(tmp_path / "a.jpg", exif=exif)
    source = load_image(tmp_path / "a.jpg").shape[:2]
    assert inspect_image(tmp_path / "a.jpg") == source
    image = load_scaled(tmp_path / "a.jpg", size)
    assert image.size == Letterbox.fit(source, size, truncate=True).scaled[::-1]


def test_letterbox_centres_and_keeps_the_aspect():
    canvas, box = letterbox(np.full((100, 200, 3), 9, dtype=np.uint8), (320, 320), color=50)
    assert (box.source, box.size, box.ratio, box.pad) == (
        (100, 200),
        (320, 320),
        (1.6, 1.6),
        (80, 0),
    )
    assert canvas.shape == (320, 320, 3)
    assert (canvas[80:240] == 9).all()
    assert (canvas[:80] == 50).all()
    assert (canvas[240:] == 50).all()


def test_letterbox_without_scaling_copies_pixels():
    image = gradient(10, 20)
    canvas, box = letterbox(image, (15, 31), scale_up=False)
    assert (box.ratio, box.pad) == ((1, 1), (2, 5))
    np.testing.assert_array_equal(canvas[2:12, 5:25], image)
    shrunk, _ = letterbox(gradient(60, 60), (15, 31), scale_up=False)
    assert (shrunk[:, 8:23] != 114).any(axis=2).all()


def test_resizing_keeps_a_gradient():
    canvas, _ = letterbox(gradient(50, 50), (200, 200))
    assert np.abs(canvas.astype(int) - gradient(200, 200)).max() <= 4


def test_a_single_row_of_pixels_survives():
    canvas, box = letterbox(np.zeros((1, 1000, 3), dtype=np.uint8), (32, 32))
    assert (canvas == 0).all(axis=2).sum() == 32
    assert box.ratio == (1, 0.032)


lengths = st.integers(1, 300)
shares = st.floats(0, 1)


@given(
    source=st.tuples(lengths, lengths),
    size=st.tuples(lengths, lengths),
    scale_up=st.booleans(),
    corners=st.lists(st.tuples(shares, shares, shares, shares), max_size=5),
)
def test_labels_in_and_boxes_out_are_inverse(source, size, scale_up, corners):
    _, box = letterbox(np.zeros((*source, 3), dtype=np.uint8), size, scale_up=scale_up)
    x, y = np.sort(np.array(corners).reshape(-1, 2, 2), axis=2).transpose(1, 0, 2)  # (n, 2) each
    centre = np.stack([x.mean(axis=1), y.mean(axis=1)], axis=1)
    sides = np.stack([np.ptp(x, axis=1), np.ptp(y, axis=1)], axis=1)
    label = np.arange(len(corners))[:, None]
    mapped = box.map_labels(np.concatenate([label, centre, sides], axis=1))
    assert mapped.dtype == np.float32
    assert ((mapped[:, 1:] >= 0) & (mapped[:, 1:] <= 1)).all()

    canvas = np.array(size[::-1])
    middle, half = mapped[:, 1:3] * canvas, mapped[:, 3:5] * canvas / 2
    boxes = np.concatenate([middle - half, middle + half, label], axis=1)
    # The scaled image lies on the canvas between its padding on both sides.
    scaled = np.rint(np.array(box.ratio) * source)[::-1]
    pad = np.array(box.pad[::-1])
    assert (boxes[:, :2] >= pad - 1e-3).all()
    assert (boxes[:, 2:4] <= pad + scaled + 1e-3).all()

    back = box.unmap_boxes(boxes)
    width, height = source[::-1]
    expected = np.stack([x[:, 0] * width, y[:, 0] * height, x[:, 1] * width, y[:, 1] * height], 1)
    tolerance = 1e-4 * max(1, *size) * max(1, *(1 / np.array(box.ratio)))
    np.testing.assert_allclose(back[:, :4], expected, atol=tolerance)
    np.testing.assert_array_equal(back[:, 4], label[:, 0])


def test_boxes_out_are_clipped_to_the_image():
    _, box = letterbox(np.zeros((100, 200, 3), dtype=np.uint8), (320, 320))
    outside = np.array([[-50, 0, 400, 320, 0.9, 1]], dtype=np.float32)
    np.testing.assert_allclose(box.unmap_boxes(outside), [[0, 0, 200, 100, 0.9, 1]])


def test_letterbox_refuses_bad_arguments():
    image = gradient(4, 4)
    for bad in (image.astype(np.float32), image[..., :1], image[0], image[:0]):
        with pytest.raises(ConfigError, match=mentions("image", bad.dtype, bad.shape)):
            letterbox(bad, (8, 8))
    with pytest.raises(ConfigError, match=r"\bsize\b.*\b0\b.*\b1\b"):
        letterbox(image, (0, 8))
    with pytest.raises(ConfigError, match=mentions("color", 256)):
        letterbox(image, (8, 8), color=256)


@pytest.mark.parametrize("content", [b"", b"no image", b"GIF89a" + bytes(40)])
def test_what_is_no_image_is_said_to_be_none(tmp_path, content):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        load_image(path)
    assert str(path) in str(caught.value)
    assert "MPO" not in str(caught.value)
