"""The table of kinds: each row's parts are there, and sessions import no one that imports them."""

from __future__ import annotations

import ast
import inspect
import tomllib
from pathlib import Path
from typing import get_args

import pytest

import exportloss
import exportloss.export
from exportloss import ArtifactError, runtime
from exportloss.runtime import Manifest, TrainSession, open_session
from exportloss.runtime.artifact.kinds import KINDS, KINDS_BY_FORMAT, Kind, formats_taking
from tests.support.messages import mentions
from tests.support.old_folders import unpack

ROOT = Path(__file__).parents[3]


def test_every_kind_has_a_row():
    assert set(KINDS) == set(get_args(Kind))
    assert len(KINDS_BY_FORMAT) == len(KINDS)


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.format)
def test_the_parts_of_a_kind_are_there(kind):
    exporter = kind.load_exporter()
    assert exporter is getattr(exportloss.export, exporter.__name__)
    assert kind.options <= inspect.signature(exporter).parameters.keys()
    assert hasattr(getattr(runtime, kind.opener), "open")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    assert set(kind.extras) <= extras.keys()


def test_options_are_of_the_formats_that_have_them():
    assert formats_taking("precision") == {"step"}
    assert formats_taking("tiers") == {"loss"}
    assert formats_taking("ema") == {"step", "ort"}
    assert formats_taking("provider") == {"step", "loss"}


@pytest.mark.parametrize("format_", ["step", "ort"])
def test_folders_of_a_kind_have_its_files_and_open(tmp_path, format_):
    folder = unpack("0.1", tmp_path) / format_
    kind = KINDS_BY_FORMAT[format_]
    manifest = Manifest.read(folder)
    assert manifest.kind == kind.name
    assert set(kind.files) <= manifest.files.keys()
    session = TrainSession.open(folder, threads=1)
    assert isinstance(session, TrainSession)
    assert type(open_session(folder, threads=1)) is type(session)


def test_each_kind_names_its_opener_where_another_is_tried(tmp_path):
    folder = unpack("0.1", tmp_path) / "step"
    with pytest.raises(ArtifactError, match=mentions(folder, "'train-step'", "TrainSession")):
        runtime.LossSession.open(folder)


def imports() -> dict[str, set[str]]:
    """Modules of the runtime, and those that each imports anywhere in its code."""
    folder = Path(runtime.__file__).parent
    found = {}
    for path in folder.rglob("*.py"):
        name = ".".join(("exportloss.runtime", *path.relative_to(folder).with_suffix("").parts))
        nodes = ast.walk(ast.parse(path.read_text()))
        found[name.removesuffix(".__init__")] = {
            node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module
        }
    return found


def reached(start: str, graph: dict[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        for name in graph.get(waiting.pop(), ()):
            if name not in seen:
                seen.add(name)
                waiting.append(name)
    return seen


@pytest.mark.parametrize("child", ["OrtTrainSession", "PortableTrainSession"])
def test_the_base_of_the_sessions_imports_no_session(child):
    graph = imports()
    base = TrainSession.__module__
    assert base in graph
    children = {name for name, used in graph.items() if base in used and name != base}
    module = next(cls for cls in TrainSession.__subclasses__() if cls.__name__ == child).__module__
    assert module in children
    assert module not in reached(base, graph)
    assert open_session.__module__ not in reached(module, graph)
