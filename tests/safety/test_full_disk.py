"""A disk that takes no more: a clear error, the old file whole, nothing left lying about."""

import subprocess
import sys

import numpy as np
import pytest

from exportloss.runtime.artifact.state import TrainState, load_state, save_state

LIMIT = 64 << 10  # bytes that a file may have in the process below

WRITE = """
import resource, signal, sys
import numpy as np
from exportloss import ArtifactError
from exportloss.runtime.training.run_folder import write_yaml
from exportloss.runtime.artifact.state import TrainState, save_state
from pathlib import Path

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # an error of the write instead
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
path, zeros = Path(sys.argv[1]), np.zeros(1 << 20, np.float32)
try:
    if path.suffix == ".yaml":
        write_yaml(path, {"text": "x" * (1 << 20)})
    else:
        state = TrainState(model={"w": zeros}, optimizer={}, loss={"balance": zeros[:3]}, updates=1)
        save_state(path, state)
except ArtifactError as error:
    sys.exit(str(error))
"""


@pytest.mark.parametrize("name", ["last.safetensors", "opt.yaml"])
def test_what_cannot_be_written_leaves_the_old_file(tmp_path, name):
    path = tmp_path / name
    small = np.ones(3, np.float32)
    save_state(path, TrainState(model={"w": small}, optimizer={}, loss={}, updates=0))
    before = path.read_bytes()
    assert len(before) < LIMIT
    command = [sys.executable, "-c", WRITE, str(path), str(LIMIT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert str(path) in done.stderr
    assert "Traceback" not in done.stderr
    assert path.read_bytes() == before
    assert load_state(path).updates == 0
    assert list(tmp_path.iterdir()) == [path]


EXPORT = """
import resource, signal, sys
from exportloss.cli import main

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
sys.exit(main(sys.argv[2:]))
"""


def files(folder):
    return {
        path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


FORMATS = ("loss", "step", "safetensors", "pt", "onnx")


def export(limit, output, kind):
    arguments = ["export", "--weights", "yolov5n", "--nc", "1", "--imgsz", "64", "--exist-ok"]
    arguments += ["--format", kind, "--output", str(output)]
    command = [sys.executable, "-c", EXPORT, str(limit), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A folder that holds one of each format."""
    folder = tmp_path_factory.mktemp("exported") / "out"
    done = export(1 << 30, folder, ",".join(FORMATS))
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("kind", FORMATS)
def test_an_export_onto_a_full_disk_leaves_what_was_there(exported, kind):
    before = files(exported)
    output = exported / kind if (exported / kind).is_dir() else exported
    done = export(1 << 10, output, kind)
    assert done.returncode == 2, done.stderr
    assert str(output) in done.stderr and done.stderr.count("\n") == 1
    assert files(exported) == before
    assert not list(exported.rglob(".*"))
