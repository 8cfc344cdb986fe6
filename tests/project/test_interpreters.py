"""`scripts/interpreters.py` finds the Pythons that `make pythons` tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from scripts import interpreters

HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"
VARIABLE = f"PYTHON{HERE.replace('.', '')}"


@pytest.mark.parametrize(
    ("environment", "version"),
    [("py310", "3.10"), ("py312-training", "3.12"), ("device", None), ("pytest", None)],
)
def test_an_environment_names_its_python(environment, version):
    assert interpreters.version_of(environment) == version


@pytest.fixture
def nowhere(tmp_path, monkeypatch) -> Path:
    """A folder for pyenv's versions, where there is no other place to find a Python."""
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    return tmp_path


def test_none_is_found_where_there_is_none(nowhere, capsys):
    assert interpreters.find(HERE) is None
    assert interpreters.main(f"py{HERE.replace('.', '')}") == 1
    assert VARIABLE in capsys.readouterr().err


def test_the_variable_decides_alone(nowhere, monkeypatch):
    monkeypatch.setenv(VARIABLE, sys.executable)
    assert interpreters.find(HERE) == sys.executable
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    monkeypatch.setenv(VARIABLE, str(nowhere / "python"))
    assert interpreters.find(HERE) is None


def test_pyenvs_newest_that_runs_is_found(nowhere):
    for patch, program in ((9, sys.executable), (11, sys.executable), (12, "/bin/false")):
        path = nowhere / "versions" / f"{HERE}.{patch}" / "bin" / "python"
        path.parent.mkdir(parents=True)
        path.symlink_to(program)
    found = interpreters.find(HERE)
    assert found is not None
    assert Path(found).parts[-3] == f"{HERE}.11"
