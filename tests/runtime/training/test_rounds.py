"""Round after round of training on a device, each begun with the run before it."""

from __future__ import annotations

import os
import shutil

import pytest
import yaml

from exportloss.cli import main
from exportloss.runtime.artifact.state import load_state
from exportloss.runtime.training.history import current_run, list_runs
from exportloss.runtime.training.origin import file_digest, read_origin
from exportloss.runtime.training.results import read_results
from exportloss.runtime.training.run_folder import RunFolder
from exportloss.runtime.training.run_log import read_start
from tests.support.device_command import command
from tests.support.tiny_runs import make_tiny_shapes
from tests.support.training_runs import assert_same_run

QUICK = ("--epochs", 2, "--threads", 1, "--workers", 1, "--batch-size", 2, "--noplots")


def train(*arguments):
    return main([*map(str, ("train", *QUICK, *arguments))])


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_artifact, tiny_shapes):
    """A folder `home` with a first run, and a copy of it beside: a run records absolute paths."""
    folder = tmp_path_factory.mktemp("rounds")
    home = folder / "home"
    home.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        shutil.copytree(tiny_artifact, "artifacts")
        shutil.copytree(tiny_shapes.parent, "first")
        assert train("--weights", "artifacts", "--data", "first/data.yaml") == 0
    home.rename(folder / "copy")
    return folder


@pytest.fixture
def home(trained, monkeypatch):
    """A folder in which a first run is complete, on artifacts and data of its own."""
    home = trained / "home"
    shutil.copytree(trained / "copy", home, symlinks=True)
    monkeypatch.chdir(home)
    yield home
    monkeypatch.undo()  # or the folder would be removed from below
    shutil.rmtree(home)


