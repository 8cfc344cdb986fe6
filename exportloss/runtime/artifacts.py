"""An artifacts folder checked against its manifest, before any session is built."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from exportloss.errors import ArtifactError, excerpt
from exportloss.runtime.limits import MAX_TENSORS
from exportloss.runtime.loss_signature import loss_inputs, loss_outputs
from exportloss.runtime.manifest import STATE_NAME, Kind, Manifest
from exportloss.runtime.onnx_file import BOOL, FLOAT, UINT8, OnnxFile, OnnxValue, parse_onnx
from exportloss.runtime.optimizers import OPTIMIZERS
from exportloss.runtime.tensor_file import parse_tensor_file

__all__ = ["Artifact", "open_artifact", "read_artifact"]

_REQUIRED: Mapping[Kind, tuple[str, ...]] = {
    "ort-training": ("training_model.onnx", "eval_model.onnx", "checkpoint"),
    "train-step": ("train_step.onnx", "eval_step.onnx", STATE_NAME),
}
_ANY = OnnxValue(0)  # an input or output that need only be there

Values = Mapping[str, OnnxValue]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Artifact:
    """An artifacts folder that was checked.

    Attributes:
        manifest: description of the folder.
        files: content of every file that the manifest names, by name: what was checked, whatever
            becomes of the folder.
    """

    manifest: Manifest
    files: Mapping[str, bytes]


def read_artifact(folder: str | Path) -> Manifest:
    """Read a folder's manifest and check the rest of the folder against it: see `open_artifact`."""
    return open_artifact(folder).manifest


def open_artifact(folder: str | Path) -> Artifact:
    """Read a folder, each file once, and check all of it.

    Every file is there, a regular file of the right sha256; every graph is complete, refers to no
    other file, and has inputs and outputs of the types and shapes that follow from the manifest;
    the newest opset of them is the manifest's; the layout of the portable step covers its flat
    vectors without gap or overlap; and the state has a tensor of the right shape for each entry.

    Raises:
        ArtifactError: names what is wrong, and in which file.
    """
    folder = Path(folder)
    manifest = Manifest.read(folder)
    files = manifest.read_files(folder)
    required = _REQUIRED.get(manifest.kind, tuple(manifest.loss_graphs.values()))
    if missing := [name for name in required if name not in manifest.files]:
        raise ArtifactError(f"{folder} is damaged: its manifest names no {missing[0]}")
    try:
        signatures = _signatures(manifest)
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise ArtifactError(
            f"{folder}: the manifest's layout is damaged: {excerpt(repr(error), 200)}"
        ) from error
    opsets = {}
    sizes: dict[str, int] = {}
    for name in manifest.files:
        if name.endswith(".onnx"):
            graph = _read_graph(folder / name, files[name])
            if name in signatures:
                _check_graph(folder / name, graph, signatures[name], manifest, sizes)
                opsets[graph.opset] = name
    if (newest := max(opsets)) != manifest.opset:
        raise ArtifactError(
            f"{folder / opsets[newest]} has opset {newest}, the manifest says {manifest.opset}; "
            "export again"
        )
    if manifest.kind == "train-step":
        _check_state(folder / STATE_NAME, files[STATE_NAME], manifest)
    return Artifact(manifest=manifest, files=files)


def _read_graph(path: Path, content: bytes) -> OnnxFile:
    try:
        return parse_onnx(content)
    except ValueError as error:
        raise ArtifactError(f"{path} is no graph that can be used: {error}") from error


def _check_graph(
    path: Path,
    graph: OnnxFile,
    expected: tuple[Values, Values],
    manifest: Manifest,
    sizes: dict[str, int],
) -> None:
    inputs, outputs = expected
    _check_values(path, "input", inputs, graph.inputs, sizes)
    _check_values(path, "output", outputs, graph.outputs, sizes)
    if manifest.kind != "ort-training" and (surplus := graph.inputs.keys() - inputs.keys()):
        raise ArtifactError(f"{path} has an input {min(surplus)!r} that nothing here gives it")


def _check_values(
    path: Path, what: str, expected: Values, found: Values, sizes: dict[str, int]
) -> None:
    for name, value in expected.items():
        if name not in found:
            raise ArtifactError(f"{path} has no {what} {name!r}, which the manifest asks for")
        if value is not _ANY and found[name] != (sized := _with_sizes(value, found[name], sizes)):
            raise ArtifactError(
                f"{path}: {what} {name!r} is {found[name]}; from the manifest follows {sized}"
            )


def _with_sizes(expected: OnnxValue, found: OnnxValue, sizes: dict[str, int]) -> OnnxValue:
    """Put in the sizes that have a name: what was found first, in all graphs of the folder."""
    shape = expected.shape or ()
    for size, there in zip(shape, found.shape or (), strict=False):
        if isinstance(size, str) and isinstance(there, int):
            sizes.setdefault(size, max(there, 1))
    numbers = tuple(size if isinstance(size, int) else sizes.get(size, 0) for size in shape)
    return OnnxValue(expected.type, numbers)


