"""Flat layouts: where tensors lie in a vector, and layouts to refuse."""

from __future__ import annotations

import numpy as np

from exportloss.runtime.artifact.flat_layout import FlatLayout


def _entry(name: object = "a", shape: object = (2,), offset: object = 0) -> dict[str, object]:
    return {"name": name, "shape": shape, "offset": offset}


_ACCEPTED = {
    "empty": FlatLayout(),
    "one tensor": FlatLayout(("a",), ((3,),)),
    "shapes": FlatLayout(
        ("weight", "\u00e9", "scalar", "", "bias"), ((2, 1, 2, 3), (1,), (), (2, 2), (4,))
    ),
}
_REFUSED = {
    "no list": {},
    "gap": [_entry(), _entry("b", offset=3)],
    "overlap": [_entry(), _entry("b", offset=1)],
    "first offset": [_entry(offset=1)],
    "another order": [_entry("b", offset=2), _entry()],
    "a name twice": [_entry(), _entry(offset=2)],
    "side of 0": [_entry(shape=(2, 0))],
    "negative side": [_entry(shape=(-1,))],
    "broken side": [_entry(shape=(1.5,))],
    "side as text": [_entry(shape=("2",))],
    "name is a number": [_entry(name=3)],
    "no shape": [{"name": "a", "offset": 0}],
    "no offset": [{"name": "a", "shape": [2]}],
}


def make(files: dict[str, bytes]) -> list[object]:
    cases: list[object] = []
    for name, layout in _ACCEPTED.items():
        vector = np.arange(layout.size, dtype=np.float32)
        cases.append(
            {
                "name": name,
                "result": "accept",
                "entries": layout.to_values(),
                "sizes": layout.sizes,
                "offsets": layout.offsets,
                "size": layout.size,
                "vector": vector,
                "tensors": layout.split(vector),
            }
        )
    for name, entries in _REFUSED.items():
        cases.append({"name": name, "result": "damaged", "entries": entries})
    return cases
