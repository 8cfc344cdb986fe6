"""`scripts/install.sh`, on a Python that only writes down what pip is asked for."""

from __future__ import annotations

import subprocess
from pathlib import Path

import exportloss

ROOT = Path(exportloss.__file__).parents[1]
MISSING = "ERROR: No matching distribution found for torch==2.13.0+cpu"
OTHER_FILE = "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE"
FAKE = """#!/bin/sh
echo "$*" >> {folder}/calls
case "$*" in
    {failing}) echo "{message}" >&2; exit 1 ;;
esac
"""


def install(folder: Path, name: str, *, failing: str, message: str = MISSING) -> tuple[int, str]:
    """Run it where pip fails for arguments of a pattern; return its status and the calls."""
    python = folder / "python"
    python.write_text(FAKE.format(folder=folder, failing=failing, message=message))
    python.chmod(0o755)
    script = [str(ROOT / "scripts" / "install.sh"), str(python), name]
    done = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode, (folder / "calls").read_text()


def test_an_index_with_all_files_is_asked_once(tmp_path):
    status, calls = install(tmp_path, "requirements-dev", failing="nothing")
    (call,) = calls.splitlines()
    assert status == 0
    assert call.endswith("--require-hashes --requirement requirements-dev.lock")


def test_torch_alone_comes_without_a_hash_from_its_own_index(tmp_path):
    status, calls = install(tmp_path, "requirements-dev", failing="*requirements-dev.lock")
    _, torch, others = calls.splitlines()
    assert status == 0
    assert "--no-deps" in torch
    assert "whl/cpu torch==" in torch
    assert others.endswith(f"--require-hashes --requirement {tmp_path}/others.lock")
    locked = (ROOT / "requirements-dev.lock").read_text()
    kept = (tmp_path / "others.lock").read_text()
    assert "torch==" not in kept
    assert kept.count("--hash=") == locked.count("--hash=") - 1


def test_where_that_index_does_not_answer_there_are_no_hashes(tmp_path):
    failing = "*requirements-dev.lock|*--index-url*"
    status, calls = install(tmp_path, "requirements-dev", failing=failing)
    assert status == 0
    assert calls.splitlines()[-1].endswith("--quiet --requirement requirements-dev.txt")


def test_an_environment_without_torch_asks_no_index_of_torch(tmp_path):
    status, calls = install(tmp_path, "requirements-device", failing="*.lock")
    assert status == 0
    assert "--index-url" not in calls
    assert calls.splitlines()[-1].endswith("--quiet --requirement requirements-device.txt")


def test_another_file_than_the_locked_one_is_an_error(tmp_path):
    status, calls = install(tmp_path, "requirements-dev", failing="*.lock", message=OTHER_FILE)
    assert status != 0
    assert len(calls.splitlines()) == 1
