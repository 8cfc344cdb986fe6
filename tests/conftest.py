"""Options and fixtures that the tests share."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hypothesis import HealthCheck, settings

from exportloss import YoloLoss
from exportloss.demo.dataset import SHAPE_NAMES, make_shapes
from exportloss.models import yolov5
from tests.support import golden_cases, task_aligned_cases
from tests.support.golden_cases import GoldenCase
from tests.support.made_once import made_once
from tests.support.task_aligned_cases import TaskAlignedGolden

# Some tests import onnxruntime by themselves, which reports to its maker unless it is told not to.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

# Which match wins a shared cell is defined for the original on one thread only.
torch.set_num_threads(1)
# Of every tensor traced, which pytest would keep and show for a test that fails.
logging.getLogger("torch.__trace").propagate = False
# A busy machine is no fault of a test.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")

# The tests of an environment without torch, run there by `make test`.
collect_ignore = ["cpp", "device", "fleet_network", "mpi", "pythons", "tensorrt", "web"]

# Folders and files in which a test takes seconds.
_SLOW = (
    "tests/loss/test_golden.py",
    "tests/safety/test_kill.py",
    "tests/export/",
    "tests/loss/",
    "tests/safety/",
    "tests/runtime/training/",
    "tests/cli/",
)

DEFAULT_GOLDEN = Path(__file__).parent / "golden"
DEFAULT_ANCHOR_FREE = Path(__file__).parent / "golden-anchor-free"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden",
        metavar="DIR",
        default=str(DEFAULT_GOLDEN),
        help="folder of golden loss cases, .npz files as tests/golden/README.md describes them",
    )
    parser.addoption(
        "--golden-anchor-free",
        metavar="DIR",
        default=str(DEFAULT_ANCHOR_FREE),
        help="folder of golden cases of the anchor-free loss, .npz files as "
        "tests/golden-anchor-free/README.md describes them",
    )
    parser.addoption(
        "--task-aligned-cases",
        type=int,
        metavar="N",
        default=60,
        help="random cases in which the two implementations of the anchor-free loss are compared",
    )
    parser.addoption(
        "--anchor-free-long",
        action="store_true",
        help="test what takes minutes of the anchor-free loss: a detector of YOLOv8's width, and "
        "training artifacts in all golden cases",
    )
    parser.addoption(
        "--compile-backend",
        default="aot_eager",
        help="torch.compile backend for the golden cases; inductor takes half a minute a case",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for fixture, option, cases in (
        ("golden_case", "--golden", golden_cases),
        ("anchor_free_case", "--golden-anchor-free", task_aligned_cases),
    ):
        if fixture in metafunc.fixturenames:
            _parametrize(metafunc, fixture, option, cases)
    if "random_case" in metafunc.fixturenames:
        count = metafunc.config.getoption("--task-aligned-cases")
        metafunc.parametrize("random_case", range(count), indirect=True)


def _parametrize(metafunc: pytest.Metafunc, fixture: str, option: str, cases: ModuleType) -> None:
    folder = metafunc.config.invocation_params.dir / metafunc.config.getoption(option)
    try:
        paths = cases.find_cases(folder)
    except ValueError as error:
        raise pytest.fail.Exception(f"{option}: {error}", pytrace=False) from None
    # Cases of the same graph after each other: they share what was compiled last.
    graphs = {path: cases.load(path).graph for path in paths}
    order = list(dict.fromkeys(graphs.values()))
    params = [
        pytest.param(path, id=path.stem)
        for graph in order
        for path in paths
        if graphs[path] == graph
    ]
    metafunc.parametrize(fixture, params, indirect=True, scope="session")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the slow folders first, so that no worker is left with a long file at the end.

    `make test` keeps the tests of a file in one worker of pytest-xdist, for they share fixtures and
    caches (`--dist loadfile`). Groups of tests (`loadgroup`) are not kept together: pytest 9.2
    ignores the names that pytest-xdist 3.8 gives them.
    """
    items.sort(key=lambda item: _order(item.nodeid))


def _order(node: str) -> int:
    """Return the place of a test's folder among the slow ones."""
    return next((at for at, folder in enumerate(_SLOW) if node.startswith(folder)), len(_SLOW))


def pytest_collection_finish() -> None:
    """Look for garbage less often: a look goes over all that is loaded, and tracing makes many.

    That was a seventh of the time of an export.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache folder for the tests, so that they leave the user's alone."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EXPORTLOSS_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def golden_case(request: pytest.FixtureRequest) -> GoldenCase:
    return golden_cases.load(request.param)


@pytest.fixture(scope="session")
def anchor_free_case(request: pytest.FixtureRequest) -> TaskAlignedGolden:
    return task_aligned_cases.load(request.param)


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`data.yaml` of a data set of drawn shapes: 8 images for training, 3 for validation."""
    return make_shapes(tmp_path_factory.mktemp("data") / "shapes", train=8, val=3, size=64)


@pytest.fixture(scope="session")
def ort_artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training artifacts of YOLOv5n for the drawn shapes.

    An export is slow, so all tests share them; they are to be read only. 64 px, batch 2,
    32 targets, SGD, seed 0.
    """
    from exportloss.export import export_training_artifacts

    return made_once(tmp_path_factory, "ort", lambda path: _export(export_training_artifacts, path))


@pytest.fixture(scope="session")
def step_artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The portable step of the same model with the same weights; to be read only, too."""
    from exportloss.export.step.export import export_train_step

    return made_once(tmp_path_factory, "step", lambda path: _export(export_train_step, path))


@pytest.fixture(scope="session")
def tiny_artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The portable step of a detector whose steps take milliseconds, for `tiny_shapes`."""
    from tests.support.tiny_runs import export_tiny

    return made_once(tmp_path_factory, "tiny", export_tiny)


@pytest.fixture(scope="session")
def anchor_free_artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The portable step of a detector of the same classes with the task-aligned loss."""
    from tests.support.tiny_runs import export_anchor_free

    return made_once(tmp_path_factory, "anchor-free", export_anchor_free)


@pytest.fixture(scope="session")
def tiny_ort_artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training artifacts of the same detector, whose class is `DecodingDetector`."""
    from tests.support.tiny_runs import export_tiny_ort

    return made_once(tmp_path_factory, "tiny-ort", export_tiny_ort)


@pytest.fixture(scope="session")
def tiny_shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`data.yaml` of the drawn shapes in the three classes of the tiny detector."""
    from tests.support.tiny_runs import make_tiny_shapes

    return make_tiny_shapes(tmp_path_factory.mktemp("data") / "tiny")


@pytest.fixture(scope="session")
def small_losses(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Artifacts of the loss alone with gradients and tiers, by layout; to be read only."""
    from tests.support.graphs.small_losses import LAYOUTS, export_small_loss

    def make(folder: Path) -> None:
        folder.mkdir()
        for layout in LAYOUTS:
            export_small_loss(folder / layout, layout)

    folder = made_once(tmp_path_factory, "losses", make)
    return {layout: folder / layout for layout in LAYOUTS}


def _export(export: Callable[..., object], folder: Path) -> None:
    torch.manual_seed(0)
    model = yolov5("yolov5n", len(SHAPE_NAMES))
    export(
        model,
        YoloLoss(model.anchors_px, model.strides, model.num_classes),
        folder,
        image_size=(64, 64),
        batch_size=2,
        max_targets=32,
        optimizer="sgd",
        names=SHAPE_NAMES,
    )
