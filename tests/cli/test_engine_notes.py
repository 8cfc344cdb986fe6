"""What `train` says about engines before it begins: from kind, target and device alone."""

from __future__ import annotations

import subprocess
import sys

import pytest

from exportloss.cli.train.engine_notes import engine_notes, openvino_version
from exportloss.runtime.sessions.devices import Device


def notes(device, *, kind="train-step", target="any", openvino="2026.4.1"):
    return engine_notes(kind, target, Device.parse(device), openvino=openvino)


def test_the_cpu_names_openvino_where_it_is_installed():
    (note,) = notes("cpu")
    assert "OpenVINO 2026.4.1" in note and "--device openvino" in note
    assert "bf16" not in note
    assert notes("cpu", openvino=None) == []
    assert notes("cpu", kind="ort-training") == []
    assert notes("openvino") == notes("openvino:bf16") == notes("cuda") == []


@pytest.mark.parametrize(
    ("target", "device", "wanted"),
    [
        ("gpu", "cpu", "cpu"),
        ("openvino", "cpu", "cpu"),
        ("cpu", "openvino", "openvino"),
        ("cpu", "cuda", "gpu"),
        ("gpu", "openvino:bf16", "openvino"),
    ],
)
def test_artifacts_for_another_engine_are_named(target, device, wanted):
    (note,) = notes(device, target=target, openvino=None)
    assert f"exported for {target}; on {Device.parse(device)}" in note
    assert f"those exported for {wanted}, or for any engine" in note
    assert notes(device, target=wanted, openvino=None) == []


def test_looking_for_openvino_does_not_import_it():
    code = (
        "import sys; sys.modules['openvino'] = None\n"
        "from exportloss.cli.train.engine_notes import openvino_version; openvino_version()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert openvino_version() is None or openvino_version()[0].isdigit()
