import io
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from exportloss.errors import ConfigError, DataError, ExportLossError
from exportloss.runtime.data import dataset_check as check
from exportloss.runtime.data.dataset import Dataset
from exportloss.runtime.data.dataset_check import check_dataset
from exportloss.runtime.data.label_cache import Index
from exportloss.runtime.data.labels import read_labels
from exportloss.runtime.images.load import load_image
from exportloss.runtime.storage.cache import cache_folder
from tests.support.messages import mentions, missing

GOOD = "1 .5 .5 .1 .1\n2 .5 .5 .1 .1"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("EXPORTLOSS_CACHE", str(folder))
    return folder


def write(folder: Path, *texts: str | None) -> Dataset:
    """An image for each text of labels; None for no label file."""
    folder.mkdir(exist_ok=True)
    images = []
    for index, text in enumerate(texts):
        images.append(folder / f"{index}.png")
        Image.new("RGB", (8 + index, 6)).save(images[-1])
        if text is not None:
            images[-1].with_suffix(".txt").write_text(text)
    labels = tuple(path.with_suffix(".txt") for path in images)
    return Dataset(images=tuple(images), labels=labels, names=("a", "b", "c"))


@pytest.fixture
def data(tmp_path) -> Dataset:
    return write(tmp_path / "data", GOOD, None, "", GOOD, "0 .5 .5 1 1")


@pytest.fixture
def looked_into(monkeypatch) -> list[str]:
    """The names of files that are parsed or decoded."""
    names = []
    for function in ("examine_image", "parse_labels"):
        original = getattr(check, function)

        def note(path, *args, original=original):
            names.append(path.name)
            return original(path, *args)

        monkeypatch.setattr(check, function, note)
    return names


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.iterdir()}


def assert_same(one, two):
    assert (one.sizes, one.dataset, one.left_out) == (two.sizes, two.dataset, two.left_out)
    for rows, others in zip(one.labels, two.labels, strict=True):
        np.testing.assert_array_equal(rows, others)
        assert rows.dtype == others.dtype == np.float32


def test_labels_and_sizes_of_each_image(data):
    found = check_dataset(data)
    assert found.dataset == data
    assert [len(rows) for rows in found.labels] == [2, 0, 0, 2, 1]
    assert found.sizes == ((6, 8), (6, 9), (6, 10), (6, 11), (6, 12))
    assert (found.left_out, found.skipped) == ((), 0)
    np.testing.assert_array_equal(found.labels[0], read_labels(data.labels[0], 3))


