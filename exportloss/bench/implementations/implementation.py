"""What a rival is: a name, what it needs, and how to get ready for a step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from exportloss.bench.scenario import Scenario
from exportloss.errors import ConfigError

__all__ = ["Bench", "Prepare", "Prepared", "Rival"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepared:
    """A rival that is ready.

    Attributes:
        step: does the work once, to the end (a GPU is waited for).
        check: does the work once or a few times and returns numbers in which all rivals of a
            benchmark must agree; it runs first.
        scale: what a step's time is multiplied by, for a limit that is measured on other work.
        facts: what else to report, such as how many multiply-adds the work has.
    """

    step: Callable[[], object]
    check: Callable[[], tuple[float, ...]] = tuple
    scale: float = 1.0
    facts: Mapping[str, float] = dataclasses.field(default_factory=dict)


# Takes the scenario and the folder of artifacts (None, where the rival needs none). An
# ExportLossError says that the rival is not available, and why.
Prepare = Callable[[Scenario, Path | None], Prepared]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rival:
    """One way to do the work of a benchmark.

    Attributes:
        name: as in tables.
        about: one line for a help text.
        prepare: `module:function` of a `Prepare`, imported in the rival's own process only.
        libraries: packages imported before it; the first is the one whose version is reported.
        artifact: what is exported for it beforehand, a key of `artifacts.EXPORTERS`; None: nothing.
        portable: whether it needs no torch and may run in another interpreter.
    """

    name: str
    about: str
    prepare: str
    libraries: tuple[str, ...] = ("torch",)
    artifact: str | None = None
    portable: bool = False

    def load(self) -> Prepare:
        """Import the function."""
        module, _, function = self.prepare.partition(":")
        prepare: Prepare = getattr(import_module(module), function)
        return prepare


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bench:
    """A piece of work, and who competes in it.

    Attributes:
        name: as on the command line.
        about: one line for a help text.
        rivals: who competes.
        reference: the rival that the others are compared with; None: nobody.
        limits: measured beside them, in the same rounds.
        defaults: of `Scenario`, where they differ.
        unmeasured: steps at the start of each turn that are not timed: caches and clocks are
            another rival's then.
    """

    name: str
    about: str
    rivals: tuple[Rival, ...]
    reference: str | None = "eager"
    limits: tuple[Rival, ...] = ()
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    unmeasured: int = 1

    def choose(self, names: tuple[str, ...] | None) -> tuple[Rival, ...]:
        """Return the rivals of these names, in the benchmark's order; None is all.

        Raises:
            ConfigError: there is no such rival.
        """
        known = [rival.name for rival in self.rivals]
        if names is None:
            return self.rivals
        for name in names:
            if name not in known:
                raise ConfigError(
                    f"bench {self.name} has no rival {name!r}; choose from {', '.join(known)}"
                )
        return tuple(rival for rival in self.rivals if rival.name in names)
