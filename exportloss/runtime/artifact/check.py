"""An artifacts folder checked against its manifest, before any session is built."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

from exportloss.errors import ArtifactError, excerpt
from exportloss.runtime.artifact.flat_layout import FlatLayout, StateLayout
from exportloss.runtime.artifact.kinds import KINDS, Kind
from exportloss.runtime.artifact.loss_signature import (
    loss_inputs,
    loss_outputs,
    loss_state,
    loss_values,
)
from exportloss.runtime.artifact.manifest import STATE_NAME, Manifest
from exportloss.runtime.artifact.onnx_files.onnx_file import (
    BOOL,
    FLOAT,
    UINT8,
    OnnxFile,
    OnnxValue,
    parse_onnx,
)
from exportloss.runtime.artifact.tensor_file import parse_tensor_file
from exportloss.runtime.optimizers.table import OPTIMIZERS

__all__ = ["Artifact", "open_artifact", "read_artifact"]

_ANY = OnnxValue(0)  # an input or output that need only be there

Values = Mapping[str, OnnxValue]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Graph:
    """Expected signature of a graph that a session runs.

    Attributes:
        inputs: Inputs by name.
        outputs: Outputs by name; the graph may have more.
        optional: Whether the folder may lack the graph.
        has_more: Whether the graph may have other inputs as well.
    """

    inputs: Values
    outputs: Values
    optional: bool = False
    has_more: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Contents:
    """Contents of a folder's files, as the manifest implies them.

    Attributes:
        graphs: Signatures of graphs by file.
        tensors: Shapes by tensor, by file.
    """

    graphs: Mapping[str, _Graph]
    tensors: Mapping[str, Mapping[str, tuple[int, ...]]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Artifact:
    """A checked artifacts folder.

    Attributes:
        manifest: Description of the folder.
        files: Content of every file that the manifest names, by name, as it was checked; the folder
            may change afterwards.
    """

    manifest: Manifest
    files: Mapping[str, bytes]


def read_artifact(folder: str | Path) -> Manifest:
    """Read a folder's manifest and check the rest of the folder against it: see `open_artifact`."""
    return open_artifact(folder).manifest


def open_artifact(folder: str | Path) -> Artifact:
    """Read each file of a folder once, and check all of it.

    The checks: every file is a regular file with the manifest's sha256; every graph is complete,
    refers to no other file, and has the inputs and outputs that the manifest implies; the newest
    opset is the manifest's; the layout of the portable step covers its flat vectors without gap or
    overlap; and the state has a tensor of the right shape per entry.

    Raises:
        ArtifactError: a check failed; the message names the file.
    """
    folder = Path(folder)
    manifest = Manifest.read(folder)
    files = manifest.read_files(folder)
    try:
        contents = _CONTENTS[manifest.kind](manifest)
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise ArtifactError(
            f"{folder}: the manifest's layout is damaged: {excerpt(repr(error), 200)}"
        ) from error
    graphs = (name for name, graph in contents.graphs.items() if not graph.optional)
    required = dict.fromkeys((*KINDS[manifest.kind].files, *graphs))
    if missing := [name for name in required if name not in manifest.files]:
        raise ArtifactError(f"{folder} is damaged: its manifest names no {missing[0]}")
    opsets = {}
    sizes: dict[str, int] = {}
    for name in manifest.files:
        if name.endswith(".onnx"):
            graph = _read_graph(folder / name, files[name])
            if name in contents.graphs:
                _check_graph(folder / name, graph, contents.graphs[name], sizes)
                opsets[graph.opset] = name
    if (newest := max(opsets)) != manifest.opset:
        raise ArtifactError(
            f"{folder / opsets[newest]} has opset {newest}, but the manifest says "
            f"{manifest.opset}; export again"
        )
    for name, shapes in contents.tensors.items():
        _check_tensors(folder / name, files[name], shapes)
    return Artifact(manifest=manifest, files=files)


