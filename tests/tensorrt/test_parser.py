"""TensorRT for RTX takes every graph for GPUs, and engines are built of them, without a GPU."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from exportloss import ArtifactError, ConfigError, InstallationError
from exportloss.cli import main
from exportloss.export import check
from exportloss.export.providers.rules import Verdict
from exportloss.export.providers.tensorrt_parser import TensorRT
from tests.support.graphs.provider_findings import CASES, Case, graph

# Built without a word, where TensorRT 10.15 is documented to lack it, or to compute in float32.
BUILT_ALL_THE_SAME = {
    "Clip of int64",
    "Exp of float64",
    "Equal of bool",
    "pooling over one dimension",
    "Resize in a mode that TensorRT lacks",
    "TopK that is long or unsorted",
    "grids that are not 4D",
}
REFUSED_CASES = [case for case in CASES if case.provider == "tensorrt-rtx"]


@pytest.mark.parametrize("package", ["torch", "tensorrt"])
def test_absent(package: str):
    assert importlib.util.find_spec(package) is None


def test_everything_is_exported(graphs: Path):
    names = json.loads((graphs / "graphs.json").read_text())
    assert len([name for name in names if name.endswith("/train_step.onnx")]) == 9
    assert len([name for name in names if name.startswith("golden-")]) >= 20
    assert {"any/loss.onnx", "head-input/loss.onnx", "loss-sorted/loss.onnx"} <= set(names)


def test_the_parser_takes_the_graph(graphs: Path, name: str):
    result = check(graphs / name, provider="tensorrt-rtx")
    (answer,) = result.parsers
    assert answer.refusals == ()
    assert answer.layers > (20 if name.endswith("/apply_step.onnx") else 100)  # an optimizer alone
    fixed = name.startswith("anchor-free")  # whose `decode` reshapes to the number of images
    dynamic = {"dynamic shapes"} if name.endswith("inference.onnx") and not fixed else set()
    assert {trouble.name for trouble in result.troubles} == dynamic


@pytest.mark.parametrize("path", ["small/train_step", "yolov5n/eval_step", "yolov5-loss/loss"])
def test_an_engine_is_built(graphs: Path, tmp_path: Path, path: str, capsys):
    engine = tmp_path / "built.engine"
    options = ["--engine", str(engine), "--compute-capability", "8.9", "--json"]
    assert main(["check", str(graphs / f"{path}.onnx"), "--for", "tensorrt-rtx", *options]) == 0
    (answer,) = json.loads(capsys.readouterr().out)["parsers"]
    assert answer["engine"]["size"] == engine.stat().st_size > 100_000
    assert answer["engine"]["seconds"] > 0


def test_a_scatter_that_reduces_is_refused(graphs: Path, capsys):
    path = str(graphs / "any" / "loss.onnx")
    assert main(["check", path, "--for", "tensorrt-rtx"]) == 1
    assert "Unsupported reduction type" in capsys.readouterr().out
    for provider, passed in (("tensorrt-rtx", False), ("tensorrt", True)):
        result = check(path, provider=provider)  # type: ignore[arg-type]
        assert result.passed is passed
        (answer,) = result.parsers  # of TensorRT for RTX, in either case
        assert (answer.provider, answer.passed) == ("tensorrt-rtx", False)
        (refusal,) = answer.refusals
        assert refusal.operator == "ScatterElements"
        assert refusal.node.startswith("loss/ScatterElements")
        names = {trouble.name for trouble in result.troubles}
        assert "ScatterElements with a reduction" in names


@pytest.mark.parametrize("case", REFUSED_CASES, ids=lambda case: case.name)
def test_the_tables_tell_the_truth(case: Case, rtx: TensorRT, tmp_path: Path):
    engine = tmp_path / "built.engine"
    answer = rtx.parse(graph(case.bad).SerializeToString(), engine=engine)
    is_built = case.name in BUILT_ALL_THE_SAME or case.verdict == Verdict.NOTE
    assert (answer.passed, engine.exists()) == (is_built, is_built)
    assert (answer.engine is not None) is is_built
    if case.good is not None:
        assert rtx.parse(graph(case.good).SerializeToString(), engine=engine).refusals == ()


def test_an_engine_is_the_final_answer(tmp_path: Path):
    case = next(case for case in REFUSED_CASES if case.name == "Equal of bool")
    assert not check(graph(case.bad), provider="tensorrt-rtx").passed
    result = check(graph(case.bad), provider="tensorrt-rtx", engine=tmp_path / "engine")
    assert result.passed and result.unsupported == 1


@pytest.mark.parametrize("content", [b"", b"no graph"])
def test_what_is_no_graph_is_refused(rtx: TensorRT, tmp_path: Path, content: bytes):
    answer = rtx.parse(content, engine=tmp_path / "engine")
    assert not answer.passed and answer.refusals[0].reason
    assert list(tmp_path.iterdir()) == []


def test_an_engine_replaces_nothing_but_an_engine(rtx: TensorRT, tmp_path: Path):
    content = graph("(float[4] x) => (float[4] y) { y = Neg(x) }").SerializeToString()
    path, folder, link = (tmp_path / name for name in ("neg.onnx", "folder", "link"))
    path.write_bytes(content)
    folder.mkdir()
    link.symlink_to(path)
    for place in (path, folder, link):
        with pytest.raises(ArtifactError, match=place.name):
            rtx.parse(content, engine=place)
        assert path.read_bytes() == content
    engine = tmp_path / "engine"
    for _ in range(2):
        assert rtx.parse(content, engine=engine).passed
    assert engine.read_bytes()[1:4] == b"trt"
    assert len(list(tmp_path.iterdir())) == 4


def test_bad_settings(graphs: Path, tmp_path: Path):
    path, engine = graphs / "yolov5-loss" / "loss.onnx", tmp_path / "engine"
    with pytest.raises(ConfigError, match=r"'9\.0'.* 8\.9"):
        check(path, provider="tensorrt-rtx", engine=engine, compute_capability="9.0")
    with pytest.raises(InstallationError, match="TensorRT"):
        check(path, provider="tensorrt", engine=engine)
    assert list(tmp_path.iterdir()) == []
    in_the_way = tmp_path / "file"
    in_the_way.write_text("mine")
    with pytest.raises(ArtifactError, match=str(in_the_way)):
        check(path, provider="tensorrt-rtx", engine=in_the_way / "engine")
    assert in_the_way.read_text() == "mine"
