"""The record of a federated run: `fleet.json`, the one file that says how far it came."""

from __future__ import annotations

import dataclasses
import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from exportloss.errors import ArtifactError, ConfigError
from exportloss.fleet.settings import FleetSettings
from exportloss.reading import read_bounded
from exportloss.runtime.storage.files import new_file

__all__ = ["RoundRecord", "RunRecord"]

_LIMIT = 1 << 26
# Settings that a resumed run may change.
_FREE = frozenset({"quorum", "join_seconds", "round_seconds"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class RoundRecord:
    """What happened in a round.

    Attributes:
        round: Number, from 1.
        devices: Names of the devices in the average, in order.
        refused: Why a device is not in it, by its node.
        images: Images trained on.
        loss: Mean box term, weighted by images.
        map50: mAP50 of the average on the server's images; None without such images.
        map: mAP50-95, likewise.
        sha256: Of the averaged weights, see `Weights.sha256`.
        bytes_down: Bytes of weights sent to a device.
        bytes_up: Mean bytes of weights from a device.
        seconds: Duration.
    """

    round: int
    devices: tuple[str, ...]
    refused: Mapping[str, str]
    images: int
    loss: float
    map50: float | None
    map: float | None
    sha256: str
    bytes_down: int
    bytes_up: int
    seconds: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunRecord:
    """A run so far.

    Attributes:
        run: Name, 16 hexadecimal digits.
        settings: Settings.
        rounds: Rounds that are complete.
        best: Number of the best round by mAP50 (the last without the server's images); 0 for the
            start.
        start: mAP50 before the first round; None without the server's images.
        finished: What the devices found at the end, by name: metrics, or the reason for none.
    """

    run: str
    settings: FleetSettings
    rounds: tuple[RoundRecord, ...] = ()
    best: int = 0
    start: float | None = None
    finished: Mapping[str, Mapping[str, float] | str] = dataclasses.field(default_factory=dict)

    @classmethod
    def new(cls, settings: FleetSettings, start: float | None) -> RunRecord:
        """Return the record of a run that begins, with a random name."""
        return cls(run=secrets.token_hex(8), settings=settings, start=start)

    @property
    def best_map50(self) -> float | None:
        """mAP50 of the best round or the start."""
        return self.start if self.best == 0 else self.rounds[self.best - 1].map50

    def resumed(self, settings: FleetSettings) -> RunRecord:
        """Return the record with new settings, where these may change.

        Raises:
            ConfigError: a setting differs that would make another run of it.
        """
        for field in dataclasses.fields(settings):
            old, new = getattr(self.settings, field.name), getattr(settings, field.name)
            if old != new and field.name not in _FREE:
                raise ConfigError(
                    f"{field.name} is {new!r}, but the run to resume began with {old!r}; pass the "
                    "same, or another output for a new run",
                    argument=field.name,
                )
        return dataclasses.replace(self, settings=settings)

    def write(self, path: Path) -> None:
        """Write the record, atomically.

        Raises:
            ArtifactError: the file cannot be written.
        """
        with new_file(path) as temporary:
            text = json.dumps(dataclasses.asdict(self), indent=1, allow_nan=False)
            temporary.write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> RunRecord | None:
        """Return the record in a file; None if there is none.

        Raises:
            ArtifactError: the file is damaged.
        """
        try:
            values: dict[str, Any] = json.loads(read_bounded(path, _LIMIT, error=ArtifactError))
            rounds = tuple(
                RoundRecord(**{**one, "devices": tuple(one["devices"])})
                for one in values.pop("rounds")
            )
            settings = FleetSettings(**values.pop("settings"))
            return cls(settings=settings, rounds=rounds, **values)
        except FileNotFoundError:
            return None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, ArtifactError):
                raise
            raise ArtifactError(f"{path} is damaged: {error}; choose another output") from error
