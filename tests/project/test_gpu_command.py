"""`make gpu`: nothing where there is no GPU, and what it writes where there is one."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu
from exportloss.cli import make_parser
from tests.support.messages import mentions

SCRIPT = Path(gpu.__file__)


def step(name: str, code: str, **options: Any) -> gpu.Step:
    return gpu.Step(name=name, arguments=("-c", code), **{"seconds": 60, **options})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so_and_does_not_fail():
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "No NVIDIA GPU" in done.stdout


def test_a_gpu_that_torch_cannot_use_is_a_failure(monkeypatch, capsys):
    names = {"nvidia-smi": "NVIDIA H100", sys.executable: ""}
    monkeypatch.setattr(gpu, "_output", lambda *command: names[command[0]])
    assert gpu.main([]) == 1
    assert re.search(mentions("NVIDIA H100", "torch"), capsys.readouterr().out)


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_the_benchmarks_have_these_options(device):
    benches = [one.arguments for one in gpu.steps(device) if "bench" in one.arguments]
    assert len(benches) == len(gpu.RUNS) + 2
    for arguments in benches:
        parsed = make_parser().parse_args(arguments[arguments.index("bench") :])
        assert parsed.device == device
        assert "eager" in parsed.rivals


def test_steps_run_in_order_within_their_time(tmp_path: Path):
    sleep = "import time; print('begun', flush=True); time.sleep(60)"
    steps = [
        step("export", "print('artifact')", background=True),
        step("slow", sleep, seconds=1),
        step("broken", "import sys; print('no', file=sys.stderr); sys.exit(3)"),
        step("last", "print('done')", needs="export"),
    ]
    done = gpu.run_all(steps, tmp_path, device="cpu", deadline=time.monotonic() + 60)
    assert {one.name: one.status for one in done} == {
        "export": 0,
        "slow": None,
        "broken": 3,
        "last": 0,
    }
    assert (tmp_path / "slow.out").read_text() == "begun\n"
    assert (tmp_path / "broken.err").read_text() == "no\n"
    assert len(json.loads((tmp_path / "steps.json").read_text())) == 4


def test_no_step_begins_after_the_end(tmp_path: Path):
    (late,) = gpu.run_all([step("late", "print(1)")], tmp_path, device="cpu", deadline=0.0)
    assert late.status is None
    assert not (tmp_path / "late.out").exists()


def test_what_it_writes(tmp_path: Path, capsys):
    row = {"rival": "portable", "median_ms": 12.345, "min_ms": 12.0, "max_ms": 130.0}
    row |= {"ratio_to_eager": 0.5, "peak_device_mb": 2048.0}
    runs = {"loss-16": {"rows": [row], "unavailable": [{"rival": "x", "reason": "not there"}]}}
    done = [gpu.Done(name="parity", status=1, seconds=61.2)]
    path = gpu.write("NVIDIA H100 PCIe", runs, done, folder=tmp_path / "results")
    assert path == tmp_path / "results" / "nvidia-h100-pcie.json"
    assert json.loads(path.read_text()) == {
        "gpu": "NVIDIA H100 PCIe",
        "steps": [{"name": "parity", "status": 1, "seconds": 61.2}],
        "runs": runs,
    }
    table = path.with_suffix(".md").read_text()
    assert "| loss-16 | portable | 12.3 | 12 | 130 | 0.5 | 2048 |" in table
    assert "| loss-16 | x | not there |" in table
    assert "| parity | 1 | 61 |" in table
    assert table in capsys.readouterr().out
