"""The kinds of losses, one row per kind, for artifacts, sessions, results and commands.

A new kind needs a row here and its class in `exportloss.export.detector.losses`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from exportloss.balance import initial_balance
from exportloss.config import LossConfig
from exportloss.task_aligned_config import TaskAlignedConfig

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "LOSS_KINDS",
    "STATE_NAMES",
    "Layout",
    "LossKind",
    "LossSettings",
    "from_tagged",
    "tagged",
]

Layout = Literal["permuted", "head-output", "head-input"]

_KIND = "kind"
# Kind of the settings that name none, as in exportloss/1 and exportloss/2.
_UNTAGGED = "yolov5"


class LossSettings(Protocol):
    """Settings of a loss: a frozen dataclass, whose fields are those of a manifest's `loss`.

    Attributes:
        kind: Name of the loss's kind, not a field.
    """

    kind: ClassVar[str]
    __dataclass_fields__: ClassVar[dict[str, Any]]

    def scaled(self, *, levels: int, num_classes: int, image_size: tuple[int, int]) -> Self:
        """Return the settings with their gains scaled to a model, as the kind's recipe does."""

    def unscaled(self, *, levels: int, num_classes: int, image_size: tuple[int, int]) -> Self:
        """Return the settings that `scaled`, with the same arguments, turns into these."""

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], *, source: str = ...) -> Self:
        """Read the loss's keys of a mapping of hyperparameters; training keys are skipped."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossKind:
    """Properties of a kind of loss.

    Attributes:
        name: Name in manifests.
        settings: Class of its settings.
        terms: Names of its terms in the order of the graphs' `items`, as in the columns of
            `results.csv`.
        layouts: Layouts of the predictions that graphs of the loss alone may have; the first is
            the default.
        has_anchors: Whether boxes are predicted relative to anchors.
        initial_state: State before the first step by name, for a number of levels. Graphs have
            an input of each name and an output `new_<name>`.
        manifest_format: Number of the earliest format of manifests that holds its settings.
        columns: Number of values that a detector predicts per box, for settings and a number of
            classes.
    """

    name: str
    settings: type[LossSettings]
    terms: tuple[str, ...]
    layouts: tuple[Layout, ...]
    has_anchors: bool
    initial_state: Callable[[int], Mapping[str, tuple[float, ...]]]
    manifest_format: int
    columns: Callable[[Any, int], int]


def _balance(levels: int) -> Mapping[str, tuple[float, ...]]:
    return {"balance": initial_balance(levels)}


_ROWS = (
    LossKind(
        name="yolov5",
        settings=LossConfig,
        terms=("box", "obj", "cls"),
        layouts=("permuted", "head-output", "head-input"),
        has_anchors=True,
        initial_state=_balance,
        manifest_format=2,
        columns=lambda settings, num_classes: 5 + num_classes,
    ),
    LossKind(
        name="task-aligned",
        settings=TaskAlignedConfig,
        terms=("box", "cls", "dfl"),
        layouts=("head-output",),
        has_anchors=False,
        initial_state=lambda levels: {},
        manifest_format=3,
        columns=lambda settings, num_classes: 4 * settings.reg_max + num_classes,
    ),
)
LOSS_KINDS: Mapping[str, LossKind] = {row.name: row for row in _ROWS}

# Names of the state tensors of all kinds, in saved states beside those of the model.
STATE_NAMES = tuple(dict.fromkeys(name for row in _ROWS for name in row.initial_state(2)))


def tagged(settings: LossSettings) -> dict[str, Any]:
    """Return settings as a manifest holds them: the kind, except YOLOv5's, and their fields."""
    kind = {} if settings.kind == _UNTAGGED else {_KIND: settings.kind}
    return kind | dataclasses.asdict(settings)


def from_tagged(values: Mapping[str, Any]) -> tuple[object, dict[str, Any]]:
    """Return the name of the kind, which may be unknown, and the other values of `tagged`.

    Raises:
        TypeError: the values are no mapping.
    """
    if not isinstance(values, Mapping):
        raise TypeError(f"loss is {type(values).__name__}, expected an object")
    own = dict(values)
    return own.pop(_KIND, _UNTAGGED), own