def _read_graph(path: Path, content: bytes) -> OnnxFile:
    try:
        return parse_onnx(content)
    except ValueError as error:
        raise ArtifactError(f"{path} is not a usable graph: {error}") from error


def _check_graph(
    path: Path,
    graph: OnnxFile,
    expected: _Graph,
    sizes: dict[str, int],
) -> None:
    _check_values(path, "input", expected.inputs, graph.inputs, sizes)
    _check_values(path, "output", expected.outputs, graph.outputs, sizes)
    surplus = graph.inputs.keys() - expected.inputs.keys()
    if surplus and not expected.has_more:
        raise ArtifactError(
            f"{path} has an input {min(surplus)!r}, which this version does not provide; export "
            "again"
        )


def _check_values(
    path: Path, what: str, expected: Values, found: Values, sizes: dict[str, int]
) -> None:
    for name, value in expected.items():
        if name not in found:
            raise ArtifactError(
                f"{path} has no {what} {name!r}, which the manifest implies; export again"
            )
        if value is not _ANY and found[name] != (sized := _with_sizes(value, found[name], sizes)):
            raise ArtifactError(
                f"{path}: {what} {name!r} is {found[name]}, but the manifest implies {sized}; "
                "export again"
            )


def _with_sizes(expected: OnnxValue, found: OnnxValue, sizes: dict[str, int]) -> OnnxValue:
    """Replace named sizes by the first size found, which holds for all graphs of the folder."""
    shape = expected.shape or ()
    for size, there in zip(shape, found.shape or (), strict=False):
        if isinstance(size, str) and isinstance(there, int):
            sizes.setdefault(size, max(there, 1))
    numbers = tuple(size if isinstance(size, int) else sizes.get(size, 0) for size in shape)
    return OnnxValue(expected.type, numbers)


def _batch(manifest: Manifest) -> dict[str, OnnxValue]:
    return {"targets": OnnxValue(FLOAT, (manifest.max_targets, 6)), **loss_state(manifest)}


def _images(manifest: Manifest, dtype: int) -> dict[str, OnnxValue]:
    return {"images": OnnxValue(dtype, (manifest.batch_size, 3, *manifest.image_size))}


def _step_contents(manifest: Manifest) -> _Contents:
    """Return the contents of a portable step; its initial state is a file of tensors."""
    batch = _batch(manifest) | _images(manifest, UINT8)
    vectors = _vectors(manifest)
    detector = {name: vectors[name] for name in ("parameters", "statistics") if name in vectors}
    new = {f"new_{name}": value for name, value in (vectors | loss_state(manifest)).items()}
    values = loss_values(manifest)
    inputs = batch | _settings(manifest) | vectors
    graphs = {
        "train_step.onnx": _Graph(inputs=inputs, outputs=values | new),
        "apply_step.onnx": _update_alone(manifest, vectors),
        "eval_step.onnx": _Graph(inputs=batch | detector, outputs=values),
        "inference.onnx": _Graph(
            inputs={"images": _ANY} | detector, outputs={"output0": _ANY}, optional=True
        ),
    }
    return _Contents(graphs=graphs, tensors={STATE_NAME: _state_shapes(manifest)})


def _update_alone(manifest: Manifest, vectors: Values) -> _Graph:
    """Return the graph that updates without a batch; folders of earlier versions lack it."""
    batch_only = ("update", "loss_scale")
    settings = {name: one for name, one in _settings(manifest).items() if name not in batch_only}
    # Statistics move with batches, not with updates; only their average needs them here.
    moved = {name: value for name, value in vectors.items() if name != "statistics"}
    new = {f"new_{name}": value for name, value in moved.items()}
    read = vectors if manifest.ema else moved
    return _Graph(
        inputs=settings | dict(read), outputs={"skipped": OnnxValue(BOOL, ())} | new, optional=True
    )


