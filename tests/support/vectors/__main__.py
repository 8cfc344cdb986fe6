"""Write the test vectors into `tests/vectors/`."""

from __future__ import annotations

from tests.support.vectors import VECTORS, make_vectors

for path, content in make_vectors().items():
    (VECTORS / path).parent.mkdir(parents=True, exist_ok=True)
    (VECTORS / path).write_bytes(content)
