"""Defaults of flags come from the dataclasses and functions that they set."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import pytest

from exportloss.cli import make_parser
from exportloss.cli.arguments import ExportSettings
from exportloss.cli.defaults import default_of, fill
from exportloss.cli.detection.validation import ValSettings
from exportloss.cli.export.options import nms_settings
from exportloss.cli.train.options import TrainOptions, fill_options
from exportloss.demo.settings import DemoSettings
from exportloss.errors import ArtifactError
from exportloss.export import NmsSettings
from exportloss.export.verify.verify import verify, verify_all
from exportloss.runtime.training.run_folder import RunFolder, write_yaml


@dataclasses.dataclass(frozen=True)
class Settings:
    given: int
    usual: int = 3
    made: list[int] = dataclasses.field(default_factory=list)


def function(given: int, *, usual: int = 3) -> None:
    """Take a number that has a default, and one that has none."""


@pytest.mark.parametrize("owner", [Settings, function])
def test_the_default_of_a_field_or_a_keyword(owner):
    assert default_of(owner, "usual") == 3
    for name in ("given", "none", "made"):
        with pytest.raises(ValueError, match=rf"{owner.__name__}.*{name!r}"):
            default_of(owner, name)


def parsed(*arguments: str) -> argparse.Namespace:
    return make_parser().parse_args(arguments)


def test_without_flags_each_command_uses_the_defaults_of_its_settings():
    files = {"weights": "w", "data": "d"}
    val = fill(ValSettings, parsed("val", "--weights", "w", "--data", "d"))
    assert val == ValSettings(**files)
    assert fill(DemoSettings, parsed("demo")) == DemoSettings()
    train = fill_options(parsed("train", "--weights", "w", "--data", "d"), None)
    assert train == TrainOptions(**files)
    export = parsed("export", "--weights", "yolov5n")
    assert ExportSettings.from_options(export) == ExportSettings(weights="yolov5n")
    assert nms_settings(parsed("export", "--weights", "w", "--nms")) == NmsSettings()
    for function in (verify, verify_all):
        checked = parsed("verify", "artifacts")
        for name in ("steps", "lr", "seed", "threads", "device"):
            assert getattr(checked, name) == default_of(function, name)


def test_every_setting_of_a_validation_is_a_flag():
    options = vars(parsed("val", "--weights", "w", "--data", "d")).keys()
    assert options - {"command", "run"} == {field.name for field in dataclasses.fields(ValSettings)}


def test_every_option_of_a_run_but_one_is_a_flag():
    options = vars(parsed("train")).keys()
    fields = {field.name for field in dataclasses.fields(TrainOptions)}
    assert fields - options == {"drop_last"}
    assert options - fields == {"command", "run", "resume"}


@pytest.mark.parametrize(
    ("name", "value"),
    [("epochs", "ten"), ("overflow", 3), ("imgsz", ["a"]), ("threads", 1.5), ("cos_lr", "yes")],
)
def test_options_of_another_type_are_a_damaged_run(name, value, tmp_path):
    run = RunFolder(tmp_path)
    run.hyp.write_text("lr0: 0.01\n")
    write_yaml(run.options, {"weights": "w", "data": "d", name: value})
    with pytest.raises(ArtifactError, match=name):
        fill_options(parsed("train", "--resume", str(Path(tmp_path))), run)
