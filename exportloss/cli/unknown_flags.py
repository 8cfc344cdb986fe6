"""Messages about unknown flags: alternatives to YOLOv5's, or the closest known flag."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence

__all__ = ["explain"]

_ONE_DEVICE = "training is on one device; leave it out"
_HOSTED = "no service is told of a run; results.jsonl and TensorBoard's files can be read by others"
_PRECISION = "the precision is the file's own; leave it out"

# Flags of YOLOv5 v7.0 that do not exist here, by command.
_ANSWERS = {
    "train": {
        "--cfg": "a model is built from its size: --weights yolov5s; --anchors takes a file",
        "--rect": "a graph has one shape; images are letterboxed into it",
        "--multi-scale": "a graph has one shape; hyp's `scale` varies the size of objects",
        "--quad": "a graph has one shape and one batch size; leave it out",
        "--evolve": "no search for hyperparameters; try some, with short runs of --seed 0",
        "--sync-bn": _ONE_DEVICE,
        "--local_rank": _ONE_DEVICE,
        "--bucket": _HOSTED,
        "--entity": _HOSTED,
        "--upload_dataset": _HOSTED,
        "--bbox_interval": _HOSTED,
        "--artifact_alias": _HOSTED,
    },
    "val": {
        "--augment": "no augmentation at test time; leave it out",
        "--save-hybrid": "no hybrid labels; --save-txt writes what was found",
        "--half": _PRECISION,
        "--dnn": "ONNX Runtime runs the file; leave it out",
    },
    "detect": {
        "--view-img": "nothing is shown; look at what is written to runs/detect",
        "--save-csv": "--save-json writes the same and more",
        "--augment": "no augmentation at test time; leave it out",
        "--visualize": "no images of features; leave it out",
        "--update": "weights are not changed; leave it out",
        "--half": _PRECISION,
        "--dnn": "ONNX Runtime runs the file; leave it out",
    },
    "export": {
        "--include": "--format names what to write",
        "--half": "--precision float16 is for training steps; detectors are float32",
        "--dynamic": "an inference file takes any batch; its size is --imgsz",
        "--simplify": "graphs are simple as they are; leave it out",
        "--opset": "it is fixed; `exportloss check` says what runs a file",
        "--inplace": "it makes no difference to a graph; leave it out",
        "--device": "an export is made on the CPU, for every device; leave it out",
        "--keras": "--format onnx is what other tools convert",
        "--workspace": "TensorRT makes its engine when it first runs a file; leave it out",
        "--agnostic-nms": "the graph suppresses by class; leave it out",
    },
}


def explain(command: str, parser: argparse.ArgumentParser, unknown: Sequence[str]) -> str:
    """Return a message about the first argument that a command does not know.

    Args:
        command: Name of the command.
        parser: Parser of the command.
        unknown: Arguments that it did not parse.
    """
    flag = next((each.partition("=")[0] for each in unknown if each.startswith("-")), None)
    if flag is None:
        return f"unexpected {unknown[0]!r}; every value belongs to a flag"
    if (answer := _ANSWERS.get(command, {}).get(flag.replace("_", "-"))) is None:
        answer = _ANSWERS.get(command, {}).get(flag)
    if answer is not None:
        return f"{flag}: not here; {answer}"
    known = [option for action in parser._actions for option in action.option_strings]
    near = difflib.get_close_matches(flag, known, n=1)
    return f"no flag {flag}{f'; did you mean {near[0]}?' if near else ''}"
