"""Archives of `torch.save`, made by hand from a pickle's instructions."""

from __future__ import annotations

import io
import struct
import warnings
import zipfile


def op(code: bytes, text: str) -> bytes:
    """An instruction that takes text with its length before it."""
    return code + struct.pack("<I", len(text.encode())) + text.encode()


def text(value: str) -> bytes:
    """Push a string."""
    return op(b"X", value)


def call(name: str, *arguments: bytes) -> bytes:
    """Call the function of this dotted name."""
    module, _, function = name.rpartition(".")
    return f"c{module}\n{function}\n".encode() + b"(" + b"".join(arguments) + b"tR"


def integer(value: int) -> bytes:
    """Push a number of 32 bits."""
    return b"J" + struct.pack("<i", value)


def storage(key: str = "0", numel: int = 2, kind: str = "FloatStorage") -> bytes:
    """Refer to the storage of `numel` elements in the member `data/<key>`."""
    named = f"ctorch\n{kind}\n".encode()
    return b"(" + text("storage") + named + text(key) + text("cpu") + integer(numel) + b"tQ"


def tensor(held: bytes, numel: int = 2) -> bytes:
    """A vector over a storage, as torch rebuilds it."""
    sizes = integer(numel) + b"\x85" + integer(1) + b"\x85"
    rest = b"\x89" + call("collections.OrderedDict")
    return call("torch._utils._rebuild_tensor_v2", held, integer(0), sizes, rest)


def pickled(value: bytes) -> bytes:
    """Wrap instructions as a whole pickle of protocol 2."""
    return b"\x80\x02" + value + b"."


def archive(*members: tuple[str, bytes], prefix: bytes = b"") -> bytes:
    """Zip members by name, which may be there twice, behind a prefix that is no part of it."""
    content = io.BytesIO(prefix)
    content.seek(len(prefix))
    with warnings.catch_warnings(), zipfile.ZipFile(content, "w") as file:
        warnings.simplefilter("ignore")  # of names that are there twice
        for name, held in members:
            file.writestr(name, held)
    return content.getvalue()
