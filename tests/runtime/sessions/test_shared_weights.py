"""Weights out of and into sessions of both kinds, gradients from elsewhere, calibration."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from exportloss import ArtifactError, ConfigError, TrainingError
from exportloss.export import export_train_step, export_training_artifacts
from exportloss.runtime import TrainSession
from exportloss.runtime.artifact.weights import Weights
from tests.support import tiny_detector as tiny
from tests.support.messages import mentions

EXPORTS = {"ort": export_training_artifacts, "step": export_train_step}
HELD = "fine.0.0.weight"  # frozen in `frozen`


@dataclasses.dataclass(frozen=True)
class Batch:
    images: np.ndarray
    targets: np.ndarray


def make_batch(seed: int) -> Batch:
    images, rows = tiny.make_batch(seed)
    return Batch(images.numpy(), rows[:5].numpy())


def export(folder: Path, kind: str, *, names=("a", "b", "c"), freeze=False, **options) -> Path:
    model = tiny.make_detector()
    if freeze:
        for name, parameter in model.named_parameters():
            parameter.requires_grad = not name.startswith("fine.0.")
    EXPORTS[kind](
        model,
        tiny.make_loss(),
        folder,
        image_size=(tiny.IMAGE, tiny.IMAGE),
        batch_size=2,
        max_targets=8,
        names=names,
        **options,
    )
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("shared")
    return {
        **{kind: export(root / kind, kind, ema=True) for kind in EXPORTS},
        "frozen": export(root / "frozen", "step", freeze=True),
        "other names": export(root / "names", "step", names=("a", "c", "b")),
    }


@pytest.fixture(params=list(EXPORTS))
def session(request, folders) -> TrainSession:
    return TrainSession.open(folders[request.param], threads=1)


def train(session: TrainSession, steps: int = 2, **options) -> None:
    for seed in range(steps):
        batch = make_batch(seed)
        session.step(batch.images, batch.targets, **({"lr": 0.01} | options))


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        np.testing.assert_array_equal(tensor, other[name], err_msg=name)


def test_all_weights_are_the_trained_tensors_of_the_state(session):
    train(session)
    weights, model = session.weights(), session.state().model
    assert set(weights.tensors) == set(session.manifest.trained)
    assert_equal(weights.tensors, {name: model[name] for name in weights.tensors})


def test_both_kinds_give_the_same_bits(folders):
    sessions = [TrainSession.open(folders[kind], threads=1) for kind in EXPORTS]
    one, other = (session.weights() for session in sessions)
    assert one.layout.digest == other.layout.digest
    assert one.sha256 == other.sha256


def test_weights_are_a_copy(session):
    weights = session.weights()
    weights.parameters[:] = 0
    assert session.weights().parameters.any()


def test_set_weights_takes_all_and_starts_the_optimizer_afresh(session):
    train(session)
    weights = session.weights()
    train(session, 3)
    session.set_weights(weights)
    state = session.state()
    assert session.weights().sha256 == weights.sha256
    assert (state.updates, state.skipped) == (0, 0)
    assert not any(tensor.any() for tensor in state.optimizer["momentum"].values())
    assert_equal(dict(state.ema), weights.tensors)


def test_after_set_weights_both_kinds_train_alike(folders):
    one, other = (TrainSession.open(folders[kind], threads=1) for kind in EXPORTS)
    train(one)
    other.set_weights(one.weights())
    one.set_weights(one.weights())
    train(one, 3)
    train(other, 3)
    np.testing.assert_allclose(
        one.weights().parameters, other.weights().parameters, rtol=1e-4, atol=1e-6
    )


def test_without_norms_leaves_every_norm_as_it_is(session):
    train(session)
    far = session.weights(share="without-norms")
    norms = {name for name in session.manifest.trained if name not in far.tensors}
    assert set(session.manifest.groups.norms) <= norms
    assert {norm.var for norm in session.manifest.statistics} <= norms
    biases = {norm.mean.replace("running_mean", "bias") for norm in session.manifest.statistics}
    assert biases <= norms
    assert not far.statistics.size
    train(session, 3)
    before = session.weights().tensors
    session.set_weights(far)
    after = session.weights().tensors
    assert_equal({name: after[name] for name in norms}, {name: before[name] for name in norms})
    assert_equal({name: after[name] for name in far.tensors}, far.tensors)


def test_parameters_have_no_statistics_and_a_pattern_has_what_it_matches(session):
    assert session.weights(share="parameters").layout.names == session.manifest.groups.all
    head = session.weights(share="head.*").layout.names
    assert head == tuple(n for n in session.manifest.trained if n.startswith("head."))
    stem = session.weights(share="stem.*").layout
    assert len(stem.norms) == 1
    assert stem.statistics.names == (stem.norms[0].mean, stem.norms[0].var)


def test_a_pattern_of_means_alone_shares_no_half_of_a_norm(session):
    with pytest.raises(ConfigError, match=mentions("*.running_mean")):
        session.weights(share="*.running_mean")


def test_frozen_tensors_are_in_no_weights_and_a_pattern_of_them_is_refused(folders):
    session = TrainSession.open(folders["frozen"], threads=1)
    assert HELD not in session.weights().tensors
    assert HELD in session.state().model
    with pytest.raises(ConfigError, match=mentions("fine.0.*", "fine.0.0.weight", "frozen")):
        session.weights(share="fine.0.*")
    with pytest.raises(ConfigError, match=mentions("nose.*", "without-norms")):
        session.weights(share="nose.*")


def damaged(weights: Weights, **vectors) -> Weights:
    """Weights that were spoilt after they had been checked."""
    spoilt = dataclasses.replace(weights)
    for name, vector in vectors.items():
        object.__setattr__(spoilt, name, vector)
    return spoilt


def spoil(vector: np.ndarray, value: float) -> np.ndarray:
    vector = vector.copy()
    vector[-1] = value
    return vector


@pytest.mark.parametrize(
    ("field", "change", "about"),
    [
        ("parameters", lambda v: spoil(v, np.nan), ["head.1.bias", "not finite"]),
        ("parameters", lambda v: spoil(v, np.inf), ["head.1.bias", "not finite"]),
        ("statistics", lambda v: spoil(v, np.nan), ["running_var", "not finite"]),
        ("statistics", lambda v: spoil(v, -1), ["running_var", "negative"]),
        ("parameters", lambda v: v[:-1], ["parameters", "float32"]),
        ("parameters", lambda v: v.reshape(1, -1), ["parameters", "float32"]),
        ("parameters", lambda v: v.astype(np.float64), ["float64", "float32"]),
        ("statistics", lambda v: v.tolist(), ["statistics", "list"]),
    ],
)
def test_bad_vectors_are_refused_and_change_nothing(session, field, change, about):
    before = session.weights()
    bad = change(getattr(before, field))
    with pytest.raises(ArtifactError, match=mentions(*about)):
        dataclasses.replace(before, **{field: bad})
    with pytest.raises(ArtifactError, match=mentions(*about)):
        session.set_weights(damaged(before, **{field: bad}))
    assert session.weights().sha256 == before.sha256


def test_weights_of_another_model_are_refused(session, folders):
    before = session.weights().sha256
    for other, about in (("other names", "layout"), ("frozen", "layout")):
        weights = TrainSession.open(folders[other], threads=1).weights()
        if other == "frozen":  # the same tensors in part, but other classes
            weights = dataclasses.replace(
                weights, layout=dataclasses.replace(weights.layout, detector="0" * 64)
            )
        with pytest.raises(ArtifactError, match=mentions("another model", about)):
            session.set_weights(weights)
    assert session.weights().sha256 == before


def test_weights_that_are_frozen_here_are_refused(session, folders):
    frozen = TrainSession.open(folders["frozen"], threads=1)
    with pytest.raises(ArtifactError, match=mentions("fine.0.", "do not train")):
        frozen.set_weights(session.weights())


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model | {"head.0.bias": np.full((1,), 0, np.float32)},
        lambda model: model | {"head.0.bias": np.full_like(model["head.0.bias"], np.nan)},
        lambda model: model | {"nose": np.zeros(3, np.float32)},
        lambda model: {name: t for name, t in model.items() if name != "head.0.bias"},
    ],
    ids=["shape", "NaN", "unknown", "missing"],
)
def test_states_are_held_to_the_model_too(session, change):
    state = session.state()
    with pytest.raises(ArtifactError, match=r"head\.0\.bias|nose"):
        session.load_state(dataclasses.replace(state, model=change(dict(state.model))))
    assert_equal(dict(session.state().model), dict(state.model))


def test_added_gradients_move_the_parameters_as_the_optimizer_says(session):
    batch = make_batch(0)
    start = session.state()
    settings = {"lr": 0.5, "momentum": 0.0, "weight_decay": 0.0}
    session.step(batch.images, batch.targets, **settings)
    plain = session.weights(share="parameters").tensors
    session.load_state(start)
    extra = {"head.0.bias": np.full_like(start.model["head.0.bias"], 0.25)}
    session.add_gradients(extra)
    assert_equal({"head.0.bias": session.gradients()["head.0.bias"]}, extra)
    session.step(batch.images, batch.targets, **settings)
    moved = session.weights(share="parameters").tensors
    for name, tensor in plain.items():
        expected = tensor - np.float32(0.125) if name in extra else tensor
        np.testing.assert_allclose(moved[name], expected, rtol=1e-5, atol=1e-6, err_msg=name)
    assert not any(gradient.any() for gradient in session.gradients().values())


def test_added_gradients_outlive_an_accumulating_step_and_are_used_once(session):
    batch = make_batch(0)
    extra = {"head.0.bias": np.ones_like(session.state().model["head.0.bias"])}
    session.step(batch.images, batch.targets, lr=0.0, update=False)
    alone = session.gradients()["head.0.bias"]
    session.load_state(session.state())
    session.add_gradients(extra)
    session.step(batch.images, batch.targets, lr=0.0, update=False)
    both = session.gradients()["head.0.bias"]
    np.testing.assert_allclose(both, alone + 1, rtol=1e-5, atol=1e-5)
    session.load_state(session.state())  # drops them
    assert not session.gradients()["head.0.bias"].any()


@pytest.mark.parametrize(
    "gradient",
    [np.zeros(3, np.float32), np.full(16, np.nan, np.float32), np.zeros(16)],
    ids=["shape", "NaN", "type"],
)
def test_bad_gradients_are_refused(session, gradient):
    with pytest.raises(ArtifactError, match=mentions("head.0.bias")):
        session.add_gradients({"head.0.bias": gradient})
    with pytest.raises(ArtifactError, match="nose"):
        session.add_gradients({"nose": gradient})
    assert not session.gradients()["head.0.bias"].any()


def test_calibration_measures_the_statistics_of_the_images_and_keeps_every_parameter(session):
    train(session)
    before = session.state()
    batches = [make_batch(7)] * 3
    assert session.calibrate(batches) == 3
    after = session.state()
    statistics = {name for norm in session.manifest.statistics for name in (norm.mean, norm.var)}
    for name, tensor in before.model.items():
        if name not in statistics:
            np.testing.assert_array_equal(after.model[name], tensor, err_msg=name)
    assert (after.updates, after.skipped) == (before.updates, before.skipped)
    assert_equal(dict(after.optimizer["momentum"]), dict(before.optimizer["momentum"]))
    assert not any(gradient.any() for gradient in session.gradients().values())
    # One batch over and over has its own statistics, however few times it comes.
    session.calibrate(batches[:1])
    once = session.state().model
    for name in statistics:
        np.testing.assert_allclose(once[name], after.model[name], rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(session.state().ema[name], once[name])
    # The first layer's mean is that of its inputs, which torch can say.
    assert not np.allclose(once["stem.0.1.running_mean"], before.model["stem.0.1.running_mean"])


def test_calibrated_means_are_torchs(folders):
    import torch

    session = TrainSession.open(folders["step"], threads=1)
    model = tiny.make_detector()
    batch = make_batch(3)
    session.calibrate([batch])
    images = torch.from_numpy(batch.images).float() / 255
    outputs = []
    model.stem[0][0].register_forward_hook(lambda *arguments: outputs.append(arguments[2]))
    model.train()(images)
    variance, mean = torch.var_mean(outputs[0], dim=(0, 2, 3))
    state = session.state().model
    np.testing.assert_allclose(state["stem.0.1.running_mean"], mean.detach(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(state["stem.0.1.running_var"], variance.detach(), rtol=1e-4)


def test_a_calibration_that_fails_changes_nothing(session):
    before = session.weights().sha256
    with pytest.raises(ConfigError, match=mentions("batch", "none")):
        session.calibrate([])

    def breaking():
        yield make_batch(0)
        raise OSError("no camera")

    with pytest.raises(OSError, match="no camera"):
        session.calibrate(breaking())
    assert session.weights().sha256 == before


def test_a_calibration_on_values_that_are_not_finite_changes_nothing(folders):
    session = TrainSession.open(folders["ort"], threads=1)
    before = session.weights().sha256
    bad = Batch(np.full((2, 3, tiny.IMAGE, tiny.IMAGE), np.nan, np.float32), np.zeros((0, 6)))
    with pytest.raises(TrainingError, match=mentions("batch 2", "finite")):
        session.calibrate([make_batch(0), bad])
    assert session.weights().sha256 == before