def test_five_rounds_without_torch_never_end_with_less(tiny_artifact, tmp_path):
    weights = tiny_artifact
    for number in range(1, 6):
        data = make_tiny_shapes(tmp_path / f"data{number}", seed=number)
        done = command("train", "--weights", weights, "--data", data, *QUICK, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        weights = f"runs/train/exp{number if number > 1 else ''}"
    runs = list_runs(tmp_path / "runs" / "train")
    assert [run.name for run in runs] == ["exp", "exp2", "exp3", "exp4", "exp5"]
    for run, before in zip(runs, (None, *runs), strict=False):
        assert run.best.fitness >= run.start.fitness
        assert run.parent == (None if before is None else before.folder.path)
        if before is not None:
            assert run.origin.sha256 == file_digest(before.folder.best)
    listed = command("runs", cwd=tmp_path).stdout.splitlines()
    assert [line.split()[0] for line in listed[1:]] == [run.name for run in runs]
    assert "in use" in listed[-1]


def test_a_round_begins_with_what_was_best_and_a_fresh_optimizer(home):
    first = RunFolder(home / "runs/train/exp")
    assert train("--weights", "runs/train/exp", "--data", "first/data.yaml") == 0
    second = RunFolder(home / "runs/train/exp2")
    best = min(read_results(first.results), key=lambda epoch: (-epoch.fitness, epoch.loss))
    start = read_start(second.log)
    if not read_start(first.log).loss < best.loss:  # the start was no better
        assert start.loss == pytest.approx(best.loss, rel=1e-6)
    assert len(repr(load_state(second.last))) < 200
    # As many updates as in the first round: none is carried over.
    assert load_state(second.last).updates == load_state(first.last).updates
    origin = read_origin(second.origin)
    assert (origin.weights, origin.run) == (str(first.best), str(first.path))


@pytest.mark.parametrize("what", ["runs/train/exp/weights/best.safetensors", "copy.safetensors"])
def test_a_file_of_weights_will_do(home, what):
    shutil.copy("runs/train/exp/weights/best.safetensors", "copy.safetensors")
    artifacts = ("--artifacts", "artifacts") if what.startswith("copy") else ()
    assert train("--weights", what, "--data", "first/data.yaml", *artifacts) == 0
    assert train("--weights", "runs/train/exp", "--data", "first/data.yaml") == 0
    assert_same_run(RunFolder(home / "runs/train/exp2"), RunFolder(home / "runs/train/exp3"))


@pytest.mark.parametrize(
    ("spoil", "arguments", "told"),
    [
        ("classes", "--weights runs/train/exp", "circle"),
        ("artifacts", "--weights runs/train/exp", "--artifacts"),
        ("weights", "--weights runs/train/exp", "best.safetensors"),
        ("", "--weights runs/train/exp --imgsz 96", "(64, 64)"),
        ("", "--weights runs/train", "manifest.json"),
        ("", "--weights artifacts --artifacts artifacts", "--artifacts"),
    ],
)
def test_what_a_round_cannot_begin_with_is_named(home, capsys, spoil, arguments, told):
    if spoil == "classes":
        data = yaml.safe_load((home / "first/data.yaml").read_text())
        data["names"] = ["ball", "square", "triangle"]
        (home / "first/data.yaml").write_text(yaml.safe_dump(data))
    elif spoil == "artifacts":
        (home / "artifacts").rename(home / "elsewhere")
    elif spoil == "weights":
        (home / "runs/train/exp/weights/best.safetensors").unlink()
    assert train(*arguments.split(), "--data", "first/data.yaml") == 2
    assert told in capsys.readouterr().err
    assert not (home / "runs/train/exp2").exists()


def test_artifacts_that_moved_can_be_named(home):
    (home / "artifacts").rename(home / "elsewhere")
    options = ("--data", "first/data.yaml", "--artifacts", "elsewhere")
    assert train("--weights", "runs/train/exp", *options) == 0
    # The next round finds them by itself.
    assert train("--weights", "runs/train/exp2", "--data", "first/data.yaml") == 0


def test_a_round_interrupted_in_its_first_epoch_begins_again(home):
    data = ("--data", "first/data.yaml")
    assert train("--weights", "runs/train/exp", *data) == 0
    second = RunFolder(home / "runs/train/exp2")
    copy = RunFolder(shutil.copytree(second.path, home / "runs/train/copy"))
    for path in (copy.last, copy.best_onnx):
        path.unlink()
    assert main(["train", "--resume", str(copy.path), "--threads", "1"]) == 0
    assert_same_run(copy, second)
    copy.last.unlink()
    RunFolder(home / "runs/train/exp").best.write_bytes(b"another")
    assert main(["train", "--resume", str(copy.path)]) == 2


def test_a_finished_run_goes_on_for_more_epochs(home, capsys):
    run = RunFolder(home / "runs/train/exp")
    assert main(["train", "--resume", str(run.path), "--epochs", "4", "--threads", "1"]) == 0
    assert [epoch.epoch for epoch in read_results(run.results)] == [0, 1, 2, 3]
    assert yaml.safe_load(run.options.read_text())["epochs"] == 4
    for epochs in ("4", "3"):
        assert main(["train", "--resume", str(run.path), "--epochs", epochs]) == 2
    assert "4" in capsys.readouterr().err


def test_resume_without_a_name_takes_the_last_run(home, capsys):
    assert train("--weights", "artifacts", "--data", "first/data.yaml") == 0
    RunFolder(home / "runs/train/exp2").best_onnx.unlink()
    assert main(["train", "--resume", "--threads", "1"]) == 0
    assert "runs/train/exp2/weights/best.onnx" in capsys.readouterr().out
    assert main(["train", "--resume", "--project", "nowhere"]) == 2


def test_a_run_goes_on_where_its_data_went(home, capsys):
    run = RunFolder(home / "runs/train/exp")
    (home / "first").rename(home / "moved")
    run.best_onnx.unlink()
    assert main(["train", "--resume", str(run.path)]) == 2
    moved = ["train", "--resume", str(run.path), "--data", "moved/data.yaml", "--threads", "1"]
    assert main(moved) == 0
    assert yaml.safe_load(run.options.read_text())["data"] == str(home / "moved/data.yaml")
    run.best_onnx.unlink()
    other = make_tiny_shapes(home / "other", seed=7)
    assert main(["train", "--resume", str(run.path), "--data", str(other)]) == 2
    assert "--weights" in capsys.readouterr().err


def test_rollback(home, capsys):
    project = home / "runs/train"
    assert train("--weights", "runs/train/exp", "--data", "first/data.yaml") == 0
    assert current_run(project).path.name == "exp2"
    assert main(["rollback"]) == 0
    assert current_run(project).path.name == "exp"
    assert main(["detect", "--weights", "runs/train/current", "--source", "first/images/val"]) == 0
    assert main(["rollback", "exp2"]) == 0
    assert current_run(project).path.name == "exp2"
    assert main(["rollback", "--data", "first/data.yaml"]) == 0
    capsys.readouterr()
    for wrong in (["exp9"], ["exp", "--data", "first/data.yaml"], ["--project", "nowhere"]):
        assert main(["rollback", *wrong]) == 2
    (project / "exp2" / "weights" / "best.onnx").unlink()
    assert main(["rollback", "exp2"]) == 2
    assert "exp2" in capsys.readouterr().err


def cut(path):
    os.truncate(path, path.stat().st_size - 9)


def flip(path):
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)


