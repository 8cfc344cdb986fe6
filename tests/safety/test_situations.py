"""Hostile and unlucky places, over every command that reads or writes there.

Each situation is laid out beside what is the user's, in a folder of its own. Whatever the command
makes of it, it ends in a status of ours within a minute, tells what is wrong without a traceback,
and leaves what is the user's as it was.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from exportloss.cli import main
from exportloss.runtime.evaluation.inference import Detector
from tests.support.bright_detector import make_spots, spot_image, write_bright_detector
from tests.support.forked_command import ForkedCommands

ROOT = Path(__file__).parents[2]
SECONDS = 60
STARTS = ("exportloss: error: ", "image ", "usage: ")
DETECT = "detect --weights models/a.onnx --source photos --save-txt --save-crop --save-json"
VAL = "val --weights models/a.onnx --data data.yaml --save-txt --save-json"
TRAIN = "train --weights tiny --data tiny.yaml --epochs 1"
EXPORT = "export --weights yolov5n --nc 1 --format safetensors --output OUT"
ORIGIN = b'{"weights": "/dev/zero", "sha256": "0", "run": "a", "data": "0", "created": "0"}'
OUT = " --project out --name exp"


def link(path: str, target: str) -> Callable[[], None]:
    def lay() -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).symlink_to(target)

    return lay


def pipe(path: str) -> Callable[[], None]:
    def lay() -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(path)

    return lay


def file(path: str, content: bytes = b"x") -> Callable[[], None]:
    def lay() -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(content)

    return lay


def folder(path: str) -> Callable[[], None]:
    return lambda: Path(path).mkdir(parents=True)


def hard_link(path: str, target: str) -> Callable[[], None]:
    def lay() -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).hardlink_to(target)

    return lay


def deep(path: str, depth: int) -> Callable[[], None]:
    def lay() -> None:
        back = Path.cwd()
        Path(path).mkdir(parents=True)
        os.chdir(path)
        for _ in range(depth):
            Path("d" * 20).mkdir()
            os.chdir("d" * 20)
        os.chdir(back)

    return lay


# Something in the place of what a command writes.
IN_THE_WAY: dict[str, Callable[[str], Callable[[], None]]] = {
    "a link to a file": lambda path: link(path, os.path.abspath("mine/thesis.txt")),  # noqa: PTH100
    "a link to a folder": lambda path: link(path, os.path.abspath("mine")),  # noqa: PTH100
    "a link to nothing": lambda path: link(path, os.path.abspath("mine/new")),  # noqa: PTH100
    "a link to itself": lambda path: link(path, Path(path).name),
    "a link to a device": lambda path: link(path, "/dev/zero"),
    "a pipe": pipe,
    "a file": file,
    "a folder": folder,
    "a hard link": lambda path: hard_link(path, "mine/thesis.txt"),
}
WRITTEN = {
    DETECT: ("out", "out/exp", "out/exp/0.png", "out/exp/labels", "out/exp/detections.json"),
    VAL: ("out/exp", "out/exp/labels", "out/exp/a_predictions.json", "out/exp/val_batch0_pred.jpg"),
    TRAIN: (
        *("out/exp", "out/exp/.lock", "out/exp/weights", "out/exp/opt.yaml"),
        *("out/exp/weights/last.safetensors", "out/exp/results.csv"),
    ),
}
OVER_OUTPUTS = [
    (f"{command}{OUT} --exist-ok", kind, path)
    for command, paths in WRITTEN.items()
    for path in paths
    for kind in IN_THE_WAY
    if (kind, path) != ("a link to a folder", "out")  # a project may lie on another disk
]

# Something among what a command reads.
READ: dict[str, tuple[str, Callable[[], None]]] = {
    "a pipe among photos": (DETECT, pipe("photos/z.png")),
    "a loop among photos": (DETECT, link("photos/z.png", "z.png")),
    "a device among photos": (DETECT, link("photos/z.png", "/dev/zero")),
    "a folder among photos": (DETECT, folder("photos/z.png")),
    "an empty photo": (DETECT, file("photos/z.png", b"")),
    "a photo that is text": (DETECT, file("photos/z.png", b"%!PS-Adobe-3.0 EPSF-3.0\n" * 10)),
    "a pipe as list": ("detect --weights models/a.onnx --source z.txt", pipe("z.txt")),
    "a device as list": (
        *("detect --weights models/a.onnx --source z.txt", link("z.txt", "/dev/zero")),
    ),
    "a list of itself": (
        "detect --weights models/a.onnx --source z.txt",
        file("z.txt", b"z.txt\n"),
    ),
    "a list of what is outside": (
        *("detect --weights models/a.onnx --source z.txt", file("z.txt", b"/etc/passwd\n")),
    ),
    "a list with NULs": (
        *("detect --weights models/a.onnx --source z.txt", file("z.txt", b"\0.png\n" * 100)),
    ),
    "a list with escapes": (
        *("detect --weights models/a.onnx --source z.txt", file("z.txt", b"\x1b[2J.png\n")),
    ),
    "a pattern in a loop": (
        "detect --weights models/a.onnx --source z/**/*.png",
        link("z/z", "../z"),
    ),
    "a deep folder": ("detect --weights models/a.onnx --source z/**/*.png", deep("z", 180)),
    "a deep data set": (VAL, deep("images/val/z", 180)),
    "weights in a pipe": ("detect --weights z.onnx --source photos", pipe("z.onnx")),
    "weights in a device": (
        *("detect --weights z.onnx --source photos", link("z.onnx", "/dev/zero")),
    ),
    "weights in a loop": ("detect --weights z.onnx --source photos", link("z.onnx", "z.onnx")),
    "a run whose weights are a pipe": (
        *("detect --weights z --source photos", pipe("z/weights/best.onnx")),
    ),
    "artifacts whose manifest is a pipe": (
        *("detect --weights z --source photos", pipe("z/manifest.json")),
    ),
    "artifacts whose manifest is a device": (
        *("detect --weights z --source photos", link("z/manifest.json", "/dev/zero")),
    ),
    "artifacts whose manifest is a folder": (
        *("detect --weights z --source photos", folder("z/manifest.json")),
    ),
    "artifacts with a link": (TRAIN.replace("tiny ", "z "), link("z/manifest.json", "../tiny")),
    "set aside is a link": (*("detect --weights z --source photos", link(".z.replaced", "mine")),),
    "set aside is a file": ("detect --weights z --source photos", file(".z.replaced")),
    "a data.yaml in a pipe": ("val --weights models/a.onnx --data z.yaml", pipe("z.yaml")),
    "a data.yaml in a device": (
        *("val --weights models/a.onnx --data z.yaml", link("z.yaml", "/dev/zero")),
    ),
    "a data.yaml that is a folder": (
        *("val --weights models/a.onnx --data z.yaml", folder("z.yaml")),
    ),
    "a label in a pipe": (VAL, pipe("labels/val/z.txt")),
    "an image and a label in a pipe": (
        *(VAL, lambda: (link("images/val/z.png", "000.png")(), pipe("labels/val/z.txt")())),
    ),
    "a label in a device": (
        VAL,
        lambda: (link("images/val/z.png", "000.png")(), link("labels/val/z.txt", "/dev/zero")()),
    ),
    "a label that is a folder": (
        *(VAL, lambda: (link("images/val/z.png", "000.png")(), folder("labels/val/z.txt")())),
    ),
    "an image that leads out": (VAL, link("images/val/z.png", "../../mine/thesis.txt")),
    "images that lead round": (VAL, link("images/val/z", "..")),
    "hyperparameters in a pipe": (f"{TRAIN} --hyp z.yaml", pipe("z.yaml")),
    "hyperparameters in a device": (f"{TRAIN} --hyp z.yaml", link("z.yaml", "/dev/zero")),
    "a checkpoint in a pipe": ("export --weights z.pt", pipe("z.pt")),
    "a checkpoint in a device": ("export --weights z.pt", link("z.pt", "/dev/zero")),
    "a checkpoint that is a folder": ("export --weights z.pt", folder("z.pt")),
    "weights of zeros": ("export --weights z.safetensors", file("z.safetensors", b"\0" * 4096)),
    "a graph in a pipe": ("check z.onnx --for cpu", pipe("z.onnx")),
    "a graph in a device": ("check z.onnx --for cpu", link("z.onnx", "/dev/zero")),
    "a graph that is a folder": ("check z.onnx --for cpu", folder("z.onnx")),
    "a run that is a pipe": ("train --resume z", pipe("z")),
    "a run that is a file": ("train --resume z", file("z")),
    "a run that is a loop": ("train --resume z", link("z", "z")),
    "a run without options": ("train --resume z", folder("z/weights")),
    "options in a pipe": ("train --resume z", pipe("z/opt.yaml")),
    "options in a device": ("train --resume z", link("z/opt.yaml", "/dev/zero")),
    "options that are a folder": ("train --resume z", folder("z/opt.yaml")),
    "options that are mine": ("train --resume z", link("z/opt.yaml", "../mine/thesis.txt")),
    "options that lead out": (
        *("train --resume z", file("z/opt.yaml", b"weights: ../../../etc\ndata: /etc/passwd\n")),
    ),
    "options with a NUL": (
        *("train --resume z", file("z/opt.yaml", b'weights: "a\\0b"\ndata: "\\0"\n')),
    ),
    "options with a surrogate": (
        *("train --resume z", file("z/opt.yaml", b'weights: "\\ud800"\ndata: "\\ud800.yaml"\n')),
    ),
    "an origin in a device": (
        "train --resume z",
        lambda: (file("z/opt.yaml", b"{}")(), link("z/origin.json", "/dev/zero")()),
    ),
    "an origin that names a device": (
        "train --resume z",
        lambda: (
            file("z/opt.yaml", b"weights: tiny\ndata: tiny.yaml\n")(),
            file("z/origin.json", ORIGIN)(),
        ),
    ),
    "runs of all kinds": (
        "runs --project z",
        lambda: (pipe("z/a/opt.yaml")(), file("z/b/opt.yaml")(), pipe("z/b/results.csv")()),
    ),
    "runs in a loop": ("runs --project z", lambda: (folder("z")(), link("z/current", "current")())),
    "a roll-back to what is mine": (
        "rollback exp --project z",
        lambda: (file("z/exp/opt.yaml")(), file("z/exp/weights/best.onnx")(), file("z/current")()),
    ),
    "an export of a run of mine": (
        "export --weights yolov5n --nc 1 --format loss --output z --exist-ok",
        lambda: (file("z/manifest.json", b"{}")(), file("z/weights/best.onnx")()),
    ),
    "an export over a link": (
        *("export --weights yolov5n --nc 1 --format loss --output z --exist-ok", link("z", "mine")),
    ),
    "an export over a loop": (
        *("export --weights yolov5n --nc 1 --format loss --output z --exist-ok", link("z", "z")),
    ),
    "an export over a pipe": (
        *("export --weights yolov5n --nc 1 --format loss --output z --exist-ok", pipe("z")),
    ),
    "an export below a file": (
        "export --weights yolov5n --nc 1 --format loss --output z/y --exist-ok",
        file("z"),
    ),
    "a verification of mine": ("verify mine", lambda: None),
    "a demo over mine": ("demo --epochs 1 --output mine/thesis.txt", lambda: None),
    "a plot over a folder": ("bench loss --steps 0 --plot mine", lambda: None),
}


@pytest.fixture(scope="module")
def commands() -> Iterator[ForkedCommands]:
    forked = ForkedCommands()
    yield forked
    forked.close()


@pytest.fixture
def place(tmp_path, tiny_artifact, tiny_shapes, monkeypatch) -> Path:
    """The user's things, in the working folder."""
    make_spots(tmp_path, 2)
    for name in ("mine", "photos", "models"):
        (tmp_path / name).mkdir()
    for name in ("thesis.txt", "best.onnx", "last.safetensors", "0.png", "0.txt"):
        (tmp_path / "mine" / name).write_bytes(b"kept")
    Image.fromarray(spot_image(64, 64, (1, 0, 16, 8, 24))).save(tmp_path / "photos/0.png")
    write_bright_detector(
        tmp_path / "models/a.onnx", names={0: "green", 1: "blue"}, shape=(1, 3, 64, 64)
    )
    (tmp_path / "tiny").symlink_to(tiny_artifact)
    (tmp_path / "tiny.yaml").write_text(
        tiny_shapes.read_text().replace("path: .", f"path: {tiny_shapes.parent}")
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EXPORTLOSS_CACHE", "")
    open_it = Detector.open

    def open_here(cls: object, path: Path, **options: Any) -> Detector:
        return open_it(path, **options | {"contained": False})  # a process each time is slow

    monkeypatch.setattr(Detector, "open", classmethod(open_here))
    return tmp_path


def kept(place: Path) -> dict[Path, bytes]:
    folders = ("mine", "photos", "models", "images", "labels", "tiny/")
    return {
        path: path.read_bytes()
        for folder in folders
        for path in (place / folder).rglob("*")
        if path.is_file() and not path.is_symlink()
    }


def judge(commands: ForkedCommands, place: Path, words: str, before: dict[Path, bytes]) -> None:
    """Run a command in a process of its own, which can be given up."""
    done = commands.run(
        *words.split(),
        cwd=place,
        environment={**os.environ, "PYTHONPATH": str(ROOT), "EXPORTLOSS_CACHE": ""},
        seconds=SECONDS,
    )
    told = done.stderr.decode(errors="replace")
    assert done.returncode in (0, 1, 2), told
    assert "Traceback" not in told and "EXPORTLOSS_TRACEBACK" not in told
    assert "\x1b" not in told + done.stdout.decode(errors="replace")
    assert done.returncode == 0 or told.startswith(("exportloss: error: ", "image ", "usage: ")), (
        told
    )
    assert {path: content for path, content in kept(place).items() if path in before} == before


@pytest.mark.parametrize(("words", "kind", "path"), OVER_OUTPUTS)
def test_what_is_in_the_way_stays(place, capsys, words, kind, path):
    """In this process, for there are many; a pipe that is waited for ends the tests."""
    before = kept(place)
    (place / path).parent.mkdir(parents=True, exist_ok=True)
    IN_THE_WAY[kind](path)()
    status = main([*words.split(), "--threads", "1"])
    told = capsys.readouterr().err
    assert status in (0, 2), told
    assert status == 0 or (told.startswith("exportloss: error: ") and "=1)" not in told), told
    assert kept(place) == before
    for each in ("out", "out/exp", "out/exp/weights"):
        assert not (place / each).is_dir() or not list((place / each).glob(".*.tmp"))


@pytest.mark.parametrize("name", READ)
def test_what_is_read_is_read_within_bounds(commands, place, name):
    words, lay = READ[name]
    lay()
    try:
        judge(commands, place, words, kept(place))
    finally:
        for each in ("z", "images"):  # too deep for pytest to remove
            if (place / each).is_dir() and not (place / each).is_symlink():
                shutil.rmtree(place / each, ignore_errors=True)
