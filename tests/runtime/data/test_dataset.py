from pathlib import Path

import pytest

from exportloss.errors import ConfigError, DataError
from exportloss.runtime.data.dataset import DataConfig, Dataset, label_path, read_data_yaml
from tests.support.messages import mentions


def write_yaml(folder: Path, text: str) -> Path:
    path = folder / "data.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_reads_every_key(tmp_path):
    path = write_yaml(
        tmp_path, "path: set\ntrain: a\nval: [b, c.txt]\ntest: d\nnc: 2\nnames: [cat, dog]\n"
    )
    root = tmp_path / "set"
    assert read_data_yaml(path) == DataConfig(
        source=path,
        root=root,
        train=(root / "a",),
        val=(root / "b", root / "c.txt"),
        test=(root / "d",),
        names=("cat", "dog"),
    )


def test_root_is_the_folder_of_the_yaml_or_absolute(tmp_path):
    assert read_data_yaml(write_yaml(tmp_path, "names: [a]")).root == tmp_path
    elsewhere = tmp_path / "x" / "y"
    text = f"path: {elsewhere}\ntrain: ../t\nnames: [a]"
    config = read_data_yaml(write_yaml(tmp_path, text))
    assert (config.root, config.train) == (elsewhere, (tmp_path / "x" / "t",))


def test_names_as_mapping_follow_their_numbers(tmp_path):
    config = read_data_yaml(write_yaml(tmp_path, "names: {1: dog, 0: cat, 2: 7}"))
    assert config.names == ("cat", "dog", "7")
    assert config.num_classes == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("train: a", "`names`|None"),
        ("names: []", "`names`|[]"),
        ("names: cat", "`names`|'cat'"),
        ("names: [a, b]\nnc: 3", "`nc`| 3 |`names`| 2"),
        ("names: {0: a, 2: b}", "0 to 1"),
        ("names: [yes, b]", "name 0|True"),
        ("names: [a]\ntrain: 3", "`train`|3"),
        ("names: [a]\nval: [x, null]", "`val`|None"),
        ("names: [a]\npath: [x]", "`path`|['x']"),
        ("- a", "list"),
        ("", "NoneType"),
        ("names: [a", "YAML"),
    ],
)
def test_refuses_a_bad_yaml_and_names_it(tmp_path, text, said):
    path = write_yaml(tmp_path, text)
    with pytest.raises(DataError, match=mentions(path, *said.split("|"))):
        read_data_yaml(path)


def test_missing_yaml(tmp_path):
    with pytest.raises(DataError, match=mentions(tmp_path / "no.yaml", "no such")):
        read_data_yaml(tmp_path / "no.yaml")


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("/d/images/train/a.jpg", "/d/labels/train/a.txt"),
        ("/images/x/images/a.b.png", "/images/x/labels/a.b.txt"),
        ("/d/images2/a.jpg", "/d/images2/a.txt"),
        ("/d/train/images.jpg", "/d/train/images.txt"),
    ],
)
def test_label_path(image, label):
    assert label_path(Path(image)) == Path(label)


def open_split(folder: Path, text: str, split="train") -> Dataset:
    return Dataset.open(read_data_yaml(write_yaml(folder, f"names: [a, b]\n{text}")), split)


def test_a_folder_gives_its_images_sorted_with_subfolders(tmp_path):
    touch(tmp_path, "images/b.PNG", "images/a/z.jpg", "images/c.tif", "images/notes.txt")
    touch(tmp_path, "images/.hidden.jpg", "images/.checkpoints/b.png", "other/images/d.jpg")
    dataset = open_split(tmp_path, "train: images")
    assert dataset.images == tuple(tmp_path / "images" / n for n in ("a/z.jpg", "b.PNG", "c.tif"))
    assert dataset.labels == tuple(tmp_path / "labels" / n for n in ("a/z.txt", "b.txt", "c.txt"))
    assert (len(dataset), dataset.num_classes) == (3, 2)


def test_text_files_and_lists_of_sources(tmp_path):
    touch(tmp_path, "images/one.jpg", "images/two.jpg", "more/three.bmp")
    lists = tmp_path / "lists"
    lists.mkdir()
    absolute = tmp_path / "images/two.jpg"
    (lists / "train.txt").write_bytes(f"\ufeff../images/one.jpg\r\n\r\n{absolute}\r\n".encode())
    dataset = open_split(tmp_path, "train: [more, lists/train.txt]")
    expected = ("images/one.jpg", "images/two.jpg", "more/three.bmp")
    assert dataset.images == tuple(tmp_path / name for name in expected)


