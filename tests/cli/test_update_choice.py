"""`--update`: a name, or a file of patterns."""

from pathlib import Path

import pytest

from exportloss.cli.update_choice import update_choice
from exportloss.errors import ConfigError
from tests.support.messages import mentions


@pytest.mark.parametrize("name", ["all", "bias", "norm", "last-3"])
def test_a_name_is_a_name_even_beside_a_file(name: str, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(name).write_text("model.0.*")
    assert update_choice(name) == name


def test_a_file_has_a_pattern_per_line(tmp_path: Path):
    path = tmp_path / "update.txt"
    path.write_text("# the head\nmodel.24.*  # all of it\n\n  model.2[0-3].*.bias\n")
    assert update_choice(str(path)) == ("model.24.*", "model.2[0-3].*.bias")


@pytest.mark.parametrize("given", ["", " "])
def test_nothing_is_no_choice(given: str):
    with pytest.raises(ConfigError, match=mentions("--update", repr(given), "last-K", "a file")):
        update_choice(given)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, ("no such file", "all, bias, norm, last-K")),
        (b"# nothing\n", ("no pattern", "one per line")),
        (b"\xff\xfe\x00", ("not text",)),
        (b"a\n" * 600_000, ("MiB",)),
    ],
)
def test_other_files_are_refused(content: bytes | None, said: tuple[str, ...], tmp_path: Path):
    path = tmp_path / "last-three"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=mentions("last-three", *said)):
        update_choice(str(path))
