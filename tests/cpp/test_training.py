"""The C++ runtime trains as the Python package does: the same bits, of losses and of files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exportloss.runtime import TrainSession

ROWS = 6  # target rows per batch
RATES = (2e-3, 1e-3, 5e-3)
# Momentum and rates as in a warm-up, and two steps whose gradients are added up.
STEPS: tuple[dict[str, Any], ...] = (
    {"batch": 0, "momentum": 0.8},
    {"batch": 1, "update": False},
    {"batch": 2, "max_norm": 10.0},
    {"batch": 3, "max_norm": 0.01, "weight_decay": 0.01},
)


class Case:
    """A case's batches, in Python and for the test program."""

    def __init__(self, folder: Path, rng: np.random.Generator) -> None:
        self.folder = folder
        manifest = TrainSession.open(folder, threads=1).manifest
        shape = (4, manifest.batch_size, 3, *manifest.image_size)
        self.images = rng.integers(0, 256, shape, dtype=np.uint8)
        self.has_ema = manifest.ema
        sizes = (4, ROWS)
        self.targets = np.zeros((*sizes, 6))
        self.targets[..., 0] = np.sort(rng.integers(0, manifest.batch_size, sizes))
        self.targets[..., 1] = rng.integers(0, manifest.num_classes, sizes)
        self.targets[..., 2:4] = rng.uniform(0.2, 0.8, (*sizes, 2))
        self.targets[..., 4:] = rng.uniform(0.05, 0.4, (*sizes, 2))

    def step(self, settings: dict[str, Any]) -> dict[str, Any]:
        """A step for the test program."""
        targets = self.targets[settings["batch"]].tolist()
        return {"lr": RATES, "targets": targets, **settings}

    def train(self, session: TrainSession, *steps: dict[str, Any]) -> list[list[float]]:
        """Train in Python: loss, its terms, and whether the step was skipped, per step."""
        results = []
        for settings in steps:
            rest = {"lr": RATES, **settings}
            number = rest.pop("batch")
            result = session.step(self.images[number], self.targets[number], **rest)
            terms = result.items
            found = [result.loss, terms.box, terms.objectness, terms.category]
            results.append([*found, int(result.skipped)])
        return results


@pytest.fixture
def made(case: str, artifacts: Path, rng: np.random.Generator) -> Case:
    return Case(artifacts / case, rng)


def assert_same_file(one: Path, other: Path) -> None:
    assert one.read_bytes() == other.read_bytes()


def test_losses_and_states_are_the_same_bits(made, probe, tmp_path):
    evaluation = {**made.step({"batch": 1}), "evaluate": True, "ema": made.has_ema}
    answer = probe(
        "train",
        folder=made.folder,
        tensors={"images": made.images},
        steps=[*(made.step(settings) for settings in STEPS), evaluation],
        save=tmp_path / "cpp.safetensors",
    )
    session = TrainSession.open(made.folder, threads=1)
    assert answer["results"][:-1] == made.train(session, *STEPS)
    assert (answer["updates"], answer["skipped"]) == (3, 0)
    expected = session.evaluate(made.images[1], made.targets[1], ema=made.has_ema)
    terms = expected.items
    assert answer["results"][-1] == [expected.loss, terms.box, terms.objectness, terms.category]
    session.save(tmp_path / "python.safetensors")
    assert_same_file(tmp_path / "cpp.safetensors", tmp_path / "python.safetensors")


def test_predictions_and_detectors_are_the_same_bits(
    detector_case, artifacts, rng, probe, tmp_path
):
    made = Case(artifacts / detector_case, rng)
    evaluation = {**made.step({"batch": 1}), "evaluate": True, "ema": made.has_ema}
    _, tensors = probe(
        "train",
        folder=made.folder,
        tensors={"images": made.images},
        steps=[made.step(STEPS[0]), evaluation],
        save=tmp_path / "cpp.safetensors",
        detector=tmp_path / "cpp.onnx",
        ema=made.has_ema,
        wants_tensors=True,
    )
    session = TrainSession.open(made.folder, threads=1)
    made.train(session, STEPS[0])
    expected = session.evaluate(made.images[1], made.targets[1], ema=made.has_ema)
    np.testing.assert_array_equal(tensors["predictions"], expected.predictions)
    session.save(tmp_path / "python.safetensors")
    session.export_inference(tmp_path / "python.onnx", ema=made.has_ema)
    assert_same_file(tmp_path / "cpp.safetensors", tmp_path / "python.safetensors")
    assert_same_file(tmp_path / "cpp.onnx", tmp_path / "python.onnx")


def test_each_resumes_what_the_other_saved(made, probe, tmp_path):
    """Two steps in one, then two in the other: the state is that of four in Python."""
    first, last = STEPS[:1], STEPS[2:]
    whole = TrainSession.open(made.folder, threads=1)
    made.train(whole, *first, *last)
    whole.save(tmp_path / "whole.safetensors")

    def in_cpp(*steps: dict[str, Any], **files: Path) -> None:
        chosen = [made.step(settings) for settings in steps]
        images = {"images": made.images}
        probe("train", folder=made.folder, tensors=images, steps=chosen, **files)

    begun = tmp_path / "begun.safetensors"
    python = TrainSession.open(made.folder, threads=1)
    made.train(python, *first)
    python.save(begun)
    in_cpp(*last, resume=begun, save=tmp_path / "cpp.safetensors")
    assert_same_file(tmp_path / "cpp.safetensors", tmp_path / "whole.safetensors")

    begun.unlink()
    in_cpp(*first, save=begun)
    python = TrainSession.open(made.folder, threads=1).resume(begun)
    made.train(python, *last)
    python.save(tmp_path / "python.safetensors")
    assert_same_file(tmp_path / "python.safetensors", tmp_path / "whole.safetensors")


def test_two_threads_give_the_same_bits(made, probe, tmp_path):
    steps = [made.step(settings) for settings in STEPS]
    for threads in (1, 2):
        probe(
            "train",
            folder=made.folder,
            tensors={"images": made.images},
            steps=steps,
            threads=threads,
            save=tmp_path / f"{threads}.safetensors",
        )
    assert_same_file(tmp_path / "1.safetensors", tmp_path / "2.safetensors")


def test_a_new_training_starts_from_earlier_weights(made, probe, tmp_path):
    earlier = TrainSession.open(made.folder, threads=1)
    made.train(earlier, *STEPS)
    earlier.save(tmp_path / "earlier.safetensors")
    session = TrainSession.open(made.folder, threads=1)
    session.start_from(tmp_path / "earlier.safetensors")
    session.save(tmp_path / "python.safetensors")
    start = {"start_from": tmp_path / "earlier.safetensors", "save": tmp_path / "cpp.safetensors"}
    answer = probe("train", folder=made.folder, steps=[], **start)
    assert answer["updates"] == 0
    assert_same_file(tmp_path / "cpp.safetensors", tmp_path / "python.safetensors")


def test_skipped_steps_are_counted(made, probe, tmp_path):
    """At the largest rate the weights soon give a loss that is not finite."""
    steps = [{"batch": number, "lr": (1000.0,) * 3, "momentum": 0.99} for number in (0, 1, 2, 3, 0)]
    answer = probe(
        "train",
        folder=made.folder,
        tensors={"images": made.images},
        steps=[made.step(settings) for settings in steps],
    )
    session = TrainSession.open(made.folder, threads=1)
    expected = made.train(session, *steps)
    flags = [result[-1] for result in answer["results"]]
    assert flags == [result[-1] for result in expected]
    assert answer["skipped"] == session.skipped == sum(flags)
    assert answer["updates"] == session.updates