def test_a_list_names_every_missing_image_with_its_line(tmp_path):
    touch(tmp_path, "good.jpg", "bad.gif")
    (tmp_path / "list.txt").write_text("good.jpg\nbad.gif\nmissing.png\n")
    with pytest.raises(DataError) as caught:
        open_split(tmp_path, "train: list.txt")
    message = str(caught.value)
    assert "2 of 3" in message
    assert "list.txt:2: 'bad.gif'" in message
    assert "list.txt:3: " in message
    assert "list.txt:1: " not in message


@pytest.mark.parametrize("text", ["train: gone", "train: gone/list.txt", "train: [here, gone]"])
def test_a_missing_source_is_named(tmp_path, text):
    touch(tmp_path, "here/a.jpg")
    with pytest.raises(DataError, match=mentions(tmp_path / "gone", "no such", "data.yaml")):
        open_split(tmp_path, text)


def test_an_empty_split_is_refused(tmp_path):
    touch(tmp_path, "images/readme.md")
    with pytest.raises(DataError, match=mentions(tmp_path / "images", "no image")):
        open_split(tmp_path, "train: images")


def test_a_split_that_the_yaml_lacks(tmp_path):
    for split in ("val", "test"):
        with pytest.raises(DataError, match=mentions("data.yaml", f"`{split}:`")):
            open_split(tmp_path, "train: images", split)
    with pytest.raises(ConfigError, match="'validation'"):
        open_split(tmp_path, "train: images", "validation")


def test_links_to_folders_are_followed_once_around(tmp_path):
    touch(tmp_path, "elsewhere/deep/a.jpg", "images/b.jpg")
    (tmp_path / "images" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "images" / "linked" / "deep" / "up").symlink_to(tmp_path / "images")
    (tmp_path / "images" / "self").symlink_to("self")
    dataset = open_split(tmp_path, "train: images")
    assert [str(path.relative_to(tmp_path / "images")) for path in dataset.images] == [
        "b.jpg",
        "linked/deep/a.jpg",
    ]
    # Of two links to one folder, one is followed: else a few links would multiply the images.
    (tmp_path / "images" / "again").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "deep" / "up").unlink()
    assert len(open_split(tmp_path, "train: images")) == 2


def test_a_split_with_one_step_up_too_many(tmp_path):
    touch(tmp_path, "train/images/a.jpg")
    dataset = open_split(tmp_path, "train: ../train/images")
    assert dataset.images == (tmp_path / "train/images/a.jpg",)
    touch(tmp_path.parent, f"{tmp_path.name}-up/images/b.jpg")
    dataset = open_split(tmp_path, f"train: ../{tmp_path.name}-up/images")
    assert dataset.images[0].name == "b.jpg"


def test_a_path_from_the_working_folder(tmp_path, monkeypatch):
    touch(tmp_path, "datasets/set/images/a.jpg", "yolov5/data/x")
    monkeypatch.chdir(tmp_path / "yolov5")
    path = write_yaml(tmp_path / "yolov5" / "data", "path: ../datasets/set\nnames: [a]")
    assert read_data_yaml(path).root == tmp_path / "datasets" / "set"
    touch(tmp_path, "yolov5/datasets/set/b.jpg")  # beside the yaml goes first
    assert read_data_yaml(path).root == tmp_path / "yolov5" / "datasets" / "set"


def test_an_unreadable_list_is_named_with_its_line(tmp_path):
    touch(tmp_path, "a.jpg")
    (tmp_path / "list.txt").write_bytes(b"a.jpg\n\xff.jpg\n")
    with pytest.raises(DataError, match=mentions(tmp_path / "list.txt", ":2")):
        open_split(tmp_path, "train: list.txt")


def test_splits_and_lines_from_the_working_folder(tmp_path, monkeypatch):
    touch(tmp_path, "here/set/a.jpg", "here/set/b.jpg", "data/x")
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "data" / "list.txt").write_text("set/b.jpg\n")
    for split, names in (("set", ["a.jpg", "b.jpg"]), ("list.txt", ["b.jpg"])):
        dataset = open_split(tmp_path / "data", f"train: {split}")
        assert [path.name for path in dataset.images] == names
        assert dataset.images[0].parent == tmp_path / "here" / "set"
