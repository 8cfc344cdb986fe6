"""Findings of `exportloss check` on small graphs, and its output."""

from __future__ import annotations

import builtins
import json
import re
import sys
from pathlib import Path

import onnx
import pytest

from exportloss import ArtifactError, ConfigError
from exportloss.cli import main
from exportloss.export import check
from exportloss.export.providers import tensorrt_parser
from exportloss.export.providers.rules import RULES, Verdict
from exportloss.export.providers.tables import PROVIDERS
from tests.support.graphs.provider_findings import CASES, Case, graph
from tests.support.messages import error_of, mentions, missing

PLAIN = "(float[4] x) => (float[4] y) { y = Neg(x) }"
FALLS_BACK = "(float[4] x) => (float[4] y) { z = Atan(x) y = Neg(z) }"
GRADIENT = """(float[4] x, float[4] y) => (float[4] z) { z = com.microsoft.SigmoidGrad(x, y) }"""


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.provider}: {case.name}")
def test_finding_is_reported(case: Case):
    result = check(graph(case.bad), provider=case.provider)
    finding = next(finding for finding in result.troubles if finding.name == case.name)
    assert finding.verdict == case.verdict
    assert finding.why and finding.remedy and finding.count >= 1
    assert result.passed == (max(t.verdict for t in result.troubles) <= Verdict.NOTE)
    if case.good is not None:
        without = check(graph(case.good), provider=case.provider)
        assert case.name not in {finding.name for finding in without.troubles}
        assert without.passed, without.troubles


def test_every_rule_has_a_case():
    cases = {(case.name, case.provider) for case in CASES}
    assert {(rule.name, provider) for rule in RULES for provider in rule.providers} <= cases


@pytest.mark.parametrize(
    ("provider", "newest"),
    [("cuda", 26), ("tensorrt", 24), ("tensorrt-rtx", 24), ("web", 28), ("cpu", 28)],
)
def test_opset_newer_than_the_provider(provider, newest):
    assert check(graph(PLAIN, opset=newest), provider=provider).passed
    result = check(graph(PLAIN, opset=newest + 1), provider=provider)
    assert (result.passed, result.unsupported) == (False, 1)
    assert result.troubles[0].name == f"opset {newest + 1}"
    assert not check(graph(PLAIN, opset=8), provider=provider).passed


def test_version_of_an_operator_that_is_newer_than_its_kernel():
    """Attention has kernels from opset 23 on, and none for an earlier version."""
    text = "(float[1,1,2,4] x) => (float[1,1,2,4] y) { y = Attention(x, x, x) }"
    assert check(graph(text, opset=23), provider="cuda").passed
    assert not check(graph(text, opset=22), provider="cuda").passed


@pytest.mark.parametrize("provider", PROVIDERS)
def test_operators_of_another_domain(provider):
    model = graph(GRADIENT, imports=', "com.microsoft": 1')
    result = check(model, provider=provider)
    assert (result.passed, result.unsupported) == (False, 1)
    assert result.troubles[0].name == "operators of com.microsoft"
    assert "training build" in result.troubles[0].why
    assert result.operators[0].operator == "com.microsoft.SigmoidGrad"


def test_counts_and_groups():
    text = """(float[4] x, int64[4] i) => (float[4] y, int64[4] j)
    { a = Atan(x) b = Atan(a) y = Neg(b) j = Neg(i) }"""
    result = check(graph(text), provider="cuda")
    assert (result.nodes, result.fallbacks, result.unsupported) == (4, 2, 0)
    assert [(use.operator, use.types, use.count, use.verdict) for use in result.operators] == [
        ("Atan", ("float32",), 2, Verdict.FALLBACK),
        ("Neg", ("float32",), 1, Verdict.RUNS),
        ("Neg", ("int64",), 1, Verdict.RUNS),
    ]
    assert [(finding.name, finding.count) for finding in result.troubles] == [("Atan", 2)]


