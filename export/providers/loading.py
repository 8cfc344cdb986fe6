"""Load the graph to check and complete its types."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx_ir.passes import common as passes

from exportloss.errors import ArtifactError, excerpt
from exportloss.reading import read_bounded
from exportloss.runtime.artifact.limits import MAX_MODEL_BYTES
from exportloss.runtime.artifact.onnx_files.model_checksum import model_is_whole
from exportloss.runtime.artifact.onnx_files.onnx_file import parse_onnx

__all__ = ["completed", "load", "refuse_invalid", "untyped_nodes"]


def load(model: str | Path | onnx.ModelProto | ir.Model) -> ir.Model:
    """Return a model, read from a file if a path is given.

    Raises:
        ArtifactError: The file is missing, damaged, or not an ONNX model.
    """
    if isinstance(model, ir.Model):
        return model
    if isinstance(model, onnx.ModelProto):
        return ir.from_proto(model)
    path = Path(model)
    try:
        content = read_bounded(path, MAX_MODEL_BYTES, error=ArtifactError)
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}") from error
    try:
        if not model_is_whole(content):
            raise ValueError("it is damaged, its content does not match its sha256")
        parse_onnx(content)  # refuses tensors stored in other files
        loaded = ir.from_proto(onnx.load_model_from_string(content))
        if not loaded.opset_imports:
            raise ValueError("it declares no opset")
        return loaded
    except Exception as error:  # of many kinds, from protobuf and onnx_ir
        raise ArtifactError(f"{path} is not an ONNX model: {excerpt(error, 500)}") from error


def refuse_invalid(model: ir.Model, error: Exception) -> None:
    """Explain an error by an invalid model; return if the model is valid.

    Raises:
        ArtifactError: The model violates the ONNX specification.
    """
    try:
        onnx.checker.check_model(ir.to_proto(model))
    except Exception as reason:
        raise ArtifactError(f"the graph is not valid ONNX: {excerpt(reason, 500)}") from error


def completed(model: ir.Model) -> ir.Model:
    """Return the model with its functions inlined and the types that ONNX can infer.

    The model itself is not changed, and is returned if there is nothing to add.
    """
    if not model.functions and not any(untyped_nodes(model)):
        return model
    copy = ir.from_proto(ir.to_proto(model))
    passes.InlinePass()(copy)
    try:
        return ir.from_proto(onnx.shape_inference.infer_shapes(ir.to_proto(copy)))
    except onnx.shape_inference.InferenceError:
        return copy  # the check reports values of unknown type


def untyped_nodes(model: ir.Model) -> Iterator[ir.Node]:
    """Yield the nodes with an output of unknown type."""
    for node in model.graph.all_nodes():
        if any(value.type is None and value.name for value in node.outputs):
            yield node