def test_sizes_are_those_that_a_viewer_shows(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = write(tmp_path, GOOD)
    for name in ("0.jpg", "0.tif", "0.png"):
        image = tmp_path / name
        Image.new("RGB", (80, 20)).save(image, exif=exif)
        (found,) = check_dataset(
            Dataset(images=(image,), labels=data.labels, names=data.names)
        ).sizes
        assert found == (80, 20) == load_image(image).shape[:2]


def test_the_second_time_only_what_changed_is_looked_into(data, looked_into, tmp_path):
    first = check_dataset(data)
    assert sorted(set(looked_into)) == [
        *("0.png", "0.txt", "1.png", "2.png", "3.png", "3.txt", "4.png", "4.txt")
    ]
    looked_into.clear()
    assert_same(check_dataset(data), first)
    assert looked_into == []
    data.labels[4].write_text("1 .5 .5 1 1")
    Image.new("RGB", (50, 6)).save(data.images[3])
    changed = check_dataset(data)
    assert sorted(looked_into) == ["3.png", "4.txt"]
    assert changed.sizes[3] == (6, 50)
    assert changed.labels[4][0, 0] == 1


def test_an_image_is_known_by_more_than_its_size(data, looked_into):
    check_dataset(data)
    looked_into.clear()
    status = data.images[0].stat()
    data.images[0].write_bytes(b"\0" * status.st_size)
    os.utime(data.images[0], ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(DataError, match=mentions(data.images[0], "decoded")):
        check_dataset(data)


def test_fewer_classes_are_noticed_in_known_labels(data):
    check_dataset(data)
    fewer = Dataset(images=data.images, labels=data.labels, names=("a", "b"))
    with pytest.raises(DataError, match=mentions(f"{data.labels[0]}:2", "class 2", "[0, 2)")):
        check_dataset(fewer)


def test_problems_are_found_again_and_never_remembered(data):
    data.labels[0].write_text("bad")
    for _ in range(2):
        with pytest.raises(DataError, match=mentions(f"{data.labels[0]}:1", "1 columns", 5)):
            check_dataset(data)


def test_user_files_and_folders_are_left_alone(data):
    folder = data.images[0].parent
    data.labels[0].write_text("bad")
    before = snapshot(folder)
    check_dataset(data, on_bad="skip")
    assert snapshot(folder) == before


@pytest.mark.parametrize("harm", ["flip", "cut", "empty", "folder", "other", "version"])
def test_a_damaged_index_is_made_anew(data, own_cache, looked_into, monkeypatch, harm):
    first = check_dataset(data)
    (path,) = own_cache.iterdir()
    content = path.read_bytes()
    if harm == "version":
        monkeypatch.setattr("exportloss.runtime.data.label_cache._VERSION", 1000)
    elif harm == "folder":
        path.unlink()
        path.mkdir()
    else:
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        harmed = {"flip": flipped, "cut": content[:-9], "empty": b"", "other": b"x" * 99}
        path.write_bytes(harmed[harm])
    looked_into.clear()
    assert_same(check_dataset(data), first)
    assert looked_into
    looked_into.clear()
    check_dataset(data)
    assert bool(looked_into) == (harm == "folder")  # which is not ours to remove


def test_without_a_place_to_write_nothing_is_remembered(data, own_cache, monkeypatch):
    first = check_dataset(data)
    own_cache.rename(own_cache.with_name("elsewhere"))
    own_cache.write_text("a file in its place")
    assert_same(check_dataset(data), first)
    monkeypatch.setenv("EXPORTLOSS_CACHE", "")
    assert_same(check_dataset(data), first)


def test_where_the_cache_is(monkeypatch):
    home = Path("/home/somebody")
    monkeypatch.setenv("HOME", str(home))
    assert cache_folder() == Path(os.environ["EXPORTLOSS_CACHE"])
    monkeypatch.delenv("EXPORTLOSS_CACHE")
    for xdg, expected in (("/x", Path("/x/exportloss")), ("x", home / ".cache/exportloss")):
        monkeypatch.setenv("XDG_CACHE_HOME", xdg)
        assert cache_folder() == expected
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == home / ".cache/exportloss"


def test_an_index_without_labels_or_images_is_read_back(tmp_path):
    for sizes, rows in (({}, {}), ({b"p" * 32: (1, 2)}, {}), ({}, {b"l" * 32: np.ones((2, 5))})):
        index = Index()
        index.sizes, index.rows = sizes, rows
        assert index.save(tmp_path / "index")
        read = Index.load(tmp_path / "index")
        assert read.sizes == sizes
        assert read.rows.keys() == rows.keys()


def test_problems_of_all_files_come_in_one_message(data):
    data.labels[0].write_text("1 .5 .5 .1 .1\nbad")
    data.labels[3].write_text("7 .5 .5 .1 .1\n0 .5 .5 .1 .1\n0 .5 .5 .1 0")
    data.images[1].write_bytes(b"")
    with pytest.raises(DataError) as caught:
        check_dataset(data)
    first, *listing = str(caught.value).splitlines()
    assert not missing(first, 4)
    folder = data.images[0].parent
    assert [line.split(": ")[0].removeprefix(f"{folder}/") for line in listing] == [
        *("0.txt:2", "1.png", "3.txt:1", "3.txt:3")
    ]


def test_bad_images_are_left_out_and_counted(data):
    data.labels[0].write_text("bad\nbad")
    whole = data.images[3].read_bytes()
    data.images[3].write_bytes(whole[: len(whole) // 2])
    found = check_dataset(data, on_bad="skip")
    assert found.skipped == 2
    assert [problem.split(": ")[0].rsplit("/", 1)[1] for problem in found.left_out] == [
        *("0.txt:1", "0.txt:2", "3.png")
    ]
    assert found.dataset.images == tuple(data.images[i] for i in (1, 2, 4))
    assert found.dataset.labels == tuple(data.labels[i] for i in (1, 2, 4))
    assert [len(rows) for rows in found.labels] == [0, 0, 1]
    assert found.sizes == ((6, 9), (6, 10), (6, 12))


def test_nothing_left_is_refused(tmp_path):
    data = write(tmp_path, "bad", "bad")
    with pytest.raises(DataError, match=mentions(2, *(f"{path}:1" for path in data.labels))):
        check_dataset(data, on_bad="skip")


def test_labels_that_lie_elsewhere_are_noticed(tmp_path):
    with pytest.raises(DataError, match=mentions("label", 2)):
        check_dataset(write(tmp_path / "one", None, None))
    check_dataset(write(tmp_path / "two", None, ""))


def test_bad_arguments(data):
    with pytest.raises(ConfigError, match=mentions("on_bad", "'ignore'")):
        check_dataset(data, on_bad="ignore")


def test_links_that_go_in_circles_are_named(data):
    data.labels[0].unlink()
    data.labels[0].symlink_to(data.labels[0])
    data.images[1].unlink()
    data.images[1].symlink_to(data.images[1])
    with pytest.raises(DataError) as caught:
        check_dataset(data)
    assert not missing(str(caught.value), 2, data.labels[0], data.images[1])


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [10_000, 60_000])
def test_decompression_bombs_are_refused_before_they_are_decoded(data, monkeypatch, side):
    content = io.BytesIO()
    Image.new("1", (8, 8)).save(content, "PNG")
    bomb = bytearray(content.getvalue())
    bomb[16:24] = side.to_bytes(4, "big") * 2
    bomb[29:33] = __import__("zlib").crc32(bomb[12:29]).to_bytes(4, "big")
    data.images[2].write_bytes(bomb)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", None)
    with pytest.raises(DataError, match=mentions(data.images[2], "too large")):
        check_dataset(Dataset(images=data.images[2:3], labels=data.labels[2:3], names=data.names))


@settings(deadline=None, max_examples=60)
@given(
    suffix=st.sampled_from(["jpg", "png", "bmp", "webp", "tif"]),
    cut=st.floats(0, 1),
    harm=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=4),
)
def test_any_damage_to_an_image_is_decoded_or_named(tmp_path_factory, suffix, cut, harm):
    folder = tmp_path_factory.getbasetemp() / "damage"
    data = write(folder, GOOD)
    rng = np.random.default_rng(0)
    image = folder / f"any.{suffix}"
    Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(image)
    content = bytearray(image.read_bytes())
    for place, value in harm:
        content[int(place * len(content))] = value
    image.write_bytes(content[: int(cut * len(content)) or None])
    try:
        (size,) = check_dataset(
            Dataset(images=(image,), labels=data.labels, names=data.names)
        ).sizes
    except ExportLossError as error:
        assert str(image) in str(error)
    else:
        assert min(size) > 0
