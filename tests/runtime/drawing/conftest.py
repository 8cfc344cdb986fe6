from __future__ import annotations

import pytest


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are written, in their order."""
    figure = pytest.importorskip("matplotlib.figure")
    figures, save = [], figure.Figure.savefig

    def record(self, *args, **options):
        save(self, *args, **options)
        figures.append(self)

    monkeypatch.setattr(figure.Figure, "savefig", record)
    return figures
