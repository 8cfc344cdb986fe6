"""Tasks and results as Flower's messages."""

from __future__ import annotations

import os
from typing import Any

from exportloss.errors import ArtifactError, ConfigError, ExportLossError, excerpt
from exportloss.fleet.messages import Result, Task, Vectors

# Read when Flower is imported or starts: it reports to its maker otherwise.
for _name, _value in (
    ("FLWR_TELEMETRY_ENABLED", "0"),
    ("FLWR_DISABLE_UPDATE_CHECK", "1"),
    ("ORT_DISABLE_TELEMETRY", "1"),
):
    os.environ[_name] = _value

from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict  # noqa: E402

__all__ = ["pack_error", "pack_result", "pack_task", "unpack_result", "unpack_task"]

_LONGEST = 2000  # characters of an error


def pack_task(task: Task) -> RecordDict:
    """Return the content of a message to a device."""
    return RecordDict({"task": ConfigRecord(task.settings), **_pack(task.vectors)})


def unpack_task(content: RecordDict) -> Task:
    """Return the task of a message.

    Raises:
        ConfigError: the message is none of this package's, or a value is out of range.
        ArtifactError: its vectors are incomplete.
    """
    try:
        return Task(**dict(content["task"]), vectors=_unpack(content))
    except (KeyError, TypeError) as error:
        raise ConfigError(
            f"the server's message is not readable ({error!r}); use the same version of exportloss "
            "on the server and every device"
        ) from error


def pack_result(result: Result) -> RecordDict:
    """Return the content of a device's answer."""
    about = ConfigRecord({"name": result.name, "images": result.images})
    metrics = MetricRecord({name: float(value) for name, value in result.metrics.items()})
    packed = RecordDict({"about": about, "metrics": metrics})
    if result.vectors is not None:
        packed.update(_pack(result.vectors))
    return packed


def pack_error(error: ExportLossError, name: str) -> RecordDict:
    """Return the content of an answer that says why there is no result."""
    return RecordDict({"error": ConfigRecord({"reason": excerpt(error, _LONGEST), "name": name})})


def unpack_result(content: RecordDict) -> Result | str:
    """Return the result of a device's answer, or its reason for none."""
    try:
        if "error" in content:
            error = content["error"]
            return f"{excerpt(error['name'])}: {excerpt(error['reason'], _LONGEST)}"
        about, metrics = content["about"], content["metrics"]
        name, images = about["name"], about["images"]
        if not isinstance(name, str) or not isinstance(images, int):
            return "the answer has no name or number of images"
        return Result(
            name=excerpt(name),
            images=images,
            metrics={str(key): float(value) for key, value in metrics.items()},
            vectors=_unpack(content) if "vectors" in content else None,
        )
    except (KeyError, TypeError, ValueError) as error:
        return f"the answer is not readable: {excerpt(repr(error))}"


def _pack(vectors: Vectors) -> dict[str, Any]:
    arrays = {"parameters": Array(vectors.parameters), "statistics": Array(vectors.statistics)}
    return {"vectors": ArrayRecord(arrays), "layout": ConfigRecord({"digest": vectors.digest})}


def _unpack(content: RecordDict) -> Vectors:
    arrays, digest = content["vectors"], content["layout"]["digest"]
    try:
        parameters, statistics = (arrays[n].numpy() for n in ("parameters", "statistics"))
    except (ValueError, EOFError, OSError) as error:
        raise ArtifactError(f"the vectors are not readable: {excerpt(repr(error))}") from error
    return Vectors(parameters=parameters, statistics=statistics, digest=str(digest))
