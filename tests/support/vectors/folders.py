"""Files of an artifacts folder, compared with the entries of its manifest."""

from __future__ import annotations

import hashlib

_CONTENT = b"content"
_ENTRY = {"sha256": hashlib.sha256(_CONTENT).hexdigest(), "size": len(_CONTENT)}


def make(files: dict[str, bytes]) -> list[object]:
    def case(name: str, result: str, listed: object, held: dict[str, bytes]) -> object:
        contents = {key: content.hex() for key, content in held.items()}
        return {"name": name, "result": result, "listed": listed, "held": contents}

    held = {"a.onnx": _CONTENT}
    cases = [
        case("whole", "accept", {"a.onnx": _ENTRY}, held),
        case("a file more", "accept", {"a.onnx": _ENTRY}, held | {"b.onnx": b""}),
        case("none listed", "accept", {}, {}),
        case("missing", "missing", {"a.onnx": _ENTRY}, {}),
        case("one of two missing", "missing", {"a.onnx": _ENTRY, "b.onnx": _ENTRY}, held),
        case("shorter", "damaged", {"a.onnx": _ENTRY}, {"a.onnx": _CONTENT[:-1]}),
        case("longer", "damaged", {"a.onnx": _ENTRY}, {"a.onnx": _CONTENT + b"\0"}),
        case("changed", "damaged", {"a.onnx": _ENTRY}, {"a.onnx": b"kontent"}),
        case(
            "checksum in upper case",
            "damaged",
            {"a.onnx": _ENTRY | {"sha256": str(_ENTRY["sha256"]).upper()}},
            held,
        ),
        case("2 GiB", "too-large", {"a.onnx": _ENTRY | {"size": 1 << 31}}, held),
        case("negative size", "damaged", {"a.onnx": _ENTRY | {"size": -1}}, held),
        case(
            "8 GiB and a byte", "too-large", {"a.safetensors": _ENTRY | {"size": (8 << 30) + 1}}, {}
        ),
        case("65 files", "too-many", {f"{at}.onnx": _ENTRY for at in range(65)}, {}),
    ]
    bad = ("", ".", "..", "../a.onnx", "/a.onnx", "b/a.onnx", "a\0.onnx", "a\n", "a" * 256)
    for name in (*bad, "a\u202e", "a\u2028", "\x9b", "\xa0"):
        shown = repr(name) if len(name) < 20 else "a name of 256 characters"
        cases.append(case(shown, "outside", {name: _ENTRY}, {}))
    return cases
