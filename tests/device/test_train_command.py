"""`exportloss train` and `--resume` where there is neither torch nor onnx."""

from __future__ import annotations

import re

import numpy as np

from exportloss.cli import main
from exportloss.runtime.artifact.state import load_state
from exportloss.runtime.training import trainer
from exportloss.runtime.training.results import read_results
from exportloss.runtime.training.run_folder import RunFolder


def run(*arguments: object) -> int:
    return main(["train", *map(str, arguments), "--threads", "1"])


def test_a_run_that_was_interrupted_resumes_to_the_same_bits(device, data, tmp_path, monkeypatch):
    options = ("--weights", device / "sgd", "--data", data, "--epochs", 3, "--overflow")
    options += ("keep-largest", "--project", tmp_path)
    assert run(*options, "--name", "whole") == 0

    real, calls = trainer.write_results, []

    def interrupt(*written: object) -> None:
        calls.append(written)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(*written)

    monkeypatch.setattr(trainer, "write_results", interrupt)
    assert run(*options, "--name", "cut") == 130
    monkeypatch.undo()
    assert run("--resume", tmp_path / "cut") == 0

    whole, cut = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "cut")
    assert read_results(cut.results) == read_results(whole.results)
    one, two = load_state(whole.last), load_state(cut.last)
    assert one.updates == two.updates > 0
    for name, tensor in one.model.items():
        np.testing.assert_array_equal(tensor, two.model[name], err_msg=name)
    assert whole.best_onnx.read_bytes() == cut.best_onnx.read_bytes()


def test_a_size_cannot_be_exported_here(data, tmp_path, capsys):
    assert run("--weights", "yolov5n", "--data", data, "--project", tmp_path / "runs") == 2
    assert re.search(r"yolov5n.*another machine", capsys.readouterr().err)
    assert not (tmp_path / "runs").exists()
