"""Hooks for mkdocs: pages from files outside docs/, and links to them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]

# Pages of the site by the file outside docs/ that they come from.
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
    "tests/golden/README.md": "golden.md",
    "tests/golden-anchor-free/README.md": "golden-anchor-free.md",
}
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")
_ELSEWHERE = re.compile(r"[a-z]+:")
_FETCHED = re.compile(r"<(?:script|link|img|iframe)\b[^>]*(?:src|href)=[\"']?(?:https?:)?//[^>]*>")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages from files outside docs/."""
    for source, page in PAGES.items():
        content = _at_page((ROOT / source).read_text(encoding="utf-8"), Path(source).parent)
        files.append(File.generated(config, page, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Redirect links to files outside docs/ to their pages."""
    if page.file.src_uri in PAGES.values():
        return markdown
    return _at_page(markdown, Path("docs") / Path(page.file.src_uri).parent)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Refuse a page that would make a browser fetch resources from another site.

    Raises:
        PluginError: The page has such a resource.
    """
    if found := _FETCHED.search(output):
        raise PluginError(
            f"{page.file.src_uri} would fetch {found[0]} from another site; put the file into docs/"
        )
    return output


def _at_page(markdown: str, folder: Path) -> str:
    """Rewrite the links of a file in a folder; a link to a file without a page becomes text."""

    def rewrite(found: re.Match[str]) -> str:
        image, text, target, anchor = found.groups()
        if _ELSEWHERE.match(target):
            return found[0]
        parts = (ROOT / folder / target).resolve().relative_to(ROOT)
        if parts.parts[0] == "docs":
            inside = parts.relative_to("docs").as_posix()
            return found[0] if folder.parts[:1] == ("docs",) else _link(image, text, inside, anchor)
        page = PAGES.get(parts.as_posix())
        if page is None:
            return text
        up = "../" * (len(folder.parts) - 1) if folder.parts[:1] == ("docs",) else ""
        return _link(image, text, up + page, anchor)

    return _LINK.sub(rewrite, markdown)


def _link(image: str, text: str, target: str, anchor: str | None) -> str:
    return f"{image}[{text}]({target}{anchor or ''})"