def _training_contents(manifest: Manifest) -> _Contents:
    """Return the contents of training artifacts; frozen tensors are inputs as well."""
    trained = dict.fromkeys(manifest.trained, _ANY)
    inputs = _batch(manifest) | _images(manifest, FLOAT) | trained
    state = {f"new_{name}": value for name, value in loss_state(manifest).items()}
    outputs = loss_values(manifest) | state
    gradients = {f"{name}_grad.accumulation.out": _ANY for name in manifest.groups.all}
    graphs = {
        "training_model.onnx": _Graph(inputs=inputs, outputs=outputs | gradients, has_more=True),
        "eval_model.onnx": _Graph(inputs=inputs, outputs=outputs, has_more=True),
        "inference.onnx": _Graph(
            inputs={"images": _ANY} | trained,
            outputs={"output0": _ANY},
            optional=True,
            has_more=True,
        ),
    }
    return _Contents(graphs=graphs)


def _loss_contents(manifest: Manifest) -> _Contents:
    """Return the contents of a loss alone, with a graph per number of target rows."""
    inputs, outputs = loss_inputs(manifest) | _batch(manifest), loss_outputs(manifest)
    graphs = {
        name: _Graph(inputs=inputs | {"targets": OnnxValue(FLOAT, (rows, 6))}, outputs=outputs)
        for rows, name in manifest.loss_graphs.items()
    }
    return _Contents(graphs=graphs)


_CONTENTS: Mapping[Kind, Callable[[Manifest], _Contents]] = {
    "train-step": _step_contents,
    "ort-training": _training_contents,
    "loss": _loss_contents,
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
    """Return the flat vectors of the portable step's state; that of the loss is in `_batch`."""
    layout = _layout(manifest)
    flat = {"parameters": _covered(layout.parameters, manifest.groups.all)}
    if statistics := manifest.trained[len(manifest.groups.all) :]:
        flat["statistics"] = _covered(layout.statistics, statistics)
    averages = {f"ema_{name}": size for name, size in flat.items()} if manifest.ema else {}
    kept = {f"optimizer_{name}": flat["parameters"] for name in _optimizer_state(manifest)}
    sizes = flat | averages | kept | {"gradients": flat["parameters"]}
    return {name: OnnxValue(FLOAT, (size,)) for name, size in sizes.items()} | {
        "updates": OnnxValue(FLOAT, ())
    }


def _optimizer_state(manifest: Manifest) -> list[str]:
    found, optimizer = list(_layout(manifest).optimizer_state), manifest.optimizer
    if optimizer is None or found != list(OPTIMIZERS[optimizer].state_names):
        raise ValueError(f"{optimizer} does not keep the optimizer state {found}")
    return found


def _layout(manifest: Manifest) -> StateLayout:
    if manifest.layout is None:
        raise ValueError("it lacks 'parameters'")
    return manifest.layout


def _covered(layout: FlatLayout, names: tuple[str, ...]) -> int:
    """Return the size of a flat vector, which must hold exactly these tensors."""
    if set(layout.names) != set(names) or len(layout.names) != len(names):
        raise ValueError(
            f"it has {len(layout.names)} tensors, which are not the {len(names)} trained ones"
        )
    return layout.size


def _check_tensors(path: Path, content: bytes, shapes: Mapping[str, tuple[int, ...]]) -> None:
    tensors = parse_tensor_file(content, path).tensors
    found = {name: tensor.shape for name, tensor in tensors.items()}
    for name, shape in shapes.items():
        if found.get(name) != shape:
            raise ArtifactError(
                f"{path}: {name!r} has shape {found.get(name)}, but the manifest implies {shape}; "
                "export again"
            )


def _state_shapes(manifest: Manifest) -> dict[str, tuple[int, ...]]:
    layout = _layout(manifest)
    parameters = layout.parameters.by_name
    trained = parameters | layout.statistics.by_name
    shapes = {name: (len(values),) for name, values in manifest.loss_state.items()} | trained
    if manifest.ema:
        shapes |= {f"ema/{name}": shape for name, shape in trained.items()}
    for kept in _optimizer_state(manifest):
        shapes |= {f"optimizer/{kept}/{name}": shape for name, shape in parameters.items()}
    return shapes