def link(path):
    path.rename(path.with_name("moved"))
    path.symlink_to("moved")


DAMAGE = {
    "origin.json": lambda path: path.write_text("{"),
    "opt.yaml": lambda path: path.write_text("["),
    "results.csv": lambda path: path.write_text("epoch\nx\n"),
    "results.jsonl": lambda path: path.write_text("[]\n"),
    "weights/best.onnx": cut,
    "weights/best.safetensors": flip,
    "weights/last.safetensors": cut,
    "hyp.yaml": link,
}


def test_a_damaged_run_is_marked_with_the_reason(home, capsys):
    whole = home / "runs/train/exp"
    for name, damage in DAMAGE.items():
        copy = shutil.copytree(whole, home / "copies" / name.replace("/", "-"))
        damage(copy / name)
    shutil.copytree(whole, home / "copies" / "whole")
    before = {path: path.stat().st_mtime_ns for path in home.glob("copies/**/*")}
    capsys.readouterr()
    assert main(["runs", "--project", "copies"]) == 0
    lines = capsys.readouterr().out.splitlines()
    table = {line.split()[0]: line.split()[-1] for line in lines[1 : len(DAMAGE) + 2]}
    assert table.pop("whole") != "damaged"
    reasons = dict(line.split(" is damaged: ", 1) for line in lines[len(DAMAGE) + 2 :])
    assert table.keys() == reasons.keys() == {name.replace("/", "-") for name in DAMAGE}
    assert set(table.values()) == {"damaged"}
    for name in DAMAGE:
        assert f"{name.replace('/', '-')}/{name}" in reasons[name.replace("/", "-")]
    assert "truncated" in reasons["weights-last.safetensors"]
    assert {path: path.stat().st_mtime_ns for path in home.glob("copies/**/*")} == before


def test_rollback_never_puts_a_damaged_detector_into_use(home, capsys):
    project = home / "runs/train"
    shutil.copytree(project / "exp", project / "exp2")
    flip(project / "exp2" / "weights" / "best.onnx")
    assert main(["rollback", "exp2"]) == 2
    assert "best.onnx" in capsys.readouterr().err
    assert main(["rollback", "--data", "first/data.yaml"]) == 0
    assert "exp2 is skipped" in capsys.readouterr().out
    assert current_run(project).path.name == "exp"


def test_a_run_that_patience_ended_goes_on_with_more_patience_only(home, capsys):
    stopped = RunFolder(home / "runs/train/exp2")
    never = ("--weights", "artifacts", "--data", "first/data.yaml", "--patience", 1)
    hyp = home / "hyp.yaml"
    hyp.write_text("lr0: 0.0\nwarmup_bias_lr: 0.0\n")  # no epoch is better than the one before
    assert train(*never, "--hyp", hyp, "--epochs", 5) == 0
    epochs = len(read_results(stopped.results))
    assert epochs < 5
    recorded = stopped.options.read_bytes()
    assert main(["train", "--resume", str(stopped.path), "--epochs", "6"]) == 2
    error = capsys.readouterr().err
    assert f"after {epochs} epochs" in error
    assert "--patience" in error
    assert stopped.options.read_bytes() == recorded
    again = ["train", "--resume", str(stopped.path), "--epochs", "6", "--patience", "0"]
    assert main(again) == 0
    assert len(read_results(stopped.results)) == 6


def test_a_current_run_that_is_gone_is_told(home, capsys):
    assert train("--weights", "runs/train/exp", "--data", "first/data.yaml") == 0
    shutil.rmtree("runs/train/exp2")
    capsys.readouterr()
    assert main(["runs"]) == 0
    assert "rollback" in capsys.readouterr().out
    assert main(["rollback", "exp"]) == 0
    assert current_run("runs/train").path.name == "exp"