def _signatures(manifest: Manifest) -> Mapping[str, tuple[Values, Values]]:
    """Return, for each graph that is run here, inputs and outputs; outputs may be more."""
    size = (manifest.batch_size, 3, *manifest.image_size)
    batch = {
        "targets": OnnxValue(FLOAT, (manifest.max_targets, 6)),
        "balance": OnnxValue(FLOAT, (len(manifest.strides),)),
    }
    loss = {"loss": OnnxValue(FLOAT, ()), "items": OnnxValue(FLOAT, (3,))}
    if manifest.kind == "train-step":
        batch["images"] = OnnxValue(UINT8, size)
        vectors = _vectors(manifest)
        detector = {name: vectors[name] for name in ("parameters", "statistics") if name in vectors}
        settings = _settings(manifest)
        new = {f"new_{name}": value for name, value in vectors.items()}
        new["new_balance"] = batch["balance"]
        return {
            "train_step.onnx": (batch | settings | vectors, loss | new),
            "eval_step.onnx": (batch | detector, loss),
            "inference.onnx": ({"images": _ANY} | detector, {"output0": _ANY}),
        }
    loss["new_balance"] = batch["balance"]
    if manifest.kind == "ort-training":
        batch["images"] = OnnxValue(FLOAT, size)
        batch |= dict.fromkeys(manifest.trained, _ANY)
        gradients = {f"{name}_grad.accumulation.out": _ANY for name in manifest.groups.all}
        return {
            "training_model.onnx": (batch, loss | gradients),
            "eval_model.onnx": (batch, loss),
            "inference.onnx": (
                {"images": _ANY} | dict.fromkeys(manifest.trained, _ANY),
                {"output0": _ANY},
            ),
        }
    inputs, outputs = loss_inputs(manifest) | batch, loss_outputs(manifest)
    return {
        name: (inputs | {"targets": OnnxValue(FLOAT, (slots, 6))}, outputs)
        for slots, name in manifest.loss_graphs.items()
    }


def _settings(manifest: Manifest) -> dict[str, OnnxValue]:
    scalars = ["momentum", "weight_decay", "max_norm"]
    scalars += ["ema_decay"] if manifest.ema else []
    scalars += ["loss_scale"] if manifest.precision == "float16" else []
    return {
        "learning_rates": OnnxValue(FLOAT, (3,)),
        "update": OnnxValue(BOOL, ()),
        **{name: OnnxValue(FLOAT, ()) for name in scalars},
    }


def _vectors(manifest: Manifest) -> dict[str, OnnxValue]:
    """Return the flat vectors of the portable step, but `balance`, which is no less a state."""
    flat = {"parameters": _covered(manifest.layout["parameters"], manifest.groups.all)}
    if statistics := manifest.trained[len(manifest.groups.all) :]:
        flat["statistics"] = _covered(manifest.layout["statistics"], statistics)
    averages = {f"ema_{name}": size for name, size in flat.items()} if manifest.ema else {}
    memories = {f"optimizer_{name}": flat["parameters"] for name in _memories(manifest)}
    sizes = flat | averages | memories | {"gradients": flat["parameters"]}
    return {name: OnnxValue(FLOAT, (size,)) for name, size in sizes.items()} | {
        "updates": OnnxValue(FLOAT, ())
    }


def _memories(manifest: Manifest) -> list[str]:
    memories, optimizer = list(manifest.layout["memories"]), manifest.optimizer
    if optimizer is None or memories != list(OPTIMIZERS[optimizer].state_names):
        raise ValueError(f"{optimizer} does not remember {memories}")
    return memories


def _entries(layout: Any) -> Iterator[tuple[str, tuple[int, ...], int]]:
    if len(layout) > MAX_TENSORS:
        raise ValueError(f"{len(layout)} tensors; {MAX_TENSORS} is the most")
    for entry in layout:
        shape = tuple(int(side) for side in entry["shape"])
        if any(side < 1 for side in shape):
            raise ValueError(f"{entry['name']!r} has shape {shape}")
        yield entry["name"], shape, int(entry["offset"])


def _covered(layout: Any, names: tuple[str, ...]) -> int:
    """Return the size of a flat vector that has these tensors and no gap or overlap."""
    found, end = set(), 0
    for name, shape, offset in _entries(layout):
        if offset != end:
            raise ValueError(f"{name!r} begins at {offset}, expected {end}")
        found.add(name)
        end += math.prod(shape)
    if found != set(names) or len(layout) != len(names):
        raise ValueError(f"it places {len(layout)} tensors, others than the {len(names)} trained")
    return end


def _check_state(path: Path, content: bytes, manifest: Manifest) -> None:
    tensors = parse_tensor_file(content, path).tensors
    found = {name: tensor.shape for name, tensor in tensors.items()}
    for name, shape in _state_shapes(manifest).items():
        if found.get(name) != shape:
            raise ArtifactError(
                f"{path}: {name!r} has shape {found.get(name)}; the manifest says {shape}"
            )


def _state_shapes(manifest: Manifest) -> dict[str, tuple[int, ...]]:
    layout = manifest.layout
    parameters = {name: shape for name, shape, _ in _entries(layout["parameters"])}
    trained = parameters | {name: shape for name, shape, _ in _entries(layout["statistics"])}
    shapes = {"balance": (len(manifest.strides),), **trained}
    if manifest.ema:
        shapes |= {f"ema/{name}": shape for name, shape in trained.items()}
    for memory in _memories(manifest):
        shapes |= {f"optimizer/{memory}/{name}": shape for name, shape in parameters.items()}
    return shapes
