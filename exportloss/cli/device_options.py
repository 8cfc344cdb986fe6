"""`--device` and `--no-self-check`, which several commands share."""

from __future__ import annotations

import argparse

from exportloss.cli.defaults import default_of
from exportloss.runtime.sessions.registry import open_session

__all__ = ["add_device_arguments"]


def add_device_arguments(parser: argparse._ActionsContainer, *, unsaid: bool = False) -> None:
    """Add the options for the device and the comparison with the CPU.

    Args:
        parser: Parser of a command.
        unsaid: Whether options that are not given are None instead of a default.
    """
    device = default_of(open_session, "device")
    parser.add_argument(
        "--device",
        default=None if unsaid else device,
        metavar="NAME",
        help="cpu, cuda, tensorrt, nv-tensorrt-rtx, webgpu, coreml, qnn or directml, another "
        "provider of ONNX Runtime by its own name, or openvino (openvino:GPU, openvino:NPU; "
        "openvino:bf16 for its CPU in bfloat16, which rounds gradients); one of several GPUs as "
        f"cuda:1 (default {device})",
    )
    parser.add_argument(
        "--no-self-check",
        dest="self_check",
        action="store_const",
        const=False,
        default=None if unsaid else default_of(open_session, "self_check"),
        help="on devices other than the CPU, do not compare one step with the CPU's first",
    )
