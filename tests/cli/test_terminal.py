"""What a command prints, and that it ends in a line whatever happens."""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import onnx
import pytest
from PIL import Image

import exportloss.cli
from exportloss.cli import main
from exportloss.cli.terminal import Terminal, say
from exportloss.errors import ConfigError, printable
from tests.safety.test_faults import ordinary_user
from tests.support.bright_detector import make_spots, spot_image, write_bright_detector

ROOT = Path(__file__).parents[2]
RED = "\x1b[31m"
HOSTILE = f"{RED}[bold]a[/x]\u202e\n\r\x07\udcff{{:smile:}}"
SHOWN = r"\x1b[31m[bold]a[/x]\u202e\n\r\x07\udcff{:smile:}"


def run(*arguments, **options) -> subprocess.CompletedProcess[bytes]:
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "timeout": 60} | options
    environment = {**os.environ, "PYTHONPATH": str(ROOT)} | options.pop("env", {})
    command = [sys.executable, "-m", "exportloss", *arguments]
    return subprocess.run(command, check=False, env=environment, **options)


def assert_one_line(done: subprocess.CompletedProcess[bytes], status: int = 2) -> None:
    assert done.returncode == status, done.stderr
    assert b"Traceback" not in done.stderr
    assert done.stderr.startswith(b"exportloss: ") and done.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, ünïcode, 猫, 🐱", "plain, ünïcode, 猫, 🐱"),
        (HOSTILE, SHOWN),
        ("क्\u200dष", "क्\u200dष"),
        ("\x9b2J\u2066\ufeff\U000e0041", r"\x9b2J\u2066\ufeff\U000e0041"),
        (Path("a\tb"), r"a\tb"),
    ],
)
def test_what_a_file_says_is_shown_and_not_obeyed(text, shown):
    assert printable(text) == shown


def test_all_that_is_printed_is_printable(capsys):
    say(f"{HOSTILE}")
    say(HOSTILE, error=True)
    terminal = Terminal()
    terminal.print(HOSTILE)
    said = capsys.readouterr()
    lines = SHOWN.replace(r"\n", "\n")
    assert said.out == f"{lines}\n" * 2
    assert said.err == f"{lines}\n"


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(spot_image(64, 64, (0, 0, 16, 8, 24))).save(folder / "a.png")
    write_bright_detector(
        tmp_path / "a.onnx",
        names={0: HOSTILE.replace("\udcff", "猫"), 1: "b"},
        shape=(1, 3, 64, 64),
    )
    return folder


@pytest.mark.parametrize("name", [f"{RED}\n[b]", "\udcff\udcfe", "猫"])
def test_names_of_all_kinds_are_detected_in(photos, tmp_path, name, capfd):
    (photos / "a.png").rename(photos / f"{name}.png")
    arguments = ["--weights", "a.onnx", "--source", "photos", "--save-txt", "--save-json"]
    done = run(
        *("detect", *arguments, "--save-crop"), cwd=tmp_path, env={"PYTHONIOENCODING": "latin-1"}
    )
    assert done.returncode == 0, done.stderr
    assert b"\x1b" not in done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert len([line for line in lines if not line.startswith(b"note: ")]) == 2
    folder = tmp_path / "runs/detect/exp"
    assert (folder / f"{name}.png").exists() and (folder / "labels" / f"{name}.txt").exists()
    (entry,) = json.loads((folder / "detections.json").read_text(encoding="utf-8"))
    assert Path(entry["image"]).name == f"{name}.png"


@pytest.mark.parametrize("name", [b"\xff\xfe", b"\x1b[31m\n", "猫".encode()])
def test_a_data_set_of_such_names_is_validated(tmp_path, name):
    root = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    make_spots(root, 2)
    for kind, suffix in (("images", "png"), ("labels", "txt")):
        path = root / kind / "val" / f"000.{suffix}"
        path.rename(path.with_stem(os.fsdecode(name)))
    write_bright_detector(root / "a.onnx", names={0: "green", 1: "blue"}, shape=(1, 3, 64, 64))
    arguments = ("--weights", "a.onnx", "--data", "data.yaml", "--save-json", "--save-txt")
    done = run("val", *arguments, cwd=root, env={"PYTHONIOENCODING": "latin-1"})
    assert done.returncode == 0, done.stderr
    assert b"\x1b" not in done.stdout + done.stderr
    results = json.loads((root / "runs/val/exp/a_predictions.json").read_text(encoding="utf-8"))
    assert os.fsdecode(name) in {result["image_id"] for result in results}


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("train", "--help"),
        ("detect", "--weights", "a.onnx", "--source", "photos", "--nosave"),
    ],
)
def test_a_closed_pipe_is_left_quietly(photos, arguments):
    reading, writing = os.pipe()
    os.close(reading)
    done = run(*arguments, cwd=photos.parent, stdout=writing)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0 if "--help" in arguments else 141, b"")


