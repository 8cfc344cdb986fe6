"""Archives of `torch.save`, read as torch's own reader reads them.

Readers of zip files differ: if a name occurs twice, one takes the first entry and another the last;
torch's ignores the case of letters. So an archive is refused if Python's reader finds anything else
in it than torch's.
"""

from __future__ import annotations

import io
import zipfile

import torch

__all__ = ["read_pickle"]

_PICKLE = "data.pkl"
_STORAGES = "data/"
_LONGEST_NAME = 200  # characters


def read_pickle(content: bytes) -> tuple[bytes, dict[str, int]]:
    """Return the pickle of an archive, and the bytes of each storage in it by its key.

    Raises:
        ValueError: the archive has a name twice, or compressed or overlapping parts, or the two
            readers disagree.
        Exception: whatever the readers raise for a damaged archive.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        _check_entries(archive.infolist(), len(content))
        if damaged := archive.testzip():
            raise ValueError(f"{damaged} does not match its checksum")
        theirs = torch._C.PyTorchFileReader(io.BytesIO(content))
        names = theirs.get_all_records()
        folder = archive.namelist()[0].partition("/")[0]
        if {f"{folder}/{name}" for name in names} != set(archive.namelist()):
            raise ValueError("readers of zip files find different names in it")
        if _PICKLE not in names:
            raise ValueError(f"it has no {_PICKLE}")
        sizes, pickled = {}, b""
        for name in names:
            record = theirs.get_record(name)
            if record != archive.read(f"{folder}/{name}"):
                raise ValueError(f"readers of zip files read different bytes in {name}")
            if name == _PICKLE:
                pickled = record
            sizes[name.removeprefix(_STORAGES)] = len(record)
    return pickled, sizes


def _check_entries(entries: list[zipfile.ZipInfo], size: int) -> None:
    names: set[str] = set()
    for entry in entries:
        name = entry.filename
        if entry.compress_type != zipfile.ZIP_STORED:  # a small file could fill the memory
            raise ValueError(f"{name[:_LONGEST_NAME]} is compressed, which torch.save never does")
        if len(name) > _LONGEST_NAME:
            raise ValueError(f"it has a name of {len(name)} characters")
        if name.casefold() in names:
            raise ValueError(f"it has {name} twice")
        names.add(name.casefold())
        if name.rpartition("/")[2].casefold() == _PICKLE and not name.endswith(_PICKLE):
            raise ValueError(f"it has {name}; torch.save writes {_PICKLE}")
    if sum(entry.file_size for entry in entries) > size:
        raise ValueError("its parts overlap")
