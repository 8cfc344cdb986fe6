"""Commands that are given a run's folder, and runs whose artifacts were moved."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from exportloss.cli import main
from exportloss.cli.run_paths import graph_file, verified_folder
from exportloss.errors import ArtifactError
from exportloss.runtime.training.history import current_run
from exportloss.runtime.training.origin import file_digest, read_origin
from exportloss.runtime.training.run_folder import RunFolder
from tests.support.messages import error_of, mentions, missing
from tests.support.training_runs import assert_same_run

QUICK = ("--epochs", "2", "--threads", "1", "--workers", "1", "--batch-size", "2", "--noplots")


@pytest.fixture(scope="module")
def complete(tmp_path_factory, tiny_artifact, tiny_shapes) -> Path:
    """A folder with artifacts, and two runs: the second was started with the first's weights."""
    home = tmp_path_factory.mktemp("complete")
    shutil.copytree(tiny_artifact, home / "artifacts")
    for weights in (home / "artifacts", home / "runs" / "exp"):
        arguments = ("--weights", str(weights), "--data", str(tiny_shapes))
        assert main(["train", *QUICK, *arguments, "--project", str(home / "runs")]) == 0
    return home


@pytest.fixture
def home(complete, tmp_path, monkeypatch) -> Path:
    """A copy, whose runs say that their artifacts are in it."""
    copy = shutil.copytree(complete, tmp_path / "home", symlinks=True)
    for path in copy.glob("runs/*/opt.yaml"):
        path.write_text(path.read_text().replace(str(complete), str(copy)))
    for path in copy.glob("runs/*/origin.json"):
        path.write_text(path.read_text().replace(str(complete), str(copy)))
    monkeypatch.chdir(copy)
    return copy


def interrupted(run: RunFolder) -> RunFolder:
    """Leave a run as if it had ended before its detector was written."""
    run.best_onnx.unlink()
    return run


@pytest.mark.parametrize("name", ["exp", "exp2"])
def test_a_run_goes_on_with_artifacts_that_were_moved(home, complete, capsys, name):
    run = interrupted(RunFolder(home / "runs" / name))
    (home / "artifacts").rename(home / "elsewhere")
    assert main(["train", "--resume", str(run.path), "--threads", "1"]) == 2
    error = capsys.readouterr().err
    assert str(home / "artifacts") in error
    assert "--artifacts" in error
    moved = ["--artifacts", "elsewhere", "--threads", "1"]
    assert main(["train", "--resume", str(run.path), *moved]) == 0
    assert_same_run(run, RunFolder(complete / "runs" / name))
    assert yaml.safe_load(run.options.read_text())["weights"] == str(home / "elsewhere")
    # The next time it finds them by itself.
    assert main(["train", "--resume", str(interrupted(run).path), "--threads", "1"]) == 0


@pytest.mark.parametrize("name", ["exp", "exp2"])
def test_other_artifacts_are_refused_with_both_digests(home, capsys, name):
    run = interrupted(RunFolder(home / "runs" / name))
    manifest = home / "artifacts" / "manifest.json"
    expected = read_origin(run.origin).manifest_digest
    assert expected == file_digest(manifest)
    (home / "artifacts").rename(home / "other")
    manifest = home / "other" / "manifest.json"
    manifest.write_text(manifest.read_text() + " ")
    before = run.options.read_bytes()
    arguments = ["--resume", str(run.path), "--artifacts", "other", "--threads", "1"]
    assert main(["train", *arguments]) == 2
    error = capsys.readouterr().err
    assert expected[:12] in error
    assert file_digest(manifest)[:12] in error
    assert run.options.read_bytes() == before


def test_an_origin_without_the_artifacts_digest_is_read(home):
    path = home / "runs" / "exp2" / "origin.json"
    values = json.loads(path.read_text())
    assert values.pop("artifacts") == file_digest(home / "artifacts" / "manifest.json")
    path.write_text(json.dumps(values))
    assert read_origin(path).manifest_digest == ""


def test_check_takes_the_detector_of_a_run(home, capsys):
    assert main(["check", "runs/exp", "--for", "cpu"]) in (0, 1)
    assert "runs/exp/weights/best.onnx, opset" in capsys.readouterr().out
    assert graph_file(Path("runs/exp/weights/best.onnx")) == Path("runs/exp/weights/best.onnx")
    told = mentions(home / "artifacts", "best.onnx", "train_step.onnx")
    with pytest.raises(ArtifactError, match=told):
        graph_file(home / "artifacts")
    with pytest.raises(ArtifactError, match=mentions(home / "runs/exp", "best.onnx")):
        graph_file(interrupted(RunFolder(home / "runs/exp")).path)


def test_verify_takes_the_artifacts_of_a_run(home):
    assert verified_folder(home / "runs/exp") == home / "artifacts"
    assert verified_folder(home / "artifacts") == home / "artifacts"
    shutil.copytree(home / "artifacts", home / "runs/exp/artifacts")
    assert verified_folder(home / "runs/exp") == home / "runs/exp/artifacts"
    (home / "artifacts").rename(home / "elsewhere")
    with pytest.raises(ArtifactError, match=mentions(home / "runs/exp2", home / "artifacts")):
        verified_folder(home / "runs/exp2")


def test_rollback_takes_the_folder_of_a_run(home, capsys):
    project = ("--project", "runs")
    assert main(["rollback", "runs/exp", *project]) == 0
    assert current_run("runs").path.name == "exp"
    assert main(["rollback", str(home / "runs" / "exp2"), *project]) == 0
    assert current_run("runs").path.name == "exp2"
    assert main(["rollback", "./runs/exp"]) == 2
    assert "--project runs" in capsys.readouterr().err
    assert main(["rollback", "./artifacts", *project]) == 2
    assert not missing(error_of(capsys.readouterr().err), "artifacts", "no run")
    assert current_run("runs").path.name == "exp2"
