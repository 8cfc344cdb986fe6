"""`verify`: artifacts that train as eager torch does pass, and no others."""

from __future__ import annotations

import dataclasses
import math
import shutil
from pathlib import Path

import pytest
import torch

from exportloss import ArtifactError, ConfigError, InstallationError
from exportloss.cli import main
from exportloss.export.verify.differences import (
    Difference,
    largest,
)
from exportloss.export.verify.eager_session import EagerTrainSession
from exportloss.export.verify.report import QUANTITIES, Bounds, StepDifferences, Verification
from exportloss.export.verify.verify import verify, verify_all
from exportloss.runtime import Manifest, TrainSession
from tests.support.manifests import edit_manifest, read_values
from tests.support.messages import mentions, missing
from tests.support.tiny_detector import DecodingDetector

STEPS = 2
# At 64 px the smallest maps have 4 cells, so rounding is amplified faster than at useful sizes.
LR = 1e-4


@pytest.fixture(scope="module")
def verifications(ort_artifact: Path, step_artifact: Path) -> tuple[Verification, ...]:
    """Of both kinds of artifact, against the same steps of eager torch."""
    return verify_all([ort_artifact, step_artifact], steps=STEPS, lr=LR, threads=1)


@pytest.fixture(scope="module")
def verification(verifications: tuple[Verification, ...]) -> Verification:
    return verifications[0]


def change_manifest(artifact: Path, folder: Path, **loss: object) -> Path:
    """Copy an artifact; its manifest then describes another loss than its graphs compute."""
    shutil.copytree(artifact, folder)
    return edit_manifest(folder, loss=read_values(folder)["loss"] | loss)


def test_artifacts_pass(verifications: tuple[Verification, ...]) -> None:
    assert [one.manifest.kind for one in verifications] == ["ort-training", "train-step"]
    for verification in verifications:
        assert verification.passed
        assert verification.broken == ()
        assert len(verification.steps) == STEPS
    assert len({one.worst.gradient.value for one in verifications}) == 2


def test_both_engines_really_computed(verification: Verification) -> None:
    # Equal to the last bit in everything would mean that one was compared with itself.
    assert verification.worst.gradient.value > 0
    assert verification.worst.parameters.value > 0


def test_the_bounds_are_those_promised(verification: Verification) -> None:
    bounds = verification.bounds
    assert (bounds.gradient, bounds.gradient_whole, bounds.loss) == (2e-4, 1e-4, 1e-5)
    assert bounds.free_loss == 1e-5
    assert Bounds.of("adamw").gradient == bounds.gradient
    assert Bounds.of("adam") == Bounds.of("adamw")


@pytest.mark.parametrize(
    ("change", "broken"),
    [
        ({"box": 0.06}, {"box", "loss", "gradient"}),
        ({"anchor_t": 3.0}, {"box", "objectness", "category", "gradient"}),
        ({"autobalance": True}, {"balance"}),
    ],
)
def test_another_loss_fails(
    tiny_ort_artifact: Path, tmp_path: Path, change: dict[str, object], broken: set[str]
) -> None:
    folder = change_manifest(tiny_ort_artifact, tmp_path / "changed", **change)
    found = verify(folder, steps=1, threads=1, model=DecodingDetector())
    assert broken <= set(found.broken)


def test_other_statistics_and_groups_fail(tiny_ort_artifact: Path, tmp_path: Path) -> None:
    """The manifest says that a layer is frozen which the graphs train."""
    folder = tmp_path / "frozen"
    shutil.copytree(tiny_ort_artifact, folder)
    statistics = [s for s in read_values(folder)["statistics"] if s["mean"] != STEM_MEAN]
    edit_manifest(folder, statistics=statistics)
    assert not verify(folder, steps=1, threads=1, model=DecodingDetector()).passed


STEM_MEAN = "stem.0.1.running_mean"


