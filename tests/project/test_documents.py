"""What the documents name is there: files, headings, flags and commands."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

import exportloss
from exportloss.cli import make_parser
from exportloss.cli.unknown_flags import _ANSWERS

ROOT = Path(exportloss.__file__).parents[1]
FOLDERS = (
    ".",
    "docs",
    "docs/reference",
    "tests/compat",
    "tests/golden",
    "tests/golden-anchor-free",
    "benchmarks/results",
)
DOCUMENTS = sorted(path for folder in FOLDERS for path in (ROOT / folder).glob("*.md"))

# Flags of other programs, and of YOLOv5 where a page says that there is nothing like them here.
FOREIGN = {
    "Flower": {
        "--auth-supernode-private-key",
        "--database",
        "--disable-runtime-dependency-installation",
        "--enable-supernode-auth",
        "--host",
        "--node-config",
        "--port",
        "--root-certificates",
        "--run-config",
        "--simulation",
        "--ssl-ca-certfile",
        "--ssl-certfile",
        "--ssl-keyfile",
        "--stream",
        "--superlink",
    },
    "benchmarks/fleet.py": {"--more"},
    "benchmarks/fleet_scale.py": {"--clients"},
    "cmake": {"--build", "--install", "--prefix"},
    "pip": {"--index-url", "--no-deps"},
    "pytest, with options of our own": {
        "--compile-backend",
        "--golden",
        "--golden-anchor-free",
        "--anchor-free-long",
        "--task-aligned-cases",
    },
    "python -m tests.support.kills.commands": {"--kills"},
    "scripts/list_kernels.py": {"--newest-opset"},
    "tensorboard": {"--logdir"},
    "trtexec": {
        "--maxShapes",
        "--minShapes",
        "--onnx",
        "--optShapes",
        "--saveEngine",
        "--stronglyTyped",
    },
    "Triton and OpenVINO Model Server": {
        "--config_path",
        "--model-control-mode",
        "--model-repository",
        "--rest_port",
    },
    "ONNX Runtime's build": {"--use_cuda", "--use_tensorrt"},
    "YOLOv5": {"--optimize", "--topk-all"},
}
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_FLAG = re.compile(r"(?<![\w-])--[a-zA-Z][\w-]*")
_SOURCE = re.compile(r"`([\w./*<>-]+/[\w.*<>-]+\.(?:py|yaml|sh|mjs))`")
_PLACEHOLDER = re.compile(r"(^| )D( |$)")  # in docs/benchmarks.md, of an option


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def anchors(path: Path) -> set[str]:
    """The anchors that GitHub, and `make docs`, give the headings of a page."""
    text = _FENCE.sub("", path.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in plain}


def test_there_are_documents():
    assert {"README.md", "docs/loss.md", "docs/reference/runtime.md"} <= set(map(name, DOCUMENTS))


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_links_lead_somewhere(path):
    text = re.sub(r"`[^`\n]*`", "", _FENCE.sub("", path.read_text(encoding="utf-8")))
    for link in _LINK.findall(text):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        there = (path.parent / target).resolve() if target else path
        assert there.exists(), link
        assert not anchor or anchor in anchors(there), link


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_files_of_the_sources_are_where_they_are_said_to_be(path):
    for named in _SOURCE.findall(path.read_text(encoding="utf-8")):
        assert any(ROOT.glob(named.replace("<theme>", "*").replace("<name>", "*"))), named


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]
    listed = set(re.findall(r"([\w/-]+\.md)$", navigation, re.MULTILINE))
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert pages <= listed


@pytest.mark.parametrize("page", ["exportloss", "export", "models", "runtime"])
def test_the_reference_has_every_public_name(page):
    package = "exportloss" if page == "exportloss" else f"exportloss.{page}"
    folder = ROOT / "docs" / "reference"
    text = (folder / f"{page}.md").read_text(encoding="utf-8")
    if page == "exportloss":
        text += (folder / "errors.md").read_text(encoding="utf-8")
    # A function with the name of its module is named through it, for the pages are made from files.
    named = [
        re.sub(r"\.(\w+)\.\1$", r".\1", each)
        for each in re.findall(r"^::: (\S+)$", text, re.MULTILINE)
    ]
    assert sorted(named) == sorted(f"{package}.{each}" for each in import_module(package).__all__)


def flags(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                yield from flags(each)


KNOWN = set(flags(make_parser()))


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_every_flag_is_one_of_a_command_or_said_not_to_be_here(path):
    found = set(_FLAG.findall(path.read_text(encoding="utf-8")))
    not_here = {flag for answers in _ANSWERS.values() for flag in answers}
    assert found <= KNOWN | not_here | set().union(*FOREIGN.values())


def test_no_flag_of_others_is_listed_in_vain():
    text = "".join(path.read_text(encoding="utf-8") for path in DOCUMENTS)
    assert set().union(*FOREIGN.values()) <= set(_FLAG.findall(text)) - KNOWN


def commands(path: Path) -> list[str]:
    """The command lines of `exportloss` in a page's console blocks."""
    blocks = re.findall(r"```console\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)
    joined = "\n".join(blocks).replace("\\\n", " ")
    return re.findall(r"^\$ (?:time )?exportloss (.+)$", joined, re.MULTILINE)


@pytest.mark.parametrize("path", [each for each in DOCUMENTS if commands(each)], ids=name)
def test_every_command_can_be_parsed(path):
    for command in commands(path):
        words = shlex.split(_PLACEHOLDER.sub(" ", command), comments=True)
        try:
            make_parser().parse_args(words)
        except SystemExit:
            pytest.fail(command)
