"""A detector of somebody else's: whatever it does when it is run is an error of ours."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from exportloss.cli import main
from exportloss.errors import ArtifactError, ConfigError, InstallationError
from exportloss.runtime.evaluation.inference import Detector
from exportloss.runtime.processes import child
from tests.support.bright_detector import make_spots, spot_image, write_bright_detector
from tests.support.hostile.graphs import HOSTILE, graph_of

LIMIT = 4.0  # seconds, for what has no end; all else has the default, however busy the machine is
PICTURE = spot_image(64, 96, (1, 8, 40, 16, 48))


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "best.onnx"


def opened(path: Path, **options: float) -> Detector:
    return Detector.open(path, threads=1, contained=True, **options)


@pytest.mark.parametrize("shape", [("batch", 3, "height", "width"), (2, 3, 64, 96)])
def test_a_contained_detector_finds_the_same(path, shape):
    write_bright_detector(path, shape=shape, names={0: "cat", 1: "it's"}, stride="16")
    plain, contained = Detector.open(path, threads=1), opened(path)
    for name in ("names", "stride", "batch_size", "image_size"):
        assert getattr(contained, name) == getattr(plain, name)
    for _ in range(2):
        for one, two in zip(
            plain.detect([PICTURE] * 3, size=(64, 96)),
            contained.detect([PICTURE] * 3, size=(64, 96)),
            strict=True,
        ):
            np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_detector_is_an_error(path, name):
    path.write_bytes(HOSTILE[name])
    limit = {"time_limit": LIMIT} if name == "a loop without end" else {}
    before = _children()
    with pytest.raises(ArtifactError, match=r"best\.onnx"):
        opened(path, **limit).detect([np.full((32, 32, 3), 90, np.uint8)], size=(32, 32))
    assert _children() == before


def _children() -> set[str]:
    """Processes that this one has started and not ended."""
    gc.collect()
    found = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread that has ended
            found |= set((task / "children").read_text().split())
    return found


@pytest.mark.parametrize("command", ["detect", "val"])
def test_commands_run_it_contained(path, tmp_path, capsys, command):
    path.write_bytes(HOSTILE["division by zero"])
    data = make_spots(tmp_path / "spots")
    source = ["--source", str(data.parent / "images" / "val")]
    arguments = source if command == "detect" else ["--data", str(data)]
    arguments += ["--weights", str(path), "--project", str(tmp_path), "--imgsz", "32"]
    assert main([command, *arguments]) == 2
    assert "best.onnx: ONNX Runtime" in capsys.readouterr().err


def test_what_is_wrong_is_told_as_by_the_process_itself(path):
    write_bright_detector(path)
    with pytest.raises(ConfigError, match="'tpu'"):
        Detector.open(path, device="tpu", contained=True)
    with pytest.raises(InstallationError, match="CUDA"):
        Detector.open(path, device="cuda", contained=True)
    for limit in (0.0, -1.0, float("nan")):
        with pytest.raises(ConfigError, match="time_limit"):
            opened(path, time_limit=limit)


def test_its_process_ends_with_it(path):
    write_bright_detector(path)
    before = _children()
    detector = opened(path)
    assert len(_children() - before) == 1
    del detector
    assert _children() == before


def test_its_process_writes_no_file_and_dumps_no_memory(path):
    write_bright_detector(path)
    before = _children()
    detector = opened(path)
    (child,) = _children() - before
    limits = Path(f"/proc/{child}/limits").read_text()
    rows = {line[:26].strip(): line[26:].split()[0] for line in limits.splitlines()}
    assert rows["Max file size"] == rows["Max core file size"] == "0"
    assert 1 << 30 <= int(rows["Max data size"]) < 2 << 30
    assert detector.detect([PICTURE], size=(64, 96))


ORPHAN = """
import os, sys
from exportloss.runtime.evaluation.inference import Detector
detector = Detector.open(sys.argv[1], threads=1, contained=True)
print(detector.predict.__self__._child.pid, flush=True)
os.kill(os.getpid(), 9)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it ends at its next answer")
def test_its_process_ends_when_this_one_is_killed(path):
    write_bright_detector(path)
    done = subprocess.run(
        [sys.executable, "-c", ORPHAN, str(path)], capture_output=True, text=True, check=False
    )
    for _ in range(100):
        if not Path(f"/proc/{int(done.stdout)}").exists():
            return
        time.sleep(0.05)
    raise AssertionError("the child is still there")


def test_the_working_folder_gives_it_no_modules(path, tmp_path, monkeypatch):
    write_bright_detector(path)
    for name in ("numpy", "json", "onnxruntime", "exportloss"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('taken from the working folder')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert os.getcwd() == str(tmp_path)  # noqa: PTH109 - what the child inherits
    assert opened(path).detect([PICTURE], size=(64, 96))


def test_a_detector_that_fails_in_this_process_is_an_error_too(path):
    for name in (
        "text",
        "integers",
        "rows of five columns",
        "grey",
        "a large side",
        "no dimension",
    ):
        path.write_bytes(HOSTILE[name])
        with pytest.raises(ArtifactError, match=r"best\.onnx"):
            Detector.open(path, threads=1).detect([PICTURE], size=(32, 32))
    path.write_bytes(graph_of([]))
    with pytest.raises(ArtifactError, match=r"best\.onnx"):
        Detector.open(path, threads=1)


def _message(text: bytes, content: bytes = b"") -> bytes:
    return b"".join(len(part).to_bytes(8, "little") + part for part in (text, content))


@pytest.mark.parametrize(
    "text", [b"[1, 2]", b"7", b"null", b'"text"', b"not json", b"\xff\xfe", b"[" * 100_000]
)
def test_a_message_that_is_no_object_is_a_value_error(text):
    with pytest.raises(ValueError):
        child.receive(io.BytesIO(_message(text)))


ANSWERS = {
    "no object": (b"[1, 2]", b""),
    "no JSON": (b"{", b""),
    "nothing of what is expected": (b"{}", b""),
    "a size that is none": (
        b'{"names": [], "stride": 32, "batch_size": 1, "image_size": [64]}',
        b"",
    ),
    "names that are none": (
        b'{"names": 3, "stride": 32, "batch_size": 1, "image_size": null}',
        b"",
    ),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_of_another_form_is_an_artifact_error(path, monkeypatch, name):
    _answer(monkeypatch, _message(*ANSWERS[name]))
    write_bright_detector(path)
    before = _children()
    with pytest.raises(ArtifactError, match=r"best\.onnx"):
        opened(path)
    assert _children() == before


@pytest.mark.parametrize(
    "answer", [(b"{}", b"1234"), (b'{"shape": [1, 2]}', b"1234"), (b'{"shape": "x"}', b"123")]
)
def test_predictions_of_another_form_are_an_artifact_error(path, monkeypatch, answer):
    described = b'{"names": ["a"], "stride": 32, "batch_size": 1, "image_size": null}'
    _answer(monkeypatch, _message(described) + _message(*answer))
    write_bright_detector(path)
    detector = opened(path)
    with pytest.raises(ArtifactError, match=r"best\.onnx"):
        detector.predict(np.zeros((1, 3, 64, 64), np.uint8))


def _answer(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    """Let the child write these bytes, whatever it is asked, and wait to be ended."""
    program = f"import sys; sys.stdout.buffer.write({content!r}); sys.stdout.flush()"
    monkeypatch.setattr(child, "_PROGRAM", f"{program}; sys.stdin.buffer.read()")
