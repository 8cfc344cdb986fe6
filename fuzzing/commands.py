"""The command line, fuzzed: any words in any order."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from PIL import Image

from exportloss.cli import main, make_parser
from exportloss.errors import ConfigError

__all__ = ["WORDS", "encode_words", "run_made_up_command"]

_DETECTOR = Path(__file__).parent / "seeds" / "onnx" / "detector.onnx"
_SHORT = 32  # most bytes of a free word


def _options() -> Iterator[str]:
    parsers = [make_parser()]
    while parsers:
        for action in parsers.pop()._actions:
            yield from action.option_strings
            if isinstance(action.choices, dict):
                yield from action.choices
                parsers += action.choices.values()
            elif action.choices is not None:
                yield from map(str, action.choices)


# A byte is the index of a word; a larger one begins a free word, up to the next NUL.
WORDS = (
    *("photos", "photos/a.png", "data.yaml", "a.onnx", "run", "artifacts", "out", "gone", ".", ""),
    *("yolov5n", "a.pt", "hyp.yaml", "photos/*", "**/*.png", "cpu", "cuda:99", "loss,onnx", "all"),
    *("0", "1", "-1", "64", "0.5", "nan", "inf", "1e999", str(2**31), str(2**63), str(10**30)),
    *dict.fromkeys(_options()),
)
# Slow functions, which are fuzzed or tested elsewhere: building a model, training, measuring,
# opening a camera.
_SLOW = (
    "exportloss.cli.detection.detect.open_camera",
    "exportloss.cli.export.command.load_detector",
    "exportloss.cli.train.command.load_detector",
    "exportloss.cli.train.command.train",
    "exportloss.cli.bench.command._measure",
    "exportloss.demo.run.demo",
    "exportloss.export.verify.verify.verify_all",
)


def encode_words(*words: str) -> bytes:
    """Return the bytes that encode these words."""
    return b"".join(
        bytes([WORDS.index(word)]) if word in WORDS else b"\xff" + word.encode() + b"\0"
        for word in words
    )


def run_made_up_command(path: Path) -> None:
    """Run the command that a file's bytes encode, in a folder with a file of each kind.

    Raises:
        AssertionError: the exit status is undefined, a control character was printed, or an
            existing file was changed without `--exist-ok`.
        ConfigError: the command was refused, for any reason.
        Exception: `main` let an error of another package pass.
    """
    words, root, back = list(_words(path.read_bytes())), path.with_name("tree"), Path.cwd()
    _lay_out(root)
    before = _files(root)
    printed = io.StringIO()
    try:
        os.chdir(root)
        with contextlib.ExitStack() as stack:
            for name in _SLOW:
                stack.enter_context(mock.patch(name, side_effect=ConfigError("slow")))
            variables = {"EXPORTLOSS_TRACEBACK": "1", "EXPORTLOSS_CACHE": ""}
            stack.enter_context(mock.patch.dict(os.environ, variables))
            stack.enter_context(contextlib.redirect_stdout(printed))
            stack.enter_context(contextlib.redirect_stderr(printed))
            try:
                status = main(words)
            except SystemExit as left:
                status = left.code
        after = _files(root)
    finally:
        os.chdir(back)
        shutil.rmtree(root)
    assert status in (0, 1, 2), status
    assert printed.getvalue().replace("\n", "").isprintable(), printed.getvalue()
    if not any("--exist-ok".startswith(word[:10]) for word in words if word.startswith("--e")):
        assert all(after.get(name) == content for name, content in before.items()), words
    if status:
        raise ConfigError(printed.getvalue()[-1000:])


def _words(content: bytes) -> Iterator[str]:
    at = 0
    while at < len(content):
        if content[at] < len(WORDS):
            yield WORDS[content[at]]
            at += 1
            continue
        end = content.find(b"\0", at + 1)
        own = content[at + 1 : end if end > 0 else len(content)]
        # Without a slash, no word is a path outside the folder.
        yield os.fsdecode(own[:_SHORT].replace(b"/", b"_").replace(b"..", b"__"))
        at += len(own) + 2


def _lay_out(root: Path) -> None:
    for folder in ("photos", "run/weights", "artifacts"):
        (root / folder).mkdir(parents=True)
    Image.new("RGB", (8, 4), "red").save(root / "photos" / "a.png")
    (root / "photos" / "a.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (root / "data.yaml").write_text("train: photos\nval: photos\nnames: [a]\n")
    (root / "hyp.yaml").write_text("lr0: 0.01\n")
    shutil.copy(_DETECTOR, root / "a.onnx")
    shutil.copy(_DETECTOR, root / "run" / "weights" / "best.onnx")
    for name in ("run/opt.yaml", "run/results.csv", "artifacts/manifest.json", "a.pt"):
        (root / name).write_text("epochs: 1\n")


def _files(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file()
    }
