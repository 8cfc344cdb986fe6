"""`python scripts/licences.py`: list the licence of every installed package.

Exits with 1 where one is not known, or where it is of a kind that would bind who installs
exportloss: the (Affero) General Public Licences. The Lesser one and Mozilla's bind only their own
files.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Iterator
from importlib import metadata

_COPYLEFT = re.compile(r"\bA?GPL|Affero|(?<!Lesser )General Public", re.IGNORECASE)
_KNOWN = re.compile(
    r"Apache|MIT|BSD|ISC|PSF|Python|MPL|Mozilla|LGPL|Lesser|HPND|Zlib|Unlicense|CC0", re.IGNORECASE
)
_READ = {"atheris": "Apache-2.0"}  # in their files: their metadata do not say
_LONGEST = 80  # characters: some packages put the whole text where its name belongs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Licence:
    """What a package says of its licence; `problem` is empty where it is fine."""

    package: str
    name: str
    problem: str


def licences() -> list[Licence]:
    """Return the licence of every installed package but our own, by package."""
    found = {
        distribution.name.lower(): judge(distribution.name, distribution.metadata)
        for distribution in metadata.distributions()
        if distribution.name != "exportloss"
    }
    return [found[name] for name in sorted(found)]


def judge(package: str, about: metadata.PackageMetadata) -> Licence:
    """Find and judge the licence in a package's metadata: expression, classifiers, then text."""
    name = next(_said(about), _READ.get(package, "not said"))
    problem = "copyleft" if _COPYLEFT.search(name) else "" if _KNOWN.search(name) else "not known"
    return Licence(package=package, name=name, problem=problem)


def _said(about: metadata.PackageMetadata) -> Iterator[str]:
    if expression := about.get("License-Expression"):
        yield expression
    prefix = "License :: "
    classified = [c for c in about.get_all("Classifier") or () if c.startswith(prefix)]
    if names := [c.rpartition(" :: ")[2] for c in classified if c != "License :: OSI Approved"]:
        yield " AND ".join(names)
    if text := (about.get("License") or "").strip():
        yield text.partition("\n")[0][:_LONGEST]


def main() -> int:
    """Print a table; return 1 where a licence is a problem."""
    found = licences()
    for licence in found:
        print(f"{licence.package:26} {licence.name[:_LONGEST]:40} {licence.problem}".rstrip())
    bad = [licence.package for licence in found if licence.problem]
    print(f"{len(found)} packages, {len(bad)} to look at{': ' * bool(bad)}{', '.join(bad)}")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
