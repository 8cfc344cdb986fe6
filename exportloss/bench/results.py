"""Results of benchmarks, and their JSON."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import exportloss
from exportloss.bench.quiet import Condition, Verdict, verdict
from exportloss.bench.scenario import Scenario
from exportloss.bench.statistics import Timing
from exportloss.config import LossConfig

__all__ = ["BenchResult", "Goal", "Judgement", "Limit", "Row", "finite"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """Result of one implementation.

    Attributes:
        rival: Name of the implementation.
        engine: Package that computes, with its version.
        timing: Times of a step; None if only memory was measured.
        ratio_to_eager: Ratio of the medians, or of the peaks if only memory was measured, to the
            benchmark's reference; None if that was not measured.
        prepare_s: Duration of building, loading and compiling, without imports, seconds.
        imported_mb: Resident size after the imports, MB.
        loaded_mb: Resident size before the first step, MB.
        peak_mb: Largest resident size, MB.
        peak_device_mb: Largest memory on a GPU, MB; None without one.
        facts: Other figures that the implementation reports.
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
        """Median time in milliseconds, or the peak in MB if only memory was measured."""
        return self.peak_mb if self.timing is None else self.timing.median_ms

    def to_json(self) -> dict[str, Any]:
        """Return a flat object."""
        values: dict[str, Any] = dataclasses.asdict(self)
        timing, facts = values.pop("timing") or {}, values.pop("facts")
        return {**values, **timing, **facts}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limit:
    """A lower limit of the time, measured in the same rounds.

    Attributes:
        name: `memory-limit` or `arithmetic-limit`.
        timing: Times of the equivalent work.
        facts: Figures such as the multiply-adds of a step.
    """

    name: str
    timing: Timing
    facts: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return a flat object."""
        return {"name": self.name, **dataclasses.asdict(self.timing), **self.facts}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Goal:
    """A ratio of two implementations that is wanted.

    Attributes:
        rival: Name of the implementation.
        against: Name of the one that it is compared with.
        most: Largest ratio of their times, or peaks, that meets the goal.
    """

    rival: str
    against: str
    most: float

    @property
    def pair(self) -> str:
        """Both names, as in `portable / eager`."""
        return " / ".join((self.rival, self.against))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judgement:
    """Whether a goal was met.

    Attributes:
        goal: The goal.
        ratio: What was measured; None if one of the two was not.
        verdict: None if nothing was measured, or the machine was not quiet.
    """

    goal: Goal
    ratio: float | None
    verdict: Verdict | None

    def to_json(self) -> dict[str, Any]:
        """Return a flat object."""
        about = dataclasses.asdict(self.goal)
        return {**about, "ratio": self.ratio, "verdict": self.verdict}


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchResult:
    """Result of one run of a benchmark.

    Attributes:
        bench: Name of the benchmark.
        scenario: Sizes.
        machine: Description of the machine.
        rows: Results in the benchmark's order.
        limits: Lower limits of the time.
        unavailable: Reasons by name, for implementations that could not take part.
        condition: State of the machine meanwhile; None where no time was measured.
        judgements: Of the user's goals.
    """

    bench: str
    scenario: Scenario
    machine: Mapping[str, Any]
    rows: tuple[Row, ...]
    limits: tuple[Limit, ...] = ()
    unavailable: Mapping[str, str] = dataclasses.field(default_factory=dict)
    condition: Condition | None = None
    judgements: tuple[Judgement, ...] = ()

    @property
    def quiet(self) -> bool:
        """Whether the figures can be relied on; those of memory always can."""
        return self.condition is None or self.condition.quiet

    def judged(self, goals: Sequence[Goal]) -> BenchResult:
        """Return this result with a judgement of each goal."""
        return dataclasses.replace(self, judgements=tuple(map(self._judge, goals)))

    def _judge(self, goal: Goal) -> Judgement:
        row, other = self.row(goal.rival), self.row(goal.against)
        ratio = row.measured / other.measured if row and other else None
        return Judgement(
            goal=goal, ratio=ratio, verdict=verdict(ratio, goal.most, quiet=self.quiet)
        )

    def row(self, implementation: str) -> Row | None:
        """Return the row of an implementation, if it took part."""
        return next((row for row in self.rows if row.rival == implementation), None)

    def title(self, *, without: str = "") -> str:
        """Return benchmark, sizes, threads and device as text, without a size that grows."""
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
        if scenario.loss != LossConfig.kind:  # it needs no detector
            sizes["model"] = f"{scenario.loss} loss"
        elif self.bench == "loss":
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
            "condition": None if self.condition is None else self.condition.to_json(),
            "rows": [row.to_json() for row in self.rows],
            "goals": [judgement.to_json() for judgement in self.judgements],
            "limits": [limit.to_json() for limit in self.limits],
            "unavailable": [
                {"rival": implementation, "reason": reason}
                for implementation, reason in self.unavailable.items()
            ],
        }
        printed: dict[str, Any] = finite(values)
        return printed


def finite(value: Any) -> Any:
    """Replace infinite numbers and NaN, which JSON lacks, by None."""
    if isinstance(value, dict):
        return {name: finite(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
