"""`python scripts/licences.py`: list the licence of every installed package.

The exit status is 1 if a licence is unknown, or is an (Affero) General Public Licence, whose terms
would extend to users of exportloss. The Lesser GPL and Mozilla's licence are acceptable, as they
cover only their own files.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Iterator
from importlib import metadata

_COPYLEFT = re.compile(r"\bA?GPL|Affero|(?<!Lesser )General Public", re.IGNORECASE)
_KNOWN = re.compile(
    r"Apache|MIT|BSD|ISC|PSF|Python|MPICH|MPL|Mozilla|LGPL|Lesser|HPND|Zlib|Unlicense|CC0",
    re.IGNORECASE,
)
_READ = {"atheris": "Apache-2.0"}  # read in the files of packages whose metadata name none
_LONGEST = 80  # characters: some packages give the full text instead of a name


@dataclasses.dataclass(frozen=True, kw_only=True)
class Licence:
    """Licence of a package.

    Attributes:
        package: Name of the package.
        name: Name of the licence.
        problem: "copyleft", "not known", or empty if the licence is acceptable.
    """

    package: str
    name: str
    problem: str


def licences() -> list[Licence]:
    """Return the licences of all installed packages but our own, sorted by package."""
    found = {
        distribution.name.lower(): judge(distribution.name, distribution.metadata)
        for distribution in metadata.distributions()
        if distribution.name != "exportloss"
    }
    return [found[name] for name in sorted(found)]


def judge(package: str, about: metadata.PackageMetadata) -> Licence:
    """Return the licence that a package's metadata name, in expression, classifiers or text."""
    name = next(_stated(about), _READ.get(package, "not stated"))
    problem = "copyleft" if _COPYLEFT.search(name) else "" if _KNOWN.search(name) else "not known"
    return Licence(package=package, name=name, problem=problem)


def _stated(about: metadata.PackageMetadata) -> Iterator[str]:
    if expression := about.get("License-Expression"):
        yield expression
    prefix = "License :: "
    classified = [c for c in about.get_all("Classifier") or () if c.startswith(prefix)]
    if names := [c.rpartition(" :: ")[2] for c in classified if c != "License :: OSI Approved"]:
        yield " AND ".join(names)
    if text := (about.get("License") or "").strip():
        yield text.partition("\n")[0][:_LONGEST]


def main() -> int:
    """Print a table; return 1 if a licence is a problem."""
    found = licences()
    for licence in found:
        print(f"{licence.package:26} {licence.name[:_LONGEST]:40} {licence.problem}".rstrip())
    bad = [licence.package for licence in found if licence.problem]
    print(f"{len(found)} packages, {len(bad)} to examine{': ' * bool(bad)}{', '.join(bad)}")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