def test_a_session_that_steps_otherwise_fails(
    tiny_ort_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same loss, same gradients, another update."""
    step = TrainSession.step

    def with_decay(self: TrainSession, *batch: object, **rates: float) -> object:
        if not isinstance(self, EagerTrainSession) and rates["lr"]:
            rates["weight_decay"] = 5.0
        return step(self, *batch, **rates)  # type: ignore[arg-type]

    monkeypatch.setattr(TrainSession, "step", with_decay)
    found = verify(tiny_ort_artifact, steps=1, threads=1, model=DecodingDetector())
    assert {"parameters", "memory"} <= set(found.broken)
    assert not {"loss", "gradient", "statistics"} & set(found.broken)


def test_the_model_can_be_given(tiny_ort_artifact: Path, tmp_path: Path) -> None:
    folder = tmp_path / "unnamed"
    shutil.copytree(tiny_ort_artifact, folder)
    edit_manifest(folder, model="MyDetector")
    model = DecodingDetector()
    parameters = len(list(model.parameters()))
    with pytest.raises(ArtifactError, match=mentions("'MyDetector'", "pass the model")):
        verify(folder, steps=1)
    with pytest.raises(ArtifactError, match=mentions(folder, parameters, "parameters")):
        verify(folder, steps=1, model=torch.nn.Linear(1, 1))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert verify(folder, steps=1, threads=1, model=model).passed
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_bad_arguments(ort_artifact: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=mentions("steps", 0)):
        verify(ort_artifact, steps=0)
    with pytest.raises(ConfigError, match=mentions("seed", -1)):
        verify(ort_artifact, seed=-1)
    with pytest.raises(ArtifactError, match=mentions(tmp_path, "manifest.json")):
        verify(tmp_path)
    with pytest.raises(ConfigError, match=mentions("folders", 0)):
        verify_all([])
    other = change_manifest(ort_artifact, tmp_path / "changed", cls=0.4)
    with pytest.raises(ConfigError, match=mentions(ort_artifact, other)):
        verify_all([ort_artifact, other])


def test_command_prints_a_table_and_returns_0(
    ort_artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(["verify", str(ort_artifact), "--steps", "1", "--lr", str(LR), "--threads", "1"]) == 0
    )
    printed = capsys.readouterr().out
    assert "passed" in printed
    for label in ("gradient, worst", "optimizer state", "loss, free run", "2e-04"):
        assert label in printed
    worst = next(line for line in printed.splitlines() if line.startswith("worst gradient: "))
    assert worst.removeprefix("worst gradient: ") in Manifest.read(ort_artifact).groups.all


def test_command_returns_1_for_a_broken_bound(
    ort_artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = change_manifest(ort_artifact, tmp_path / "changed", cls=0.4)
    assert main(["verify", str(folder), "--steps", "1", "--lr", str(LR), "--threads", "1"]) == 1
    printed = capsys.readouterr().out
    assert "class" in printed.partition("failed")[2]


def test_command_refuses_what_is_no_artifact(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(tmp_path)]) == 2
    assert not missing(capsys.readouterr().err, tmp_path, "manifest.json")


def test_command_names_what_is_missing(ort_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from exportloss.cli import verify as command

    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "exportloss.export.verify.verify")
    with pytest.raises(InstallationError, match=mentions("torch", "[export]")):
        command.run(dataclasses.make_dataclass("Options", ["folders"])([ort_artifact]))


def test_nan_is_the_largest_and_breaks_a_bound(verification: Verification) -> None:
    nan = Difference(math.nan, "bad")
    assert largest([Difference(1.0), nan, Difference(math.inf)]).name == "bad"
    step = dataclasses.replace(verification.steps[0], loss=nan)
    broken = dataclasses.replace(verification, steps=(*verification.steps, step))
    assert broken.broken == ("loss",)


def test_the_free_run_is_bounded_for_five_steps() -> None:
    zero = StepDifferences(**dict.fromkeys(QUANTITIES, Difference(0.0)))
    late = dataclasses.replace(zero, free_loss=Difference(0.1))
    manifest = Manifest(
        kind="ort-training",
        names=("a",),
        anchors=(),
        strides=(),
        image_size=(64, 64),
        batch_size=1,
        max_targets=1,
        opset=18,
    )

    def passes(*steps: StepDifferences) -> bool:
        return Verification(manifest=manifest, bounds=Bounds(), steps=steps).passed

    assert passes(zero, zero, zero, zero, zero, late)
    assert not passes(zero, zero, zero, zero, late)