def test_a_full_device_is_named(photos):
    with Path("/dev/full").open("wb") as full:
        arguments = ("detect", "--weights", "a.onnx", "--source", "photos", "--nosave")
        assert_one_line(run(*arguments, cwd=photos.parent, stdout=full))
        assert run("detect", stdout=full, stderr=full).returncode == 2


def raising(error: BaseException) -> argparse.ArgumentParser:
    """A parser of a command that fails."""

    def run(_: object) -> int:
        raise error

    parser = argparse.ArgumentParser()
    parser.set_defaults(run=run)
    return parser


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (ConfigError(HOSTILE), 2, "error: " + SHOWN.replace(r"\n", "\n")),
        (KeyError("a\nb"), 2, "error: KeyError: "),
        (RecursionError("deep"), 2, "error: RecursionError: deep"),
        (MemoryError(), 2, "error: "),
        (FileNotFoundError(2, "gone", f"{RED}a"), 2, r"error: [Errno 2] gone: '\x1b[31ma'"),
        (BaseException("PanicException"), 2, "error: BaseException: PanicException"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (BrokenPipeError(), 141, ""),
    ],
)
def test_every_error_is_a_line(monkeypatch, capsys, error, status, said):
    monkeypatch.setattr(exportloss.cli, "make_parser", lambda: raising(error))
    assert main([]) == status
    told = capsys.readouterr()
    assert told.err.startswith(f"exportloss: {said}" if said else "") and not told.out
    assert not isinstance(error, MemoryError) or "memory" in told.err
    if not isinstance(error, ConfigError):
        assert told.err.count("\n") == bool(said)


def test_where_an_error_comes_from_can_be_seen(monkeypatch):
    monkeypatch.setattr(exportloss.cli, "make_parser", lambda: raising(KeyError("a")))
    monkeypatch.setenv("EXPORTLOSS_TRACEBACK", "1")
    with pytest.raises(KeyError):
        main([])


@pytest.mark.parametrize("option", ["--threads", "--batch-size", "--max-det", "--workers"])
@pytest.mark.parametrize("number", [2**31, -(2**63), 10**30])
def test_numbers_that_no_machine_has_are_refused(tmp_path, monkeypatch, capsys, option, number):
    monkeypatch.chdir(tmp_path)
    data = make_spots(tmp_path, 2)
    write_bright_detector(tmp_path / "a.onnx", names={0: "a", 1: "b"}, shape=(1, 3, 64, 64))
    arguments = ["val", "--weights", "a.onnx", "--data", str(data), option, str(number)]
    status = main(arguments)
    assert status == 2 or (option == "--max-det" and number > 0)
    assert "Error: " not in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ("detect", "--weights", "LONG.onnx", "--source", "photos"),
        ("detect", "--weights", "a.onnx", "--source", "LONG"),
        ("detect", "--weights", "a.onnx", "--source", "photos", "--project", "LONG"),
        ("detect", "--weights", "a.onnx", "--source", "photos", "--name", "LONG"),
        ("val", "--weights", "a.onnx", "--data", "LONG"),
        ("train", "--resume", "LONG"),
        ("train", "--weights", "LONG", "--data", "LONG"),
        ("train", "--weights", "LONG.pt", "--data", "data.yaml"),
        ("export", "--weights", "LONG.pt"),
        ("export", "--weights", "yolov5n", "--nc", "1", "--output", "LONG"),
        ("check", "LONG", "--for", "cpu"),
        ("verify", "LONG"),
        ("bench", "step", "--plot", "LONG/a.png", "--steps", "0"),
        ("demo", "--output", "LONG"),
        ("LONG",),
    ],
)
def test_names_that_are_too_long_are_refused(photos, capsys, arguments):
    (photos.parent / "data.yaml").write_text("train: photos\nnames: [a]\n")
    words = [word.replace("LONG", "a" * 5000) for word in arguments]
    try:
        assert main(words) == 2
    except SystemExit as left:
        assert left.code == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("mode", [0o000, 0o444, 0o111, 0o555])
