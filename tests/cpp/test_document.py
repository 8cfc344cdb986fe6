"""The program on the page about C++ compiles as it stands, without a warning, and does its job."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from exportloss.runtime import TrainSession

ROOT = Path(__file__).parents[2]
FLAGS = ("-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-Wno-unused-variable")


def test_the_example_trains_and_detects(pytestconfig: pytest.Config, artifacts, tmp_path):
    page = (ROOT / "docs" / "cpp.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```cpp\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    included, used = block.split("using namespace exportloss;\n")
    source = tmp_path / "example.cpp"
    source.write_text(f"{included}using namespace exportloss;\nint main() {{\n{used}}}\n")
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    assert compiler is not None
    build, ort = Path(pytestconfig.getoption("--build")), ROOT / "build" / "ort" / "lib"
    include, program = ROOT / "devices" / "cpp" / "include", tmp_path / "example"
    libraries = (build / "libexportloss.a", ort / "libonnxruntime.so", f"-Wl,-rpath,{ort}")
    command = (compiler, *FLAGS, f"-I{include}", source, *libraries, "-o", program)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    (tmp_path / "artifacts").symlink_to(artifacts.resolve() / "sgd")
    (tmp_path / "0001.ppm").write_bytes(b"P6\n64 40\n255\n" + bytes(range(256)) * 30)
    ran = subprocess.run(
        [program], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
    )
    assert ran.returncode == 0, ran.stderr
    assert re.fullmatch(r"\d+\.\d+\n", ran.stdout)
    assert (tmp_path / "detector.onnx").exists()
    TrainSession.open(artifacts / "sgd", threads=1).resume(tmp_path / "state.safetensors")
