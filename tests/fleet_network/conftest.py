"""What the tests of a fleet share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.loopback import BUILD, Loopback


@pytest.fixture(scope="session", autouse=True)
def built() -> None:
    if not (BUILD / "artifacts" / "manifest.json").is_file():
        pytest.fail(f"{BUILD} holds no artifacts; run `make fleet-test`", pytrace=False)


@pytest.fixture
def loopback(tmp_path: Path) -> Iterator[Loopback]:
    one = Loopback(tmp_path)
    try:
        yield one
    finally:
        one.close()
