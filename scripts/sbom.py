"""`python scripts/sbom.py`: write `sbom.cdx.json`, the bill of materials in CycloneDX format.

It lists the packages in the locks for devices and for desktops. Packages that only a desktop needs,
to export and to test, are optional. The content depends only on the locks.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
_ENTRY = re.compile(r"^(\S+)==(\S+) \\\n    --hash=sha256:([0-9a-f]{64})$", re.MULTILINE)
_SCOPES = {"dev": "optional", "device": "required"}  # the later one wins


def sbom() -> dict[str, Any]:
    """Return the bill of materials in CycloneDX 1.6."""
    components: dict[tuple[str, str], dict[str, Any]] = {}
    for lock, scope in _SCOPES.items():
        text = (ROOT / f"requirements-{lock}.lock").read_text(encoding="ascii")
        for name, version, digest in _ENTRY.findall(text):
            components[name, version] = _component(name, version, digest, scope)
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {"type": "library", "name": "exportloss"}},
        "components": [components[key] for key in sorted(components)],
    }


def _component(name: str, version: str, digest: str, scope: str) -> dict[str, Any]:
    url = f"pkg:pypi/{name}@{version.replace('+', '%2B')}"
    return {
        "type": "library",
        "bom-ref": url,
        "name": name,
        "version": version,
        "scope": scope,
        "purl": url,
        "hashes": [{"alg": "SHA-256", "content": digest}],
    }


if __name__ == "__main__":
    text = json.dumps(sbom(), indent=1, allow_nan=False) + "\n"
    (ROOT / "sbom.cdx.json").write_text(text, encoding="ascii")
