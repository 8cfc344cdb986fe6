"""Archives of `torch.save` made by hand: what was searched is what torch opens, or nothing is."""

from __future__ import annotations

import io
import struct
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from exportloss.errors import ArtifactError
from exportloss.models.torch_file import load_torch_file
from tests.support.messages import mentions
from tests.support.torch_archives import (
    archive,
    call,
    integer,
    pickled,
    storage,
    tensor,
    text,
)

STORAGE = bytes(range(4)) * 2  # two floats
GOOD = pickled(b"}" + text("a") + tensor(storage()) + b"s")
EMPTY = pickled(b"}")
VERSION, ORDER = ("a/version", b"3\n"), ("a/byteorder", b"little")


def load(folder: Path, content: bytes) -> object:
    (folder / "a.pt").write_bytes(content)
    return load_torch_file(folder / "a.pt")


def test_an_archive_made_by_hand_is_read(tmp_path):
    loaded = load(tmp_path, archive(("a/data.pkl", GOOD), ("a/data/0", STORAGE), ORDER, VERSION))
    assert loaded["a"].numpy().tobytes() == STORAGE


BYTEARRAY = pickled(call("builtins.bytearray", integer(1 << 28)))


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ([("a/data.pkl", BYTEARRAY), ("a/data.pkl", EMPTY)], "a/data.pkl twice"),
        ([("a/data.pkl", EMPTY), ("a/data.pkl", BYTEARRAY)], "a/data.pkl twice"),
        ([("a/data.pkl", EMPTY), ("a/data.PKL", BYTEARRAY)], "a/data.PKL twice"),
        ([("a/data.PKL", BYTEARRAY)], "a/data.PKL"),
        ([("a/Data.pkl", EMPTY)], "a/Data.pkl"),
        ([("a/data.pkl", GOOD), ("a/data/0", STORAGE), ("A/data/0", STORAGE)], "A/data/0 twice"),
        ([("a/data.pkl", EMPTY), ("b/data.pkl", BYTEARRAY)], "not readable"),
        ([("b/other", b""), ("a/data.pkl", EMPTY)], "not readable"),
        ([("data.pkl", EMPTY)], "not readable"),
        ([("a/data.pkl/data.pkl", EMPTY)], "not readable"),
        ([("a/" + "x" * 600, b""), ("a/data.pkl", EMPTY)], 602),
        ([ORDER], "no data.pkl"),
        ([("a/data.pkl", EMPTY), ("a/constants.pkl", EMPTY)], "TorchScript"),
        ([("a/data.pkl", GOOD)], "storage 0"),
        ([("a/data.pkl", GOOD), ("a/data/0", b"")], "storage 0"),
        ([("a/data.pkl", GOOD), ("a/data/0", STORAGE + b"\0")], "storage 0"),
    ],
)
def test_archives_that_readers_see_differently_are_refused(tmp_path, members, told):
    with pytest.raises(ArtifactError, match=mentions("a.pt", told)):
        load(tmp_path, archive(*members, VERSION))


def test_parts_that_overlap_are_refused(tmp_path):
    """A directory may name the same bytes many times over: each name is memory to whoever reads."""
    parts = [(f"a/data/{number}", bytes(4096)) for number in range(2)]
    content = bytearray(archive(("a/data.pkl", EMPTY), *parts, VERSION))
    entries = [at for at in range(len(content)) if content[at : at + 4] == b"PK\1\2"]
    place = slice(entries[1] + 42, entries[1] + 46)  # where the part lies that an entry is of
    content[entries[2] + 42 : entries[2] + 46] = content[place]
    with pytest.raises(ArtifactError, match=mentions("a.pt", "a/data/1", "checksum")):
        load(tmp_path, bytes(content))
    content[entries[1] + 20 : entries[1] + 28] = struct.pack("<II", 1 << 20, 1 << 20)
    with pytest.raises(ArtifactError, match=mentions("a.pt", "overlap")):
        load(tmp_path, bytes(content))


@pytest.mark.parametrize(
    "held",
    [
        storage(numel=3),  # more than the archive has: torch would read what lies beyond
        storage(numel=1),
        storage(numel=-1),
        storage(key="00"),
        storage(key="../data.pkl"),
        storage(kind="UntypedStorage"),
        storage(kind="ComplexFloatStorage"),
        storage(kind="FloatStorage") + b"0" + storage(kind="HalfStorage"),
        b"(" + text("module") + text("a") + text("b") + text("c") + b"tQ",
        text("storage") + b"Q",
        integer(0) + b"Q",
    ],
)
def test_storages_that_the_archive_does_not_have_so_are_refused(tmp_path, held):
    members = ("a/data.pkl", pickled(held)), ("a/data/0", STORAGE), VERSION
    with pytest.raises(ArtifactError):
        load(tmp_path, archive(*members))


def test_names_of_storages_are_not_many_names_of_one(tmp_path):
    """Torch's reader does not tell capitals from small letters, so that each spelling is a copy."""
    held = b"]" + b"".join(storage(key=key) + b"a" for key in ("ab", "aB", "Ab", "AB"))
    members = ("a/data.pkl", pickled(held)), ("a/data/ab", STORAGE), VERSION
    with pytest.raises(ArtifactError, match=mentions("a.pt", "torch.save")):
        load(tmp_path, archive(*members))


