"""Weights to send to other devices: two flat vectors and the names of what lies in them."""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from exportloss.errors import ArtifactError, ConfigError, excerpt, listed
from exportloss.runtime.artifact.flat_layout import FlatLayout
from exportloss.runtime.artifact.manifest import BatchNormStatistics, Manifest

__all__ = ["SHARES", "Weights", "WeightsLayout"]

Array = npt.NDArray[np.float32]

SHARES = ("all", "parameters", "without-norms")
_DESCRIPTION = ("model", "names", "anchors", "strides")  # of a detector, in the manifest


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightsLayout:
    """Places of the trained tensors, or of some of them, in two flat vectors.

    The order is the manifest's, whatever the kind of artifact: weights, norms and biases; then mean
    and variance of each norm.

    Attributes:
        parameters: Places of the parameters.
        statistics: Places of the running means and variances.
        norms: Norms whose statistics are in the layout.
        detector: SHA-256 of the detector's name, classes, anchors and strides.
    """

    parameters: FlatLayout
    statistics: FlatLayout
    norms: tuple[BatchNormStatistics, ...]
    detector: str

    @classmethod
    def of(cls, manifest: Manifest, tensors: Mapping[str, Array]) -> WeightsLayout:
        """Return the layout of all trained tensors.

        Args:
            manifest: Manifest of the artifact.
            tensors: Parameters and statistics by name, for their shapes.
        """
        norms = manifest.statistics
        statistics = [name for norm in norms for name in (norm.mean, norm.var)]
        about = {key: getattr(manifest, key) for key in _DESCRIPTION}
        return cls(
            parameters=_flat(manifest.groups.all, tensors),
            statistics=_flat(statistics, tensors),
            norms=norms,
            detector=hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest(),
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the tensors, in order."""
        return self.parameters.names + self.statistics.names

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of names, shapes and detector: devices exchange weights of one digest only."""
        values = [self.parameters.to_values(), self.statistics.to_values(), self.detector]
        return hashlib.sha256(json.dumps(values).encode()).hexdigest()

    def only(self, names: Iterable[str]) -> WeightsLayout:
        """Return the layout of some of the tensors, in the same order; unknown names are ignored.

        A norm's statistics are in it if both mean and variance are.
        """
        wanted = set(names)
        norms = tuple(norm for norm in self.norms if {norm.mean, norm.var} <= wanted)
        kept = {name for norm in norms for name in (norm.mean, norm.var)}
        return dataclasses.replace(
            self,
            parameters=_flat(self.parameters.names, self.parameters.by_name, wanted),
            statistics=_flat(self.statistics.names, self.statistics.by_name, kept),
            norms=norms,
        )

    def shared(self, share: str, *, frozen: Iterable[str] = ()) -> WeightsLayout:
        """Return the layout of the tensors to share.

        Args:
            share: `"all"` for parameters and statistics; `"parameters"` without statistics;
                `"without-norms"` for the parameters outside BatchNorm layers; or a pattern of
                names, such as `"model.24.*"`, in which `*` matches any text.
            frozen: Names of tensors that are not trained.

        Raises:
            ConfigError: the pattern matches nothing, or a frozen tensor.
        """
        if share == "all":
            return self
        if share == "parameters":
            return self.only(self.parameters.names)
        if share == "without-norms":
            layers = {_layer(norm.mean) for norm in self.norms}
            return self.only(n for n in self.parameters.names if _layer(n) not in layers)
        if held := fnmatch.filter(frozen, share):
            raise ConfigError(
                f"share is {excerpt(repr(share))}, which matches {listed(sorted(held), 1)}, frozen "
                "in these artifacts; frozen tensors are the same on every device and are not "
                "shared: use a pattern of trained tensors",
                argument="share",
            )
        layout = self.only(fnmatch.filter(self.names, share))
        if not layout.names:
            raise ConfigError(
                f"share is {excerpt(repr(share))}, which matches no trained tensor; expected one "
                f"of {', '.join(map(repr, SHARES))}, or a pattern such as "
                f"{self.names[0].rsplit('.', 1)[0] + '.*'!r}",
                argument="share",
            )
        return layout


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Weights:
    """Parameters and statistics of a detector, checked when they are made.

    Attributes:
        layout: Places of the tensors.
        parameters: (P,) float32, the parameters.
        statistics: (S,) float32, running means and variances; (0,) if none are shared.

    Raises:
        ArtifactError: a vector has another shape or type, a value is not finite, or a variance is
            negative.
    """

    layout: WeightsLayout
    parameters: Array
    statistics: Array

    def __post_init__(self) -> None:
        self.check()

    @classmethod
    def of(cls, layout: WeightsLayout, tensors: Mapping[str, Array]) -> Weights:
        """Copy the tensors of a layout into vectors; others are ignored."""
        return cls(
            layout=layout,
            parameters=layout.parameters.join(tensors),
            statistics=layout.statistics.join(tensors),
        )

    @property
    def tensors(self) -> dict[str, Array]:
        """Views of the tensors in the vectors, by name."""
        layout = self.layout
        views = layout.parameters.split(self.parameters)
        return views | layout.statistics.split(self.statistics)

    @property
    def sha256(self) -> str:
        """SHA-256 of the layout's digest and of all values."""
        digest = hashlib.sha256(self.layout.digest.encode())
        for vector in (self.parameters, self.statistics):
            digest.update(np.ascontiguousarray(vector, "<f4").data)
        return digest.hexdigest()

    def check(self) -> None:
        """Check shapes, types and values again; errors as for the class."""
        layout = self.layout
        _check_vector(self.parameters, layout.parameters, "parameters")
        _check_vector(self.statistics, layout.statistics, "statistics")
        tensors = layout.statistics.split(self.statistics)
        for norm in layout.norms:
            if (tensors[norm.var] < 0).any():
                raise ArtifactError(
                    f"{norm.var} of the weights has negative values; expected variances"
                )


def _check_vector(vector: Any, flat: FlatLayout, what: str) -> None:
    expected = f"expected float32 of shape ({flat.size},)"
    if not isinstance(vector, np.ndarray):
        raise ArtifactError(f"{what} of the weights are {type(vector).__name__}; {expected}")
    if vector.dtype != np.float32 or vector.shape != (flat.size,):
        raise ArtifactError(
            f"{what} of the weights are {vector.dtype} of shape {vector.shape}; {expected}"
        )
    if np.isfinite(vector).all():
        return
    bad = next(name for name, one in flat.split(vector).items() if not np.isfinite(one).all())
    raise ArtifactError(f"{bad} of the weights has values that are not finite")


def _flat(
    names: Iterable[str], shapes: Mapping[str, Any], wanted: set[str] | None = None
) -> FlatLayout:
    chosen = tuple(name for name in names if wanted is None or name in wanted)
    return FlatLayout(chosen, tuple(_shape(shapes[name]) for name in chosen))


def _shape(of: Any) -> tuple[int, ...]:
    return tuple(of.shape if isinstance(of, np.ndarray) else of)


def _layer(name: str) -> str:
    return name.rpartition(".")[0]
