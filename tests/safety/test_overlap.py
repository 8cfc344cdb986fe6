"""Every command, told to write into each folder that it reads from: its inputs stay the same."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from exportloss.cli import main
from exportloss.cli.detection import validation
from exportloss.cli.outputs import dataset_trees
from exportloss.cli.train import images as train_images
from exportloss.runtime.data.dataset import read_data_yaml
from exportloss.runtime.evaluation.inference import Detector
from tests.support.bright_detector import make_spots, spot_image, write_bright_detector

NAMES = {0: "green", 1: "blue"}
SAVE = ("--save-txt", "--save-conf", "--save-json")
COMMANDS = {
    "detect": (
        "detect",
        "--weights",
        "models/best.onnx",
        "--source",
        "photos",
        "--save-crop",
        *SAVE,
    ),
    "detect a crop": (
        *("detect", "--weights", "models/best.onnx", "--save-crop"),
        *("--source", "photos/crops/blue/0.png"),
    ),
    "detect a list": (
        "detect",
        "--weights",
        "models/best.onnx",
        "--source",
        "lists/all.txt",
        *SAVE,
    ),
    "detect a pattern": ("detect", "--weights", "tiny", "--source", "**/0*.png", "--save-txt"),
    "val": ("val", "--weights", "models/best.onnx", "--data", "data.yaml", *SAVE),
    "val of artifacts": ("val", "--weights", "tiny", "--data", "tiny.yaml", *SAVE),
    "val of a flat folder": (
        *("val", "--weights", "models/best.onnx", "--data", "data.yaml", "--task", "test", *SAVE),
    ),
    "train": (
        *("train", "--weights", "tiny", "--data", "tiny.yaml", "--hyp", "models/hyp.yaml"),
        *("--epochs", "1"),
    ),
}


@pytest.fixture
def tree(tmp_path, tiny_artifact, tiny_shapes, monkeypatch) -> Path:
    """Two data sets, photos, a list, artifacts, weights and links, in the working folder."""
    root = tmp_path / "tree"
    make_spots(root, 2)
    for path in (*(root / "images/val").iterdir(), *(root / "labels/val").iterdir()):
        (root / "flat").mkdir(exist_ok=True)
        shutil.copy(path, root / "flat")
    (root / "data.yaml").write_text(
        "path: .\nval: images/val\ntest: flat\nnames: [green, blue]\n", encoding="utf-8"
    )
    for name in ("photos", "photos/labels", "photos/crops/blue", "lists", "models"):
        (root / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(spot_image(64, 64, (1, 0, 16, 8, 24))).save(root / name / "0.png")
    (root / "photos/labels/0.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (root / "photos/crops/blue/0-1.jpg").write_bytes((root / "photos/0.png").read_bytes())
    (root / "lists/all.txt").write_text("../photos/0.png\n../flat/000.png\n")
    (root / "models/hyp.yaml").write_text("lr0: 0.01 # mine\n")
    write_bright_detector(root / "models/best.onnx", names=NAMES, shape=(1, 3, 64, 64))
    shutil.copytree(tiny_artifact, root / "tiny")
    shutil.copytree(tiny_shapes.parent, root / "shapes")
    recipe = yaml.safe_load(tiny_shapes.read_text()) | {"path": "shapes", "train": "images/val"}
    (root / "tiny.yaml").write_text(yaml.safe_dump(recipe))
    (root / "link").symlink_to("photos")
    (root / "labels-link").symlink_to("labels/val")
    (root / "photos/linked.png").symlink_to("../flat/001.png")
    monkeypatch.chdir(root)
    monkeypatch.setenv("EXPORTLOSS_CACHE", "")
    open_it = Detector.open

    def open_here(cls: object, path: Path, **options: Any) -> Detector:
        return open_it(path, **options | {"contained": False})  # a process each time is slow

    monkeypatch.setattr(Detector, "open", classmethod(open_here))
    for module in (validation, train_images):  # the plots are slow, and written like all else
        monkeypatch.setattr(module, "matplotlib_missing", lambda: "none")
    return root


def files(root: Path) -> dict[str, bytes | str]:
    return {
        path.relative_to(root).as_posix(): str(path.readlink())
        if path.is_symlink()
        else path.read_bytes()
        for path in root.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def folders(root: Path, *, every: bool) -> Iterator[Path]:
    yield from (root / name for name in ("", "new", "images/val", "labels/val", "flat", "photos"))
    if every:
        yield from (root / name for name in ("images/val/new", "labels/new", "link", "link/labels"))
        yield from (path for path in root.rglob("*") if path.is_dir())


def inputs_of(name: str) -> tuple[str, ...]:
    """The beginnings of all paths that a command reads."""
    photos = {
        "detect": ("photos/0.png", "photos/linked.png", "flat/001.png"),
        "detect a crop": ("photos/crops/blue/0.png",),
        "detect a list": ("lists/", "photos/0.png", "flat/000.png"),
    }
    return (*photos[name], "models/best.onnx") if name in photos else ("",)


@pytest.mark.parametrize("exist_ok", [False, True])
@pytest.mark.parametrize("name", COMMANDS)
def test_no_input_is_changed_wherever_results_go(tree, name, exist_ok, tmp_path):
    done, before = 0, files(tree)
    # Without --exist-ok nothing at all is replaced.
    read = [path for path in before if not exist_ok or path.startswith(inputs_of(name))]
    # One image more, or a label file that was not there, changes a data set as well.
    data = "shapes/" if "tiny.yaml" in COMMANDS[name] else ""
    watched = (*(f"{data}{kind}/val/" for kind in ("images", "labels")), *["flat/"] * (not data))
    spare = Path(shutil.copytree(tree, tmp_path / "spare", symlinks=True))
    for folder in sorted(set(folders(tree, every=exist_ok))):
        project = ("--project", str(folder.parent), "--name", folder.name)
        arguments = (*COMMANDS[name], *project, "--threads", "1", *["--exist-ok"] * exist_ok)
        status = main(arguments)
        after = files(tree)
        assert not [path for path in read if after.get(path) != before[path]], folder
        if not name.startswith("detect"):
            assert not [path for path in after.keys() - before.keys() if path.startswith(watched)]
        done += status == 0
        if len(after) != len(before):
            shutil.rmtree(tree)
            shutil.copytree(spare, tree, symlinks=True)
            os.chdir(tree)
    assert done


@pytest.mark.parametrize("read", ["--weights", "--data", "--hyp"])
@pytest.mark.parametrize("kind", ["loss", "safetensors"])
def test_an_export_replaces_nothing_that_it_reads(tree, capsys, read, kind):
    """Into the artifacts folder that holds it, or onto the file itself, by its name or a link."""
    held = tree / "tiny" / {"--weights": "state.safetensors"}.get(read, "new.yaml")
    if read != "--weights":
        shutil.copy(tree / "tiny.yaml" if read == "--data" else tree / "models/hyp.yaml", held)
    if kind == "safetensors":
        held = held.rename(tree / "models" / "yolov5n.safetensors")
    (tree / "links").mkdir()
    (tree / "links" / held.name).symlink_to(held)
    before = files(tree)
    for path in (held, tree / "links" / held.name):
        given = {"--weights": "yolov5n", "--data": str(tree / "tiny.yaml"), read: str(path)}
        output = tree / ("tiny" if kind == "loss" else "models")
        pairs = (word for pair in given.items() for word in pair)
        # Hyperparameters are read for formats with a loss alone.
        formats = f"{kind},loss" if (read, kind) == ("--hyp", "safetensors") else kind
        options = ("--format", formats, "--output", str(output), "--exist-ok")
        assert main(["export", *pairs, *options]) == 2
        assert str(output) in capsys.readouterr().err
        assert files(tree) == before


@pytest.mark.parametrize("source", ["flat-split/images", "flat-split/images/000.png", "photos"])
@pytest.mark.parametrize("name", ["flat-split", "other-split"])
def test_detect_replaces_no_labels_of_a_data_set(tree, source, name, capsys):
    """Splits as they come from annotation tools: each a folder of `images` and `labels`."""
    for split in ("flat-split", "other-split"):
        for kind in ("images", "labels"):
            shutil.copytree(tree / kind / "val", tree / split / kind)
    before = files(tree)
    options = ("--project", ".", "--name", name, "--exist-ok", "--save-txt", "--nosave")
    assert main(["detect", "--weights", "models/best.onnx", "--source", source, *options]) == 2
    assert f"{name}/labels" in capsys.readouterr().err
    assert files(tree) == before


@pytest.mark.parametrize("name", ["val", "train"])
@pytest.mark.parametrize("is_list", [False, True])
@pytest.mark.parametrize("place", ["labels", "labels/val", "labels/val/deep", "images"])
def test_no_run_is_made_among_a_data_sets_images_and_labels(tree, name, is_list, place, capsys):
    recipe = "data.yaml" if name == "val" else "tiny.yaml"
    root = tree if name == "val" else tree / "shapes"
    if is_list:
        images = sorted((root / "images/val").iterdir())
        (tree / "lists/split.txt").write_text("".join(f"{path}\n" for path in images))
        values = yaml.safe_load((tree / recipe).read_text()) | {
            "val": str(tree / "lists/split.txt")
        }
        (tree / recipe).write_text(yaml.safe_dump({**values, "train": values["val"]}))
    before = files(tree)
    project = root / place
    arguments = (*COMMANDS[name], "--project", str(project), "--threads", "1")
    assert main([*arguments, "--name", "mine"]) == 2
    assert str(project / "mine") in capsys.readouterr().err
    assert files(tree) == before


def test_what_is_kept_for_a_data_set_ends_at_its_root(tmp_path):
    """A disk called `images` is no data set's, nor is a folder of images with labels beside."""
    root = tmp_path / "images" / "ds"
    for name in ("train", "images/val"):
        (root / name).mkdir(parents=True)
    (root / "data.yaml").write_text("path: .\ntrain: train\nval: images/val\nnames: [a]\n")
    kept = set(dataset_trees(read_data_yaml(root / "data.yaml")))
    assert kept == {
        tmp_path / "labels" / "ds" / "train",
        *(root / name for name in ("images", "labels", "labels/val")),
    }
    (root / "flat.yaml").write_text(f"path: {tmp_path / 'flat'}\ntrain: .\nnames: [a]\n")
    (tmp_path / "flat").mkdir()
    assert not set(dataset_trees(read_data_yaml(root / "flat.yaml")))