@pytest.mark.parametrize(
    "name",
    [
        "torch.Tensor",
        "torch.FloatTensor",
        "torch.UntypedStorage",
        "torch.storage.UntypedStorage",
        "torch.storage.TypedStorage",
        "torch.uint1",
        "torch._utils._rebuild_meta_tensor_no_storage",
        "torch._utils._rebuild_wrapper_subclass",
        "torch._tensor._rebuild_from_type_v2",
        "torch.serialization._get_layout",
        "collections.Counter",
        "builtins.bytearray",
        "builtins.complex",
        "copyreg._reconstructor",
        "__builtin__.eval",
    ],
)
def test_what_makes_memory_that_nobody_has_written_to_is_refused(tmp_path, name):
    members = ("a/data.pkl", pickled(call(name, integer(1 << 20)))), VERSION
    told = mentions("a.pt", "refused", f"'{name.replace('__builtin__', 'builtins')}'")
    with pytest.raises(ArtifactError, match=told):
        load(tmp_path, archive(*members))


def test_a_name_of_two_lines_is_no_way_around(tmp_path):
    """The second line begins the instructions that follow the name."""
    members = ("a/data.pkl", pickled(call("models.x\nos.system", integer(1)))), VERSION
    with pytest.raises(ArtifactError, match=mentions("a.pt", "not readable")):
        load(tmp_path, archive(*members))


@pytest.mark.parametrize("encoding", ["hex", "zlib_codec", "idna", "punycode", "unicode_escape"])
def test_text_is_encoded_as_bytes_are_pickled_only(tmp_path, encoding):
    encoded = call("_codecs.encode", text("a" * 100), text("latin1"))
    assert load(tmp_path, archive(("a/data.pkl", pickled(encoded)), VERSION)) == b"a" * 100
    again = call("_codecs.encode", text("a" * 100), text(encoding))
    with pytest.raises(ArtifactError, match=mentions("a.pt", "encodes", "latin1")):
        load(tmp_path, archive(("a/data.pkl", pickled(again)), VERSION))


@pytest.mark.parametrize(
    "value",
    [
        # An encoder, a set and a dictionary copy what they are given.
        text("a" * 100_000)
        + b"q\1"
        + text("latin1")
        + b"q\2]("
        + b"c_codecs\nencode\nh\1h\2\x86R" * 10_000
        + b"e",
        b"(" + integer(1) * 50_000 + b"tq\1](" + b"c__builtin__\nset\nh\1\x85R" * 1_000 + b"e",
        b"(" + integer(1) * 50_000 + b"tq\1](" + b"ctorch\nSize\nh\1\x85R" * 1_000 + b"e",
        b"}("
        + b"".join(text(f"a{n}") + b"N" for n in range(20_000))
        + b"uq\1]("
        + b"ccollections\nOrderedDict\n)Rh\1b" * 1_000
        + b"e",
    ],
)
def test_copies_of_one_object_have_an_end(tmp_path, value):
    members = ("a/data.pkl", pickled(value)), VERSION
    with pytest.raises(ArtifactError, match=mentions("a.pt", "without end")):
        load(tmp_path, archive(*members))


def test_many_names_are_refused(tmp_path):
    names = b"".join(f"cmodels.a\nb{number}\n0".encode() for number in range(4_000))
    with pytest.raises(ArtifactError, match=mentions("a.pt", 1000)):
        load(tmp_path, archive(("a/data.pkl", pickled(names + b"N")), VERSION))


@pytest.mark.parametrize("attribute", ["items", "get", "values", "keys"])
def test_dictionaries_have_no_attributes_of_the_files_choice(tmp_path, attribute):
    attributes = b"}" + text(attribute) + integer(1) + b"s"
    built = call("collections.OrderedDict") + attributes + b"b"
    module = call("models.yolo.Model") + built + b"b"
    for value in (built, b"}" + text("model") + module + b"s", b"]" + built + b"a"):
        loaded = load(tmp_path, archive(("a/data.pkl", pickled(value)), VERSION))
        inner: Sequence[object] = loaded if isinstance(loaded, list) else list(loaded.values())
        for one in (loaded, *inner):
            assert not isinstance(one, dict) or isinstance(one.items().__len__(), int)


def old(value: bytes, keys: bytes, rest: bytes = b"") -> bytes:
    magic = b"\x8a\x0a" + torch.serialization.MAGIC_NUMBER.to_bytes(10, "little")
    return b"".join(map(pickled, (magic, b"M\xe9\x03", b"}", value, keys))) + rest


HELD = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("7") + text("cpu") + integer(2)
OLD = b"}" + text("a") + tensor(HELD + b"NtQ") + b"s"


def test_the_old_format_made_by_hand_is_read(tmp_path):
    content = old(OLD, b"](" + text("7") + b"e", struct.pack("<q", 2) + STORAGE)
    assert load(tmp_path, content)["a"].numpy().tobytes() == STORAGE


@pytest.mark.parametrize(
    "keys",
    [
        b"]",
        b"]" + text("8") + b"a",
        b"}" + text("8") + text("7") + b"s",  # only keys are read
        b"](" + text("7") + b"\x85e",
        call("builtins.bytearray", integer(1 << 28)),
        b"(" + text("7") + b"t",
    ],
)
def test_a_list_of_storages_without_all_of_them_is_refused(tmp_path, keys):
    """Torch leaves the memory of the others as it was."""
    with pytest.raises(ArtifactError):
        load(tmp_path, old(OLD, keys, struct.pack("<q", 2) + STORAGE))


def test_an_archive_of_the_tape_kind_is_not_unpacked(tmp_path):
    """A name of four pickles is what the search wants to see; torch would extract the rest."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(tarfile.TarInfo("N.N.N.N.].storages"))
        link = tarfile.TarInfo("storages")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(ArtifactError):
        load(tmp_path, content.getvalue())
