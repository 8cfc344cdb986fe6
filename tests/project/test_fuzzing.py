"""What is fuzzed (`make fuzz`), on the seeds and on a few thousand changed ones."""

from __future__ import annotations

import dataclasses

import pytest

from exportloss.errors import ConfigError
from fuzzing.make_seeds import make_seeds
from fuzzing.mutations import mutated
from fuzzing.targets import MAX_MESSAGE, SEEDS, TARGETS, Target, read_made_up

CHANGED = 300
# Whose every file takes a tenth of a second: they build a detector.
SLOW = {"pickle": 30, "weights": 30}


def seeds_of(name: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((SEEDS / name).iterdir())}


def test_every_target_has_seeds():
    assert {path.name for path in SEEDS.iterdir()} == TARGETS.keys()


def test_seeds_are_made_where_they_are_read():
    assert make_seeds().keys() <= {path.relative_to(SEEDS).as_posix() for path in SEEDS.glob("*/*")}


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_are_read_or_refused(name, tmp_path):
    accepted = [
        seed
        for seed, content in seeds_of(name).items()
        if read_made_up(TARGETS[name], content, tmp_path)
    ]
    refused = name in ("image_list", "torch_file", "manifest")  # they name what is not there
    assert refused or any(not seed.startswith("found-") for seed in accepted)


@pytest.mark.parametrize("name", TARGETS)
def test_changed_seeds_are_read_or_refused(name, tmp_path):
    target, seeds = TARGETS[name], list(seeds_of(name).values())
    for content in mutated(seeds, target.tokens, SLOW.get(name, CHANGED)):
        try:
            read_made_up(target, content, tmp_path)
        except Exception as error:
            raise AssertionError(f"{name} raised {error!r} over {content[:1000]!r}") from error


def _raises(error: Exception) -> Target:
    def read(_: object) -> None:
        raise error

    return Target(file_name="a", read=read)


def test_a_reader_that_breaks_is_noticed(tmp_path):
    assert not read_made_up(_raises(ConfigError("refused")), b"", tmp_path)
    for error in (
        KeyError("a"),
        RecursionError(),
        ConfigError("x" * (MAX_MESSAGE + 1)),
        ConfigError("\ud800"),
    ):
        with pytest.raises((KeyError, RecursionError, ValueError)):
            read_made_up(_raises(error), b"", tmp_path)


def test_what_is_changed_is_the_same_every_time():
    first, second = (list(mutated([b"a: 1", b"b"], [b"!!x"], 50)) for _ in range(2))
    assert first == second
    assert len(set(first)) > 25


def test_targets_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TARGETS["labels"].file_name = "b"
