"""`exportloss publish`: what serves is whole and the better one, and one can go back."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import yaml
from onnx import numpy_helper

from exportloss.cli import main
from exportloss.runtime.serving.publication import read_record
from exportloss.runtime.serving.repository import ModelRepository
from exportloss.runtime.training.origin import file_digest
from tests.support.bright_detector import make_spots, write_bright_detector
from tests.support.messages import error_of, missing

NAMES = {0: "green", 1: "blue"}
SHAPE = ("batch", 3, 64, 64)


@pytest.fixture(scope="module")
def spots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_spots(tmp_path_factory.mktemp("spots"))


@pytest.fixture(scope="module")
def detectors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A detector, and one whose boxes are off by some pixels."""
    folder = tmp_path_factory.mktemp("detectors")
    good = write_bright_detector(folder / "good.onnx", names=NAMES, shape=SHAPE)
    model = onnx.load(good)
    (half,) = [one for one in model.graph.initializer if one.name == "half"]
    half.CopyFrom(numpy_helper.from_array(np.array(6, np.float32), "half"))
    onnx.save(model, folder / "worse.onnx")
    return {"good": good, "worse": folder / "worse.onnx"}


@pytest.fixture
def publish(spots, tmp_path, capsys):
    """Publish a file to `models/spots`; return status, output and error."""

    def run(*arguments: object, name: str = "spots", data: Path | None = spots):
        words = ["--repository", tmp_path / "models", "--name", name]
        words += ["--data", data] if data else []
        status = main(["publish", *map(str, [*arguments, *words])])
        return status, *capsys.readouterr()

    return run


