"""The machine's pace: the time of fixed work, the same in every round of every benchmark."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from exportloss.bench.implementations.implementation import Implementation, Prepared
from exportloss.bench.scenario import Scenario

__all__ = ["PACE", "fixed_work"]

# A product of some milliseconds, and arrays that no cache holds.
_SIDE, _LENGTH = 512, 1 << 21

# The fixed work uses the threads of the scenario. Those of a BLAS would be another number, and
# would keep a core busy for a while after the product.
PACE = Implementation(
    name="pace",
    about="a float32 matrix product and a sum of arrays, per thread",
    prepare="exportloss.bench.machine.pace:fixed_work",
    libraries=("numpy",),
    environment=dict.fromkeys(("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"), "1"),
)


def fixed_work(scenario: Scenario, artifact: Path | None) -> Prepared:
    """Multiply matrices and add arrays on every thread: bound by arithmetic, then by memory."""
    rng = np.random.default_rng(0)
    a, b = (rng.random((_SIDE, _SIDE), dtype=np.float32) for _ in range(2))
    x, y = (rng.random(_LENGTH, dtype=np.float32) for _ in range(2))
    places = [(np.empty_like(a), np.empty_like(x)) for _ in range(scenario.threads)]
    pool = ThreadPoolExecutor(scenario.threads)

    def work(place: tuple[np.ndarray, np.ndarray]) -> None:
        product, total = place
        np.matmul(a, b, out=product)
        np.add(x, y, out=total)

    def step() -> None:
        list(pool.map(work, places))

    return Prepared(step=step)
