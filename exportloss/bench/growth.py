"""Growth of time or memory with a size: a benchmark at several sizes, and a fitted exponent."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from exportloss.bench.results import BenchResult, Goal, finite
from exportloss.bench.scenario import Scenario
from exportloss.bench.starting import Setting
from exportloss.bench.statistics import fitted_exponent, fitted_slope
from exportloss.errors import BenchmarkError, ConfigError

__all__ = ["AXES", "Axis", "Growth", "Point", "measure_growth"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Axis:
    """A size that grows.

    Attributes:
        about: Description for a help text.
        usual: Values that are measured by default.
        fields: Fields of `Scenario` that get the value.
        parse: Function from the text of a value to the value of the fields.
        size: Function that returns the number on the axis.
    """

    about: str
    usual: tuple[str, ...]
    fields: tuple[str, ...]
    parse: Callable[[str], Any] = int
    size: Callable[[Scenario], float]

    def scenario(self, base: Scenario, value: str) -> Scenario:
        """Return the base with this value.

        Raises:
            ConfigError: The text is no value, or the value is out of range.
        """
        try:
            parsed = self.parse(value)
        except ValueError as error:
            raise ConfigError(f"{value!r} is no {self.about}; expected a whole number") from error
        return dataclasses.replace(base, **dict.fromkeys(self.fields, parsed))


def _multiply_adds(scenario: Scenario) -> float:
    from exportloss.bench.machine.limits import count_multiply_adds

    return count_multiply_adds(scenario)


AXES: Mapping[str, Axis] = {
    "batch": Axis(
        about="batch size",
        usual=("1", "2", "4", "8", "16"),
        fields=("batch_size",),
        size=lambda scenario: scenario.batch_size,
    ),
    "imgsz": Axis(
        about="side of the images in pixels",
        usual=("160", "320", "480", "640"),
        fields=("image_size",),
        parse=lambda text: (int(text),) * 2,
        size=lambda scenario: scenario.image_size[0],
    ),
    "slots": Axis(
        about="number of target rows",
        usual=("300", "1000", "4000"),
        fields=("max_targets",),
        size=lambda scenario: scenario.max_targets,
    ),
    "targets": Axis(
        about="number of boxes in the batch, with as many target rows",
        usual=("30", "120", "300", "1000"),
        fields=("targets", "max_targets"),
        size=lambda scenario: scenario.targets,
    ),
    "model": Axis(
        about="size of the detector, by the multiply-adds of a step",
        usual=("yolov5n", "yolov5s", "yolov5m", "yolov5l", "yolov5x"),
        fields=("model",),
        parse=str,
        size=_multiply_adds,
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """Result at one of the sizes.

    Attributes:
        at: Value as named, such as `16` or `yolov5s`.
        size: Number on the axis.
        result: Result of the benchmark.
    """

    at: str
    size: float
    result: BenchResult


@dataclasses.dataclass(frozen=True, kw_only=True)
class Growth:
    """A benchmark over several sizes.

    Attributes:
        over: Key of `AXES`.
        points: Results in the order in which the sizes were named; at least one.
        failed: Reasons by size, for sizes after the first that could not be measured.
    """

    over: str
    points: tuple[Point, ...]
    failed: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def implementations(self) -> tuple[str, ...]:
        """Names of the implementations that were measured at any size."""
        names = (row.rival for point in self.points for row in point.result.rows)
        return tuple(dict.fromkeys(names))

    def judged(self, goals: Sequence[Goal]) -> Growth:
        """Return this result with a judgement of each goal at every size."""
        points = (
            dataclasses.replace(point, result=point.result.judged(goals)) for point in self.points
        )
        return dataclasses.replace(self, points=tuple(points))

    def exponents(self) -> dict[str, float]:
        """Return e of time (or memory) = c * size**e by implementation; NaN with a single size."""
        return {
            implementation: fitted_exponent(*self._curve(implementation))
            for implementation in self.implementations
        }

    def slopes(self) -> dict[str, float]:
        """Return the cost of one more, in milliseconds (or MB), by implementation: a linear fit."""
        return {
            implementation: fitted_slope(*self._curve(implementation))
            for implementation in self.implementations
        }

    def _curve(self, implementation: str) -> tuple[list[float], list[float]]:
        found = [
            (point.size, row.measured)
            for point in self.points
            if (row := point.result.row(implementation)) is not None
        ]
        return [size for size, _ in found], [time for _, time in found]

    def to_json(self) -> dict[str, Any]:
        """Return what `--json` prints: the entries of every size, each with its `at` and `size`."""
        parts = [(point, point.result.to_json()) for point in self.points]
        lists = {
            name: [
                {"at": point.at, "size": point.size, **entry}
                for point, part in parts
                for entry in part[name]
            ]
            for name in ("rows", "goals", "limits", "unavailable")
        }
        fits = {"exponents": self.exponents(), "slopes": self.slopes()}
        about = {"growth": self.over, "failed": dict(self.failed)}
        conditions = [
            {"at": point.at, "size": point.size, **part["condition"]}
            for point, part in parts
            if part["condition"] is not None
        ]
        values: dict[str, Any] = finite(
            {**parts[0][1], **about, **lists, **fits, "condition": conditions}
        )
        return values


def measure_growth(
    over: str,
    values: Sequence[str],
    setting: Setting,
    run: Callable[[Setting], BenchResult],
) -> Growth:
    """Run a benchmark at several sizes.

    Args:
        over: Key of `AXES`.
        values: At least one value; all are checked before the first is measured.
        setting: Where and with what to measure; its artifacts folder gets a subfolder per value.
        run: One run of the benchmark.

    Raises:
        ConfigError: A value is out of range.
        BenchmarkError: The first size failed: implementations disagree, or one crashed. Failures
            at later sizes are recorded in `failed`.
        ExportLossError: Any other error of `run`.
    """
    axis = AXES[over]
    scenarios = {value: axis.scenario(setting.scenario, value) for value in values}
    points: list[Point] = []
    failed: dict[str, str] = {}
    for value, scenario in scenarios.items():
        setting.say(f"{over} {value}")
        folder = None if setting.artifacts is None else Path(setting.artifacts) / f"{over}-{value}"
        try:
            result = run(dataclasses.replace(setting, scenario=scenario, artifacts=folder))
        except BenchmarkError as error:
            if not points:
                raise
            failed[value] = str(error)  # keep what took minutes to measure
            continue
        points.append(Point(at=value, size=axis.size(scenario), result=result))
    return Growth(over=over, points=tuple(points), failed=failed)
