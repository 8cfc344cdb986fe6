"""`make gpu`: nothing where there is no GPU, and what it writes where there is one."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from exportloss.cli import make_parser

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.py"


@pytest.fixture(scope="module")
def gpu():
    spec = importlib.util.spec_from_file_location("gpu", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so_and_does_not_fail(gpu, monkeypatch):
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("No NVIDIA GPU here: nothing was run.")


def test_a_gpu_that_torch_cannot_use_is_a_failure(gpu, monkeypatch, capsys):
    names = {"nvidia-smi": "NVIDIA H100", sys.executable: ""}
    monkeypatch.setattr(gpu, "_output", lambda *command: names[command[0]])
    assert gpu.main() == 1
    assert "There is NVIDIA H100, but torch" in capsys.readouterr().out


def test_the_benchmarks_have_these_options(gpu):
    for bench, sizes in gpu.RUNS.values():
        options = [f"--{name}={value}" for name, value in sizes.items()]
        parsed = make_parser().parse_args(["bench", bench, "--device", "cuda", "--json", *options])
        assert (parsed.batch_size, parsed.max_targets) == (sizes["batch-size"], 300)


def test_what_it_writes(gpu, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(gpu, "RESULTS", tmp_path / "results")
    row = {"rival": "portable", "median_ms": 12.345, "min_ms": 12.0, "max_ms": 130.0}
    row |= {"ratio_to_eager": 0.5, "peak_device_mb": 2048.0}
    runs = {
        "loss-16": {"rows": [row], "unavailable": [{"rival": "x", "reason": "not there"}]},
        "step-16": None,
    }
    path = gpu.write("NVIDIA H100 PCIe", runs, tests_passed=True)
    assert path == tmp_path / "results" / "nvidia-h100-pcie.json"
    assert json.loads(path.read_text()) == {
        "gpu": "NVIDIA H100 PCIe",
        "tests_passed": True,
        "runs": runs,
    }
    table = path.with_suffix(".md").read_text()
    assert "| loss-16 | portable | 12.3 | 12 | 130 | 0.5 | 2048 |" in table
    assert "| loss-16 | x | not there |" in table
    assert "| step-16 | failed |" in table
    assert table in capsys.readouterr().out
