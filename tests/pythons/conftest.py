"""Prints how far the environments are from each other."""

from __future__ import annotations

import pytest

from tests.pythons.records import difference, pairs, read_records


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.section("training steps: largest relative differences")
    for one, other, case in pairs(read_records()):
        found = difference(one, other, case)
        values = ", ".join(f"{part} {value:.1e}" for part, value in found.parts.items())
        numbers = "equal bits" if found.same_bits else f"loss {found.loss:.1e}, {values}"
        terminalreporter.write_line(f"{case:12} {one} - {other}: {numbers}")
