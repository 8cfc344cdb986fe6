"""Every package that a device needs has a wheel for aarch64, for each Python that is supported."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# What pip says where no index answers.
OFFLINE = re.compile(r"Retrying|Failed to establish|Could not fetch URL|name resolution|ProxyError")
# JetPack 6 has glibc 2.35: it takes these and those for older ones.
TAGS = ("manylinux2014_aarch64", "manylinux_2_27_aarch64", "manylinux_2_28_aarch64")


def project() -> dict[str, object]:
    content: dict[str, object] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return content


def supported() -> list[str]:
    prefix = "Programming Language :: Python :: 3."
    return [c.rpartition(" ")[2] for c in project()["classifiers"] if c.startswith(prefix)]


def test_pythons_are_listed():
    assert len(supported()) > 1
    assert project()["requires-python"] == f">={supported()[0]}"


@pytest.mark.parametrize("python", supported())
def test_a_device_with_aarch64_finds_its_wheels(python, tmp_path):
    about = project()
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--report=-"]
    command += ["--only-binary=:all:", "--ignore-installed", f"--target={tmp_path}", "--retries=1"]
    command += [f"--python-version={python}", *(f"--platform={tag}" for tag in TAGS)]
    wanted = [*about["dependencies"], *about["optional-dependencies"]["cpu"]]
    done = subprocess.run([*command, *wanted], capture_output=True, text=True, check=False)
    if done.returncode and OFFLINE.search(done.stderr):
        pytest.skip("no package index answers")
    assert done.returncode == 0, done.stderr
    files = [one["download_info"]["url"] for one in json.loads(done.stdout)["install"]]
    assert all(re.search(r"(aarch64|none-any)\.whl$", file) for file in files), files
    assert any(re.search(r"/onnxruntime-.*aarch64", file) for file in files), files
