"""What is installed: pinned with hashes, within the ranges that users get, under known licences."""

from __future__ import annotations

import itertools
import json
import re
import tomllib
from email.message import Message
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from scripts import audit, sbom
from scripts.interpreters import version_of
from scripts.licences import judge

ROOT = Path(__file__).parents[2]
ENVIRONMENTS = tuple(
    path.stem.removeprefix("requirements-") for path in sorted(ROOT.glob("requirements-*.txt"))
)
PYTHONS = tuple(name for name in ENVIRONMENTS if version_of(name))


def requirements(name: str) -> dict[str, Requirement]:
    lines = (ROOT / f"requirements-{name}.txt").read_text().splitlines()
    wanted: dict[str, Requirement] = {}
    for line in lines:
        if line.startswith("-r requirements-"):
            wanted |= requirements(line.removeprefix("-r requirements-").removesuffix(".txt"))
        elif line and not line.startswith("#"):
            one = Requirement(line)
            wanted[canonicalize_name(one.name)] = one
    return wanted


def locked(name: str) -> dict[str, str]:
    """Version by package; each must be pinned, with a hash."""
    text = (ROOT / f"requirements-{name}.lock").read_text()
    entries = re.findall(r"^(\S+)==(\S+) \\\n    --hash=sha256:[0-9a-f]{64}$", text, re.MULTILINE)
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert len(lines) == 2 * len(entries)
    return dict(entries)


