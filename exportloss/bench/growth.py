"""How time or memory grows with a size: a benchmark over several, and a fitted exponent."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from exportloss.bench.results import BenchResult, finite
from exportloss.bench.scenario import Scenario
from exportloss.bench.starting import Setting
from exportloss.bench.statistics import fitted_exponent, fitted_slope
from exportloss.errors import BenchmarkError, ConfigError

__all__ = ["AXES", "Axis", "Growth", "Point", "measure_growth"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Axis:
    """A size that grows.

    Attributes:
        about: what it is, for a help text.
        usual: values that are measured where none are named.
        fields: of `Scenario` that are set to it.
        parse: from the text of one value to the fields'.
        size: the number that time is held against.
    """

    about: str
    usual: tuple[str, ...]
    fields: tuple[str, ...]
    parse: Callable[[str], Any] = int
    size: Callable[[Scenario], float]

    def scenario(self, base: Scenario, value: str) -> Scenario:
        """Return the base with this value in it.

        Raises:
            ConfigError: the text is no value, or one that cannot be.
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
        about="number of slots",
        usual=("300", "1000", "4000"),
        fields=("max_targets",),
        size=lambda scenario: scenario.max_targets,
    ),
    "targets": Axis(
        about="number of boxes in the batch, with as many slots",
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
    """One of the sizes.

    Attributes:
        at: its value as named, such as `16` or `yolov5s`.
        size: the number that time is held against.
        result: what was measured.
    """

    at: str
    size: float
    result: BenchResult


@dataclasses.dataclass(frozen=True, kw_only=True)
class Growth:
    """A benchmark over several sizes.

    Attributes:
        over: a key of `AXES`.
        points: in the order they were named, >= 1.
        failed: sizes that could not be measured after others had been, and why.
    """

    over: str
    points: tuple[Point, ...]
    failed: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def rivals(self) -> tuple[str, ...]:
        """Everybody who took part anywhere."""
        names = (row.rival for point in self.points for row in point.result.rows)
        return tuple(dict.fromkeys(names))

    def exponents(self) -> dict[str, float]:
        """Return e of time (or memory) = c * size**e; NaN where a rival has one size only."""
        return {rival: fitted_exponent(*self._curve(rival)) for rival in self.rivals}

    def slopes(self) -> dict[str, float]:
        """Return the milliseconds (or MB) that a further one costs, by the nearest line."""
        return {rival: fitted_slope(*self._curve(rival)) for rival in self.rivals}

    def _curve(self, rival: str) -> tuple[list[float], list[float]]:
        found = [
            (point.size, row.measured)
            for point in self.points
            if (row := point.result.row(rival)) is not None
        ]
        return [size for size, _ in found], [time for _, time in found]

    def to_json(self) -> dict[str, Any]:
        """Return what `--json` prints: as of one size, each entry with its `at` and `size`."""
        parts = [(point, point.result.to_json()) for point in self.points]
        lists = {
            name: [
                {"at": point.at, "size": point.size, **entry}
                for point, part in parts
                for entry in part[name]
            ]
            for name in ("rows", "limits", "unavailable")
        }
        fits = {"exponents": self.exponents(), "slopes": self.slopes()}
        about = {"growth": self.over, "failed": dict(self.failed)}
        values: dict[str, Any] = finite({**parts[0][1], **about, **lists, **fits})
        return values


def measure_growth(
    over: str,
    values: Sequence[str],
    setting: Setting,
    run: Callable[[Setting], BenchResult],
) -> Growth:
    """Run a benchmark at several sizes.

    Args:
        over: a key of `AXES`.
        values: at least one; all are checked before the first is measured.
        setting: where and with what; a folder of artifacts gets one in it for each value.
        run: one run of the benchmark.

    Raises:
        ConfigError: a value cannot be.
        BenchmarkError: rivals do not compute the same at the first size, or one broke down; at a
            later one that is told beside the others.
        ExportLossError: as `run` does.
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
            failed[value] = str(error)  # what was measured for minutes is not thrown away
            continue
        points.append(Point(at=value, size=axis.size(scenario), result=result))
    return Growth(over=over, points=tuple(points), failed=failed)
