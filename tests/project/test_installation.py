"""The package as users install it: names, extras, and runtimes that get in each other's way."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import exportloss
from exportloss import InstallationError
from exportloss.runtime.sessions import installation
from tests.support.messages import mentions

ROOT = Path(__file__).parents[2]
PACKAGES = (
    "exportloss",
    "exportloss.bench",
    "exportloss.cli",
    "exportloss.runtime",
    "exportloss.export",
    "exportloss.models",
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """A wheel built from a copy of the sources, so that the build leaves nothing behind."""
    sources = tmp_path_factory.mktemp("sources") / "exportloss"
    wanted = ("exportloss", "export", "models", "pyproject.toml", "README.md", "LICENSE")
    sources.mkdir()
    for name in wanted:
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(source, sources / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy(source, sources / name)
    output = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", "--wheel-dir", str(output), str(sources)]
    subprocess.run(command, check=True)
    (path,) = output.glob("*.whl")
    return path


def test_wheel_holds_every_module_under_our_name_only(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert "exportloss/export/providers/kernels_cuda.yaml" in names
    tops = {name.split("/")[0] for name in names}
    assert tops == {"exportloss", f"exportloss-{exportloss.__version__}.dist-info"}
    for package, folder in (("export", "export"), ("models", "models")):
        for module in (ROOT / folder).rglob("*.py"):
            assert f"exportloss/{package}/{module.relative_to(ROOT / folder)}" in names
    assert "exportloss/py.typed" in names


def test_wheel_imports(wheel, tmp_path):
    """Every package imports from the wheel alone, and YOLOv5's own `models` stays importable."""
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    (tmp_path / "models.py").write_text("whose = 'YOLOv5'\n")
    program = (
        f"import sys; sys.path[:0] = [{str(tmp_path / 'site')!r}, {str(tmp_path)!r}]\n"
        "import importlib, models\n"
        f"for name in {PACKAGES!r}:\n"
        "    assert '/site/' in importlib.import_module(name).__file__, name\n"
        "print(models.whose)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.stdout == "YOLOv5\n", done.stderr


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_exist_and_are_documented(package):
    module = importlib.import_module(package)
    assert module.__doc__
    for name in getattr(module, "__all__", ()):
        value = getattr(module, name)
        if callable(value):
            assert value.__doc__, f"{package}.{name} has no docstring"


def test_unknown_name():
    with pytest.raises(AttributeError, match="'YoloLos'"):
        exportloss.YoloLos  # noqa: B018


def pretend_installed(monkeypatch, *names):
    def version(name):
        if name in names:
            return "1.0"
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)


def test_two_runtimes_in_one_environment_are_named(monkeypatch):
    pretend_installed(monkeypatch, "onnxruntime", "onnxruntime-training-cpu")
    with pytest.raises(InstallationError, match="onnxruntime and onnxruntime-training-cpu"):
        installation.import_onnxruntime()


def test_two_runtimes_stop_a_session_and_an_export(monkeypatch, ort_artifact, tmp_path):
    from exportloss.cli import main

    pretend_installed(monkeypatch, "onnxruntime-gpu", "onnxruntime-training-cpu")
    with pytest.raises(InstallationError, match="onnxruntime-gpu and onnxruntime-training-cpu"):
        exportloss.runtime.TrainSession.open(ort_artifact)
    arguments = ["export", "--weights", "yolov5n", "--nc", "2", "--format", "ort"]
    assert main([*arguments, "--output", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()


def test_missing_runtime_is_named(monkeypatch):
    pretend_installed(monkeypatch)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(
        InstallationError, match=mentions("pip install", "[cpu]", "step", "[training]", "ort")
    ):
        installation.import_onnxruntime()


def test_runtime_without_training(monkeypatch):
    bindings = importlib.import_module("onnxruntime.capi._pybind_state")
    monkeypatch.delattr(bindings, "Module")
    with pytest.raises(InstallationError, match=mentions("onnxruntime", "training API")):
        installation.import_onnxruntime_training()


class Installed:
    """A distribution as `importlib.metadata` has it, from a place that its installer noted."""

    def __init__(self, content: str | None) -> None:
        self.content = content

    def read_text(self, name: str) -> str | None:
        assert name == "direct_url.json"
        return self.content


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"url": "CHECKOUT", "dir_info": {"editable": true}}', "-e 'ROOT[export]'"),
        ('{"url": "CHECKOUT", "dir_info": {}}', "'ROOT[export]'"),
        ('{"url": "file:///gone", "dir_info": {}}', "'.[export]' in a checkout of exportloss"),
        (
            '{"url": "https://h/x.git", "vcs_info": {"vcs": "git", "commit_id": "ab12"}}',
            "'exportloss[export] @ git+https://h/x.git@ab12'",
        ),
        (
            '{"url": "file:///w/a.whl", "archive_info": {}}',
            "'exportloss[export] @ file:///w/a.whl'",
        ),
        (None, "'exportloss[export]'"),
        ("{}", "'exportloss[export]'"),
        ("[1]", "'exportloss[export]'"),
    ],
)
def test_an_extra_comes_from_where_the_package_came_from(monkeypatch, content, expected):
    content = content and content.replace("CHECKOUT", ROOT.as_uri())
    monkeypatch.setattr(installation.metadata, "distribution", lambda name: Installed(content))
    command = f"pip install {expected.replace('ROOT', str(ROOT))}"
    assert installation.how_to_install("export") == command


def test_run_from_its_sources_an_extra_comes_from_these(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(installation.metadata, "distribution", missing)
    root = Path(exportloss.__file__).parents[1]
    assert installation.how_to_install("cpu") == f"pip install '{root}[cpu]'"


def test_no_message_names_an_index_that_has_no_such_package():
    for folder in ("exportloss", "export", "models"):
        for path in (ROOT / folder).rglob("*.py"):
            assert "exportloss[" not in path.read_text(), path