def ranges() -> dict[str, list[Requirement]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found: dict[str, list[Requirement]] = {}
    for line in sum(project["optional-dependencies"].values(), project["dependencies"]):
        one = Requirement(line)
        found.setdefault(canonicalize_name(one.name), []).append(one)
    return found


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_a_lock_holds_what_is_asked_for(name):
    versions = locked(name)
    for package, requirement in requirements(name).items():
        assert requirement.specifier.contains(versions[package]), f"{package}: say `make lock`"


@pytest.mark.parametrize("name", ["dev", "device", "fleet", "lowest", "arm", *PYTHONS])
def test_what_is_tested_lies_in_the_ranges_of_users(name):
    for package, version in locked(name).items():
        for requirement in ranges().get(package, ()):
            assert requirement.specifier.contains(version), requirement


def test_the_lower_ends_are_tested():
    versions = locked("lowest")
    for package in ("numpy", "pillow", "pyyaml", "rich", "onnxruntime"):
        (lowest,) = {
            specifier.version
            for requirement in ranges()[package]
            for specifier in requirement.specifier
            if specifier.operator == ">="
        }
        assert re.fullmatch(rf"{re.escape(lowest)}(\.0)*", versions[package]), package


def test_every_range_has_ends():
    for requirement in itertools.chain.from_iterable(ranges().values()):
        operators = {specifier.operator for specifier in requirement.specifier}
        assert operators in ({"=="}, {">=", "<"}), requirement


def test_no_file_names_where_packages_come_from():
    web = ROOT / "devices" / "web"
    for path in (
        *ROOT.glob("requirements*"),
        *(ROOT / "pyproject.toml", ROOT / "Makefile"),
        *(web / name for name in ("package.json", "package-lock.json", ".npmrc")),
    ):
        assert not re.search(r"https?://|index-url|find-links", path.read_text()), path


def test_packages_of_the_page_are_pinned_with_hashes():
    web = ROOT / "devices" / "web"
    wanted = json.loads((web / "package.json").read_text())
    packages = json.loads((web / "package-lock.json").read_text())["packages"]
    for name, version in (wanted["dependencies"] | wanted["devDependencies"]).items():
        assert packages[f"node_modules/{name}"]["version"] == version
    for name, package in packages.items():
        assert not name or package["integrity"].startswith("sha512-"), name


@pytest.mark.parametrize(
    ("about", "problem"),
    [
        ({"License-Expression": "MIT"}, ""),
        ({"License-Expression": "Apache-2.0 AND BSD-3-Clause"}, ""),
        ({"License": "LGPL-2.1"}, ""),
        ({"Classifier": "License :: OSI Approved :: Mozilla Public License 2.0 (MPL 2.0)"}, ""),
        ({"License-Expression": "AGPL-3.0-or-later"}, "copyleft"),
        ({"License": "GPLv3"}, "copyleft"),
        ({"Classifier": "License :: OSI Approved :: GNU General Public License (GPL)"}, "copyleft"),
        ({"License": "GNU Affero General Public License"}, "copyleft"),
        ({"License": "ask me"}, "not known"),
        ({}, "not known"),
    ],
)
def test_licences_are_judged(about, problem):
    metadata = Message()
    for key, value in about.items():
        metadata[key] = value
    assert judge("a", metadata).problem == problem


def test_the_bill_of_materials_is_that_of_the_locks():
    written = json.loads((ROOT / "sbom.cdx.json").read_text())
    assert written == sbom.sbom(), "say `make lock`"
    found = {
        one["name"]: one["version"] for one in written["components"] if one["scope"] == "required"
    }
    assert found == locked("device")
    names = {one["name"] for one in written["components"]}
    assert names == locked("dev").keys() | locked("device").keys()


def answered(*packages: dict[str, object]) -> audit.Answer:
    return audit.read_answer(json.dumps({"dependencies": packages, "fixes": []}))


def test_the_answer_of_the_index_is_read():
    fixed = {"id": "PYSEC-1", "aliases": ["GHSA-1", "CVE-1"], "fix_versions": ["10.3.0"]}
    known = {"name": "pillow", "version": "10.1.0", "vulns": [fixed]}
    unfixed = {"id": "GHSA-2", "aliases": [], "fix_versions": []}
    answer = answered(
        known,
        {"name": "rich", "version": "13.0.0", "vulns": [unfixed]},
        {"name": "numpy", "version": "1.26.0", "vulns": []},
        {"name": "torch", "skip_reason": "not found"},
    )
    assert (answer.asked, answer.known) == (4, 3)
    assert [(one.package, one.name, one.fixed_in) for one in answer.vulnerabilities] == [
        ("pillow 10.1.0", "CVE-1", "10.3.0"),
        ("rich 13.0.0", "GHSA-2", "no release yet"),
    ]


@pytest.mark.parametrize("vulnerable", [True, False])
def test_a_known_vulnerability_fails_the_check(monkeypatch, capsys, vulnerable):
    found = audit.Vulnerability("pillow 10.1.0", "CVE-1", "10.3.0")
    answer = audit.Answer(3, 2, (found,) if vulnerable else ())
    monkeypatch.setattr(audit, "audit", lambda _: answer)
    assert audit.main() == vulnerable
    assert ("CVE-1" in capsys.readouterr().out) == vulnerable


def test_every_locked_release_is_asked_about_once(monkeypatch):
    asked: list[str] = []
    monkeypatch.setattr(
        audit, "audit", lambda lock: asked.append(lock.name) or audit.Answer(1, 1, ())
    )
    assert audit.main() == 0
    names = [name.removeprefix("requirements-").removesuffix(".lock") for name in asked]
    releases = {name: set(locked(name).items()) for name in ENVIRONMENTS}
    assert set().union(*(releases[name] for name in names)) == set().union(*releases.values())
    for name in names:
        others = (releases[other] for other in names if other != name)
        assert not any(releases[name] <= other for other in others), name


@pytest.mark.parametrize("error", [OSError("no such tool"), ValueError("no network")])
def test_no_answer_is_reported_and_no_failure(monkeypatch, capsys, error):
    def ask(_: Path) -> audit.Answer:
        raise error

    monkeypatch.setattr(audit, "audit", ask)
    assert audit.main() == 0
    assert str(error) in capsys.readouterr().out
    monkeypatch.setattr(audit, "audit", lambda _: audit.Answer(3, 0, ()))
    assert audit.main() == 0
    assert re.search(r"\b3\b", capsys.readouterr().out)