def tree(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_only_a_better_detector_serves(publish, detectors, tmp_path):
    model = tmp_path / "models" / "spots"
    assert publish(detectors["worse"])[0] == 0
    status, out, _ = publish(detectors["good"])
    assert status == 0 and not missing(out, model / "2")
    for again in ("good", "worse"):  # as good is not better
        before = tree(tmp_path / "models")
        status, out, _ = publish(detectors[again])
        assert status == 1 and not missing(out, model / "2", "--even-if-worse")
        assert tree(tmp_path / "models") == before
    assert (model / "2" / "model.onnx").read_bytes() == detectors["good"].read_bytes()
    assert read_record(model / "2").map50_95 > read_record(model / "1").map50_95 > 0
    assert publish(detectors["worse"], "--even-if-worse")[0] == 0
    assert ModelRepository(tmp_path / "models", "spots").versions() == [1, 2, 3]


def test_a_rollback_lets_the_version_before_serve(publish, detectors, tmp_path):
    for name in ("worse", "good"):
        publish(detectors[name])
    status, out, _ = publish("--rollback", data=None)
    assert status == 0 and not missing(out, tmp_path / "models" / "spots" / "1")
    repository = ModelRepository(tmp_path / "models", "spots")
    assert repository.versions() == [1]
    status, _, err = publish("--rollback", data=None)
    assert status == 2 and not missing(error_of(err), repository.model, 1)
    assert publish(detectors["good"])[0] == 0
    assert repository.versions() == [1, 3]  # a number is not given twice


@pytest.mark.parametrize("content", [b"garbage", None], ids=["changed", "missing"])
def test_a_rollback_to_a_model_that_was_changed_is_refused(publish, detectors, tmp_path, content):
    for name in ("worse", "good"):
        publish(detectors[name])
    model = tmp_path / "models" / "spots" / "1" / "model.onnx"
    if content is None:
        model.unlink()
    else:
        model.write_bytes(content)
    status, _, err = publish("--rollback", data=None)
    assert status == 2 and not missing(error_of(err), model)
    assert ModelRepository(tmp_path / "models", "spots").versions() == [1, 2]


def test_the_layout_is_that_of_the_servers(publish, detectors, tmp_path):
    publish(detectors["good"])
    publish(detectors["good"], name="others")
    root = tmp_path / "models"
    assert tree(root) == [
        "config.json",
        *("others", "others/1", "others/1/model.onnx", "others/1/published.json"),
        *("others/config.pbtxt", "others/kserve.yaml"),
        *("spots", "spots/1", "spots/1/model.onnx", "spots/1/published.json"),
        *("spots/config.pbtxt", "spots/kserve.yaml"),
    ]
    session = onnxruntime.InferenceSession(root / "spots" / "1" / "model.onnx")
    config = (root / "spots" / "config.pbtxt").read_text()
    for value in (*session.get_inputs(), *session.get_outputs()):
        dims = [side if isinstance(side, int) else -1 for side in value.shape]
        assert f'name: "{value.name}" data_type: TYPE_FP32 dims: [ {str(dims)[1:-1]} ]' in config
    assert 'name: "spots"' in config and "max_batch_size: 0" in config
    servers = json.loads((root / "config.json").read_text())["model_config_list"]
    assert [each["config"] for each in servers] == [
        {"name": name, "base_path": name} for name in ("spots", "others")
    ]
    service = yaml.safe_load((root / "spots" / "kserve.yaml").read_text())
    assert (service["kind"], service["metadata"]["name"]) == ("InferenceService", "spots")


def test_the_record_names_the_run(publish, detectors, tmp_path, spots):
    run = tmp_path / "runs" / "exp"
    (run / "weights").mkdir(parents=True)
    (run / "opt.yaml").write_text("data: x\n")
    (run / "weights" / "best.safetensors").write_bytes(b"state")
    (run / "weights" / "best.onnx").write_bytes(detectors["good"].read_bytes())
    assert publish(run)[0] == 0
    record = read_record(tmp_path / "models" / "spots" / "1")
    assert record.run == str(run)
    assert record.weights == file_digest(run / "weights" / "best.safetensors")
    assert record.sha256 == file_digest(detectors["good"])


@pytest.mark.parametrize("name", ["", "Spots", "a/b", "..", "a_b", "a-", "a" * 64, "ü"])
def test_names_that_a_server_does_not_take_are_refused(publish, detectors, tmp_path, name):
    status, _, err = publish(detectors["good"], name=name)
    assert status == 2 and not missing(error_of(err), repr(name)[:60], "--name")
    assert not (tmp_path / "models").exists()


def test_what_is_no_repository_is_refused(publish, detectors, tmp_path):
    root = tmp_path / "models"
    root.mkdir()
    (root / "holiday.jpg").write_bytes(b"")
    status, _, err = publish(detectors["good"])
    assert status == 2 and not missing(error_of(err), root, "holiday.jpg")
    assert tree(root) == ["holiday.jpg"]
    (root / "holiday.jpg").unlink()
    (root / "spots" / "1").mkdir(parents=True)  # someone else's model
    (root / "spots" / "1" / "model.onnx").write_bytes(detectors["good"].read_bytes())
    status, _, err = publish(detectors["worse"])
    assert status == 2 and not missing(error_of(err), root / "spots" / "1", "published.json")
    assert publish(detectors["worse"], name="mine")[0] == 0


def test_clients_need_not_change(publish, detectors, tmp_path):
    publish(detectors["good"])
    other = write_bright_detector(
        tmp_path / "other.onnx", names={0: "green", 1: "red"}, shape=SHAPE
    )
    status, _, err = publish(other, "--even-if-worse")
    assert status == 2 and not missing(error_of(err), "red", "blue", "--name")
    fixed = write_bright_detector(tmp_path / "fixed.onnx", names=NAMES, shape=(2, 3, 64, 64))
    status, _, err = publish(fixed, "--even-if-worse")
    assert status == 2 and not missing(error_of(err), "(2, 3, 64, 64)", "--name")


def test_two_publishers_do_not_meet(publish, detectors, tmp_path):
    publish(detectors["worse"])
    with ModelRepository(tmp_path / "models", "others").locked():
        status, _, err = publish(detectors["good"])
        assert status == 2 and not missing(error_of(err), "published to", tmp_path / "models")
    assert publish(detectors["good"])[0] == 0


def test_a_data_set_of_other_classes_is_refused(publish, detectors, tmp_path, spots):
    text = spots.read_text().replace("blue", "blue, red")
    other = spots.with_name("other.yaml")
    other.write_text(text)
    status, _, err = publish(detectors["good"], data=other)
    assert status == 2 and not missing(error_of(err), 2, 3)
    assert not (tmp_path / "models").exists()


KILLED_EVERYWHERE = """
    import os, signal, sys
    from pathlib import Path
    from exportloss.runtime.evaluation.scores import METRICS, Scores
    from exportloss.runtime.serving import publication
    from exportloss.runtime.serving.repository import ModelRepository

    publication.import_onnxruntime = lambda: None  # writes nothing, and takes long to load
    publication.open_graph = lambda *arguments, **options: None
    publication.triton_config = lambda name, session: "backend"
    root, good, fitness = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
    WATCHED = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod", "open"}
    def until(left):
        def hook(event, arguments):
            nonlocal left
            if event in WATCHED and str(root) in str(arguments[0]):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
        return hook

    def judge(content, path):
        value = 0.9 if root not in path.parents else 0.1
        return Scores(**{metric.name: value for metric in METRICS})

    for moment in range(1, 1000):
        child = os.fork()
        if child == 0:
            sys.addaudithook(until(moment))
            publication.publish(ModelRepository(root, "spots"), good, judge, data="")
            os._exit(0)
        _, status = os.waitpid(child, 0)
        versions = ModelRepository(root, "spots").versions()
        print(moment, status, versions, flush=True)
        if status == 0 or versions[-1:] == [2]:
            break
"""


@pytest.mark.skipif(sys.platform == "win32", reason="it forks")
def test_a_publisher_that_is_killed_anywhere_leaves_the_old_version_serving(
    publish, detectors, tmp_path
):
    publish(detectors["worse"])
    root = tmp_path / "models"
    whole = (root / "spots" / "1" / "model.onnx").read_bytes()
    program = textwrap.dedent(KILLED_EVERYWHERE)
    arguments = [str(root), str(detectors["good"]), "0.9"]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    *killed, last = [line.split(maxsplit=2) for line in done.stdout.splitlines()]
    assert len(killed) > 20  # moments at which it was killed
    assert {(status, versions) for _, status, versions in killed} == {("9", "[1]")}
    assert last[2] == "[1, 2]"
    assert (root / "spots" / "1" / "model.onnx").read_bytes() == whole
    assert (root / "spots" / "2" / "model.onnx").read_bytes() == detectors["good"].read_bytes()
    read_record(root / "spots" / "2")
    status, out, _ = publish(detectors["good"])  # and publishing goes on
    assert status == 1 and not missing(out, root / "spots" / "2")
    assert not [name for name in tree(root) if ".tmp" in name]
