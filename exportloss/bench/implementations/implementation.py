"""Benchmarks and their implementations: names, requirements, and how each gets ready."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from exportloss.bench.scenario import Scenario
from exportloss.errors import ConfigError

__all__ = ["Bench", "Implementation", "Prepare", "Prepared"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepared:
    """An implementation that is ready.

    Attributes:
        step: Function that does the work once and waits for a GPU.
        check: Function that does the work once or a few times and returns the numbers on which all
            implementations of a benchmark must agree; it runs first.
        scale: Factor of a step's time, for a limit that is measured on other work.
        facts: Other figures to report, such as the multiply-adds of the work.
    """

    step: Callable[[], object]
    check: Callable[[], tuple[float, ...]] = tuple
    scale: float = 1.0
    facts: Mapping[str, float] = dataclasses.field(default_factory=dict)


# Takes the scenario and the artifacts folder (None if the implementation needs none). An
# ExportLossError means that the implementation is not available; its message says why.
Prepare = Callable[[Scenario, Path | None], Prepared]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Implementation:
    """One way to do the work of a benchmark.

    Attributes:
        name: Name in tables.
        about: Description for a help text, one line.
        prepare: `module:function` of a `Prepare`, imported only in the implementation's process.
        libraries: Packages imported before it; the version of the first is reported.
        artifact: Artifact to export for it, a key of `artifacts.EXPORTERS`; None for none.
        portable: Whether it needs no torch and may run in another interpreter.
        environment: Environment variables of its process, beside those of this one.
    """

    name: str
    about: str
    prepare: str
    libraries: tuple[str, ...] = ("torch",)
    artifact: str | None = None
    portable: bool = False
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def load(self) -> Prepare:
        """Import the function."""
        module, _, function = self.prepare.partition(":")
        prepare: Prepare = getattr(import_module(module), function)
        return prepare


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bench:
    """A piece of work and its implementations.

    Attributes:
        name: Name on the command line.
        about: Description for a help text, one line.
        implementations: Implementations to compare.
        reference: Name of the implementation that ratios refer to; None for no ratios.
        limits: Lower limits, measured in the same rounds.
        defaults: Defaults that differ from those of `Scenario`, by field.
        unmeasured: Steps at the start of each turn that are not timed, since caches and clocks are
            still in the state that the previous implementation left.
    """

    name: str
    about: str
    implementations: tuple[Implementation, ...]
    reference: str | None = "eager"
    limits: tuple[Implementation, ...] = ()
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    unmeasured: int = 1

    def choose(self, names: tuple[str, ...] | None) -> tuple[Implementation, ...]:
        """Return the implementations of these names, in the benchmark's order; None is all.

        Raises:
            ConfigError: There is no such implementation.
        """
        known = [implementation.name for implementation in self.implementations]
        if names is None:
            return self.implementations
        for name in names:
            if name not in known:
                raise ConfigError(
                    f"bench {self.name} has no implementation {name!r}; choose from "
                    f"{', '.join(known)}"
                )
        return tuple(
            implementation
            for implementation in self.implementations
            if implementation.name in names
        )
