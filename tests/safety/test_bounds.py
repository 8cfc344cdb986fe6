"""What could go on for ever, or end a long job for the sake of one name."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from exportloss.cli import main
from exportloss.errors import ArtifactError
from exportloss.runtime.artifact import limits
from exportloss.runtime.data.dataset import Dataset, read_data_yaml
from exportloss.runtime.data.dataset_check import check_dataset
from exportloss.runtime.data.label_cache import Index
from exportloss.runtime.data.sources import find_images, unique_stems
from exportloss.runtime.data.walking import files_below, find_matches
from exportloss.runtime.drawing.draw import draw_boxes
from exportloss.runtime.storage.files import new_file
from exportloss.runtime.storage.names import fit_name
from exportloss.runtime.training import results
from exportloss.runtime.training.results import read_results
from exportloss.runtime.training.run_folder import RunFolder
from tests.support.bright_detector import spot_image, write_bright_detector
from tests.support.device_command import command
from tests.support.messages import mentions


@pytest.fixture
def linked(tmp_path) -> Path:
    """A folder whose links lead to each other and back: 2 ** 24 ways to one image."""
    root = tmp_path / "images"
    for number in range(12):
        folder = root / str(number)
        folder.mkdir(parents=True)
        for name in ("a", "b"):
            (folder / name).symlink_to(root / str(number + 1), target_is_directory=True)
    (root / "12").mkdir()
    (root / "12" / "back").symlink_to(root)
    (root / "itself").symlink_to("itself")
    (root / ".hidden").mkdir()
    for folder in ("0", "12", ".hidden"):
        Image.fromarray(spot_image(8, 8)).save(root / folder / "a.png")
    return root


def test_a_folder_is_searched_once_whatever_leads_to_it(linked, tmp_path):
    expected = (linked / "0/a.png", linked / "12/a.png")
    assert tuple(files_below(linked)) == expected
    (tmp_path / "data.yaml").write_text("train: images\nnames: [a]\n")
    assert Dataset.open(read_data_yaml(tmp_path / "data.yaml"), "train").images == expected
    assert find_images(linked / "**" / "*.png") == expected
    link = tmp_path / "link"
    link.symlink_to(linked / "12")
    assert tuple(files_below(link)) == (link / "a.png", link / "back/0/a.png")


def test_what_only_a_link_leads_to_is_found(tmp_path):
    elsewhere, root = tmp_path / "elsewhere", tmp_path / "images"
    for folder in (elsewhere, root):
        folder.mkdir()
        Image.fromarray(spot_image(8, 8)).save(folder / "a.png")
    (root / "link").symlink_to(elsewhere)
    assert tuple(files_below(root)) == (root / "a.png", root / "link/a.png")


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*.png", {"a.png"}),
        ("**/*.png", {"a.png", "x/b.png", "x/y/c.png"}),
        ("**", {"a.png", "x/b.png", "x/y/c.png", "x/y/c.txt"}),
        ("**/y/*", {"x/y/c.png", "x/y/c.txt"}),
        ("x/**/c.*", {"x/y/c.png", "x/y/c.txt"}),
        ("[x]/**/**/?.png", {"x/b.png", "x/y/c.png"}),
        ("**/x/**/b.png", {"x/b.png"}),
        ("**/z/*", set()),
    ],
)
@pytest.mark.parametrize("is_absolute", [False, True])
def test_patterns_match_as_elsewhere(tmp_path, monkeypatch, pattern, names, is_absolute):
    (tmp_path / "x" / "y").mkdir(parents=True)
    for name in ("a.png", "x/b.png", "x/y/c.png", "x/y/c.txt", ".hidden.png"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    root = tmp_path if is_absolute else Path()
    found = {path for path in find_matches(str(root / pattern)) if path.is_file()}
    assert found == {root / name for name in names}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_artifact, tiny_shapes) -> Path:
    """A run of one epoch, to be copied."""
    folder = tmp_path_factory.mktemp("trained")
    arguments = ("--weights", tiny_artifact, "--data", tiny_shapes, "--epochs", 1, "--name", "exp")
    done = command("train", *arguments, "--project", folder, "--threads", 1, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "exp"


@pytest.mark.parametrize("kind", ["pipe", "device", "large", "link"])
@pytest.mark.parametrize("name", ["results.csv", "opt.yaml", "weights/last.safetensors"])
def test_a_resumed_run_is_read_within_bounds(tmp_path, trained, kind, name):
    """In a process of its own, which would be waited for no longer than the tests allow."""
    run = RunFolder(shutil.copytree(trained, tmp_path / "exp"))
    run.best_onnx.unlink()
    path = run.path / name
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "large":
        with path.open("wb") as file:
            file.truncate(limits.MAX_STATE_BYTES + 1)
    else:
        path.symlink_to("/dev/zero" if kind == "device" else run.hyp)
    done = command("train", "--resume", run.path, "--threads", 1, cwd=tmp_path)
    assert done.returncode == 2
    assert str(path) in done.stderr and done.stderr.count("\n") == 1


def test_results_are_limited(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "MAX_RESULTS_BYTES", 10)
    (tmp_path / "results.csv").write_text("epoch," * 3)
    with pytest.raises(ArtifactError, match=mentions(tmp_path / "results.csv", "18 bytes")):
        read_results(tmp_path / "results.csv")


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_an_index_that_is_no_file_is_done_without(tmp_path, tiny_shapes, monkeypatch, kind):
    monkeypatch.setenv("EXPORTLOSS_CACHE", str(tmp_path))
    dataset = Dataset.open(read_data_yaml(tiny_shapes), "train")
    check_dataset(dataset)
    (path,) = tmp_path.iterdir()
    assert Index.load(path).sizes
    path.unlink()
    {
        "pipe": lambda: os.mkfifo(path),
        "device": lambda: path.symlink_to("/dev/zero"),
        "folder": path.mkdir,
    }[kind]()
    assert Index.load(path).sizes == {}
    check_dataset(dataset)


def test_a_line_is_no_thicker_than_its_image():
    boxes = np.array([[8, 8, 24, 24, 0.9, 0]], np.float32)
    image = np.zeros((32, 32, 3), np.uint8)
    drawn = [
        draw_boxes(image, boxes, ["a"], line_width=width, show_names=False)
        for width in (32, 10**9, 2**63)
    ]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    np.testing.assert_array_equal(drawn[0], drawn[2])


def test_a_name_of_any_length_is_drawn_short():
    boxes = np.array([[8, 40, 48, 60, 0.9, 0]], np.float32)
    image = np.zeros((64, 64, 3), np.uint8)
    long = draw_boxes(image, boxes, ["a" * 200_000], show_confidence=False)
    np.testing.assert_array_equal(
        long, draw_boxes(image, boxes, ["a" * 60 + "..."], show_confidence=False)
    )


def test_stems_of_one_name_are_numbered_in_no_time():
    paths = tuple(Path(str(number), "a.png") for number in range(100_000))
    stems = unique_stems(paths)
    assert stems[:3] == ("a", "a-2", "a-3") and stems[-1] == "a-100000"
    assert unique_stems((Path("a-2.png"), Path("a.png"), Path("x/a.png"))) == ("a-2", "a", "a-3")


@pytest.mark.parametrize("letter", ["a", "猫", "\udcff"])
def test_names_are_cut_to_what_a_file_system_takes(letter):
    stem, ending = letter * 300, "-2.jpg"
    cut = fit_name(stem, ending)
    size = len(os.fsencode(letter))
    assert stem.startswith(cut.rpartition("~")[0])
    assert len(os.fsencode(cut + ending)) in range(256 - size, 256)
    assert fit_name(stem + "b", ending) != cut
    assert fit_name("short", ending) == "short"


@pytest.mark.parametrize("length", [1, 239, 240, 255])
def test_a_file_of_any_name_is_written_and_cleaned_up_after(tmp_path, length):
    path = tmp_path / ("a" * length)
    with new_file(path) as temporary:
        temporary.write_text("old")
        abandoned = temporary.with_name(temporary.name[:-12] + "abcdefgh.tmp")
    abandoned.touch()  # by a writer that was killed
    with new_file(path) as temporary:
        temporary.write_text("new")
    assert {one.name: one.read_text() for one in tmp_path.iterdir()} == {path.name: "new"}


def test_images_with_long_names_are_detected_in(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for folder in ("photos", "more"):
        Path(folder).mkdir()
        for length in (1, 249, 251):
            image = Image.fromarray(spot_image(64, 64, (0, 0, 16, 8, 24)))
            image.save(f"{folder}/{'a' * length}.png")
    weights = write_bright_detector(
        tmp_path / f"{'w' * 250}.onnx", names={0: "b" * 300, 1: "c"}, shape=(1, 3, 64, 64)
    )
    arguments = ["detect", "--weights", str(weights), "--source", "*/a*.png"]
    assert main([*arguments, "--save-txt", "--save-crop", "--save-json"]) == 0
    folder = Path("runs/detect/exp")
    assert len(list(folder.glob("*.png"))) == len(list(folder.glob("labels/*.txt"))) == 6
    assert len(list(folder.glob("crops/*/*.jpg"))) == 6
    assert len(json.loads((folder / "detections.json").read_text())) == 6
    assert all(len(line) < 1000 for line in capsys.readouterr().out.splitlines())


def test_drawings_that_are_missing_are_drawn_when_a_run_is_resumed(tmp_path, trained):
    folder = shutil.copytree(trained, tmp_path / "exp")
    drawn = sorted(path.name for path in folder.iterdir() if path.suffix in (".png", ".jpg"))
    data = {"labels.jpg", "labels_correlogram.jpg", "train_batch0.jpg"}
    assert {*data, "results.png", "confusion_matrix.png"} <= {*drawn}
    before = (folder / "weights" / "last.safetensors").read_bytes()
    for name in drawn:
        shutil.move(folder / name, tmp_path / name)
    for again in range(2):
        done = command("train", "--resume", folder, "--threads", 1, cwd=tmp_path)
        assert done.returncode == 2 * again, done.stderr  # the second time there is nothing to do
        assert set(drawn) <= {path.name for path in folder.iterdir()}
    assert str(folder) in done.stderr and "1 epoch" in done.stderr
    assert (folder / "weights" / "last.safetensors").read_bytes() == before
