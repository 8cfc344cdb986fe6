"""Videos of given frames, and files that only look like videos."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

__all__ = ["hostile_files", "noise", "write_audio", "write_video"]


def noise(count: int, height: int = 48, width: int = 64) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return list(rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8))


def write_video(
    path: Path,
    images: Sequence[np.ndarray],
    *,
    codec: str = "ffv1",
    pixels: str = "bgr0",
    rate: int = 10,
    times: Sequence[int] | None = None,
    rotation: float | None = None,
    mirrored: bool = False,
    form: str | None = None,
    **options: str,
) -> Path:
    """Write (H, W, 3) images as a video; by default without loss.

    Args:
        path: file to write.
        images: frames, all of the same size.
        codec: FFmpeg's name of the encoder.
        pixels: FFmpeg's name of the encoded pixels' format.
        rate: frames per second.
        times: of the frames, milliseconds; None for a constant rate.
        rotation: degrees, counterclockwise, by which a player is to turn the frames.
        mirrored: whether a player is to exchange left and right.
        form: FFmpeg's name of the file format; None to go by the suffix.
        options: of the file format.
    """
    with av.open(str(path), "w", format=form, options=options) as output:
        stream = output.add_stream(codec, rate=rate)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = pixels
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if rotation is not None:
            stream.set_display_rotation(rotation, hflip=mirrored)
        for index, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[index], Fraction(1, 1000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def write_audio(path: Path) -> Path:
    """Write a second of silence."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), "fltp", "mono")
        frame.sample_rate = 8000
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def hostile_files(folder: Path) -> dict[str, bytes]:
    """Return the content of files that would make FFmpeg open another file, an address, or worse.

    Args:
        folder: has a video `real.ts`, and room for more.
    """
    real = write_video(
        folder / "real.mp4", noise(3), codec="libx264", pixels="yuv420p", movflags="faststart"
    ).read_bytes()
    gif = write_video(folder / "real.gif", noise(2), codec="gif", pixels="rgb8").read_bytes()
    many = bytearray(real)
    sizes, chunks = many.index(b"stsz"), many.index(b"stsc")
    many[sizes + 8 : sizes + 16] = struct.pack(">II", 1, 0x03FFFFFF)
    many[chunks + 16 : chunks + 20] = struct.pack(">I", 0x03FFFFFF)
    other = folder / "real.ts"
    address = "http://127.0.0.1:9/real.ts"
    return {
        "a playlist of an address": f"#EXTM3U\n#EXTINF:1,\n{address}\n#EXT-X-ENDLIST\n".encode(),
        "a playlist of a file": f"#EXTM3U\n#EXTINF:1,\n{other}\n#EXT-X-ENDLIST\n".encode(),
        "a list of files": f"ffconcat version 1.0\nfile '{other}'\n".encode(),
        "a session": b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=-\nc=IN IP4 127.0.0.1\nt=0 0\n"
        b"m=video 9000 RTP/AVP 26\n",
        "a manifest": b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><BaseURL>'
        + address.encode()
        + b"</BaseURL></MPD>",
        "a drawing": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"></svg>',
        "frames of four billion pixels": gif[:6] + struct.pack("<HH", 65535, 65535) + gif[10:],
        "an index of gigabytes": bytes(many),
    }
