import importlib

import pytest

from exportloss import runtime
from exportloss.runtime.artifact import manifest as artifact_manifest
from exportloss.runtime.evaluation import inference, metrics, nms, validate
from exportloss.runtime.images import load
from exportloss.runtime.images.letterbox import Letterbox, letterbox
from exportloss.runtime.sessions import session

PATHS = {
    "images.load_image": load.load_image,
    "images.Letterbox": Letterbox,
    "images.letterbox": letterbox,
    "inference.Detector": inference.Detector,
    "validate.validate": validate.validate,
    "validate.MetricsAccumulator": metrics.MetricsAccumulator,
    "nms.non_max_suppression": nms.non_max_suppression,
    "session.TrainSession": session.TrainSession,
    "session.StepResult": session.StepResult,
    "manifest.Manifest": artifact_manifest.Manifest,
}


@pytest.mark.parametrize(("path", "expected"), PATHS.items(), ids=PATHS)
def test_documented_paths_stay(path, expected):
    module, _, name = path.partition(".")
    found = importlib.import_module(f"exportloss.runtime.{module}")
    assert getattr(found, name) is expected
    assert name in found.__all__


@pytest.mark.parametrize(
    ("name", "expected"),
    {
        "Detector": inference.Detector,
        "load_image": load.load_image,
        "validate": validate.validate,
    }.items(),
)
def test_public_names_of_the_package(name, expected):
    assert getattr(runtime, name) is expected
    assert name in runtime.__all__


def test_the_former_name_of_loss_terms_stays():
    assert runtime.Items is session.LossTerms


def test_the_function_stays_when_the_module_of_its_name_is_imported():
    module = importlib.import_module("exportloss.runtime.validate")
    assert runtime.validate is module.validate
