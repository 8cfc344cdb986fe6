"""`exportloss demo` refuses what it cannot do before it writes anything."""

from __future__ import annotations

import sys

import pytest

from exportloss.cli import demo as command
from exportloss.cli import main


@pytest.fixture(autouse=True)
def training_build(tmp_path, monkeypatch):
    """Take ONNX Runtime's training build for installed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "import_onnxruntime_training", lambda: None)


@pytest.mark.parametrize(
    ("flag", "value", "told"),
    [
        ("--imgsz", "100", ("100", "multiple of 32")),
        ("--imgsz", "0", ("image size is 0", "at least 1")),
        ("--epochs", "0", ("epochs is 0", "at least 1")),
        ("--batch-size", "0", ("batch size is 0", "at least 1")),
        ("--lr", "-1", ("-1.0",)),
        ("--lr", "nan", ("nan",)),
        ("--seed", "-1", ("seed is -1", "at least 0")),
        ("--threads", "0", ("threads is 0", "at least 1")),
        ("--weights", "gone.pt", ("gone.pt",)),
        ("--weights", "damaged.pt", ("damaged.pt",)),
    ],
)
def test_what_cannot_be_trained_is_refused_at_once(flag, value, told, tmp_path, capsys):
    (tmp_path / "damaged.pt").write_bytes(b"damaged")
    assert main(["demo", "--output", "out", flag, value]) == 2
    error = capsys.readouterr().err
    assert all(part in error for part in told)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("package", ["torch", "onnx", "onnx_ir", "onnxscript", "matplotlib"])
def test_a_missing_package_is_named_at_once(package, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["demo", "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert f"{package} is not installed" in error and "export" in error
    assert not (tmp_path / "out").exists()


def test_a_file_is_no_folder_for_results(tmp_path, capsys):
    file = tmp_path / "thesis.txt"
    file.write_text("mine")
    assert main(["demo", "--output", str(file)]) == 2
    assert str(file) in capsys.readouterr().err
    assert file.read_text() == "mine"
