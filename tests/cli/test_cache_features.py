"""`train --cache features`: the same run, to the bit, its frozen layers computed once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from exportloss.cli import main
from exportloss.export import export_train_step
from exportloss.runtime import TrainSession
from exportloss.runtime.data.dataset import Dataset, read_data_yaml
from exportloss.runtime.data.decoded_images import DecodedImages
from exportloss.runtime.data.loader import Batches
from exportloss.runtime.training.feature_steps import FeatureSteps
from exportloss.runtime.training.schedule import Schedule
from exportloss.runtime.training.steps import run_steps
from tests.support.messages import mentions
from tests.support.tiny_detector import IMAGE, DecodingDetector, make_loss
from tests.support.tiny_runs import NAMES, make_tiny_shapes

NONE = "hsv_h hsv_s hsv_v degrees translate scale shear perspective flipud fliplr mosaic mixup"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Artifacts with a frozen stem, data, and hyperparameters without augmentation."""
    root = tmp_path_factory.mktemp("features")
    torch.manual_seed(0)
    model = DecodingDetector()
    model.stem[0][1] = nn.Identity()
    model.stem.requires_grad_(False)
    size = {"image_size": (IMAGE, IMAGE), "batch_size": 2, "max_targets": 32}
    export_train_step(model, make_loss(), root / "art", names=NAMES, features=True, **size)
    (root / "hyp.yaml").write_text("".join(f"{key}: 0.0\n" for key in NONE.split()))
    data = make_tiny_shapes(root / "data", size=IMAGE * 3 // 2)  # images that are scaled down
    return root / "art", data, root / "hyp.yaml"


def arguments(made: tuple[Path, Path, Path], project: Path, name: str, *more: str) -> list[str]:
    artifacts, data, hyp = map(str, made)
    given = ["--weights", artifacts, "--data", data, "--hyp", hyp, "--epochs", "2", "--noplots"]
    return ["train", *given, "--project", str(project), "--name", name, *more]


def test_a_run_has_the_same_bits_and_decodes_each_image_once(made, tmp_path, monkeypatch, capsys):
    decoded: list[int] = []
    load = DecodedImages.load
    monkeypatch.setattr(
        DecodedImages, "load", lambda self, index: decoded.append(index) or load(self, index)
    )
    counts = {}
    for cache in ("features", "ram"):
        decoded.clear()
        options = ("--noval", "--cache", cache)
        assert main(arguments(made, tmp_path, cache, *options)) == 0
        counts[cache] = len(decoded)
    assert "features of 8 images:" in capsys.readouterr().out
    states = [tmp_path / name / "weights" / "last.safetensors" for name in counts]
    assert states[0].read_bytes() == states[1].read_bytes()
    assert counts["ram"] - counts["features"] == 8  # the second epoch's


def test_other_batches_have_features_of_their_own(made, tmp_path):
    steps, losses = FeatureSteps(), []
    for recipe in (made[1], make_tiny_shapes(tmp_path, seed=1)):
        data = read_data_yaml(recipe)
        batches = Batches(Dataset.open(data, "train"), 2, (IMAGE, IMAGE))
        schedule = Schedule(epochs=1, batches=len(batches), batch_size=2)
        for way in (steps, run_steps):
            session = TrainSession.open(made[0])
            done = way(session, batches, schedule, 0, overflow="raise", class_map=None)
            losses.append([step.result.loss for step in done])
    assert losses[0] == losses[1] != losses[2] == losses[3]


def test_images_that_change_are_refused(made, tmp_path, capsys):
    changed = tmp_path / "flips.yaml"
    changed.write_text(made[2].read_text().replace("fliplr: 0.0", "fliplr: 0.5"))
    given = arguments((made[0], made[1], changed), tmp_path, "exp", "--cache", "features")
    assert main(given) == 2
    assert re.search(mentions("flips.yaml", "fliplr 0.5", "at 0"), capsys.readouterr().err)
    assert not (tmp_path / "exp").exists()


def test_artifacts_without_features_are_refused(made, tiny_artifact, tmp_path, capsys):
    given = arguments((tiny_artifact, *made[1:]), tmp_path, "exp", "--cache", "features")
    assert main(given) == 2
    assert re.search(mentions("train_features.onnx", "--features"), capsys.readouterr().err)
