"""What inference servers are told of a model, by their documentation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from exportloss.errors import ArtifactError, excerpt
from exportloss.reading import read_bounded

__all__ = ["kserve_manifest", "openvino_config", "triton_config"]

_MOST_BYTES = 1 << 20
# ONNX Runtime's name of a type -> Triton's.
_TYPES: Mapping[str, str] = {
    "tensor(float)": "TYPE_FP32",
    "tensor(float16)": "TYPE_FP16",
    "tensor(double)": "TYPE_FP64",
    "tensor(uint8)": "TYPE_UINT8",
    "tensor(int8)": "TYPE_INT8",
    "tensor(int32)": "TYPE_INT32",
    "tensor(int64)": "TYPE_INT64",
    "tensor(bool)": "TYPE_BOOL",
}


def triton_config(name: str, session: Any) -> str:
    """Return Triton's `config.pbtxt` for a model of ONNX Runtime's backend.

    The shapes are those of an ONNX Runtime session, which are what the backend compares them with.
    `max_batch_size` is 0: the shapes are whole, with their first side, and Triton batches nothing
    for a graph that takes a fixed number of images. A side that may vary is -1.

    Args:
        name: Name of the model.
        session: ONNX Runtime session of the model.

    Raises:
        ArtifactError: an input or output is of a type that Triton does not know.
    """
    lines = [f'name: "{name}"', 'backend: "onnxruntime"', "max_batch_size: 0"]
    for what, values in (("input", session.get_inputs()), ("output", session.get_outputs())):
        entries = ",\n".join(map(_entry, values))
        lines += [f"{what} [\n{entries}\n]"]
    lines += ["version_policy: { latest: { num_versions: 1 } }"]
    return "\n".join(lines) + "\n"


def _entry(value: Any) -> str:
    if value.type not in _TYPES:
        raise ArtifactError(
            f"{excerpt(repr(value.name))} is a {value.type}, which Triton cannot be told; expected "
            f"one of {', '.join(_TYPES)}"
        )
    dims = ", ".join(str(side if isinstance(side, int) else -1) for side in value.shape)
    quoted = json.dumps(value.name)
    return f"  {{ name: {quoted} data_type: {_TYPES[value.type]} dims: [ {dims} ] }}"


def openvino_config(path: Path, name: str) -> str:
    """Return OpenVINO Model Server's `config.json` with a model added to those that it has.

    Args:
        path: The file; it may be missing.
        name: Name of the model, whose folder lies beside the file.

    Raises:
        ArtifactError: the file is no such configuration.
    """
    config: dict[str, Any] = {"model_config_list": []}
    try:
        config = json.loads(read_bounded(path, _MOST_BYTES, error=ArtifactError))
        names = [entry["config"]["name"] for entry in config["model_config_list"]]
    except FileNotFoundError:
        names = []
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArtifactError(
            f"{path} is no configuration of OpenVINO Model Server: {excerpt(repr(error))}; "
            "expected a model_config_list"
        ) from error
    if name not in names:
        config["model_config_list"].append({"config": {"name": name, "base_path": name}})
    return json.dumps(config, indent=2) + "\n"


def kserve_manifest(name: str) -> str:
    """Return an InferenceService for KServe that has Triton serve the repository.

    The address of the storage is the cluster's own, and is to be filled in.
    """
    return f"""\
# KServe, by Triton: put the address of this repository, the folder above this one, at storageUri.
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: {name}
spec:
  predictor:
    model:
      modelFormat:
        name: onnx
      runtime: kserve-tritonserver
      protocolVersion: v2
      storageUri: pvc://models/repository
"""