@pytest.mark.parametrize("closed", ["photos", "models", "out"])
def test_folders_without_permissions(tiny_artifact, mode, closed, monkeypatch, capsys):
    with tempfile.TemporaryDirectory() as name:  # pytest's own are closed to other users
        folder = Path(name)
        folder.chmod(0o777)
        for each in ("photos", "models", "out"):
            (folder / each).mkdir()
        Image.fromarray(spot_image(64, 64)).save(folder / "photos/a.png")
        # Ours, which runs in this process: of another one, nobody may start Python everywhere.
        shutil.copytree(tiny_artifact, folder / "models" / "tiny")
        (folder / "models" / "tiny").chmod(0o755)
        monkeypatch.chdir(folder)
        arguments = ["detect", "--weights", "models/tiny", "--source", "photos"]
        assert main([*arguments, "--nosave"]) == 0  # what is to be loaded is
        (folder / "out").chmod(0o777)
        (folder / closed).chmod(mode)
        capsys.readouterr()
        try:
            with ordinary_user():
                status = main([*arguments, "--project", "out"])
        finally:
            (folder / closed).chmod(0o700)
        told = capsys.readouterr().err
        needed = {"photos": 0o555, "models": 0o111, "out": 0o333}[closed]
        assert status == 0 if mode & needed == needed else status in (1, 2)
        assert not re.search(r"error: \w+Error", told) and (closed in told) == bool(status)


@pytest.mark.parametrize("mebibytes", [70, 100, 130, 200, 400])
def test_too_little_memory_is_a_line(photos, mebibytes):
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (mebibytes << 20,) * 2)

    arguments = ("detect", "--weights", "a.onnx", "--source", "photos", "--threads", "1")
    environment = {"OPENBLAS_NUM_THREADS": "1"}
    done = run(*arguments, cwd=photos.parent, preexec_fn=limit, env=environment)
    assert done.returncode in (0, 1, 2)  # 1: OpenBLAS itself gives up
    assert b"Traceback" not in done.stderr and done.stderr.count(b"\n") <= 1


def test_an_interruption_is_a_line_at_any_moment(photos):
    """From the first moment that is ours: what Python itself loads before is not."""
    moments = random.Random(0)
    for _ in range(12):
        command = [sys.executable, "-c", STARTED, "detect", "--weights", "a.onnx"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        with subprocess.Popen(
            [*command, "--source", "photos"],
            cwd=photos.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
        ) as process:
            assert process.stdout is not None and process.stderr is not None
            assert process.stdout.readline() == b"started\n"
            time.sleep(moments.uniform(0, 0.6))
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
        assert process.returncode in (0, 130), errors
        assert errors in (b"", b"exportloss: interrupted\n")


STARTED = """
import sys
import exportloss.__main__ as command
command.signal.signal(command.signal.SIGINT, command._leave)
print("started", flush=True)
command.signal.signal(command.signal.SIGINT, command.signal.default_int_handler)
sys.exit(command.main())
"""


def test_the_names_in_a_graph_are_shown_as_they_are(tmp_path, capsys):
    node = onnx.helper.make_node(f"{RED}[/x]", ["a"], ["b"], name=f"{RED}[/bold]")
    values = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in ("a", "b")
    ]
    graph = onnx.helper.make_graph([node], "g", values[:1], values[1:])
    path = tmp_path / "[/x].onnx"
    (tmp_path / "[").mkdir()
    onnx.save(onnx.helper.make_model(graph), path)
    for options in ([], ["--verbose"]):
        assert main(["check", str(path), "--for", "cpu", *options]) in (1, 2)
    said = capsys.readouterr()
    assert r"\x1b[31m[/x]" in said.out and "\x1b" not in said.out + said.err
