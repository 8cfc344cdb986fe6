import itertools
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exportloss.errors import ConfigError, DataError, ExportLossError, excerpt
from exportloss.reading import read_bounded, read_yaml_mapping
from exportloss.runtime.data.dataset import Dataset, read_data_yaml
from exportloss.runtime.training.hyp import read_hyp
from tests.support.messages import mentions


def write(folder: Path, content: str | bytes, name: str = "a.yaml") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read(path: Path):
    return read_yaml_mapping(path, expected="`key: value` lines", error=ConfigError)


def test_values_and_their_lines(tmp_path):
    path = write(tmp_path, "\ufeff# first\r\na: 1\r\nb:\r\n  - 2\r\n'c': x\r\n")
    found = read(path)
    assert found.values == {"a": 1, "b": [2], "c": "x"}
    assert [found.where(key) for key in "abc"] == [f"{path}:{n}" for n in (2, 3, 5)]
    assert found.where("d") == str(path)


def test_a_limit_is_kept_to_the_byte(tmp_path):
    path = write(tmp_path, b"x" * 10)
    assert read_bounded(path, 10, error=DataError) == b"x" * 10
    with pytest.raises(DataError, match=mentions(path, "10 bytes")):
        read_bounded(path, 9, error=DataError)
    with pytest.raises(FileNotFoundError):
        read_bounded(tmp_path / "none", 9, error=DataError)


def test_a_huge_file_is_never_read(tmp_path, monkeypatch):
    path = write(tmp_path, b"")
    with path.open("r+b") as file:
        file.truncate(1 << 40)  # sparse
    with pytest.raises(ConfigError, match=mentions(path, "1099511627776 bytes", "1 MiB")):
        read(path)


@pytest.mark.parametrize("path", ["/dev/zero", ".", "a\0b", "x" * 300])
def test_what_is_no_file_is_refused(tmp_path, path):
    with pytest.raises(ConfigError, match=mentions(tmp_path / path, "cannot be read")):
        read(tmp_path / path)


def test_links_in_a_circle_are_refused(tmp_path):
    path = tmp_path / "a.yaml"
    path.symlink_to(path)
    with pytest.raises(ConfigError, match=mentions(path, "cannot be read")):
        read(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a: 1\nb: [", ":2:"),
        ("a: 1\n\tb: 1", ":2:"),
        ("a: &x [1]\nb: *x", ":2:|aliases"),
        ("a: 1\n--- \nb: 1", ":2:"),
        (b"a: 1\nb: \xff", ":2:|start byte"),
        ("a: " + "[" * 1000, "YAML"),
        ("a: 9999-99-99", "YAML"),
        ("a: !!python/object:os.system 1", ":1:"),
        ("b: 1\na: " + "9" * 5000, ":2:|5000 digits"),
        ("a\0b: 1", "YAML"),
        ("- 1", "`key: value`|list"),
        ("", "`key: value`|NoneType"),
    ],
)
def test_a_bad_file_is_named_with_its_line(tmp_path, content, said):
    path = write(tmp_path, content)
    with pytest.raises(ConfigError, match=mentions(*said.split("|"))) as caught:
        read(path)
    assert str(caught.value).startswith(str(path))
    assert len(str(caught.value)) < 500


def test_an_alias_bomb_does_not_go_off(tmp_path):
    names = "abcdefgh"
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [f"{n}: &{n} [{', '.join([f'*{m}'] * 9)}]" for m, n in itertools.pairwise(names)]
    with pytest.raises(DataError, match=r":2: .*aliases"):
        read_data_yaml(write(tmp_path, "\n".join(lines)))


def test_excerpts():
    assert excerpt("x" * 60) == "x" * 60
    assert excerpt("x" * 61) == "x" * 60 + "..."
    assert excerpt(7) == "7"
    assert excerpt("\ud800\n\x1b") == r"\ud800\n\x1b"
    assert excerpt("\n" * 61) == r"\n" * 30 + "..."


value = st.sampled_from(
    """. ../x images /dev/zero list.txt loop "a\\0b" "\\ud800" [] [a,b] {0:a} {0:a,2:b} [yes]
    1e309 .nan .inf -1 0x10 null ~ 2001-01-01 2001-99-01 !!binary\tx {a:[b]} [[a]] *x &x 1:2:3 "" '
    [a,[b] train.txt""".split()
) | st.text(st.characters(exclude_characters="./"), max_size=6)
key = st.sampled_from("path train val test names nc lr0 mosaic hsv_h box criterion".split())
lines = st.lists(st.tuples(key, value), max_size=6).map(
    lambda pairs: "".join(f"{key}: {value}\n" for key, value in pairs)
)
# What names a folder names one that is small.
content = st.binary(max_size=80) | lines.map(lambda text: text.encode(errors="surrogatepass"))


@settings(deadline=None)
@given(content)
def test_any_bytes_are_settings_or_an_error_that_names_the_file(tmp_path_factory, content):
    folder = tmp_path_factory.getbasetemp() / "any_yaml"
    folder.mkdir(exist_ok=True)
    if not (folder / "loop").is_symlink():
        (folder / "loop").symlink_to("loop")
        (folder / "list.txt").write_bytes(b"\0.jpg\nx.png\n" + b"y" * 5000 + b".png")
    path = write(folder, content)
    try:
        config = read_data_yaml(path)
        assert config.num_classes >= 1
        Dataset.open(config, "train")
    except ExportLossError as error:
        assert re.search(f"{re.escape(str(folder))}|/dev/zero", str(error))
        assert len(str(error)) < 2000
    try:
        read_hyp(path)
    except ExportLossError as error:
        assert str(path) in str(error)
        assert len(str(error)) < 2000


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 1e-3), ("5E2", 500.0), ("-1.e+2", -100.0), ("1e", "1e"), ("e5", "e5")],
)
def test_numbers_with_an_exponent_and_no_point(tmp_path, text, value):
    assert read(write(tmp_path, f"lr0: {text}\n")).values == {"lr0": value}
