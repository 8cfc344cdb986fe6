"""`--device` and `--no-self-check`, which several commands share."""

from __future__ import annotations

import argparse

__all__ = ["add_device_arguments"]


def add_device_arguments(parser: argparse._ActionsContainer, *, unsaid: bool = False) -> None:
    """Add where to run, and whether to compare with the CPU first.

    Args:
        parser: of the command.
        unsaid: leave what is not said None, instead of a default.
    """
    parser.add_argument(
        "--device",
        default=None if unsaid else "cpu",
        metavar="NAME",
        help="cpu, cuda, tensorrt, nv-tensorrt-rtx, webgpu, coreml, qnn or directml, another "
        "provider of ONNX Runtime by its own name, or openvino (openvino:GPU, openvino:NPU); one "
        "of several GPUs as cuda:1 (default cpu)",
    )
    parser.add_argument(
        "--no-self-check",
        dest="self_check",
        action="store_const",
        const=False,
        default=None if unsaid else True,
        help="on another device than the CPU do not compare one step with the CPU's first",
    )
