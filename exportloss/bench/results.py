"""What a benchmark found, for people's tables and for machines."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import exportloss
from exportloss.bench.scenario import Scenario
from exportloss.bench.statistics import Timing

__all__ = ["BenchResult", "Limit", "Row", "finite"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """A rival.

    Attributes:
        rival: its name.
        engine: package and version that computes.
        timing: of a step; None where only memory was measured.
        ratio_to_eager: of the medians, or of the peaks where only memory was measured; None where
            the first rival of the benchmark had no part.
        prepare_s: seconds of building, loading and compiling, without the imports.
        imported_mb: resident after the imports.
        loaded_mb: resident when ready for the first step.
        peak_mb: the most that was resident, to the end.
        peak_device_mb: the most of a GPU's memory; None without one.
        facts: what else the rival reports.
    """

    rival: str
    engine: str
    timing: Timing | None
    ratio_to_eager: float | None
    prepare_s: float
    imported_mb: float
    loaded_mb: float
    peak_mb: float
    peak_device_mb: float | None = None
    facts: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def measured(self) -> float:
        """The median time in milliseconds, or where only memory was measured the peak in MB."""
        return self.peak_mb if self.timing is None else self.timing.median_ms

    def to_json(self) -> dict[str, Any]:
        """Return a flat object."""
        values: dict[str, Any] = dataclasses.asdict(self)
        timing, facts = values.pop("timing") or {}, values.pop("facts")
        return {**values, **timing, **facts}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limit:
    """What no rival can beat, measured in the same rounds.

    Attributes:
        name: `memory-limit` or `arithmetic-limit`.
        timing: of what it stands for.
        facts: such as the multiply-adds of a step.
    """

    name: str
    timing: Timing
    facts: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return a flat object."""
        return {"name": self.name, **dataclasses.asdict(self.timing), **self.facts}


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchResult:
    """One run of a benchmark.

    Attributes:
        bench: its name.
        scenario: sizes.
        machine: where it ran.
        rows: in the benchmark's order.
        limits: measured beside them.
        unavailable: rivals that could not take part, and why.
    """

    bench: str
    scenario: Scenario
    machine: Mapping[str, Any]
    rows: tuple[Row, ...]
    limits: tuple[Limit, ...] = ()
    unavailable: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def row(self, rival: str) -> Row | None:
        """Return the row of a rival, if it took part."""
        return next((row for row in self.rows if row.rival == rival), None)

    def title(self, *, without: str = "") -> str:
        """Return benchmark, sizes, threads and device in words, but for a size that grows."""
        scenario = self.scenario
        height, width = scenario.image_size
        sizes = {
            "model": scenario.model,
            "imgsz": f"{height} x {width}",
            "batch": f"batch {scenario.batch_size}",
            "classes": f"{scenario.num_classes} classes",
            "targets": f"{scenario.targets} targets",
            "slots": f"{scenario.max_targets} slots",
        }
        if self.bench == "loss":
            sizes["layout"] = scenario.layout
        if scenario.freeze != (0,):
            sizes["freeze"] = f"frozen {' '.join(map(str, scenario.freeze))}"
        if scenario.precision != "float32":
            sizes["precision"] = scenario.precision
        sizes["threads"] = f"threads {scenario.threads}"
        sizes["device"] = scenario.device
        hidden = {without, "slots"} if without == "targets" else {without}  # they grow together
        shown = (text for name, text in sizes.items() if name not in hidden)
        return f"{self.bench}: {', '.join(shown)}"

    def to_json(self) -> dict[str, Any]:
        """Return what `--json` prints; no number in it is infinite or NaN."""
        values = {
            "bench": self.bench,
            "exportloss": exportloss.__version__,
            "machine": dict(self.machine),
            "scenario": dataclasses.asdict(self.scenario),
            "rows": [row.to_json() for row in self.rows],
            "limits": [limit.to_json() for limit in self.limits],
            "unavailable": [
                {"rival": rival, "reason": reason} for rival, reason in self.unavailable.items()
            ],
        }
        printed: dict[str, Any] = finite(values)
        return printed


def finite(value: Any) -> Any:
    """Put None for what JSON has no number for."""
    if isinstance(value, dict):
        return {name: finite(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
