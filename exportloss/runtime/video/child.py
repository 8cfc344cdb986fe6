"""Child process of `exportloss.runtime.video.video`: decodes a video within limits and sends it."""

from __future__ import annotations

import sys

from exportloss.errors import DataError
from exportloss.runtime.processes.child import receive, send
from exportloss.runtime.processes.limits import follow_parent, limit_memory, private_output, told
from exportloss.runtime.video.frames import import_av
from exportloss.runtime.video.reader import open_reader

__all__ = ["main"]

_BASE = 1 << 30  # bytes for FFmpeg itself and the index that it keeps of a long file
_TIMES_PIXELS = 128  # bytes per pixel: frames that a decoder keeps and its threads work on
_USUAL_PIXELS = 1 << 21  # assumed for frames of unknown size


def main() -> None:
    """Receive a path and stride; send a description, then each frame, then the damage found."""
    requests, answers = sys.stdin.buffer, private_output()
    follow_parent()
    about, _ = receive(requests)
    path, stride = about["path"], about["stride"]
    with told(
        answers,
        DataError,
        too_much=f"{path}: the video needs more memory than one of its size should; is it damaged, "
        "or made to do so?",
        failed=f"{path}: the video cannot be read",
    ):
        import_av()
        limit_memory(_BASE)
        with open_reader(path) as video:
            height, width = video.size
            limit_memory(_BASE + _TIMES_PIXELS * (height * width or _USUAL_PIXELS))
            rate, base = video.rate, video.time_base
            described = {"rate": [rate.numerator, rate.denominator], "count": video.count}
            send(answers, described | {"time_base": [base.numerator, base.denominator]})
            for frame in video.frames(stride=stride):
                time = [frame.time.numerator, frame.time.denominator]
                described = {"shape": frame.image.shape, "number": frame.number, "time": time}
                send(answers, described, frame.image.tobytes())
            send(answers, {"damage": video.damage})
