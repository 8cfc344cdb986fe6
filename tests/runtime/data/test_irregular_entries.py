"""Broken links, pipes, sockets and unreadable folders among images are counted, never opened."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path

import pytest
from PIL import Image

from exportloss.cli import main
from exportloss.errors import DataError
from exportloss.runtime.data.dataset import Dataset, read_data_yaml
from exportloss.runtime.data.labels import read_label_file
from exportloss.runtime.data.sources import find_images
from exportloss.runtime.data.walking import describe_entry, files_below, find_matches
from tests.support.bright_detector import make_spots, write_bright_detector
from tests.support.messages import mentions


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        folder = os.open(path.parent, os.O_RDONLY)
        made.bind(f"/proc/self/fd/{folder}/{path.name}")  # a path of any length
        os.close(folder)


KINDS = {
    "link": (lambda path: path.symlink_to("gone.jpg"), "is a broken link to gone.jpg"),
    "loop": (lambda path: path.symlink_to(path.name), "is a broken link"),
    "pipe": (os.mkfifo, "is a pipe"),
    "socket": (make_socket, "is a socket"),
}


@pytest.fixture
def folder(tmp_path) -> Path:
    """One image and one entry of each kind."""
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.new("RGB", (4, 4)).save(photos / "a.jpg")
    for kind, (make, _) in KINDS.items():
        make(photos / f"{kind}.jpg")
    (photos / ".hidden.jpg").symlink_to("gone.jpg")
    return photos


@pytest.mark.parametrize("kind", KINDS)
def test_what_lies_there_is_described(folder, kind):
    assert KINDS[kind][1] in describe_entry(folder / f"{kind}.jpg")


@pytest.mark.parametrize("source", ["", "/*", "/*.jpg", "/**/*.jpg", "/../photos/**/*"])
def test_all_are_told_and_none_is_found(folder, source):
    skipped: list[Path] = []
    images = find_images(f"{folder}{source}", onskip=skipped.append)
    assert [path.name for path in images] == ["a.jpg"]
    assert sorted(path.stem for path in skipped) == sorted(KINDS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_pattern", [False, True])
def test_where_nothing_else_is_there_the_error_names_it(tmp_path, kind, is_pattern):
    path = tmp_path / "x.jpg"
    KINDS[kind][0](path)
    with pytest.raises(DataError, match=mentions("1 entry", path, KINDS[kind][1].split(" to ")[0])):
        find_images(tmp_path / "*.jpg" if is_pattern else path)


def test_matches_below_folders_that_cannot_be_read_are_told(tmp_path, monkeypatch):
    (tmp_path / "shut").mkdir()
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("shut"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)  # the tests may run as root, whom nothing stops
    skipped: list[Path] = []
    assert list(find_matches(f"{tmp_path}/**/*.jpg", onskip=skipped.append)) == []
    assert skipped == [tmp_path / "shut"]
    assert list(files_below(tmp_path)) == []


def test_a_source_folder_that_cannot_be_read_is_a_data_error(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(DataError, match=mentions(tmp_path, "Permission denied")):
        find_images(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_list_says_what_its_entry_is(folder, kind):
    (folder / "list.txt").write_text(f"a.jpg\n{kind}.jpg\n")
    words = KINDS[kind][1].split(" to ")[0]
    with pytest.raises(DataError, match=mentions("list.txt:2: ", f"{kind}.jpg", words)):
        find_images(folder / "list.txt")
    (folder / "data.yaml").write_text("train: list.txt\nnames: [a]\n")
    with pytest.raises(DataError, match=mentions("list.txt:2: ", f"{kind}.jpg", words)):
        Dataset.open(read_data_yaml(folder / "data.yaml"), "train")


def test_a_data_set_holds_them_apart(folder, tmp_path):
    (tmp_path / "data.yaml").write_text("train: photos\nval: empty\nnames: [a]\n")
    dataset = Dataset.open(read_data_yaml(tmp_path / "data.yaml"), "train")
    assert [path.name for path in dataset.images] == ["a.jpg"]
    assert sorted(path.stem for path in dataset.irregular) == sorted(KINDS)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "batch2").symlink_to("/gone/batch2", target_is_directory=True)
    with pytest.raises(
        DataError, match=mentions("1 entry", "empty/batch2", "broken link", "/gone/batch2")
    ):
        Dataset.open(read_data_yaml(tmp_path / "data.yaml"), "val")


def test_a_broken_link_in_place_of_labels_is_no_background(tmp_path):
    (tmp_path / "a.txt").symlink_to("gone.txt")
    with pytest.raises(DataError, match=mentions("a.txt", "broken link", "gone.txt")):
        read_label_file(tmp_path / "a.txt")
    assert read_label_file(tmp_path / "b.txt") is None


@pytest.mark.parametrize("command", ["detect", "val"])
def test_commands_say_how_many_were_skipped(tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    data = make_spots(tmp_path / "spots", count=2)
    images = data.parent / "images" / "val"
    os.mkfifo(images / "pipe.png")
    (images / "link.png").symlink_to("gone.png")
    weights = write_bright_detector(tmp_path / "best.onnx", shape=("n", 3, 64, 64))
    source = ["--data", str(data), "--noplots"] if command == "val" else ["--source", str(images)]
    assert main([command, "--weights", str(weights), *source, "--threads", "1"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "skipped" in line]
    assert re.search(mentions("warning", "2 entries", images / "link.png", "to gone.png"), line)