def test_types_are_inferred_and_functions_written_out():
    """Neither the intermediate value nor the body of the function declares its type."""
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 18, "own": 1]>
        g (double[4] x) => (double[4] y) { z = own.twice(x) y = Neg(z) }
        <domain: "own", opset_import: ["": 18]> twice (a) => (b) { b = Add(a, a) }"""
    )
    result = check(model, provider="tensorrt")
    assert {finding.name for finding in result.troubles} == {"Add of float64", "Neg of float64"}
    assert [node.op_type for node in model.graph.node] == ["twice", "Neg"]


def test_types_that_cannot_be_inferred_are_reported():
    text = """(float[4] x, float[3] u) => (float[4] y)
    { z = com.microsoft.Inverse(x) y = Neg(z) }"""
    result = check(graph(text, imports=', "com.microsoft": 1'), provider="cuda")
    assert "types that are not known" in {finding.name for finding in result.troubles}


def test_restrictions_that_a_graph_does_not_decide_are_reported():
    text = "(bool c, float[4] x) => (float[4] y) { y = RandomNormalLike(x) }"
    result = check(graph(text), provider="tensorrt")
    assert result.passed
    assert [finding.name for finding in result.troubles] == ["RandomNormalLike is restricted"]


def test_constants_are_folded_by_onnx_runtime():
    text = "() => (float[1] y) { c = Constant<value_floats = [1.0]>() y = Neg(c) }"
    assert check(graph(text), provider="cuda").passed


def test_bad_input(tmp_path: Path):
    with pytest.raises(ConfigError, match=mentions("provider", "'rocm'", *PROVIDERS)):
        check(graph(PLAIN), provider="rocm")  # type: ignore[arg-type]
    with pytest.raises(ArtifactError, match=mentions(tmp_path / "missing.onnx")):
        check(tmp_path / "missing.onnx", provider="cuda")
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(ArtifactError, match=mentions(tmp_path / "text.onnx", "ONNX")):
        check(tmp_path / "text.onnx", provider="cuda")
    (tmp_path / "empty.onnx").touch()
    with pytest.raises(ArtifactError, match=mentions(tmp_path / "empty.onnx", "ONNX")):
        check(tmp_path / "empty.onnx", provider="cuda")


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """Paths of a graph that runs on CUDA and of one with a fallback, by name."""
    graphs = {"plain": PLAIN, "atan": FALLS_BACK}
    for name, text in graphs.items():
        onnx.save(graph(text), tmp_path / f"{name}.onnx")
    return {name: str(tmp_path / f"{name}.onnx") for name in graphs}


def test_exit_status(files: dict[str, str], capsys):
    assert main(["check", files["plain"], "--for", "cuda"]) == 0
    assert "passed" in capsys.readouterr().out
    assert main(["check", files["atan"], "--for", "cuda"]) == 1
    shown = capsys.readouterr().out
    counts = next(line for line in shown.splitlines() if "2 nodes" in line)
    assert re.findall(r"\d+", counts) == ["2", "1", "1", "0"]  # of these run, fall back, cannot
    assert "polynomial" in " ".join(shown.split()) and "Neg" not in shown
    assert main(["check", files["atan"], "--for", "tensorrt"]) == 0
    assert main(["check", files["atan"] + "x", "--for", "cuda"]) == 2
    assert not missing(error_of(capsys.readouterr().err), files["atan"] + "x")


@pytest.mark.parametrize(
    ("provider", "expected"),
    [
        ("tensorrt", "pip install tensorrt"),
        ("tensorrt-rtx", "pip install tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings"),
        ("cuda", ""),
        ("cpu", ""),
    ],
)
def test_a_parser_that_was_not_asked_is_reported_in_one_line(
    files, capsys, monkeypatch, provider, expected
):
    monkeypatch.setattr(tensorrt_parser, "find_spec", lambda name: None)
    assert main(["check", files["plain"], "--for", provider]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "not asked" in line]
    assert len(lines) == bool(expected)
    assert not expected or lines[0].endswith(expected)
    assert main(["check", files["plain"], "--for", provider, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["not_asked"].endswith(expected)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_command_takes_every_provider(files: dict[str, str], provider: str):
    assert main(["check", files["plain"], "--for", provider]) == 0


def test_verbose_shows_every_operator(files: dict[str, str], capsys):
    main(["check", files["atan"], "--for", "cuda", "--verbose"])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["Neg", "13", "float32", "1", "runs"] in rows
    assert ["Atan", "7", "float32", "1", "fallback"] in rows


def test_json(files: dict[str, str], capsys):
    assert main(["check", files["atan"], "--for", "cuda", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["passed"] is False
    assert (found["nodes"], found["fallbacks"], found["unsupported"]) == (2, 1, 0)
    assert found["provider"] == "cuda" and "1.31.1" in found["product"] and found["source"]
    assert found["operators"][0] == {
        "operator": "Atan",
        "version": 7,
        "types": ["float32"],
        "count": 1,
        "verdict": "fallback",
        "troubles": ["Atan"],
    }
    assert set(found["troubles"][0]) == {"name", "verdict", "why", "remedy", "count", "nodes"}


def test_onnx_that_is_missing_is_named(files: dict[str, str], capsys, monkeypatch):
    real = builtins.__import__

    def without(name: str, *arguments: object, **options: object) -> object:
        if name == "exportloss.export.providers.check":
            raise ModuleNotFoundError("No module named 'onnx'", name="onnx")
        return real(name, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    assert main(["check", files["plain"], "--for", "cuda"]) == 2
    error = capsys.readouterr().err
    assert not missing(error_of(error), "onnx", "pip install ", "[export]")


# A TensorRT that is installed, on a machine without a GPU.
WITHOUT_GPU = """
__version__ = "10.15"
class ILogger: pass
def Builder(logger): raise TypeError("factory function returned nullptr")
"""


@pytest.mark.parametrize(
    ("provider", "expected"),
    [
        ("tensorrt", "pip install tensorrt"),
        ("tensorrt-rtx", "pip install tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings"),
    ],
)
def test_an_engine_needs_its_library(files: dict[str, str], tmp_path, capsys, provider, expected):
    engine = tmp_path / "engine"
    options = ["--for", provider, "--engine", str(engine)]
    assert main(["check", files["plain"], *options]) == 2
    assert expected in capsys.readouterr().err
    assert not engine.exists()


def test_a_library_that_cannot_start(files: dict[str, str], tmp_path, capsys, monkeypatch):
    (tmp_path / "tensorrt.py").write_text(WITHOUT_GPU)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    try:
        result = check(files["plain"], provider="tensorrt")
        assert result.passed and result.parsers == ()
        assert not missing(result.not_asked, 10.15)
        options = ["--for", "tensorrt", "--engine", str(tmp_path / "engine")]
        assert main(["check", files["plain"], *options]) == 2
        assert not missing(error_of(capsys.readouterr().err), "TensorRT 10.15")
    finally:
        sys.modules.pop("tensorrt", None)


def test_an_engine_goes_with_tensorrt(files: dict[str, str]):
    with pytest.raises(ConfigError, match=mentions("engine", "tensorrt", "tensorrt-rtx", "'cuda'")):
        check(files["plain"], provider="cuda", engine="engine")
    with pytest.raises(ConfigError, match=mentions("capability", "'8.9'")):
        check(files["plain"], provider="tensorrt-rtx", compute_capability="8.9")
