"""Benchmarks: implementations of the same work, timed in turn, each in a process of its own.

Imports neither torch nor onnx; the processes that need them load them.
"""

from exportloss.bench.growth import AXES, Growth, measure_growth
from exportloss.bench.implementations.implementation import Bench, Implementation, Prepared
from exportloss.bench.implementations.registry import BENCHES, LOSS_BENCHES
from exportloss.bench.results import BenchResult, Goal, Row
from exportloss.bench.running import measure_memory, run_bench
from exportloss.bench.scenario import Scenario
from exportloss.bench.starting import Setting

__all__ = [
    "AXES",
    "BENCHES",
    "LOSS_BENCHES",
    "Bench",
    "BenchResult",
    "Goal",
    "Growth",
    "Implementation",
    "Prepared",
    "Row",
    "Scenario",
    "Setting",
    "measure_growth",
    "measure_memory",
    "run_bench",
]
