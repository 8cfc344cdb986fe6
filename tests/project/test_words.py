"""One word for one thing: the words that the glossary replaced are in no name, text or page."""

from __future__ import annotations

import ast
import dataclasses
import io
import re
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import exportloss

ROOT = Path(exportloss.__file__).parents[1]
PACKAGES = ("exportloss", "export", "models")
# It lists the words that it replaced.
PAGES = sorted({*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")} - {ROOT / "docs/glossary.md"})
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

Lines = Iterable[tuple[int, str]]


@dataclasses.dataclass(frozen=True)
class Word:
    """A word that was replaced.

    Attributes:
        instead: What to write.
        in_text: Pattern in strings, comments and pages; "" where the word has other meanings.
        in_names: Pattern in an identifier, whose parts are separated by blanks; "" for none.
    """

    instead: str
    in_text: str = ""
    in_names: str = ""


WORDS = (
    Word("image", in_text="pictures?", in_names="pictures?"),
    Word("implementation", in_text="rivals?", in_names="rivals?"),
    Word("finding", in_text="troubles?", in_names="troubles?"),
    Word("optimizer state", in_text="memories", in_names="memories"),
    Word("checksum", in_text="seal(s|ed|ing)?", in_names="seal(s|ed|ing)?"),
    Word("skipped", in_text="pass(ed|ing) over", in_names="passed over"),
    Word("skipped", in_text="left out", in_names=""),
    Word("capacity", in_names="rooms?"),
    Word("Pass", in_text=r"[Ss]ay(s|ing)? `?--\w+"),
)

# What files, flags and public interfaces have kept, and where else a word is the right one.
ALLOWED_NAMES = {
    "rival",  # field of the rows of `bench --json`
    "rivals",  # of `bench --rivals`
    "memories",  # key of the manifest's layout
    "troubles",  # of `check --json` and `CheckResult`
    "passed_over",  # of `Verification`
}
ALLOWED_TEXT = (
    r"--rivals\b",
    r"""["`']rivals?["`']""",
    r"""["`']memories["`']""",
    r"^\s*(memories|rivals?):|\{memories\}",  # the same, described in a docstring or put in a text
    r"left_out",  # field of results.jsonl
    r"""["`']troubles["`']|^\s*(troubles|passed_over):""",
)


def parts_of(identifier: str) -> str:
    """Return the words of an identifier: of `_MostRooms` "most rooms"."""
    return " ".join(re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", identifier)).lower()


def identifiers(source: str) -> set[tuple[int, str]]:
    found = set()
    for node in ast.walk(ast.parse(source)):
        line = getattr(node, "lineno", 0)
        match node:
            case (
                ast.Name(id=str(name))
                | ast.Attribute(attr=str(name))
                | ast.arg(arg=str(name))
                | ast.keyword(arg=str(name))
                | ast.FunctionDef(name=str(name))
                | ast.AsyncFunctionDef(name=str(name))
                | ast.ClassDef(name=str(name))
                | ast.alias(asname=str(name))
                | ast.ExceptHandler(name=str(name))
            ):
                found.add((line, name))
            case _:
                pass
    return found


def texts(source: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of comments and strings, docstrings and f-strings among them."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        name = tokenize.tok_name[token.type]
        if name in ("COMMENT", "STRING", "FSTRING_MIDDLE"):
            for offset, line in enumerate(token.string.splitlines()):
                yield token.start[0] + offset, line


def in_names(source: str) -> list[str]:
    return [
        f"{line}: {name}; write {word.instead}"
        for line, name in sorted(identifiers(source))
        for word in WORDS
        if word.in_names
        and name not in ALLOWED_NAMES
        and re.search(rf"\b({word.in_names})\b", parts_of(name))
    ]


def in_text(lines: Lines) -> list[str]:
    allowed = re.compile("|".join(ALLOWED_TEXT))
    return [
        f"{number}: {line.strip()}; write {word.instead}"
        for number, line in lines
        for word in WORDS
        if word.in_text
        and re.search(rf"(?<![\w-])({word.in_text})(?![\w-])", allowed.sub("", line), re.I)
    ]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_sources_have_the_words_of_the_glossary(path):
    source = path.read_text(encoding="utf-8")
    assert in_names(source) + in_text(texts(source)) == []


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_pages_have_the_words_of_the_glossary(path):
    assert in_text(enumerate(path.read_text(encoding="utf-8").splitlines(), 1)) == []


def test_file_names_have_the_words_of_the_glossary():
    named = {name_of(path): parts_of(path.stem) for path in (*SOURCES, *PAGES)}
    patterns = [re.compile(rf"\b({word.in_names})\b") for word in WORDS if word.in_names]
    assert not [path for path, parts in named.items() if any(p.search(parts) for p in patterns)]


@pytest.mark.parametrize(
    "source",
    [
        "picture_size = 1",
        "class SealedFile: ...",
        "def f(*, rooms: int) -> None: ...",
        "open_session(rival_name=1)",
        "import numpy as rooms",
        "x.passed_over_rows",
    ],
)
def test_a_replaced_word_in_a_name_is_found(source):
    assert len(in_names(source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        '"""Two pictures."""',
        "x = 1  # Left out.",
        'f"{x} rivals"',
        "'''a\nis passed over'''",
        '"say --nc 80"',
    ],
)
def test_a_replaced_word_in_a_text_is_found(source):
    assert len(in_text(texts(source))) == 1
    assert not in_names(source)


@pytest.mark.parametrize(
    "source",
    [
        "row.rival",
        'row["rival"]',
        '"--rivals a,b"',
        'layout["memories"]',
        '"zoom, showroom"',
        "a = 'say'",
        '''"""A row.

Attributes:
    rival: Name of the implementation.
"""''',
    ],
)
def test_what_is_kept_and_other_words_are_allowed(source):
    assert not in_names(source) + in_text(texts(source))


def test_the_glossary_lists_the_words():
    text = (ROOT / "docs/glossary.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+?) \| (.+?) \|$", text, re.MULTILINE)
    for word in WORDS:
        pattern = re.compile(word.in_text or word.in_names)
        replaced = [new for old, new in rows if pattern.search(old.replace("`", ""))]
        assert any(word.instead in new.replace("`", "") for new in replaced), word
