import re

import pytest
from PIL import Image

from exportloss.errors import DataError
from exportloss.runtime.data.sources import find_images, unique_stems


@pytest.fixture
def folder(tmp_path):
    for name in ("b.png", "a.JPG", ".hidden.png", "below/c.webp", "we[i]rd.bmp"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(exist_ok=True, parents=True)
        Image.new("RGB", (4, 4)).save(path, format="png")
    (tmp_path / "photos" / "notes.md").write_text("no image")
    (tmp_path / "empty").mkdir()
    return tmp_path


def names(paths, folder):
    return [path.relative_to(folder).as_posix() for path in paths]


def test_a_image_a_folder_or_a_pattern(folder):
    photos = folder / "photos"
    assert names(find_images(photos / "b.png"), photos) == ["b.png"]
    assert names(find_images(photos / "we[i]rd.bmp"), photos) == ["we[i]rd.bmp"]
    assert names(find_images(photos), photos) == ["a.JPG", "b.png", "we[i]rd.bmp"]
    assert names(find_images(f"{photos}/*.png"), photos) == ["b.png"]
    everything = ["a.JPG", "b.png", "below/c.webp", "we[i]rd.bmp"]
    assert names(find_images(f"{photos}/**/*"), photos) == everything


def test_a_list_keeps_its_order(folder):
    text = f"photos/b.png\r\n\n./photos/below/../a.JPG\n{folder}/photos/b.png\n"
    (folder / "list.txt").write_text("\ufeff" + text)
    found = names(find_images(folder / "list.txt"), folder)
    assert found == ["photos/b.png", "photos/a.JPG", "photos/b.png"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("gone", "gone.*no such"),
        ("gone/*.jpg", r"gone/\*\.jpg.*no such"),
        ("empty", r"empty.*no image.*'.*empty/\*\*/\*.jpg'"),
        ("photos/*.md", r"photos/\*\.md.*no image"),
        ("photos/notes.md", r"photos/notes\.md.*no image"),
        ("bad.txt", r"bad.txt:2: .*gone.png"),
        ("empty.txt", r"empty\.txt.*no image"),
        ("binary.txt", r"binary\.txt.*not readable"),
    ],
)
def test_nothing_to_look_at(folder, source, message):
    (folder / "bad.txt").write_text("photos/b.png\ngone.png\n")
    (folder / "empty.txt").write_text("\n")
    (folder / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=message):
        find_images(folder / source)


def test_stems_are_unique(tmp_path):
    paths = [tmp_path / name for name in ("a.jpg", "a.png", "b/a.jpg", "a-2.jpg", "c.jpg")]
    assert unique_stems(tuple(paths)) == ("a", "a-2", "a-3", "a-2-2", "c")


def test_videos_are_found_where_they_are_asked_for(folder):
    photos = folder / "photos"
    for name in ("clip.MP4", "below/tape.mkv"):
        (photos / name).write_bytes(b"")
    assert names(find_images(photos, videos=True), photos) == [
        *("a.JPG", "b.png", "clip.MP4", "we[i]rd.bmp")
    ]
    assert names(find_images(photos), photos) == ["a.JPG", "b.png", "we[i]rd.bmp"]
    assert names(find_images(f"{photos}/**/*.[mM]*", videos=True), photos) == [
        *("below/tape.mkv", "clip.MP4")
    ]
    (folder / "list.txt").write_text("photos/clip.MP4\nphotos/b.png\n")
    found = find_images(folder / "list.txt", videos=True)
    assert names(found, photos) == ["clip.MP4", "b.png"]
    with pytest.raises(DataError, match=r"list.txt:1: .*clip.MP4"):
        find_images(folder / "list.txt")


@pytest.mark.parametrize(
    "source",
    ["rtsp://10.0.0.1/a.mp4", "HTTP://x/*.mp4", "https:/youtu.be/a", "screen", "screen 0 10 10"],
)
def test_addresses_and_the_screen_are_refused(source):
    with pytest.raises(DataError, match=rf"^{re.escape(source)} .*no network"):
        find_images(source, videos=True)


def test_nothing_is_called_like_a_frame_of_a_video(tmp_path):
    names = ("clip_1.png", "clip.png", "clip.mp4", "more/clip.mkv", "clip-2_3.jpg", "clip_1.avi")
    stems = unique_stems(tuple(tmp_path / name for name in names))
    assert stems == ("clip_1-2", "clip-3", "clip", "clip-2", "clip-2_3-2", "clip_1")
